//! Rewrites old operator spellings into those of opset 18, so that every gradient rule knows one spelling.
//!
//! Only the copy of the graph that training works on is rewritten, graphs inside nodes too; the file keeps its opset and
//! its nodes. A model at opset 18 or later is left alone: what changed after 18 does not change the meaning of the
//! operators used here.

use super::{
    export,
    import::plain_attribute,
    inline::{domain_of, name_of},
    schema::GraphProto,
    subgraph,
};
use crate::{
    graph::{Attr, Attrs, Graph, Node},
    tensor::Tensor,
};
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};
use thiserror::Error;

/// The opset that step graphs are spelled in at least.
pub const STEP_OPSET: i64 = 18;

/// The oldest opset the tool reads.
pub const OLDEST_OPSET: i64 = 7;

/// An old spelling with no counterpart in opset 18.
#[derive(Debug, Error)]
#[error("in node {node}: {reason}")]
pub struct LiftError {
    /// The node as messages name it.
    pub node: String,
    /// Why it cannot be rewritten.
    pub reason: String,
}

/// The same graph in the spelling of opset 18 (or of its own opset, if that is later).
pub fn lift(graph: Graph) -> Result<Graph, Vec<LiftError>> {
    let opset = graph.opset;
    let used =
        graph.nodes.iter().flat_map(|n| n.reads().chain(n.outputs.iter().map(String::as_str))).map(str::to_owned);
    let taken =
        used.chain(graph.constants.keys().cloned()).chain(graph.inputs.iter().map(|p| p.name.clone())).collect();
    let read = graph.nodes.iter().flat_map(|n| n.reads().map(str::to_owned));
    let read = read.chain(graph.outputs.iter().map(|p| p.name.clone())).collect();
    let mut lifter = Lifter { opset, taken, read, out: Graph { nodes: Vec::new(), ..graph.clone() } };
    let mut errors = Vec::new();
    for node in graph.nodes {
        let label = node.label();
        if let Err(reason) = lifter.node(node) {
            errors.push(LiftError { node: label, reason });
        }
    }
    lifter.out.opset = opset.max(STEP_OPSET);
    if errors.is_empty() { Ok(lifter.out) } else { Err(errors) }
}

struct Lifter {
    opset: i64,
    taken: HashSet<String>,
    /// Every value that some node or output reads.
    read: BTreeSet<String>,
    out: Graph,
}

impl Lifter {
    fn node(&mut self, mut node: Node) -> Result<(), String> {
        if !node.domain.is_empty() {
            self.out.nodes.push(node);
            return Ok(());
        }
        if self.opset < STEP_OPSET {
            self.bodies(&mut node)?;
        }
        let before = |version| self.opset < version;
        match node.op.as_str() {
            "Dropout" => self.dropout(&mut node)?,
            "BatchNormalization" => self.batch_norm(&mut node)?,
            "Softmax" | "LogSoftmax" | "Hardmax" if before(13) => return self.flattened_softmax(node),
            "ReduceSum" | "Squeeze" | "Unsqueeze" if before(13) => self.ints_to_input(&mut node, "axes", 1),
            "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2" | "ReduceLogSum"
            | "ReduceLogSumExp" | "ReduceSumSquare"
                if before(18) =>
            {
                self.ints_to_input(&mut node, "axes", 1);
            }
            "Split" if before(18) => {
                if before(13) {
                    self.ints_to_input(&mut node, "split", 1);
                }
                if node.input(1).is_none() {
                    node.inputs.truncate(1);
                    node.attrs.insert("num_outputs".into(), Attr::Int(node.outputs.len() as i64));
                }
            }
            "Slice" if before(10) => {
                for (i, name) in ["starts", "ends", "axes"].into_iter().enumerate() {
                    self.ints_to_input(&mut node, name, i + 1);
                }
            }
            "Clip" if before(11) => {
                self.float_to_input(&mut node, "min", 1);
                self.float_to_input(&mut node, "max", 2);
            }
            "Pad" if before(11) => {
                self.ints_to_input(&mut node, "pads", 1);
                self.float_to_input(&mut node, "value", 2);
            }
            "TopK" if before(10) => {
                if let Some(Attr::Int(k)) = node.attrs.remove("k") {
                    self.put_input(&mut node, 1, "k", Tensor::ints(&[k]));
                }
            }
            "Scan" if before(9) => {
                return Err("Scan of opset 8 is another operator; re-export the model at opset 9".into());
            }
            "Scatter" if before(11) => node.op = "ScatterElements".into(),
            "RNN" | "GRU" | "LSTM" => self.recurrent(&mut node)?,
            "Upsample" => {
                return Err("Upsample is not supported; re-export the model with Resize (opset 11 or later)".into());
            }
            _ => {}
        }
        self.out.nodes.push(node);
        Ok(())
    }

    /// Graphs inside a node are spelled as the node is.
    fn bodies(&mut self, node: &mut Node) -> Result<(), String> {
        for body in node.attrs.values_mut().filter_map(|a| if let Attr::Graph(g) = a { Some(g) } else { None }) {
            let mut graph = subgraph::decode(body);
            self.body(&mut graph)?;
            *body = subgraph::keep(&graph);
        }
        Ok(())
    }

    fn body(&mut self, graph: &mut GraphProto) -> Result<(), String> {
        let names = graph.node.iter().flat_map(|n| n.input.iter().chain(&n.output));
        self.taken.extend(names.cloned().chain(graph.initializer.iter().map(|t| t.name().to_owned())));
        let read = graph.node.iter().flat_map(|n| n.input.iter().map(String::as_str)).chain(subgraph::captures(graph));
        let read = read.chain(graph.node.iter().flat_map(subgraph::inside).flat_map(subgraph::captures));
        let read = read.chain(graph.output.iter().map(|v| v.name())).map(str::to_owned).collect();
        // One set of names for all: new ones are no name of the graphs around either.
        let taken = std::mem::take(&mut self.taken);
        let mut inner = Lifter { opset: self.opset, taken, read, out: Graph::default() };
        let mut nodes = Vec::with_capacity(graph.node.len());
        for mut n in std::mem::take(&mut graph.node) {
            for a in &mut n.attribute {
                a.g.iter_mut().try_for_each(|g| inner.body(g))?;
            }
            let node = Node {
                name: name_of(&n).to_owned(),
                op: n.op_type().to_owned(),
                domain: domain_of(n.domain()).to_owned(),
                inputs: n.input.clone(),
                outputs: n.output.clone(),
                attrs: n.attribute.iter().map(|a| (a.name().to_owned(), plain_attribute(a))).collect(),
            };
            let label = node.label();
            inner.node(node.clone()).map_err(|reason| format!("in its node {label}: {reason}"))?;
            if inner.out.nodes == [node] {
                inner.out.nodes.clear();
                nodes.push(n);
            } else if inner.out.nodes.iter().any(|n| n.attrs.values().any(|a| matches!(a, Attr::Other(_)))) {
                return Err(format!("its node {label} has to be written anew and holds a tensor, a graph or a type"));
            } else {
                nodes.extend(inner.out.nodes.drain(..).map(|n| export::node(&n)));
            }
        }
        graph.node = nodes;
        graph.initializer.extend(inner.out.constants.iter().map(|(name, t)| export::tensor(name, t)));
        self.taken = inner.taken;
        Ok(())
    }

    /// Outside training Dropout is the identity.
    fn dropout(&self, node: &mut Node) -> Result<(), String> {
        let training = match node.input(2) {
            None => false,
            Some(name) => match self.out.constants.get(name).map(|t| t.data().clone()) {
                Some(crate::tensor::Data::Bool(v)) => v.first().copied().unwrap_or(false),
                _ => return Err("training_mode is computed by the graph; export the model in inference mode".into()),
            },
        };
        if training {
            return Err("training_mode is true; export the model in inference mode".into());
        }
        if node.output(1).is_some_and(|mask| self.read.contains(mask)) {
            return Err("the mask output is used, which has no meaning outside training".into());
        }
        node.op = "Identity".into();
        node.attrs.clear();
        node.inputs.truncate(1);
        node.outputs.truncate(1);
        Ok(())
    }

    /// Drops the outputs that only old training exports have, and `spatial`.
    fn batch_norm(&self, node: &mut Node) -> Result<(), String> {
        if node.attrs.remove("spatial").is_some_and(|s| s != Attr::Int(1)) {
            return Err("spatial=0 (statistics per activation) is not supported".into());
        }
        if self.opset < 14 {
            if node.outputs.iter().skip(1).any(|o| self.read.contains(o)) {
                return Err("the statistics outputs of the training form are used; export in inference mode".into());
            }
            node.outputs.truncate(1);
        }
        Ok(())
    }

    /// Gives Y a name, for gradients read the state of every step there, and drops `layout`.
    fn recurrent(&mut self, node: &mut Node) -> Result<(), String> {
        match node.attrs.remove("layout") {
            None | Some(Attr::Int(0)) => {}
            Some(Attr::Int(1)) => {
                return Err("layout=1 (batch first) is not run by ONNX Runtime; export the model with layout=0".into());
            }
            Some(other) => return Err(format!("attribute layout: expected 0 or 1, got {other}")),
        }
        if node.output(0).is_none() {
            let last = node.outputs.iter().find(|o| !o.is_empty()).unwrap_or(&node.name).clone();
            let name = self.fresh(&last, "steps");
            node.outputs.resize(node.outputs.len().max(1), String::new());
            node.outputs[0] = name;
        }
        Ok(())
    }

    /// Before opset 13 these flatten to two axes at `axis` and work on the second.
    fn flattened_softmax(&mut self, mut node: Node) -> Result<(), String> {
        let axis = match node.attrs.remove("axis") {
            None => 1,
            Some(Attr::Int(axis)) => axis,
            Some(other) => return Err(format!("attribute axis: expected an integer, got {other}")),
        };
        let (Some(x), Some(y)) = (node.input(0).map(str::to_owned), node.output(0).map(str::to_owned)) else {
            return Err("input or output is missing".into());
        };
        let name = node.name.clone();
        let [flat, soft, shape] = ["flat", "soft", "shape"].map(|part| self.fresh(&y, part));
        let make = |op: &str, part: &str, inputs: Vec<String>, output: &str, attrs: Attrs| Node {
            name: format!("{name}/{part}"),
            op: op.into(),
            domain: String::new(),
            inputs,
            outputs: vec![output.into()],
            attrs,
        };
        let axis_of = |axis| Attrs::from([("axis".to_owned(), Attr::Int(axis))]);
        self.out.nodes.push(make("Flatten", "flat", vec![x.clone()], &flat, axis_of(axis)));
        self.out.nodes.push(make(&node.op, "soft", vec![flat], &soft, axis_of(1)));
        self.out.nodes.push(make("Shape", "shape", vec![x], &shape, Attrs::new()));
        self.out.nodes.push(make("Reshape", "back", vec![soft, shape], &y, Attrs::new()));
        Ok(())
    }

    fn ints_to_input(&mut self, node: &mut Node, attr: &str, at: usize) {
        match node.attrs.remove(attr) {
            Some(Attr::Ints(values)) => self.put_input(node, at, attr, Tensor::ints(&values)),
            Some(other) => _ = node.attrs.insert(attr.into(), other),
            None => {}
        }
    }

    fn float_to_input(&mut self, node: &mut Node, attr: &str, at: usize) {
        match node.attrs.remove(attr) {
            Some(Attr::Float(value)) => self.put_input(node, at, attr, Tensor::scalar(value)),
            Some(other) => _ = node.attrs.insert(attr.into(), other),
            None => {}
        }
    }

    fn put_input(&mut self, node: &mut Node, at: usize, part: &str, tensor: Tensor) {
        let name = self.fresh(node.output(0).unwrap_or(&node.name), part);
        self.out.constants.insert(name.clone(), Arc::new(tensor));
        node.inputs.resize(node.inputs.len().max(at + 1), String::new());
        node.inputs[at] = name;
    }

    fn fresh(&mut self, base: &str, part: &str) -> String {
        let mut name = format!("{base}/{part}");
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }
}
