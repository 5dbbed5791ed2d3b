//! The table per class at the end of a run.

use crate::{data::ClassNames, evaluate::Evaluation, report::Measured};
use std::fmt::Write;

/// Accuracy of every class before, after impair and after repair.
pub fn per_class(m: &Measured, names: &ClassNames, forget: &[usize]) -> String {
    let width = (0..m.before.classes.len()).map(|c| label(names, c, forget).chars().count()).max().unwrap_or(0).max(22);
    let mut text = String::new();
    let on = if m.on == "eval" { "held-out data" } else { "the retain sample" };
    let _ = writeln!(
        text,
        "{:width$}  {:>7}  {:>8}  {:>8}  {:>8}",
        format!("accuracy on {on}"),
        "samples",
        "before",
        "impair",
        "repair"
    );
    let mut line = |label: &str, pick: &dyn Fn(usize) -> bool| {
        let samples: usize = m.before.classes.iter().enumerate().filter(|(c, _)| pick(*c)).map(|(_, s)| s.total).sum();
        let cell = |e: &Evaluation| e.accuracy(pick).map_or("-".to_owned(), |a| format!("{:.2} %", 100.0 * a));
        let [a, b, c] = [&m.before, &m.after_impair, &m.after_repair].map(cell);
        let _ = writeln!(text, "{label:width$}  {samples:>7}  {a:>8}  {b:>8}  {c:>8}");
    };
    for class in 0..m.before.classes.len() {
        line(&label(names, class, forget), &|c| c == class);
    }
    line("all retained classes", &|c| !forget.contains(&c));
    line("all forgotten classes", &|c| forget.contains(&c));
    text
}

fn label(names: &ClassNames, class: usize, forget: &[usize]) -> String {
    let mark = if forget.contains(&class) { " (forget)" } else { "" };
    if names.are_indices() { format!("class {class}{mark}") } else { format!("{class} {}{mark}", names.name(class)) }
}
