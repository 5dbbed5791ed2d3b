//! The result as text.

use super::{ModelShown, Shown};
use crate::{
    cli::commands::table::{Row, grid, label},
    evaluate::{Group, Measurement, Versus},
    report::percent,
};
use std::fmt::Write;

/// Classes that a routing table lists; the others are taken together.
const MOST_ROUTES: usize = 10;

/// Classes, the figures of the whole, routing, and on demand the confusion matrix.
pub(super) fn text(s: &Shown, confusion: bool) -> String {
    let mut text = String::new();
    for (i, m) in s.models.iter().enumerate() {
        let _ = writeln!(text, "{:10} {}", column(s, i), m.model);
    }
    let summary = &s.data.summary;
    let steps =
        if s.data.predictions > 1 { format!(", {} predictions each", s.data.predictions) } else { String::new() };
    let _ =
        writeln!(text, "{:10} {}: {} samples{steps} of {} classes", "data", s.data.path, summary.read, s.classes.len());
    let mut tables = vec![per_class(s), whole(s)];
    if summary.multi_hot {
        if !s.route.is_empty() {
            let why = "routing    is not measured: with several classes in a sample it has no one place to go to\n";
            text.push_str(why);
        }
    } else {
        tables.extend((0..s.route.len()).map(|i| routing(s, i)));
    }
    if confusion {
        tables.extend(s.models.iter().enumerate().filter_map(|(i, m)| matrix(s, i, m)));
    }
    for rows in tables {
        let _ = write!(text, "\n{}", grid(&rows));
    }
    text.trim_end().to_owned()
}

/// What the columns of a model are called.
fn column(s: &Shown, i: usize) -> String {
    if s.models.len() == 1 { "model".into() } else { format!("model {}", i + 1) }
}

fn columns(s: &Shown) -> impl Iterator<Item = String> {
    (0..s.models.len()).map(|i| column(s, i))
}

/// One model with everything about a class; several with the accuracy of each.
fn per_class(s: &Shown) -> Vec<Row> {
    let measure = if s.data.summary.multi_hot { "recall" } else { "accuracy" };
    let alone = s.models.len() == 1;
    let mut header = if alone {
        [measure, "samples", measure, "95 % interval", "precision", "loss"].map(str::to_owned).to_vec()
    } else {
        [measure, "samples"].map(str::to_owned).to_vec()
    };
    if alone {
        header[0] = String::new();
    } else {
        for (i, name) in columns(s).enumerate() {
            header.push(name);
            if i > 0 {
                header.extend(["difference", "p"].map(str::to_owned));
            }
        }
    }
    let row = |name: String,
               group: &dyn Fn(&Measurement) -> Option<Group>,
               versus: &dyn Fn(&Measurement) -> Option<Versus>| {
        let groups: Option<Vec<Group>> = s.models.iter().map(|m| group(&m.measured)).collect();
        let groups = groups?;
        let mut row = vec![name, groups[0].samples.to_string()];
        for (m, g) in s.models.iter().zip(&groups) {
            row.push(share(g.accuracy));
            if alone {
                row.extend([interval(g), share(g.precision), decimals(g.loss)]);
            }
            if let Some(v) = versus(&m.measured) {
                row.extend([v.difference.map_or("-".into(), points), v.p_value.map_or("-".into(), p_value)]);
            }
        }
        Some(row)
    };
    let mut rows = vec![header];
    for c in 0..s.classes.len() {
        rows.extend(row(label(&s.classes, c, &[]), &|m| Some(m.classes[c].clone()), &|m| {
            m.versus_first.as_ref().map(|v| v.classes[c].clone())
        }));
    }
    rows.extend(row("all classes".into(), &|m| Some(m.overall.clone()), &|m| {
        m.versus_first.as_ref().map(|v| v.overall.clone())
    }));
    rows.extend(row("routed classes".into(), &|m| m.routed.clone(), &|m| {
        m.versus_first.as_ref().and_then(|v| v.routed.clone())
    }));
    rows.extend(row("other classes".into(), &|m| m.others.clone(), &|m| {
        m.versus_first.as_ref().and_then(|v| v.others.clone())
    }));
    rows
}

/// Figures of all samples, a row a figure.
fn whole(s: &Shown) -> Vec<Row> {
    let multi_hot = s.data.summary.multi_hot;
    let mut rows = vec![std::iter::once("all classes".to_owned()).chain(columns(s)).collect::<Row>()];
    let mut row = |name: &str, cell: &dyn Fn(&Measurement) -> String| {
        rows.push(std::iter::once(name.to_owned()).chain(s.models.iter().map(|m| cell(&m.measured))).collect());
    };
    row(if multi_hot { "recall" } else { "accuracy" }, &|m| share(m.overall.accuracy));
    row("95 % interval", &|m| interval(&m.overall));
    if multi_hot {
        row("precision", &|m| share(m.overall.precision));
        row("micro-F1", &|m| share(m.overall.f1));
    }
    row("loss (nats)", &|m| decimals(m.overall.loss));
    if !multi_hot {
        row("calibration error", &|m| decimals(m.calibration_error));
    }
    row("not finite", &|m| percent(m.not_finite_share));
    if s.models.len() > 1 {
        let versus = |m: &Measurement, of: &dyn Fn(&crate::evaluate::Comparison) -> String| {
            m.versus_first.as_ref().map_or("-".to_owned(), of)
        };
        row("predictions equal to model 1", &|m| versus(m, &|v| percent(v.agreement)));
        row("JS divergence to model 1 (bits)", &|m| versus(m, &|v| decimals(v.js_divergence)));
    }
    rows
}

/// Where the samples of the i-th routed class go.
fn routing(s: &Shown, i: usize) -> Vec<Row> {
    let title = format!("samples of {} go to", label(&s.classes, s.route[i], &[]));
    let mut rows = vec![std::iter::once(title).chain(columns(s)).collect::<Row>()];
    let of = |m: &ModelShown, class: usize| {
        m.measured.routing[i].predicted.iter().find(|r| r.class == class).map_or(0.0, |r| r.share)
    };
    let largest = |class: usize| s.models.iter().map(|m| of(m, class)).fold(0.0, f64::max);
    let mut classes: Vec<usize> = (0..s.classes.len()).filter(|&c| largest(c) > 0.0).collect();
    classes.sort_by(|&a, &b| largest(b).total_cmp(&largest(a)));
    let rest = classes.split_off(classes.len().min(MOST_ROUTES));
    let mut row = |name: String, cell: &dyn Fn(&ModelShown) -> String| {
        rows.push(std::iter::once(name).chain(s.models.iter().map(cell)).collect());
    };
    for class in classes {
        row(label(&s.classes, class, &[]), &|m| percent(of(m, class)));
    }
    if !rest.is_empty() {
        row(format!("{} other classes", rest.len()), &|m| percent(rest.iter().map(|&c| of(m, c)).sum()));
    }
    row("top-1 share".into(), &|m| share(m.measured.routing[i].top1_share));
    row("entropy (bits)".into(), &|m| decimals(m.measured.routing[i].entropy));
    row("entropy / log2 of the classes".into(), &|m| decimals(m.measured.routing[i].normalised_entropy));
    if s.models.iter().any(|m| m.measured.routing[i].not_finite > 0) {
        row("not finite (left out)".into(), &|m| m.measured.routing[i].not_finite.to_string());
    }
    rows
}

/// Rows are the classes of the labels, columns the predicted ones by their index.
fn matrix(s: &Shown, i: usize, m: &ModelShown) -> Option<Vec<Row>> {
    let counts = m.measured.confusion.as_ref()?;
    let title = if s.models.len() == 1 { "predicted as".to_owned() } else { format!("{} predicts", column(s, i)) };
    let mut rows = vec![std::iter::once(title).chain((0..counts.len()).map(|c| c.to_string())).collect::<Row>()];
    for (c, row) in counts.iter().enumerate() {
        let cells = row.iter().map(ToString::to_string);
        rows.push(std::iter::once(label(&s.classes, c, &[])).chain(cells).collect());
    }
    Some(rows)
}

fn share(value: Option<f64>) -> String {
    value.map_or("-".into(), percent)
}

fn interval(g: &Group) -> String {
    g.interval.map_or("-".into(), |[low, high]| format!("{:.2} to {:.2} %", 100.0 * low, 100.0 * high))
}

fn decimals(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{v:.4}"))
}

/// A difference of shares, in percentage points.
fn points(v: f64) -> String {
    format!("{:+.2}", 100.0 * v)
}

fn p_value(p: f64) -> String {
    if p < 1e-4 { "<0.0001".into() } else { format!("{p:.4}") }
}
