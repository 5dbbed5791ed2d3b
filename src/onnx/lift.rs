//! Rewrites old operator spellings into those of opset 18, so that every gradient rule knows one spelling.
//!
//! Only the copy of the graph that training works on is rewritten, graphs inside nodes too; the file keeps its opset and
//! its nodes. What changed after 18 does not change the meaning of the operators used here. Fused operators of any opset
//! are written out ([`unfuse`]), and so are lists ([`Sequences`]).

use super::{
    export::{self, wire_type},
    import::plain_attribute,
    inline::{domain_of, name_of},
    pen::Pen,
    schema::{GraphProto, ValueInfoProto},
    sequences::Sequences,
    subgraph,
    unfuse::{self, unfuse},
};
use crate::{
    graph::{Attr, Graph, Node},
    tensor::Tensor,
};
use std::collections::BTreeSet;
use thiserror::Error;

/// The opset that step graphs are spelled in at least.
pub const STEP_OPSET: i64 = 18;

/// The oldest opset the tool reads.
pub const OLDEST_OPSET: i64 = 7;

/// Operators whose result is another one at every run.
const RANDOM: &[&str] =
    &["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"];

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
    let read = graph.nodes.iter().flat_map(|n| n.reads().map(str::to_owned));
    let read = read.chain(graph.outputs.iter().map(|p| p.name.clone())).collect();
    let pen = Pen::new(&graph);
    let mut lifter = Lifter { opset, read, pen, lists: Sequences::default() };
    let mut errors = Vec::new();
    for node in graph.nodes {
        let label = node.label();
        if let Err(reason) = lifter.outer(node) {
            errors.push(LiftError { node: label, reason });
        }
    }
    let mut lifted = lifter.pen.out;
    lifted.opset = opset.max(STEP_OPSET);
    if errors.is_empty() { Ok(lifted) } else { Err(errors) }
}

struct Lifter {
    opset: i64,
    /// Every value that some node or output reads.
    read: BTreeSet<String>,
    pen: Pen,
    lists: Sequences,
}

impl Lifter {
    /// A node of the graph itself. Those inside other nodes pass no gradient and stay fused.
    fn outer(&mut self, mut node: Node) -> Result<(), String> {
        if unfuse::is_fused(&node) {
            return unfuse(&mut self.pen, &node, &self.read);
        }
        if self.lists.take(&mut self.pen, &node)? {
            return Ok(());
        }
        if node.domain.is_empty() && RANDOM.contains(&node.op.as_str()) {
            return Err(
                "it draws random numbers, so that the model gives different scores each time; export it in inference \
                        mode, or take the node out of the file"
                    .into(),
            );
        }
        if node.domain.is_empty() && node.op == "CastLike" {
            self.cast_like(&mut node)?;
        }
        self.node(node)
    }

    fn node(&mut self, mut node: Node) -> Result<(), String> {
        if !node.domain.is_empty() {
            self.pen.out.nodes.push(node);
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
            "Upsample" | "Resize" if before(11) => self.resize(&mut node)?,
            "MeanVarianceNormalization" if before(9) => return self.mean_variance(node),
            _ => {}
        }
        self.pen.out.nodes.push(node);
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
        let read = graph.node.iter().flat_map(|n| n.input.iter().map(String::as_str)).chain(subgraph::captures(graph));
        let read = read.chain(graph.node.iter().flat_map(subgraph::inside).flat_map(subgraph::captures));
        let read = read.chain(graph.output.iter().map(ValueInfoProto::name)).map(str::to_owned).collect();
        // One set of names for all: new ones are no name of the graphs around either.
        let mut inner = Lifter { opset: self.opset, read, pen: self.pen.inner(), lists: Sequences::default() };
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
            if inner.pen.out.nodes == [node] {
                inner.pen.out.nodes.clear();
                nodes.push(n);
            } else if inner.pen.out.nodes.iter().any(|n| n.attrs.values().any(|a| matches!(a, Attr::Other(_)))) {
                return Err(format!("its node {label} has to be written anew and holds a tensor, a graph or a type"));
            } else {
                nodes.extend(inner.pen.out.nodes.drain(..).map(|n| export::node(&n)));
            }
        }
        graph.node = nodes;
        graph.initializer.extend(inner.pen.out.constants.iter().map(|(name, t)| export::tensor(name, t)));
        self.pen.take_back(inner.pen);
        Ok(())
    }

    /// Outside training Dropout is the identity.
    fn dropout(&self, node: &mut Node) -> Result<(), String> {
        self.pen.no_training(node.input(2))?;
        if node.output(1).is_some_and(|mask| self.read.contains(mask)) {
            return Err("the mask output is used, which has no meaning outside training".into());
        }
        node.op = "Identity".into();
        node.attrs.clear();
        node.inputs.truncate(1);
        node.outputs.truncate(1);
        Ok(())
    }

    /// Drops `spatial`. Before opset 14 further outputs are what says that the node is in training mode.
    fn batch_norm(&self, node: &mut Node) -> Result<(), String> {
        if node.attrs.remove("spatial").is_some_and(|s| s != Attr::Int(1)) {
            return Err("spatial=0 (statistics per activation) is not supported".into());
        }
        if self.opset < 14 && node.outputs.iter().skip(1).any(|o| !o.is_empty()) {
            if node.outputs.iter().skip(3).any(|o| self.read.contains(o)) {
                return Err("outputs saved_mean and saved_var are used; export the model in inference mode".into());
            }
            node.outputs.truncate(3);
            node.attrs.insert("training_mode".into(), Attr::Int(1));
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
            let name = self.pen.fresh(node, "steps");
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
        let axis_of = |axis| [("axis", Attr::Int(axis))];
        let flat = self.pen.op(&node, "Flatten", "flat", &[&x], &axis_of(axis));
        let soft = self.pen.op(&node, &node.op, "soft", &[&flat], &axis_of(1));
        let shape = self.pen.op(&node, "Shape", "shape", &[&x], &[]);
        self.pen.to(&node, "Reshape", &[&soft, &shape], &y, &[]);
        Ok(())
    }

    /// Before opset 11 samples lie at equal distances from the first one, whatever the mode.
    fn resize(&mut self, node: &mut Node) -> Result<(), String> {
        let scales = match node.attrs.remove("scales") {
            Some(Attr::Floats(v)) => self.pen.constant(node, "scales", Tensor::f32([v.len()], v)),
            Some(other) => return Err(format!("attribute scales: expected a list of floats, got {other}")),
            None => node.input(1).map(str::to_owned).ok_or("scales are missing")?,
        };
        let nearest = match node.attrs.get("mode") {
            None => true,
            Some(Attr::Str(mode)) => mode == "nearest",
            Some(other) => return Err(format!("attribute mode: expected a string, got {other}")),
        };
        if let Some(Attr::Str(mode)) = node.attrs.get_mut("mode")
            && mode == "bilinear"
        {
            *mode = "linear".into();
        }
        if nearest {
            // ONNX Runtime goes down where it enlarges and up where it makes smaller, axis by axis.
            let known = self.pen.out.constants.get(&scales).and_then(|t| t.as_f32().map(<[f32]>::to_vec));
            let rounding = match known {
                None if node.op == "Upsample" => "floor",
                None => return Err("the scales are computed by the graph; export the model with opset 11".into()),
                Some(v) if v.iter().all(|&s| s >= 1.0) => "floor",
                Some(v) if v.iter().all(|&s| s <= 1.0) => "ceil",
                Some(v) => return Err(format!("scales {v:?} enlarge some axes and shrink others")),
            };
            node.attrs.insert("nearest_mode".into(), rounding.into());
        }
        node.op = "Resize".into();
        node.attrs.insert("coordinate_transformation_mode".into(), "asymmetric".into());
        node.inputs.truncate(1);
        node.inputs.extend([String::new(), scales]);
        Ok(())
    }

    /// Before opset 9 the axes are said in two flags.
    fn mean_variance(&mut self, mut node: Node) -> Result<(), String> {
        let mut flag = |name: &str, default: bool| match node.attrs.remove(name) {
            None => Ok(default),
            Some(Attr::Int(v)) => Ok(v != 0),
            Some(other) => Err(format!("attribute {name}: expected an integer, got {other}")),
        };
        let (across, variance) = (flag("across_channels", false)?, flag("normalize_variance", true)?);
        let axes: &[i64] = if across { &[0, 1, 2, 3] } else { &[0, 2, 3] };
        if variance {
            node.attrs.insert("axes".into(), axes.into());
            self.pen.out.nodes.push(node);
            return Ok(());
        }
        let (Some(x), Some(y)) = (node.input(0), node.output(0)) else {
            return Err("input or output is missing".into());
        };
        let list = self.pen.constant(&node, "axes", Tensor::ints(axes));
        let mean = self.pen.op(&node, "ReduceMean", "mean", &[x, &list], &[]);
        self.pen.to(&node, "Sub", &[x, &mean], y, &[]);
        Ok(())
    }

    /// The type to cast to is that of another value; rules have to know it, because integers carry no gradient.
    fn cast_like(&self, node: &mut Node) -> Result<(), String> {
        let like = node.input(1).ok_or("input 1 is missing")?;
        let to = self.pen.dtype(like).ok_or_else(|| format!("the element type of {like:?} is not known"))?;
        node.op = "Cast".into();
        node.attrs.insert("to".into(), Attr::Int(wire_type(to).into()));
        node.inputs.truncate(1);
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
        let name = self.pen.constant(node, part, tensor);
        node.inputs.resize(node.inputs.len().max(at + 1), String::new());
        node.inputs[at] = name;
    }
}
