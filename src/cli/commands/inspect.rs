//! `inspect`: what is this model, and what of it would be trained? Needs no runtime.

use super::{samples, session};
use crate::{
    check::{self, CheckError, Feeds, Loaded, Preparation},
    cli::{Status, args::InspectArgs, plan, printer::Printer},
    graph::Port,
    onnx::{self, Model},
    provenance::stamp,
    train::{BatchNorm, Choice, Head, Network, Optimizer, Reading, Site, Stored, TrainError, live_batch_norm},
};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::{collections::BTreeMap, thread::ScopedJoinHandle};

#[derive(Serialize)]
struct Inspection {
    model: String,
    ir_version: i64,
    opset: i64,
    producer: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    operators: BTreeMap<String, usize>,
    parameters: usize,
    elements: BTreeMap<String, usize>,
    classes: Option<usize>,
    batch_norm: BatchNorms,
    external_files: Vec<String>,
    stamped: Option<stamp::Stamp>,
    stamp_problem: Option<String>,
    tract: String,
    memory: Option<Memory>,
    trainable: bool,
    noise: Option<Site>,
    input: Option<String>,
    logits: Option<String>,
    behind: Option<String>,
    trained: Vec<Tensor>,
    frozen: Vec<Tensor>,
    dead_ends: Vec<String>,
    obstacles: Vec<Obstacle>,
    problem: Option<String>,
}

/// BatchNormalization nodes of the file.
#[derive(Serialize)]
struct BatchNorms {
    nodes: usize,
    training_mode: bool,
}

/// A node that the gradient has to pass and cannot.
#[derive(Serialize)]
struct Obstacle {
    node: String,
    reason: String,
}

/// What a training step holds at most.
#[derive(Serialize)]
struct Memory {
    batch_size: usize,
    bytes: usize,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    reason: Option<&'static str>,
}

pub fn run(args: &InspectArgs, printer: Printer) -> Result<Status> {
    let choice = plan::choice(&args.choice)?;
    let resize = args.resize.as_deref().map(plan::size).transpose()?;
    // Both read the whole file, which is most of the time that a large model takes.
    let (model, loaded) = std::thread::scope(|scope| {
        let loaded = check::thread().spawn_scoped(scope, || check::load(&args.model));
        (onnx::read(&args.model), loaded.map(ScopedJoinHandle::join))
    });
    let model = model?;
    let loaded = loaded?.unwrap_or_else(|_| Err(CheckError::Load("it ended in a panic".into())));
    let network = Network::with(&model, &choice);
    let mut shown = inspection(&model, &network, tract(loaded, &model, &choice, resize));
    if let (Some(batch_size), Ok(network)) = (args.batch_size, &network) {
        let bytes = memory(args, network, batch_size, resize)?;
        shown.memory = Some(Memory { batch_size, bytes });
    }
    printer.json(&shown)?;
    printer.result(text(&shown));
    Ok(if shown.trainable { Status::Yes } else { Status::No })
}

/// Needs the runtime, because shapes come from it.
fn memory(args: &InspectArgs, network: &Network, batch: usize, resize: Option<(usize, usize)>) -> Result<usize> {
    ensure!(batch > 0, "--batch-size 0: expected at least 1");
    let runtime = session::open(&args.engine)?;
    let samples = samples::zeros(&network.inputs, batch, resize)?;
    Ok(network.at_batch_of(&runtime.engine, samples, BatchNorm::Frozen)?.memory(Optimizer::ADAM, false))
}

/// What tract can do with the file: run it, on a sample of zeros, where it is known how it is fed.
fn tract(loaded: Result<Loaded, CheckError>, model: &Model, choice: &Choice, resize: Option<(usize, usize)>) -> String {
    let fed = || -> Result<(String, Feeds)> {
        let Reading { path, head, inputs, .. } = Reading::of(model, choice)?;
        let batch = inputs.frozen_batch().unwrap_or(1);
        let mut feeds = samples::zeros(&inputs, batch, resize)?;
        feeds.extend(inputs.constants_at(&path, batch)?);
        Ok((head.output, feeds))
    };
    let found = loaded.and_then(|loaded| match fed() {
        Ok((output, feeds)) => loaded.run(&[feeds], &output, Preparation::Written, 1).map(|_| "can run the file"),
        Err(_) => Ok("can load the file"),
    });
    found.map_or_else(|e| e.to_string(), str::to_owned)
}

fn inspection(model: &Model, network: &Result<Network, TrainError>, tract: String) -> Inspection {
    let mut operators = BTreeMap::new();
    for node in &model.graph.nodes {
        *operators.entry(node.op.clone()).or_insert(0) += 1;
    }
    let (stamped, stamp_problem) = match stamp::read(&model.bytes) {
        Ok(stamp) => (stamp, None),
        Err(e) => (None, Some(e.to_string())),
    };
    let stored = network.as_ref().map(|n| n.stored.as_slice()).unwrap_or_default();
    let pick = |trained: bool| {
        let chosen = stored.iter().filter(move |s| s.frozen.is_none() == trained);
        let dtype = |s: &Stored| network.as_ref().map_or(String::new(), |n| n.dtype(&s.name).to_string());
        let shown =
            chosen.map(|s| Tensor { name: s.name.clone(), shape: s.shape.clone(), dtype: dtype(s), reason: s.frozen });
        shown.collect::<Vec<_>>()
    };
    let problem = match network {
        Ok(network) => network.weights().err().map(|e| e.to_string()),
        Err(e) => Some(e.to_string()),
    };
    let obstacles = match network {
        Err(TrainError::NotDifferentiable { source, .. }) => source.0.as_slice(),
        _ => &[],
    };
    let mut elements = BTreeMap::new();
    for tensor in model.stored.iter().filter_map(|name| model.graph.constants.get(name)) {
        *elements.entry(tensor.dtype().to_string()).or_insert(0) += tensor.len();
    }
    let ready = network.as_ref().ok();
    Inspection {
        model: model.path.display().to_string(),
        ir_version: model.ir_version,
        opset: model.graph.opset,
        producer: model.producer.clone(),
        inputs: model.graph.inputs.iter().map(port).collect(),
        outputs: model.graph.outputs.iter().map(port).collect(),
        parameters: model.parameters().values().sum(),
        elements,
        classes: ready.and_then(|n| classes(model, &n.head)),
        batch_norm: BatchNorms {
            nodes: operators.get("BatchNormalization").copied().unwrap_or(0),
            training_mode: live_batch_norm(&model.graph),
        },
        operators,
        external_files: model.external.iter().cloned().collect(),
        stamped,
        stamp_problem,
        tract,
        memory: None,
        trainable: problem.is_none(),
        noise: ready.map(|n| n.site.clone()),
        input: ready.map(|n| n.input.clone()),
        logits: ready.map(|n| n.head.logits.clone()),
        behind: ready.and_then(|n| n.head.behind.clone()),
        trained: pick(true),
        frozen: pick(false),
        dead_ends: ready.map(|n| n.dead_ends.clone()).unwrap_or_default(),
        obstacles: obstacles.iter().map(|o| Obstacle { node: o.node.clone(), reason: o.reason.to_string() }).collect(),
        problem,
    }
}

/// Number of classes, where the file declares the shape of its scores.
fn classes(model: &Model, head: &Head) -> Option<usize> {
    let port = model.graph.outputs.iter().find(|p| p.name == head.output)?;
    let (_, rest) = port.dims.as_ref()?.split_first()?;
    let rest: Option<Vec<usize>> = rest.iter().copied().collect();
    // The batch may be open; how many samples there are says nothing about classes.
    let shape = [vec![2], rest?].concat();
    head.layout(&shape, None).ok().map(|l| l.classes)
}

fn port(p: &Port) -> String {
    let dims = p.dims.as_ref().map_or("[?]".to_owned(), |dims| {
        let dims: Vec<String> = dims.iter().map(|d| d.map_or("?".into(), |n| n.to_string())).collect();
        format!("[{}]", dims.join(", "))
    });
    format!("{} {}{dims}", p.name, p.dtype.map_or("?".to_owned(), |t| t.to_string()))
}

fn text(i: &Inspection) -> String {
    let mut lines = vec![
        format!("model       {}", i.model),
        format!("written by  {}", if i.producer.is_empty() { "(not said)" } else { &i.producer }),
        format!("opset       {} (IR {})", i.opset, i.ir_version),
        format!("inputs      {}", i.inputs.join("; ")),
        format!("outputs     {}", i.outputs.join("; ")),
        format!("operators   {}", i.operators.iter().map(|(op, n)| format!("{op} {n}")).collect::<Vec<_>>().join(", ")),
        format!("parameters  {}{}", i.parameters, types(&i.elements)),
        format!("classes     {}", i.classes.map_or("the file does not declare them".into(), |n| n.to_string())),
    ];
    if i.batch_norm.training_mode {
        lines.push("batch norm  is in training mode: scores depend on all samples of a batch".into());
    }
    if !i.external_files.is_empty() {
        lines.push(format!("data in     {}", i.external_files.join(", ")));
    }
    match (&i.stamped, &i.stamp_problem) {
        (Some(stamp), _) => {
            lines.push(format!("stamped     by {}, classes {} forgotten", stamp.tool, stamp.forgotten().join(", ")));
        }
        (None, Some(problem)) => lines.push(format!("stamped     {problem}")),
        (None, None) => lines.push("stamped     no".into()),
    }
    if let (Some(input), Some(logits)) = (&i.input, &i.logits) {
        let behind = i.behind.as_ref().map_or(String::new(), |op| format!(" (before the final {op})"));
        lines.push(match &i.noise {
            Some(Site::Value { name, node }) => {
                format!("noise       is learned for {name}, what node {node} makes of the integers of input {input}")
            }
            _ => format!("noise       is learned for input {input}"),
        });
        lines.push(format!("loss        is computed on {logits}{behind}"));
    }
    for t in &i.trained {
        lines.push(format!("trained     {} {:?}{}", t.name, t.shape, other_type(t)));
    }
    for t in &i.frozen {
        let (kind, reason) = (other_type(t), t.reason.unwrap_or_default());
        lines.push(format!("frozen      {} {:?}{kind}: {reason}", t.name, t.shape));
    }
    for node in &i.dead_ends {
        lines.push(format!("dead end    {node}: its derivative is zero, so weights before it do not learn"));
    }
    lines.push(format!("tract       {}", i.tract));
    if let Some(memory) = &i.memory {
        let mebibytes = memory.bytes.div_ceil(1 << 20);
        lines.push(format!(
            "memory      a training step of {} samples holds at most {mebibytes} MiB",
            memory.batch_size
        ));
    }
    match &i.problem {
        None => lines.push("trainable   yes".into()),
        Some(problem) => lines.push(format!("trainable   no: {problem}")),
    }
    lines.join("\n")
}

/// Elements of all stored tensors by type, where there are others than float32 and the integers of shapes.
fn types(elements: &BTreeMap<String, usize>) -> String {
    if elements.keys().all(|t| t == "float32" || t == "int64") {
        return String::new();
    }
    let each: Vec<String> = elements.iter().map(|(t, n)| format!("{t} {n}")).collect();
    format!(" (stored: {})", each.join(", "))
}

/// The element type, where it is not the usual one.
fn other_type(t: &Tensor) -> String {
    if t.dtype == "float32" { String::new() } else { format!(" {}", t.dtype) }
}
