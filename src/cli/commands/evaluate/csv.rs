//! The result as CSV (RFC 4180, lines ending in a line feed): a row for each model and class.

use super::Shown;
use crate::{cli::commands::table::quoted, evaluate::Versus};

/// Columns of every row; where classes exclude each other a column for each predicted class follows.
const COLUMNS: &[&str] = &[
    "model",
    "class",
    "name",
    "samples",
    "correct",
    "predicted",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "precision",
    "f1",
    "loss",
    "difference",
    "only_first",
    "only_second",
    "p_value",
];

/// A header and the rows. A value that does not exist is empty.
pub(super) fn text(s: &Shown) -> String {
    let mut header: Vec<String> = COLUMNS.iter().map(ToString::to_string).collect();
    if !s.data.summary.multi_hot {
        header.extend((0..s.classes.len()).map(|c| format!("predicted_as_{c}")));
    }
    let mut lines = vec![header.join(",")];
    for m in &s.models {
        for (c, g) in m.measured.classes.iter().enumerate() {
            let mut row = vec![quoted(&m.model), c.to_string(), quoted(s.classes.name(c))];
            row.extend([g.samples, g.correct, g.predicted].map(|n| n.to_string()));
            let [low, high] = g.interval.map_or([None; 2], |ends| ends.map(Some));
            row.extend([g.accuracy, low, high, g.precision, g.f1, g.loss].map(number));
            row.extend(versus(m.measured.versus_first.as_ref().map(|v| &v.classes[c])));
            let counts = m.measured.confusion.as_ref().map(|rows| &rows[c]);
            row.extend(counts.into_iter().flatten().map(ToString::to_string));
            lines.push(row.join(","));
        }
    }
    lines.join("\n")
}

fn versus(v: Option<&Versus>) -> [String; 4] {
    let Some(v) = v else { return [const { String::new() }; 4] };
    let Versus { difference, discordant, p_value } = v;
    [number(*difference), discordant.only_first.to_string(), discordant.only_second.to_string(), number(*p_value)]
}

fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| v.to_string())
}
