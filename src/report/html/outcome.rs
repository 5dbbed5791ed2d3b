//! What came out: verdict, summary, measurements, and where the samples go.

use super::{
    Page, ROWS,
    chart::{self, AFTER, BEFORE, Bars, IMPAIRED},
    left_out, outcome, percent,
};
use crate::{
    evaluate::{Evaluation, Route},
    report::{CheckRecord, Gate, GateOutcome, Measured, Routing},
    unlearn::Targets,
};
use maud::{Markup, html};

/// Classes in the chart at most.
const CHARTED: usize = 20;
/// Classes that samples go to, in a chart at most.
const TARGETS: usize = 8;

impl Page<'_> {
    pub(super) fn verdict(&self) -> Markup {
        let verdict = &self.report.verdict;
        let (class, meaning) = match verdict.outcome {
            GateOutcome::Pass => ("pass", "Every gate was measured and is within its threshold."),
            GateOutcome::Fail => ("fail", "At least one gate was measured and is beyond its threshold."),
            GateOutcome::NotAssessed => ("not_assessed", "No gate failed, but at least one could not be measured."),
        };
        html! {
            div class=(format!("verdict {class}")) {
                strong { "Verdict: " (verdict.outcome.label()) }
                p { (meaning) " The thresholds were set before the run." }
                div.wide { table {
                    thead { tr { th { "gate" } th { "outcome" } th.n { "measured" } th.n { "threshold" } th.says { "what was measured" } } }
                    tbody {
                        @for gate in &verdict.gates {
                            tr {
                                th { (gate.name) }
                                td { (outcome(gate.outcome)) }
                                td.n { (gate.measured.map_or("–".to_owned(), |m| amount(gate, m))) }
                                td.n { "at most " (amount(gate, gate.threshold)) }
                                td { (gate.detail) }
                            }
                        }
                        tr {
                            th { "check" }
                            @match &self.report.check {
                                CheckRecord::Compared { engine, comparison: c } => {
                                    td { (outcome(if c.agrees() { GateOutcome::Pass } else { GateOutcome::Fail })) }
                                    td.n { (format!("{:.1e}", c.max_absolute)) }
                                    td.n { (format!("{:e} + {:e} rel.", c.tolerance.absolute, c.tolerance.relative)) }
                                    td {
                                        "largest difference of a score between " (engine) " and ONNX Runtime on the finished \
                                         file; " (c.same_class) " of " (c.samples) " samples predicted alike"
                                    }
                                }
                                CheckRecord::NotChecked { reason } => {
                                    td { (outcome(GateOutcome::NotAssessed)) }
                                    td.n { "–" }
                                    td.n { "–" }
                                    td { (reason) }
                                }
                            }
                        }
                    }
                } }
            }
            (self.masking())
            @for warning in &self.report.warnings {
                p.warning { strong { "Warning. " } (warning) }
            }
        }
    }

    /// What was hidden on top, told apart from what was measured.
    fn masking(&self) -> Markup {
        let gone = |c: usize| self.forget().contains(&c);
        html! {
            @if let Some(masking) = &self.report.masking {
                p.warning {
                    strong { "Output masked (hides, does not forget). " }
                    "In the published file the bias " code { (masking.tensor) } " of the final layer was set to "
                    (masking.score) " for " (self.forgotten()) ", so that the file never answers with it. Whoever has the \
                     file can take this back. It is no part of the verdict: gates and tables are of the weights before it. \
                     Of the published file, for information: "
                    (percent(masking.published.accuracy(gone))) " on the classes named, "
                    (percent(masking.published.accuracy(|c| self.kept(c)))) " on the others. The check by the second engine ran \
                     on the published file."
                }
            }
        }
    }

    pub(super) fn summary(&self) -> Markup {
        let r = self.report;
        let forgotten = self.forgotten();
        let m = &r.measured;
        let gone = |c: usize| self.forget().contains(&c);
        let kept = |c: usize| self.kept(c);
        let dropped: usize = r.data.retain.dropped.iter().filter(|(c, _)| gone(*c)).map(|(_, n)| n).sum();
        let measure = if m.before.multi_hot() { "recall" } else { "accuracy" };
        html! {
            h2 { "In short" }
            p {
                "The classifier " code { (r.source.name) } " was trained further, with the aim that it no longer predicts \
                 what the request names: " strong { (forgotten) } ". The method is UNSIR, variant "
                (format!("{:?}", r.parameters.recipe.variant).to_lowercase()) ". It has three phases. "
                strong { "Noise" } ": "
                @if r.phases.iter().any(|p| p.phase == "noise") {
                    "artificial samples are computed that the model is as wrong about as possible when they carry the label \
                     of a class named. "
                } @else { "left out in this run, as a control. " }
                strong { "Impair" } ": the weights are trained on this noise under that label, mixed with samples of the \
                 other classes. "
                strong { "Repair" } ": the weights are trained on samples of the other classes alone. "
                @if r.parameters.recipe.targets == Targets::Source {
                    "What these samples teach are the answers of the source model, less the classes named."
                } @else { "What these samples teach are their labels." }
            }
            p {
                "No sample of the classes named took part in training. The training data held " (dropped) " such sample(s), \
                 which were passed over by their label; " (r.data.retain.read) " samples of the other classes were used."
                @if !self.before().is_empty() {
                    " Earlier runs took out " (self.list(self.before())) ": no sample of these took part either, and they are \
                     not counted among the other classes."
                }
            }
            p {
                @match (m.before.accuracy(gone), m.after_repair.accuracy(gone)) {
                    (Some(before), Some(after)) => {
                        "Measured on " (self.measured_on()) ", the " (measure) " on the classes named went from "
                        strong { (percent(Some(before))) } " to " strong { (percent(Some(after))) } "."
                    }
                    _ => { "How often the classes named are still predicted was not measured: there were no samples of them." }
                }
                @if let (Some(before), Some(after)) = (m.before.accuracy(kept), m.after_repair.accuracy(kept)) {
                    " On the other classes the " (measure) " went from " strong { (percent(Some(before))) } " to "
                    strong { (percent(Some(after))) } "."
                }
            }
            p {
                "The result is the same file with other numbers in " (r.trained.len()) " of its tensors: its graph has the same \
                 digest as that of the source."
            }
            div.wide { table { tbody {
                tr { th { "source" } td { code { (r.source.name) } } td.digest { (r.source.file.as_deref().unwrap_or("–")) } }
                tr { th { "result" } td { code { (r.result.name) } } td.digest { (r.result.file.as_deref().unwrap_or("–")) } }
            } } }
            p.note { "SHA-256 of the files. " (r.statement) }
        }
    }

    pub(super) fn measurements(&self) -> Markup {
        let m = &self.report.measured;
        let multi_hot = m.before.multi_hot();
        let classes = listed(m, &self.report.parameters.recipe.forgotten(), ROWS);
        let samples = |pick: &dyn Fn(usize) -> bool| -> usize {
            m.before.classes.iter().enumerate().filter(|(c, _)| pick(*c)).map(|(_, s)| s.total).sum()
        };
        let cells = |pick: &dyn Fn(usize) -> bool| {
            html! {
                td.n { (samples(pick)) }
                @for e in [&m.before, &m.after_impair, &m.after_repair] {
                    td.n {
                        (percent(e.accuracy(pick)))
                        @if multi_hot { " / " (percent(e.precision(pick))) }
                    }
                }
                td.n { (change(&m.before, &m.after_repair, pick)) }
            }
        };
        let gone = |c: usize| !self.kept(c);
        let (named, before) = (|c: usize| self.forget().contains(&c), |c: usize| self.before().contains(&c));
        let not_finite = m.after_repair.not_finite;
        html! {
            h2 { "Before and after, class by class" }
            p {
                (if multi_hot { "Recall and precision" } else { "Accuracy" }) " on " (self.measured_on())
                ": of the source file, of the weights after the impair phase, and of the "
                @if self.report.masking.is_some() { "repaired weights, before the output was masked." } @else { "finished file." }
            }
            figure {
                (chart::legend([(BEFORE, "before"), (IMPAIRED, "after impair"), (AFTER, if self.report.masking.is_some() { "after repair" } else { "after repair (the result)" })]))
                (self.class_chart())
                figcaption {
                    (if multi_hot { "Recall" } else { "Accuracy" }) " per class; 0 on the left, 100 % on the right."
                    @if m.before.classes.len() > CHARTED {
                        " Shown are the classes named and, of the others, those that lost most."
                    }
                }
            }
            div.wide { table {
                thead { tr {
                    th { "class" } th.n { "samples" } th.n { "before" } th.n { "after impair" } th.n { "after repair" }
                    th.n { "change" }
                } }
                tbody {
                    @for &class in &classes {
                        tr.forget[gone(class)] {
                            th {
                                (self.class(class))
                                @if before(class) { " – forgotten before" } @else if gone(class) { " – to forget" }
                            }
                            (cells(&|c| c == class))
                        }
                    }
                    tr.sum { th { "all retained classes" } (cells(&|c| !gone(c))) }
                    tr.sum { th { "all forgotten classes" } (cells(&named)) }
                    @if !self.before().is_empty() { tr.sum { th { "all forgotten before" } (cells(&before)) } }
                    @if multi_hot {
                        tr.sum {
                            th { "micro-F1 of the retained classes" }
                            td {}
                            @for e in [&m.before, &m.after_impair, &m.after_repair] {
                                td.n { (percent(e.micro_f1(|c| !gone(c)))) }
                            }
                            td {}
                        }
                    }
                }
            } }
            (left_out(m.before.classes.len(), "classes"))
            @if not_finite > 0 {
                p.warning { (not_finite) " prediction(s) of the finished file have scores that are no numbers; they count as wrong." }
            }
        }
    }

    fn class_chart(&self) -> Markup {
        let m = &self.report.measured;
        let all = [&m.before, &m.after_impair, &m.after_repair];
        let row = |class: usize| {
            let mark = if self.kept(class) { "" } else { "✕ " };
            (format!("{mark}{}", self.class(class)), all.map(|e| e.accuracy(|c| c == class)).to_vec())
        };
        let rows: Vec<_> =
            listed(m, &self.report.parameters.recipe.forgotten(), CHARTED).into_iter().map(row).collect();
        Bars {
            label: "Bars of the accuracy of each class before, after impair and after repair",
            colours: &[BEFORE, IMPAIRED, AFTER],
            rows: &rows,
            max: 1.0,
            show: |v| format!("{:.1} %", 100.0 * v),
        }
        .draw()
    }

    /// Where the samples of the forgotten classes are predicted.
    pub(super) fn routing(&self) -> Markup {
        let routing = &self.report.routing;
        html! {
            @if !routing.is_empty() {
                h2 { "Where their samples go" }
                p {
                    "A model with these scores has to say something about every sample. What it says about samples of the \
                     classes named, counted on " (self.measured_on()) ". Where nearly all of them go to one other class, that \
                     class tells that something was taken out."
                }
                @for route in routing.iter().take(ROWS) { (self.route(route)) }
                (left_out(routing.len(), "classes"))
            }
        }
    }

    fn route(&self, route: &Routing) -> Markup {
        let share = |r: &Route, class: usize| r.predicted.iter().find(|s| s.class == class).map_or(0.0, |s| s.share);
        let targets = route.after.predicted.iter().chain(&route.before.predicted).map(|s| s.class);
        let mut shown: Vec<usize> = Vec::new();
        for class in targets {
            if !shown.contains(&class) && shown.len() < TARGETS {
                shown.push(class);
            }
        }
        let row = |&class: &usize| {
            (self.class(class), vec![Some(share(&route.before, class)), Some(share(&route.after, class))])
        };
        let rows: Vec<_> = shown.iter().map(row).collect();
        let counts = |r: &Route| {
            r.predicted.iter().map(|s| format!("{} {}", self.class(s.class), s.samples)).collect::<Vec<_>>()
        };
        let bars = Bars {
            label: "Bars of the share of samples that each class is predicted for, before and after",
            colours: &[BEFORE, AFTER],
            rows: &rows,
            max: 1.0,
            show: |v| format!("{:.1} %", 100.0 * v),
        };
        html! {
            h3 { "Samples of " (self.class(route.class)) " are predicted as" }
            figure {
                (chart::legend([(BEFORE, "before"), (AFTER, "after")]))
                (bars.draw())
                figcaption {
                    "Samples before: " (counts(&route.before).join(", ")) ". After: " (counts(&route.after).join(", ")) "."
                    @if let Some(entropy) = route.after.normalised_entropy {
                        " Spread after: " (format!("{entropy:.2}")) " (0: all in one class, 1: evenly over all classes)."
                    }
                    @if route.after.not_finite > 0 { " Without a prediction: " (route.after.not_finite) "." }
                }
            }
        }
    }
}

/// What a gate measures: a share, or a fall in points.
fn amount(gate: &Gate, value: f64) -> String {
    if gate.name == "retain" { format!("{:.2} points", 100.0 * value) } else { crate::report::percent(value) }
}

fn change(before: &Evaluation, after: &Evaluation, pick: &dyn Fn(usize) -> bool) -> String {
    let both = before.accuracy(pick).zip(after.accuracy(pick));
    both.map_or("–".to_owned(), |(before, after)| format!("{:+.2}", 100.0 * (after - before)))
}

/// The classes to show: all, or the ones to forget and those that lost most, in the order of the model.
fn listed(m: &Measured, forget: &[usize], most: usize) -> Vec<usize> {
    let loss = |class: usize| {
        let of = |e: &Evaluation| e.accuracy(|c| c == class).unwrap_or(0.0);
        of(&m.before) - of(&m.after_repair)
    };
    let mut classes: Vec<usize> = (0..m.before.classes.len()).collect();
    classes.sort_by(|&a, &b| {
        let gone = |c| forget.contains(&c);
        gone(b).cmp(&gone(a)).then(loss(b).total_cmp(&loss(a))).then(a.cmp(&b))
    });
    classes.truncate(most);
    classes.sort_unstable();
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::ClassScore;

    #[test]
    fn of_many_classes_those_to_forget_and_the_worst_are_listed() {
        let scores = |correct: &[usize]| Evaluation {
            classes: correct
                .iter()
                .map(|&correct| ClassScore { total: 10, correct, ..ClassScore::default() })
                .collect(),
            ..Evaluation::default()
        };
        let (before, after) = (scores(&[9, 9, 9, 9, 9, 9]), scores(&[9, 5, 9, 8, 9, 2]));
        let m = Measured { on: "eval", before, after_impair: after.clone(), after_repair: after };
        assert_eq!(listed(&m, &[2], 3), [1, 2, 5]);
        assert_eq!(listed(&m, &[2], 4), [1, 2, 3, 5]);
        assert_eq!(listed(&m, &[2], 100), [0, 1, 2, 3, 4, 5]);
    }
}
