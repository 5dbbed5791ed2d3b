//! `gradcheck`: does the gradient graph of this model agree with central differences?

use super::{samples, session};
use crate::{
    autodiff,
    cli::{
        Status,
        args::{EngineArgs, GradcheckArgs},
        plan,
        printer::Printer,
        progress::Progress,
    },
    data::Seeded,
    onnx,
    tensor::Tensor,
    train::{
        BatchNorm, BatchedNetwork, Network, Weights,
        gradcheck::{self, Along, Checked, NodeCheck, Outcome, Settings},
    },
};
use anyhow::{Result, bail, ensure};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write};

/// Samples in a batch where neither the user nor the file says how many.
const SAMPLES: usize = 4;

#[derive(Serialize)]
struct Shown {
    model: String,
    answer: &'static str,
    tolerance: f64,
    batch: usize,
    seed: u64,
    weights: usize,
    operators: Vec<Operator>,
    worst: Option<NodeCheck>,
    #[serde(flatten)]
    checked: Checked,
}

/// The nodes of one operator.
#[derive(Serialize)]
struct Operator {
    name: String,
    nodes: usize,
    agree: usize,
    disagree: usize,
    not_comparable: usize,
    worst_error: Option<f64>,
    worst_node: Option<String>,
}

pub fn run(args: &GradcheckArgs, printer: Printer) -> Result<Status> {
    ensure!(
        args.tolerance.is_finite() && args.tolerance > 0.0,
        "--tolerance {}: expected a number above 0",
        args.tolerance
    );
    ensure!(args.samples != Some(0), "--samples 0: at least one sample is needed");
    ensure!(args.threads != Some(0), "--threads 0: expected at least 1");
    let model = onnx::read(&args.model)?;
    let network = Network::with(&model, &plan::choice(&args.choice)?)?;
    let weights = network.weights()?;
    let batch = batch(&network, args.samples)?;
    let resize = args.resize.as_deref().map(plan::size).transpose()?;
    let engine = EngineArgs { device: "cpu".into(), threads: args.threads, tf32: false, ort_lib: args.ort_lib.clone() };
    let runtime = session::open(&engine)?;
    printer.note(runtime.describe());

    let draw = |purpose: &str, n: usize| Seeded::new(args.seed, &format!("gradcheck {purpose}")).normal(n);
    let samples = samples::random(&network, &runtime.engine, batch, resize, &draw)?;
    let batched = network.at_batch_of(&runtime.engine, samples.clone(), BatchNorm::Frozen)?;
    let x = rows(&batched, &weights, &samples, &draw)?;
    let targets = targets(batched.predictions(), batched.layout.classes, &draw);
    let settings = Settings { tolerance: args.tolerance, draw: &draw, backward: &autodiff::backward };
    let mut progress = Progress::new(printer);
    let mut follow = |done: usize, of: usize| {
        if done == 1 {
            progress.start("check", of);
        }
        progress.advance(done, "");
    };
    let checked = gradcheck::check(&batched, &settings, &weights, &x, &targets, &mut follow)?;
    progress.finish();

    let (answer, status) = answer(checked.outcome());
    let shown = Shown {
        model: args.model.display().to_string(),
        answer,
        tolerance: args.tolerance,
        batch: batched.batch,
        seed: args.seed,
        weights: weights.len(),
        operators: operators(&checked.nodes),
        worst: worst(&checked.nodes).cloned(),
        checked,
    };
    printer.json(&shown)?;
    printer.result(text(&shown));
    Ok(status)
}

fn answer(outcome: Outcome) -> (&'static str, Status) {
    match outcome {
        Outcome::Agrees => ("yes", Status::Yes),
        Outcome::Disagrees => ("no", Status::No),
        Outcome::NotComparable => ("undecided", Status::Undecided),
    }
}

/// Samples in the batch: as the file declares, else as the user says.
fn batch(network: &Network, samples: Option<usize>) -> Result<usize> {
    match (samples, network.inputs.frozen_batch()) {
        (Some(n), Some(declared)) if n != declared => bail!("--samples {n}: the model declares batches of {declared}"),
        (given, declared) => Ok(declared.or(given).unwrap_or(SAMPLES)),
    }
}

/// The samples as flat rows. Where noise lives behind the input, every other sample is noise, in the range that the values
/// of the others have there: so both the noise and what it takes the place of get gradients.
fn rows(
    batched: &BatchedNetwork<'_>,
    weights: &Weights,
    samples: &[(String, Tensor)],
    draw: &dyn Fn(&str, usize) -> Vec<f32>,
) -> Result<Tensor> {
    let (row, batch) = (&batched.row, batched.batch);
    let samples: Vec<Vec<f32>> = samples.iter().map(|(_, t)| t.to_f32s()).collect();
    let mut data = vec![0.0; batch * row.data];
    for (i, to) in data.chunks_exact_mut(row.data).enumerate() {
        let own = samples.iter().flat_map(|v| &v[i * v.len() / batch..(i + 1) * v.len() / batch]);
        to.iter_mut().zip(own).for_each(|(to, from)| *to = *from);
    }
    let Some(flag) = row.flag else { return Ok(Tensor::f32([batch, row.data], data)) };
    let range = batched.range(weights, None, &data)?;
    let noise = draw("noise", batch * row.noise.len());
    let mut x = vec![0.0; batch * row.len()];
    for (i, to) in x.chunks_exact_mut(row.len()).enumerate() {
        to[..row.data].copy_from_slice(&data[i * row.data..(i + 1) * row.data]);
        let noise = &noise[i * row.noise.len()..(i + 1) * row.noise.len()];
        to[row.noise.clone()]
            .iter_mut()
            .zip(noise)
            .for_each(|(to, z)| *to = (range.center + range.spread * f64::from(*z)) as f32);
        to[flag] = f32::from(u8::from(i % 2 == 0));
    }
    Ok(Tensor::f32([batch, row.len()], x))
}

/// A random class for each sample, one-hot.
fn targets(batch: usize, classes: usize, draw: &dyn Fn(&str, usize) -> Vec<f32>) -> Tensor {
    let mut rows = draw("targets", batch * classes);
    for row in rows.chunks_exact_mut(classes) {
        let class = (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0);
        row.fill(0.0);
        row[class] = 1.0;
    }
    Tensor::f32([batch, classes], rows)
}

/// The node with the largest error, one that is not a number before all others.
fn worst<'n>(nodes: impl IntoIterator<Item = &'n NodeCheck>) -> Option<&'n NodeCheck> {
    nodes.into_iter().filter(|n| n.error.is_some()).max_by(|a, b| rank(a).total_cmp(&rank(b)))
}

fn rank(n: &NodeCheck) -> f64 {
    n.error.map_or(-1.0, |e| if e.is_nan() { f64::INFINITY } else { e })
}

fn operators(nodes: &[NodeCheck]) -> Vec<Operator> {
    let mut by_operator: BTreeMap<&str, BTreeMap<&str, Vec<&NodeCheck>>> = BTreeMap::new();
    for n in nodes {
        by_operator.entry(&n.operator).or_default().entry(&n.node).or_default().push(n);
    }
    let line = |(operator, nodes): (&str, BTreeMap<&str, Vec<&NodeCheck>>)| {
        let of = |checks: &Vec<&NodeCheck>| checks.iter().fold(Outcome::Agrees, |o, n| o.and(n.outcome));
        let count = |outcome| nodes.values().filter(|checks| of(checks) == outcome).count();
        let worst = worst(nodes.values().flatten().copied());
        Operator {
            name: operator.to_owned(),
            nodes: nodes.len(),
            agree: count(Outcome::Agrees),
            disagree: count(Outcome::Disagrees),
            not_comparable: count(Outcome::NotComparable),
            worst_error: worst.and_then(|n| n.error),
            worst_node: worst.map(|n| n.node.clone()),
        }
    };
    by_operator.into_iter().map(line).collect()
}

fn text(s: &Shown) -> String {
    let mut text = format!("model        {}\nbatch        {} random samples, seed {}\n\n", s.model, s.batch, s.seed);
    let width = s.operators.iter().map(|o| o.name.len()).max().unwrap_or(0).max("operator".len());
    let _ = writeln!(text, "{:width$}  nodes  agree  disagree  not comparable  worst error  at", "operator");
    for o in &s.operators {
        let (error, node) = (o.worst_error.map_or("-".into(), small), o.worst_node.as_deref().unwrap_or("-"));
        let (all, yes, no, unclear) = (o.nodes, o.agree, o.disagree, o.not_comparable);
        let _ = writeln!(text, "{:width$}  {all:>5}  {yes:>5}  {no:>8}  {unclear:>14}  {error:>11}  {node}", o.name);
    }
    text.push('\n');
    for n in s.checked.nodes.iter().filter(|n| n.outcome == Outcome::Disagrees) {
        let _ = writeln!(text, "disagrees    {}", named(n));
    }
    for n in s.checked.nodes.iter().filter(|n| n.outcome == Outcome::NotComparable) {
        let reason = n.reason.as_deref().unwrap_or_default();
        let _ = writeln!(text, "not compared {} ({}), input {}: {reason}", n.node, n.operator, n.input);
    }
    let worst = s.worst.as_ref().map_or("none was compared".to_owned(), named);
    let _ = writeln!(text, "worst node   {worst}");
    let whole = &s.checked.end_to_end;
    let floats = |v: f64| format!("{v:.7}");
    let mut means = whole.arithmetic.to_owned();
    if !whole.float32_operators.is_empty() {
        let list: Vec<&str> = whole.float32_operators.iter().map(String::as_str).collect();
        means = format!("{means} for {}", list.join(", "));
    }
    if whole.nudged {
        means.push_str(", at weights moved by 1 % off a kink");
    }
    let _ = writeln!(text, "differences  of the loss in {means}");
    let _ =
        writeln!(text, "loss         {} by the step graph, {} there", floats(whole.loss), floats(whole.forward_loss));
    let _ = writeln!(text, "{:12} {}", format!("{} weights", s.weights), along(&whole.weights));
    if let Some(name) = &whole.worst_weight {
        let _ = writeln!(text, "worst weight {name}");
    }
    let _ = writeln!(text, "input        {}", along(&whole.input));
    let verdict = match s.checked.outcome() {
        Outcome::Agrees => "the gradient graph agrees with central differences",
        Outcome::Disagrees => "the gradient graph does not agree with central differences",
        Outcome::NotComparable => "could not tell: the loss has no usable differences at these values",
    };
    let _ = write!(text, "verdict      {verdict} (tolerance {})", small(s.tolerance));
    text
}

fn named(n: &NodeCheck) -> String {
    let error = n.error.map_or("-".into(), small);
    let share =
        n.share.filter(|s| *s < 1.0).map_or(String::new(), |s| format!(", on {:.1} % of its outputs", 100.0 * s));
    let differences = n.differences.as_deref().unwrap_or_default();
    format!("{} ({}), input {}: error {error}, differences in {differences}{share}", n.node, n.operator, n.input)
}

fn along(a: &Along) -> String {
    let outcome = match a.outcome {
        Outcome::Agrees => "agrees",
        Outcome::Disagrees => "disagrees",
        Outcome::NotComparable => "not comparable",
    };
    let (n, median, worst) = (a.directions.len(), small(a.median_error), small(a.worst_error));
    let (allowed, uncertain) = (small(a.allowed), small(a.uncertainty));
    format!(
        "{outcome}: along {n} directions error {median} (median), {worst} (worst); allowed {allowed}, of which \
         uncertain 3 x {uncertain}"
    )
}

fn small(v: f64) -> String {
    format!("{v:.1e}")
}
