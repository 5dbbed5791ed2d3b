//! Tables: the one per class at the end of a run, and cells in columns.

use crate::{
    data::ClassNames,
    evaluate::Evaluation,
    report::{self, Measured},
    unlearn::Recipe,
};
use std::fmt::Write;

/// Accuracy of every class before, after impair and after repair; recall and precision where labels are multi-hot.
pub fn per_class(m: &Measured, names: &ClassNames, recipe: &Recipe) -> String {
    let multi_hot = m.before.multi_hot();
    let on = if m.on == "eval" { "held-out data" } else { "the retain sample" };
    let title = if multi_hot { format!("recall / precision on {on}") } else { format!("accuracy on {on}") };
    let marked = |c: usize| {
        let before = if recipe.forgotten_before.contains(&c) { " (forgotten before)" } else { "" };
        format!("{}{before}", label(names, c, &recipe.forget))
    };
    let labels = (0..m.before.classes.len()).map(|c| marked(c).chars().count());
    let width = labels.chain([title.len()]).max().unwrap_or(0);
    let cells = if multi_hot { 19 } else { 8 };
    let mut text =
        format!("{title:width$}  {:>7}  {:>cells$}  {:>cells$}  {:>cells$}\n", "samples", "before", "impair", "repair");
    let mut line = |label: &str, samples: &str, cell: &dyn Fn(&Evaluation) -> String| {
        let [a, b, c] = [&m.before, &m.after_impair, &m.after_repair].map(cell);
        let _ = writeln!(text, "{label:width$}  {samples:>7}  {a:>cells$}  {b:>cells$}  {c:>cells$}");
    };
    let percent = |share: Option<f64>| share.map_or("-".to_owned(), report::percent);
    let mut of = |label: &str, pick: &dyn Fn(usize) -> bool| {
        let samples: usize = m.before.classes.iter().enumerate().filter(|(c, _)| pick(*c)).map(|(_, s)| s.total).sum();
        line(label, &samples.to_string(), &|e| {
            let recall = percent(e.accuracy(pick));
            if multi_hot { format!("{recall:>8} / {:>8}", percent(e.precision(pick))) } else { recall }
        });
    };
    for class in 0..m.before.classes.len() {
        of(&marked(class), &|c| c == class);
    }
    let kept = |c: usize| recipe.keeps(c);
    of("all retained classes", &kept);
    of("all forgotten classes", &|c| recipe.forget.contains(&c));
    if !recipe.forgotten_before.is_empty() {
        of("all forgotten before", &|c| recipe.forgotten_before.contains(&c));
    }
    if multi_hot {
        line("micro-F1, retained", "", &|e| percent(e.micro_f1(kept)));
    }
    text
}

/// A class as it stands in tables.
pub fn label(names: &ClassNames, class: usize, forget: &[usize]) -> String {
    let mark = if forget.contains(&class) { " (forget)" } else { "" };
    if names.are_indices() { format!("class {class}{mark}") } else { format!("{class} {}{mark}", names.name(class)) }
}

/// The cells of a line.
pub type Row = Vec<String>;

/// Cells in columns: the first one to the left, the others to the right.
pub fn grid(rows: &[Row]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (c, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let _ = if c == 0 { write!(text, "{cell:width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

/// A text in CSV: in quotation marks where it needs them.
pub fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn texts_with_commas_and_quotation_marks_are_quoted() {
        assert_eq!(quoted("tench"), "tench");
        assert_eq!(quoted("tench, Tinca tinca"), "\"tench, Tinca tinca\"");
        assert_eq!(quoted("5\" disk"), "\"5\"\" disk\"");
    }
}
