//! Frees a graph that was exported for one batch size, on the copy that training works on.
//!
//! A fixed batch is frozen into more than the input's declared shape: into the targets of Reshape and Expand, into
//! constants that are joined with the samples (a class token), into initial states of recurrent layers. Each of these is
//! rewritten by the rule below; whether the result is the same function is not argued but tried, by running both.

use super::{
    network::{Network, TrainError},
    shapes::with_inputs_of,
    trace::{Traced, trace},
};
use crate::{
    graph::{Attr, Attrs, Graph, Node, Port},
    runtime::{Engine, RuntimeError},
    tensor::Tensor,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Largest difference of scores between the two graphs, relative to the largest score (or to 1).
const TOLERANCE: f32 = 1e-4;

/// Batches of the file's own size that the freed graph is compared on.
const COMPARED: usize = 4;

type Samples = Vec<(String, Tensor)>;

/// A graph that takes `samples` as one batch, with the samples in the types of the inputs; where the file fixes a smaller
/// batch and cannot be freed from it, the graph as it is with as many samples.
pub fn fit(network: &Network, engine: &Engine, samples: Samples) -> Result<(Graph, Samples), TrainError> {
    let typed = |(name, t): (String, Tensor)| {
        let dtype = network.inputs.dtype(&name);
        let t = if t.dtype() == dtype { t } else { Tensor::from_f32s(dtype, t.shape(), t.to_f32s()) };
        (name, t)
    };
    let samples: Samples = samples.into_iter().map(typed).collect();
    let batch = samples[0].1.shape()[0];
    let graph = network.graph.clone();
    let Some(frozen) = network.inputs.frozen_batch().filter(|&frozen| frozen != batch) else {
        return Ok((graph, samples));
    };
    let pieces =
        |at: usize| -> Samples { samples.iter().map(|(n, t)| (n.clone(), rows(t, at * frozen, frozen))).collect() };
    if frozen < batch {
        let fail = |source| TrainError::Batch { path: network.path.clone(), batch: frozen, source };
        let live = network.trained().chain(network.inputs.sampled()).map(str::to_owned).collect();
        let own = [pieces(0), network.constants_at(frozen)?].concat();
        let traced = trace(engine, &graph, &own, &[], &live).map_err(fail)?;
        let freed = rebatch(&graph, &traced, &network.inputs.sampled().collect(), frozen, batch);
        let constants = network.constants_at(batch)?;
        // Not running at all is the plainest way of not being the same function.
        if let Ok(scores) = run(engine, &freed, &network.head.logits, &[samples.clone(), constants].concat()) {
            let mut same = scores.shape().first() == Some(&batch);
            let scores = scores.to_f32s();
            for at in 0..COMPARED.min(batch / frozen).min(if same { COMPARED } else { 0 }) {
                let feeds = [pieces(at), network.constants_at(frozen)?].concat();
                let expected = run(engine, &graph, &network.head.logits, &feeds).map_err(fail)?.to_f32s();
                let found = &scores[(at * expected.len()).min(scores.len())..];
                same &= found.len() >= expected.len() && close(found, &expected);
            }
            if same {
                return Ok((freed, samples));
            }
        }
    }
    // Too few samples for a batch of the file's are repeated.
    let repeated = |t: &Tensor| (0..frozen).map(|i| rows(t, i % batch, 1).to_f32s()).collect::<Vec<_>>().concat();
    let own = |(name, t): (String, Tensor)| {
        let shape: Vec<usize> = std::iter::once(frozen).chain(t.shape()[1..].iter().copied()).collect();
        let t = Tensor::from_f32s(t.dtype(), shape, repeated(&t));
        (name, t)
    };
    Ok((graph, samples.into_iter().map(own).collect()))
}

/// `n` samples from sample `from` on.
pub(super) fn rows(t: &Tensor, from: usize, n: usize) -> Tensor {
    let width: usize = t.shape()[1..].iter().product();
    let shape: Vec<usize> = std::iter::once(n).chain(t.shape()[1..].iter().copied()).collect();
    let some = from * width..(from + n) * width;
    match t.as_f32() {
        Some(values) => Tensor::f32(shape, values[some].to_vec()),
        None => Tensor::from_f32s(t.dtype(), shape, t.to_f32s()[some].to_vec()),
    }
}

fn close(found: &[f32], expected: &[f32]) -> bool {
    let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    // Not `>`: a difference that is not a number has to fail.
    found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= TOLERANCE * scale)
}

fn run(engine: &Engine, graph: &Graph, output: &str, feeds: &[(String, Tensor)]) -> Result<Tensor, RuntimeError> {
    let graph = Graph { outputs: vec![Port::open(output)], ..with_inputs_of(graph, feeds) };
    let mut session = engine.on_cpu().plain_session("the model at another batch size", &graph)?;
    let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(name, t)| (name.as_str(), t)).collect();
    Ok(session.run(&feeds)?.swap_remove(0))
}

/// The graph for batches of `batch` samples. `traced` is a run at the file's own batch size `frozen`, `data` are the
/// inputs that hold samples.
fn rebatch(graph: &Graph, traced: &Traced, data: &BTreeSet<&str>, frozen: usize, batch: usize) -> Graph {
    let mut sampled: BTreeSet<String> = data.iter().map(|&name| name.to_owned()).collect();
    let mut out = Rewriter { graph: Graph { nodes: Vec::new(), ..graph.clone() }, expanded: BTreeMap::new() };
    for node in &graph.nodes {
        let mut node = node.clone();
        let touched = node.reads().any(|i| sampled.contains(i));
        let shape = node.output(0).and_then(|y| traced.shape(y)).unwrap_or_default().to_vec();
        // Shape arithmetic is folded at the new batch size; only constants are frozen.
        let constant = |i: usize| node.input(i).is_some_and(|name| graph.constants.contains_key(name));
        let first_is_batch = shape.first() == Some(&frozen);
        match node.op.as_str() {
            // The batch is the outermost axis, so it takes up what more samples bring, whatever it was merged with.
            "Reshape" if touched && constant(1) && !shape.is_empty() => {
                let mut target: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
                target[0] = -1;
                node.inputs[1] = out.constant(&node, "shape", Tensor::ints(&target));
                node.attrs.remove("allowzero");
            }
            "Expand" if constant(1) && first_is_batch => {
                let mut target: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
                target[0] = batch as i64;
                node.inputs[1] = out.constant(&node, "shape", Tensor::ints(&target));
            }
            "Resize" if touched && constant(3) => {
                let mut sizes: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
                sizes[0] = batch as i64;
                node.inputs[3] = out.constant(&node, "sizes", Tensor::ints(&sizes));
            }
            "Concat" if touched && node.attrs.get("axis") != Some(&Attr::Int(0)) => {
                for i in 0..node.inputs.len() {
                    out.spread(&mut node, i, 0, &sampled, traced, frozen, batch);
                }
            }
            "LSTM" | "GRU" | "RNN" if touched => {
                for i in 4..=6 {
                    // sequence_lens is [batch], the initial states are [directions, batch, hidden].
                    out.spread(&mut node, i, usize::from(i > 4), &sampled, traced, frozen, batch);
                }
            }
            _ => {}
        }
        let joins = node.reads().any(|i| sampled.contains(i));
        if joins || (node.op == "Expand" && first_is_batch) {
            sampled.extend(node.outputs.iter().cloned());
        }
        out.graph.nodes.push(node);
    }
    for input in &mut out.graph.inputs {
        if let Some(dims) = input.dims.as_mut().filter(|_| data.contains(input.name.as_str())) {
            dims[0] = None;
        }
    }
    out.graph
}

struct Rewriter {
    graph: Graph,
    /// Values repeated for every sample, by the name of the value.
    expanded: BTreeMap<String, String>,
}

impl Rewriter {
    fn constant(&mut self, node: &Node, part: &str, tensor: Tensor) -> String {
        let name = format!("{}/onnx-unlearn:{part}", node.outputs[0]);
        self.graph.constants.insert(name.clone(), Arc::new(tensor));
        name
    }

    /// Repeats input `i`, which does not come from the samples, along its batch axis.
    #[allow(clippy::too_many_arguments)]
    fn spread(
        &mut self,
        node: &mut Node,
        i: usize,
        axis: usize,
        sampled: &BTreeSet<String>,
        traced: &Traced,
        frozen: usize,
        batch: usize,
    ) {
        let Some(name) = node.input(i).map(str::to_owned) else { return };
        let Some(shape) = traced.shape(&name).filter(|s| s.get(axis) == Some(&frozen)) else { return };
        // A constant for several samples may differ from one to the next; only one for all can be repeated.
        if sampled.contains(&name) || frozen != 1 {
            return;
        }
        let mut target: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        target[axis] = batch as i64;
        let known = self.expanded.get(&name).cloned();
        let repeated = known.unwrap_or_else(|| {
            let output = format!("{name}/onnx-unlearn:repeated");
            let target =
                self.constant(&Node { outputs: vec![output.clone()], ..node.clone() }, "shape", Tensor::ints(&target));
            self.graph.nodes.push(Node {
                name: output.clone(),
                op: "Expand".into(),
                domain: String::new(),
                inputs: vec![name.clone(), target],
                outputs: vec![output.clone()],
                attrs: Attrs::new(),
            });
            self.expanded.insert(name, output.clone());
            output
        });
        node.inputs[i] = repeated;
    }
}
