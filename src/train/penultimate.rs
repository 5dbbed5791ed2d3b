//! The penultimate layer: what the last layer with weights before the class scores reads.
//!
//! Found on the file's own graph, which can be run although nothing in it can be trained.

use super::{
    head::Head,
    inputs::Choice,
    network::TrainError,
    reading::{self, Reading},
};
use crate::{
    graph::{Attr, Graph, Node, Port},
    onnx::Model,
    runtime::{Engine, RuntimeError, Session},
    tensor::Tensor,
};
use std::collections::BTreeSet;
use thiserror::Error;

/// Layers with weights that read one value.
const LAYERS: &[&str] = &["Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"];

/// Operators without weights of a layer that the walk steps over, to their first input: moves, activations, pooling, and
/// what rounds or normalises the scores.
const PASSES: &[&str] = &[
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "DequantizeLinear",
    "Dropout",
    "Flatten",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "LeakyRelu",
    "LogSoftmax",
    "MaxPool",
    "QuantizeLinear",
    "ReduceMax",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Slice",
    "Softmax",
    "Squeeze",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];

/// Arithmetic that is stepped over where one side of it is the same for every sample.
const ARITHMETIC: &[&str] = &["Add", "Div", "Mul", "Sub", "Sum"];

/// Why there is no penultimate layer to look at.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum PenultimateError {
    #[error(
        "no penultimate layer: on the way back from the class scores stands node {node}, {why}; a Gemm, MatMul or Conv with \
         constant weights has to be the last layer before them"
    )]
    Node { node: String, why: &'static str },
    #[error("no penultimate layer: the class scores come from {value:?} without a layer that has weights")]
    NoLayer { value: String },
    #[error("no penultimate layer: {value:?}, which the last layer reads, has shape {shape:?} for {batch} samples")]
    Shape { value: String, shape: Vec<usize>, batch: usize },
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// The last layer with weights before the class scores, and the graph that computes what it reads.
#[derive(Debug)]
pub struct Penultimate {
    /// Name of the value that the layer reads.
    pub value: String,
    /// The layer, as messages name it.
    pub node: String,
    /// Name of the logits.
    pub logits: String,
    /// True for a convolution, whose input is averaged over its places.
    pub places: bool,
    /// The weights, [classes, features] flat, where the layer is a plain product: `logits = rows * features + offset`
    /// unless something else stands behind it, which is for the reader to see.
    pub rows: Option<Vec<f32>>,
    graph: Graph,
}

impl Penultimate {
    /// Walks back from the logits.
    pub fn of(model: &Model, choice: &Choice) -> Result<Self, PenultimateError> {
        let reading = Reading::of(model, choice)?;
        let (head, graph) = reading::cut(model, choice)?;
        let mut found = Self::in_graph(graph, &head)?;
        // Inputs of other outputs would have to be fed.
        let fed: BTreeSet<&str> = reading.inputs.sampled().collect();
        let constants: BTreeSet<&str> = reading.inputs.constants.iter().map(|(port, _)| port.name.as_str()).collect();
        found.graph.inputs.retain(|p| fed.contains(p.name.as_str()) || constants.contains(p.name.as_str()));
        Ok(found)
    }

    fn in_graph(mut graph: Graph, head: &Head) -> Result<Self, PenultimateError> {
        let node = walk(&graph, &head.logits)?.clone();
        let value = node.input(0).unwrap_or_default().to_owned();
        graph.outputs = [&value, &head.logits].map(Port::open).into();
        Ok(Self {
            node: node.label(),
            logits: head.logits.clone(),
            places: matches!(node.op.as_str(), "Conv" | "FusedConv"),
            rows: rows(&graph, &node),
            value,
            graph,
        })
    }

    /// A session whose outputs are the value and the logits; `live` as for [`Reading::live_batch_norm`].
    pub fn session(&self, engine: &Engine, live: bool) -> Result<Session, PenultimateError> {
        let what = "the penultimate layer";
        Ok(if live { engine.on_cpu().plain_session(what, &self.graph)? } else { engine.session(what, &self.graph)? })
    }

    /// The features of `batch` samples, [batch, features] flat: the value itself, of a convolution its average over places.
    pub fn features(&self, value: &Tensor, batch: usize) -> Result<Vec<f32>, PenultimateError> {
        let shape = value.shape();
        if shape.first() != Some(&batch) || shape.len() < 2 || shape.contains(&0) {
            return Err(PenultimateError::Shape { value: self.value.clone(), shape: shape.into(), batch });
        }
        let values = value.to_f32s();
        if !self.places {
            return Ok(values);
        }
        let places: usize = shape[2..].iter().product();
        Ok(values.chunks_exact(places).map(|c| c.iter().sum::<f32>() / places as f32).collect())
    }
}

/// The last layer with weights before `logits`.
fn walk<'g>(graph: &'g Graph, logits: &str) -> Result<&'g Node, PenultimateError> {
    let producers = graph.producers();
    let mut fixed: BTreeSet<&str> = graph.constants.keys().map(String::as_str).collect();
    for node in &graph.nodes {
        if node.reads().all(|name| fixed.contains(name)) {
            fixed.extend(node.outputs.iter().map(String::as_str));
        }
    }
    let mut at = logits;
    loop {
        let Some(node) = producers.get(at).map(|&i| &graph.nodes[i]) else {
            return Err(PenultimateError::NoLayer { value: at.into() });
        };
        let fail = |why| PenultimateError::Node { node: node.label(), why };
        let op = node.op.as_str();
        let varies = |i: usize| node.input(i).is_some_and(|name| !fixed.contains(name));
        let all: BTreeSet<&str> = node.reads().filter(|name| !fixed.contains(name)).collect();
        if LAYERS.contains(&op) {
            return match (varies(0), varies(1)) {
                (true, false) if node.attrs.get("transA").is_none_or(|a| *a == Attr::Int(0)) => Ok(node),
                (true, true) => Err(fail("a product of two values that both vary with the sample")),
                _ => Err(fail("whose weights stand on the other side than those of a layer")),
            };
        }
        let next = if PASSES.contains(&op) {
            // What else such a node reads are shapes and bounds.
            node.input(0)
        } else if ARITHMETIC.contains(&op) {
            let mut all = all.into_iter();
            match (all.next(), all.next()) {
                (next, None) => next,
                _ => return Err(fail("which puts several values together")),
            }
        } else {
            return Err(fail("which is neither such a layer nor one that has no weights"));
        };
        match next {
            Some(name) if !fixed.contains(name) => at = name,
            _ => return Err(PenultimateError::NoLayer { value: at.into() }),
        }
    }
}

/// The weights of a plain layer as [outputs, features], flat.
fn rows(graph: &Graph, node: &Node) -> Option<Vec<f32>> {
    let (w, turned) = stored(graph, node.input(1)?)?;
    let one = |name: &str| node.attrs.get(name).is_none_or(|a| *a == Attr::Int(1));
    let outputs_first = match (node.op.as_str(), w.shape()) {
        ("Gemm", [_, _]) => node.attrs.get("transB").is_some_and(|t| *t != Attr::Int(0)),
        ("MatMul", [_, _]) => false,
        ("Conv", [_, _, places @ ..]) if places.iter().all(|&n| n == 1) && one("group") => true,
        _ => return None,
    };
    let values = w.to_f32s();
    if outputs_first != turned {
        return Some(values);
    }
    let (n, m) = (w.shape()[0], w.shape()[1]);
    Some((0..m).flat_map(|j| (0..n).map(move |i| (i, j))).map(|(i, j)| values[i * m + j]).collect())
}

/// The constant behind a name, and whether a Transpose stands between.
fn stored<'g>(graph: &'g Graph, name: &str) -> Option<(&'g Tensor, bool)> {
    if let Some(t) = graph.constants.get(name) {
        return t.dtype().is_float().then_some((t, false));
    }
    let node = graph.nodes.iter().find(|n| n.output(0) == Some(name))?;
    let (t, turned) = stored(graph, node.input(0)?)?;
    match node.op.as_str() {
        "Identity" | "Cast" => Some((t, turned)),
        "Transpose" if t.shape().len() == 2 => Some((t, !turned)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Attrs;
    use std::sync::Arc;

    fn node(op: &str, inputs: &[&str], output: &str, attrs: &[(&str, Attr)]) -> Node {
        Node {
            name: output.into(),
            op: op.into(),
            domain: String::new(),
            inputs: inputs.iter().map(ToString::to_string).collect(),
            outputs: vec![output.into()],
            attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect::<Attrs>(),
        }
    }

    /// What is found in these nodes, whose last output are the logits.
    fn find(nodes: &[Node], constants: &[(&str, Tensor)]) -> Result<Penultimate, String> {
        let logits = nodes.last().expect("nodes").outputs[0].clone();
        let graph = Graph {
            opset: 18,
            nodes: nodes.to_vec(),
            inputs: vec![Port::open("x")],
            outputs: vec![Port::open(logits)],
            constants: constants.iter().map(|(n, t)| ((*n).to_owned(), Arc::new(t.clone()))).collect(),
        };
        let head = super::super::head::find(&graph, None, false).expect("a head");
        Penultimate::in_graph(graph, &head).map_err(|e| e.to_string())
    }

    fn matrix() -> Tensor {
        Tensor::f32([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    }

    /// The same with rows and columns exchanged.
    const TURNED: [f32; 6] = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0];

    #[test]
    fn the_layer_is_found_behind_offsets_moves_and_a_softmax() {
        let bias = ("b", Tensor::f32([3], vec![0.0; 3]));
        let found = find(
            &[
                node("Relu", &["x"], "f", &[]),
                node("MatMul", &["f", "w"], "z", &[]),
                node("Add", &["b", "z"], "y", &[]),
                node("Flatten", &["y"], "logits", &[]),
                node("Softmax", &["logits"], "p", &[]),
            ],
            &[("w", matrix()), bias],
        )
        .expect("a layer");
        assert_eq!((found.value.as_str(), found.node.as_str(), found.places), ("f", "\"z\" (MatMul)", false));
        // MatMul has [features, classes].
        assert_eq!(found.rows.as_deref(), Some(&TURNED[..]));
        let outputs: Vec<&str> = found.graph.outputs.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(outputs, ["f", "logits"]);
    }

    #[test]
    fn rows_of_classes_in_every_spelling() {
        let plain: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let gemm = |transposed: i64| node("Gemm", &["x", "w"], "y", &[("transB", transposed.into())]);
        assert_eq!(find(&[gemm(1)], &[("w", matrix())]).expect("found").rows.as_deref(), Some(&plain[..]));
        assert_eq!(find(&[gemm(0)], &[("w", matrix())]).expect("found").rows.as_deref(), Some(&TURNED[..]));
        let turn = [node("Transpose", &["v"], "w", &[]), node("MatMul", &["x", "w"], "y", &[])];
        assert_eq!(find(&turn, &[("v", matrix())]).expect("found").rows.as_deref(), Some(&plain[..]));
        let conv = [node("Conv", &["x", "w"], "c", &[]), node("GlobalAveragePool", &["c"], "y", &[])];
        let found = find(&conv, &[("w", matrix().reshaped([2, 3, 1, 1]))]).expect("found");
        assert_eq!((found.rows.as_deref(), found.places), (Some(&plain[..]), true));
        // A wide kernel has no one row a class.
        assert_eq!(find(&conv, &[("w", matrix().reshaped([2, 1, 1, 3]))]).expect("found").rows, None);
    }

    #[test]
    fn what_a_convolution_reads_is_averaged_over_places() {
        let conv = find(&[node("Conv", &["x", "w"], "y", &[])], &[("w", matrix().reshaped([2, 3, 1, 1]))]);
        let conv = conv.expect("found");
        let value = Tensor::f32([2, 1, 1, 3], vec![1.0, 2.0, 6.0, 0.0, 0.0, 3.0]);
        assert_eq!(conv.features(&value, 2).expect("features"), [3.0, 1.0]);
        assert!(conv.features(&value, 4).is_err_and(|e| e.to_string().contains("for 4 samples")));
    }

    #[test]
    fn nodes_in_the_way_are_named() {
        let two = [
            node("MatMul", &["x", "w"], "a", &[]),
            node("MatMul", &["x", "w"], "b", &[]),
            node("Add", &["a", "b"], "y", &[]),
        ];
        let said = find(&two, &[("w", matrix())]).expect_err("a refusal");
        assert!(said.contains("node \"y\" (Add), which puts several values together"), "{said}");
        let said = find(&[node("MatMul", &["w", "x"], "y", &[])], &[("w", matrix())]).expect_err("a refusal");
        assert!(said.contains("node \"y\" (MatMul), whose weights stand on the other side"), "{said}");
        let said = find(&[node("MatMul", &["x", "x"], "y", &[])], &[]).expect_err("a refusal");
        assert!(said.contains("both vary with the sample"), "{said}");
        let said = find(&[node("LSTM", &["x", "w"], "y", &[])], &[("w", matrix())]).expect_err("a refusal");
        assert!(said.contains("node \"y\" (LSTM), which is neither"), "{said}");
        let said = find(&[node("Relu", &["x"], "y", &[])], &[]).expect_err("a refusal");
        assert!(said.contains("come from \"x\" without a layer"), "{said}");
    }
}
