//! What changed in the file: weights, running statistics apart from them, and what stayed.

use super::{
    Page, ROWS,
    chart::{AFTER, Bars},
    left_out,
};
use crate::report::TrainedTensor;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Tensors in the chart at most.
const CHARTED: usize = 16;

impl Page<'_> {
    pub(super) fn changes(&self) -> Markup {
        let mut all: Vec<&TrainedTensor> = self.report.trained.iter().collect();
        all.sort_by(|a, b| b.relative_change.total_cmp(&a.relative_change).then_with(|| a.name.cmp(&b.name)));
        let (statistics, weights): (Vec<_>, Vec<_>) = all.into_iter().partition(|t| t.statistic);
        let rows: Vec<_> =
            weights.iter().take(CHARTED).map(|t| (t.name.clone(), vec![Some(t.relative_change)])).collect();
        let bars = Bars {
            label: "Bars of the tensors that changed most",
            colours: &[AFTER],
            rows: &rows,
            max: weights.first().map_or(0.0, |t| t.relative_change),
            show: |v| format!("{:.2} %", 100.0 * v),
        };
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for stored in &self.report.frozen {
            *reasons.entry(stored.frozen.unwrap_or_default()).or_default() += 1;
        }
        html! {
            h2 { "What was changed in the weights" }
            p {
                "Training moved " (weights.len()) " tensor(s) of weights. The relative change of a tensor is the length of \
                 its difference divided by its length before (Euclidean norms). The file differs from the source in the \
                 tensors listed in this chapter and in the stamp, and in nothing else: "
                code { "onnx-unlearn verify --source" } " checks that."
                @if let Some(masking) = &self.report.masking {
                    " How the mask changed " code { (masking.tensor) } " is not counted here."
                }
            }
            @if !weights.is_empty() {
                figure {
                    (bars.draw())
                    figcaption {
                        "Relative change"
                        @if weights.len() > CHARTED { " of the " (CHARTED) " tensors that changed most" }
                        "."
                    }
                }
                (table(&weights))
            }
            @if !statistics.is_empty() {
                h3 { "Running statistics of BatchNormalization" }
                p {
                    "They follow the data that passes through and are no weights: " (statistics.len()) " of them drifted \
                     during training."
                }
                (table(&statistics))
            }
            @if !reasons.is_empty() {
                h3 { "Tensors that stayed as they are" }
                ul { @for (reason, n) in &reasons { li { (n) ": " (reason) } } }
            }
        }
    }
}

fn table(tensors: &[&TrainedTensor]) -> Markup {
    html! {
        div.wide { table {
            thead { tr { th { "tensor" } th { "shape" } th.n { "change" } th.n { "relative change" } } }
            tbody {
                @for t in tensors.iter().take(ROWS) {
                    tr {
                        th { code { (t.name) } }
                        td { (t.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(" × ")) }
                        td.n { (format!("{:.4}", t.change)) }
                        td.n { (format!("{:.3} %", 100.0 * t.relative_change)) }
                    }
                }
            }
        } }
        (left_out(tensors.len(), "tensors"))
    }
}
