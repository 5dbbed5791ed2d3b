//! The result as text: each measure with its definition, which values are good, and its figures.

use super::Shown;
use crate::{
    audit::{Bound, Figure, Measure, Outcome, Unit},
    cli::commands::table::{Row, grid, label},
    report::percent,
};
use std::fmt::Write;

/// Columns of the sentences.
const WIDTH: usize = 100;

/// Before all, then a section a measure.
pub(super) fn text(s: &Shown) -> String {
    let mut text = String::new();
    for m in &s.models {
        let _ = writeln!(text, "{:10} {}", m.role, m.model);
    }
    let classes: Vec<String> = s.forget.iter().map(|&c| label(&s.classes, c, &[])).collect();
    let _ = writeln!(text, "{:10} {}", "forgotten", classes.join(", "));
    for (name, data) in [("data", Some(&s.data)), ("train data", s.train_data.as_ref())] {
        if let Some(data) = data {
            let forgotten: usize = s.forget.iter().map(|&c| data.summary.per_class[c]).sum();
            let (path, read) = (&data.path, data.summary.read);
            let _ = writeln!(text, "{name:10} {path}: {read} samples, {forgotten} of them of forgotten classes");
        }
    }
    let share = |v: Option<f64>| v.map_or("-".into(), percent);
    let roles = s.models.iter().map(|m| m.role.to_owned());
    let mut rows: Vec<Row> = vec![std::iter::once("accuracy on data".to_owned()).chain(roles).collect()];
    for (name, of) in [("forgotten classes", 0), ("the others", 1)] {
        let cells = s.models.iter().map(|m| share([m.forgotten_accuracy, m.retained_accuracy][of]));
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    let _ = write!(text, "\n{}", grid(&rows));
    for (i, m) in s.measures.iter().enumerate() {
        // Two measures of distances have the same definition.
        let said = i > 0 && s.measures[i - 1].definition == m.definition;
        section(m, said, &mut text);
    }
    text.trim_end().to_owned()
}

fn section(m: &Measure, said: bool, text: &mut String) {
    let _ = writeln!(text, "\n{}", m.name);
    if said {
        text.push_str("  As before.\n");
    } else {
        wrapped(m.definition, text);
    }
    wrapped(&format!("Good: {}", m.direction), text);
    match &m.outcome {
        Outcome::NotAssessed { reason } => wrapped(&format!("not assessed: {reason}"), text),
        Outcome::Assessed { figures, notes } => {
            for line in grid(&cells(figures)).lines() {
                let _ = writeln!(text, "  {}", line.trim_end());
            }
            let left_out = figures.iter().filter(|f| f.detail).count();
            if left_out > 0 {
                let _ = writeln!(text, "  and {left_out} more figures in --json and --csv");
            }
            for note in notes {
                wrapped(note, text);
            }
        }
    }
}

/// A line for each figure, a column for each model or pair of models.
fn cells(figures: &[Figure]) -> Vec<Row> {
    let figures = || figures.iter().filter(|f| !f.detail);
    let (mut names, mut models): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for f in figures() {
        for (list, name) in [(&mut names, &f.figure), (&mut models, &f.of)] {
            if !list.contains(&name.as_str()) {
                list.push(name);
            }
        }
    }
    let mut rows: Vec<Row> = vec![std::iter::once("").chain(models.iter().copied()).map(str::to_owned).collect()];
    for name in names {
        let of = |model: &str| figures().find(|f| f.figure == name && f.of == model);
        let cells = models.iter().map(|model| of(model).map_or(String::new(), cell));
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    rows
}

fn cell(f: &Figure) -> String {
    let number = |v: f64| match f.unit {
        Unit::Share => percent(v),
        Unit::Number => format!("{v:.4}"),
        Unit::Count => format!("{v:.0}"),
        Unit::Flag => if v > 0.0 { "yes" } else { "no" }.to_owned(),
    };
    let Some(value) = f.value else { return "-".into() };
    let mut text = match f.bound {
        Some(Bound::Above) => format!("> {}", number(value)),
        Some(Bound::Below) => format!("< {}", number(value)),
        None => number(value),
    };
    if let Some([low, high]) = f.interval {
        let _ = write!(text, " ({} to {})", number(low), number(high));
    }
    if let Some(deviation) = f.deviation {
        let _ = write!(text, " +- {}", number(deviation));
    }
    text
}

/// Breaks a sentence between words.
fn wrapped(sentence: &str, text: &mut String) {
    let mut line = String::new();
    for word in sentence.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH - 2 {
            let _ = writeln!(text, "  {line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(text, "  {line}");
}
