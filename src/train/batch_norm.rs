//! Batch statistics as an option: writes BatchNormalization out in elementary operators, before differentiation.
//!
//! The CUDA provider refuses `training_mode=1` from opset 14 on, and the operator knows no sample weights; written out,
//! the rules of the elementary operators give the gradient, and samples of weight 0 (the padding of the last batch) do
//! not enter the statistics.
//!
//! A node in training mode computes with the statistics of the batch in the file already. It is always written out; whether
//! its running statistics move is the user's choice, as it is for the others.

use super::shapes::with_inputs_of;
use crate::{
    graph::{Attr, Attrs, Graph, Node, Port},
    runtime::Engine,
    tensor::Tensor,
};
use std::{collections::HashMap, sync::Arc};

/// A running statistic that a step moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// Name of the stored statistic.
    pub name: String,
    /// Value that holds it after the step.
    pub next: String,
}

/// True when the graph has a BatchNormalization node.
pub fn present(graph: &Graph) -> bool {
    graph.nodes.iter().any(is_batch_norm)
}

/// Names of the running means and variances.
pub fn statistics(graph: &Graph) -> impl Iterator<Item = &str> {
    graph.nodes.iter().filter(|n| is_batch_norm(n)).flat_map(|n| [n.input(3), n.input(4)]).flatten()
}

/// True when the graph, lifted or not, has a BatchNormalization in training mode, whose scores depend on the whole batch.
pub fn live(graph: &Graph) -> bool {
    // Before opset 14 further outputs are what says so.
    let by_outputs = |n: &Node| graph.opset < 14 && is_batch_norm(n) && n.outputs.iter().skip(1).any(|o| !o.is_empty());
    graph.nodes.iter().any(|n| is_live(n) || by_outputs(n))
}

fn is_live(node: &Node) -> bool {
    is_batch_norm(node) && !matches!(node.attrs.get("training_mode"), None | Some(Attr::Int(0)))
}

fn is_batch_norm(node: &Node) -> bool {
    node.op == "BatchNormalization" && node.domain.is_empty()
}

/// Rewrites the BatchNormalization nodes that compute with the statistics of the batch: `all` of them, or those in training
/// mode, whose running statistics then stay as they are. `shapes` are those of one traced batch of `batch` samples;
/// `weights` names the sample weights, [batch, 1], each 0 or 1.
///
/// mean = sum_i w_i x_i / m        var = sum_i w_i (x_i - mean)^2 / m        m = R H W max(sum w, 1)
/// y = scale (x - mean) / sqrt(var + epsilon) + bias
/// running' = running + (1 - momentum) (batch - running)        (the variance is the population variance, as in ONNX)
///
/// where each sample has R rows of the first axis: one, or more where the model merges samples with time steps, windows or
/// parts; which rows are whose is for [`check_rows`] to see. A batch of weight 0, which is a part of a larger one, moves no
/// statistics.
pub fn write_out(
    graph: &Graph,
    shapes: &HashMap<String, (crate::tensor::DType, Vec<usize>)>,
    weights: &str,
    batch: usize,
    all: bool,
) -> Result<(Graph, Vec<Running>), String> {
    let mut out = Graph { nodes: Vec::new(), ..graph.clone() };
    let mut running = Vec::new();
    for node in &graph.nodes {
        if !(is_live(node) || (all && is_batch_norm(node))) {
            out.nodes.push(node.clone());
            continue;
        }
        let shape = node.input(0).and_then(|x| shapes.get(x)).map(|(_, s)| s.clone());
        let shape = shape.ok_or_else(|| format!("in node {}: the shape of its input is unknown", node.label()))?;
        let rows = rows_each(node, &shape, batch)?;
        let moved = Writer { out: &mut out, node, shape, weights, rows }.write(graph)?;
        if all {
            running.extend(moved);
        }
    }
    Ok((out, running))
}

/// Fails where a row of a BatchNormalization that [`write_out`] would rewrite belongs to another sample than its place
/// says, as it does when time steps come before samples: weights of samples would then be given to rows of others.
///
/// Found by trial: with another last sample, only the last rows may change. `feeds` are a batch of data, `sampled` names
/// those that hold samples. The nodes run in inference mode here, which keeps samples apart.
pub fn check_rows(
    engine: &Engine,
    graph: &Graph,
    feeds: &[(String, Tensor)],
    sampled: &[String],
    all: bool,
) -> Result<(), String> {
    let mut probe = Graph { outputs: Vec::new(), ..graph.clone() };
    let mut nodes = Vec::new();
    for node in &mut probe.nodes {
        if let Some(x) = node.input(0).filter(|_| is_live(node) || (all && is_batch_norm(node))) {
            probe.outputs.push(Port::open(x));
            nodes.push(node.label());
        }
        if is_live(node) {
            node.attrs.remove("training_mode");
            node.outputs.truncate(1);
        }
    }
    let mut other = feeds.to_vec();
    for (_, t) in other.iter_mut().filter(|(name, _)| sampled.contains(name)) {
        replace_last(t);
    }
    let batch = feeds.iter().find(|(name, _)| sampled.contains(name)).map_or(1, |(_, t)| t.shape()[0]);
    let mut probe = with_inputs_of(&probe, feeds);
    probe.prune();
    let failed = |e: crate::runtime::RuntimeError| e.to_string();
    let mut session = engine
        .on_cpu()
        .plain_session("the model, to learn whose the rows of BatchNormalization are", &probe)
        .map_err(failed)?;
    let mut run = |feeds: &[(String, Tensor)]| {
        session.run(&feeds.iter().map(|(name, t)| (name.as_str(), t)).collect::<Vec<_>>()).map_err(failed)
    };
    let (first, second) = (run(feeds)?, run(&other)?);
    for ((node, a), b) in nodes.iter().zip(&first).zip(&second) {
        let (rows, a, b) = (a.shape().first().copied().unwrap_or(1), a.to_f32s(), b.to_f32s());
        let others = a.len() - a.len() / batch.max(1);
        if (0..others).any(|i| a[i].to_bits() != b[i].to_bits()) {
            return Err(format!(
                "in node {node}: the {rows} rows of its input are not {batch} samples one after another, so the padding of \
                 a batch cannot be kept out of its statistics; use its running statistics (--batch-norm frozen), or move \
                 the samples to the front of the first axis and export the model in inference mode"
            ));
        }
    }
    Ok(())
}

/// Puts an earlier sample that differs in the place of the last one.
fn replace_last(t: &mut Tensor) {
    let (mut values, batch) = (t.to_f32s(), t.shape()[0]);
    let width = values.len() / batch.max(1);
    let row = |i: usize| i * width..(i + 1) * width;
    if let Some(i) = (0..batch).find(|&i| values[row(i)] != values[row(batch - 1)]) {
        values.copy_within(row(i), (batch - 1) * width);
        *t = Tensor::from_f32s(t.dtype(), t.shape(), values);
    }
}

/// How many rows of the first axis each sample has.
fn rows_each(node: &Node, shape: &[usize], batch: usize) -> Result<usize, String> {
    match shape.first() {
        Some(&rows) if rows > 0 && rows % batch == 0 => Ok(rows / batch),
        _ => Err(format!(
            "in node {}: its input {shape:?} has no whole number of rows for each of {batch} samples, so its statistics \
             cannot be told apart by samples; use its running statistics (--batch-norm frozen)",
            node.label()
        )),
    }
}

struct Writer<'a> {
    out: &'a mut Graph,
    node: &'a Node,
    shape: Vec<usize>,
    weights: &'a str,
    rows: usize,
}

impl Writer<'_> {
    fn write(mut self, source: &Graph) -> Result<[Running; 2], String> {
        let node = self.node.clone();
        let input = |i: usize| {
            node.input(i).map(str::to_owned).ok_or_else(|| format!("in node {}: input {i} is missing", node.label()))
        };
        let (x, scale, bias, mean, var) = (input(0)?, input(1)?, input(2)?, input(3)?, input(4)?);
        let y = node.output(0).ok_or_else(|| format!("in node {}: no output", node.label()))?.to_owned();
        let float = |name: &str, default: f32| match node.attrs.get(name) {
            Some(Attr::Float(v)) => *v,
            _ => default,
        };
        let (epsilon, momentum) = (float("epsilon", 1e-5), float("momentum", 0.9));
        let rank = self.shape.len();
        // A vector has one channel, as in ONNX.
        let channels = self.shape.get(1).copied().unwrap_or(1);
        let places: usize = self.rows * self.shape.iter().skip(2).product::<usize>();

        let column: Vec<i64> = (0..rank).map(|i| if i == 0 { -1 } else { 1 }).collect();
        let row: Vec<i64> = (0..rank).map(|i| if i == 1 { channels as i64 } else { 1 }).collect();
        let (column, row, flat) =
            (self.ints("column", &column), self.ints("row", &row), self.ints("flat", &[channels as i64]));
        let axes: Vec<i64> = (0..rank as i64).filter(|&i| i != 1).collect();
        let axes = self.ints("axes", &axes);

        let weights = self.weights.to_owned();
        let each = if self.rows == 1 {
            weights.clone()
        } else {
            let repeats = self.ints("repeats", &[1, self.rows as i64]);
            self.op("Tile", "each", &[&weights, &repeats])
        };
        let w = self.op("Reshape", "w", &[&each, &column]);
        let all = self.op_with("ReduceSum", "all", &[&weights], &[("keepdims", Attr::Int(0))]);
        let places = self.number("places", places as f32);
        let one = self.number("one", 1.0);
        let some = self.op("Max", "some", &[&all, &one]);
        let count = self.op("Mul", "count", &[&some, &places]);
        let keep = [("keepdims", Attr::Int(1))];
        let weighted = self.op("Mul", "weighted", &[&x, &w]);
        let sum = self.op_with("ReduceSum", "sum", &[&weighted, &axes], &keep);
        let batch_mean = self.op("Div", "mean", &[&sum, &count]);
        let centred = self.op("Sub", "centred", &[&x, &batch_mean]);
        let square = self.op("Mul", "square", &[&centred, &centred]);
        let square = self.op("Mul", "weighted_square", &[&square, &w]);
        let squares = self.op_with("ReduceSum", "squares", &[&square, &axes], &keep);
        let batch_var = self.op("Div", "var", &[&squares, &count]);
        let epsilon = self.number("epsilon", epsilon);
        let shifted = self.op("Add", "shifted", &[&batch_var, &epsilon]);
        let deviation = self.op("Sqrt", "deviation", &[&shifted]);
        let scale = self.op("Reshape", "scale", &[&scale, &row]);
        let bias = self.op("Reshape", "bias", &[&bias, &row]);
        let factor = self.op("Div", "factor", &[&scale, &deviation]);
        let scaled = self.op("Mul", "scaled", &[&centred, &factor]);
        self.push("Add", &[&scaled, &bias], &y, &[]);

        let rest = self.number("rest", 1.0 - momentum);
        let any = self.op("Min", "any", &[&all, &one]);
        let rate = self.op("Mul", "rate", &[&any, &rest]);
        let mut moved = |running: &str, batch: &str, part: &str, output: usize| {
            let flat = self.op("Reshape", &format!("{part}_flat"), &[batch, &flat]);
            let ahead = self.op("Sub", &format!("{part}_ahead"), &[&flat, running]);
            let added = self.op("Mul", &format!("{part}_added"), &[&ahead, &rate]);
            let next = self.op("Add", &format!("{part}_next"), &[running, &added]);
            if let Some(name) = node.output(output) {
                self.push("Identity", &[&next], name, &[]);
            }
            Running { name: stored_name(source, running).to_owned(), next }
        };
        Ok([moved(&mean, &batch_mean, "running_mean", 1), moved(&var, &batch_var, "running_var", 2)])
    }

    fn ints(&mut self, part: &str, values: &[i64]) -> String {
        self.constant(part, Tensor::ints(values))
    }

    fn number(&mut self, part: &str, value: f32) -> String {
        self.constant(part, Tensor::scalar(value))
    }

    fn constant(&mut self, part: &str, tensor: Tensor) -> String {
        let name = format!("{}/batch/{part}_constant", self.node.name);
        self.out.constants.insert(name.clone(), Arc::new(tensor));
        name
    }

    fn op(&mut self, op: &str, part: &str, inputs: &[&str]) -> String {
        self.op_with(op, part, inputs, &[])
    }

    fn op_with(&mut self, op: &str, part: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> String {
        let output = format!("{}/batch/{part}", self.node.name);
        self.push(op, inputs, &output, attrs);
        output
    }

    fn push(&mut self, op: &str, inputs: &[&str], output: &str, attrs: &[(&str, Attr)]) {
        self.out.nodes.push(Node {
            name: output.to_owned(),
            op: op.to_owned(),
            domain: String::new(),
            inputs: inputs.iter().map(|s| (*s).to_owned()).collect(),
            outputs: vec![output.to_owned()],
            attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect::<Attrs>(),
        });
    }
}

/// The stored tensor behind Identity aliases.
fn stored_name<'g>(graph: &'g Graph, mut name: &'g str) -> &'g str {
    let producers = graph.producers();
    while let Some(node) = producers.get(name).map(|&i| &graph.nodes[i]).filter(|n| n.op == "Identity") {
        let Some(input) = node.input(0) else { break };
        name = input;
    }
    name
}
