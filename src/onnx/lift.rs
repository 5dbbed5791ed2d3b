//! Rewrites old operator spellings into those of opset 18, so that every gradient rule knows one spelling.
//!
//! Only the copy of the graph that training works on is rewritten; the file keeps its opset and its nodes. What changed
//! after 18 does not change the meaning of the operators used here. Fused operators of any opset are written out
//! ([`unfuse`]).

use super::{
    export::wire_type,
    pen::Pen,
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
    let read = graph.nodes.iter().flat_map(|n| n.inputs.iter().cloned());
    let read = read.chain(graph.outputs.iter().map(|p| p.name.clone())).collect();
    let pen = Pen::new(&graph);
    let mut lifter = Lifter { opset, read, pen };
    let mut errors = Vec::new();
    for node in graph.nodes {
        let label = node.label();
        if let Err(reason) = lifter.node(node) {
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
}

impl Lifter {
    fn node(&mut self, mut node: Node) -> Result<(), String> {
        if unfuse::is_fused(&node) {
            return unfuse(&mut self.pen, &node, &self.read);
        }
        if !node.domain.is_empty() {
            self.pen.out.nodes.push(node);
            return Ok(());
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
            "Scatter" if before(11) => node.op = "ScatterElements".into(),
            "Upsample" | "Resize" if before(11) => self.resize(&mut node)?,
            "MeanVarianceNormalization" if before(9) => return self.mean_variance(node),
            "CastLike" => self.cast_like(&mut node)?,
            _ => {}
        }
        self.pen.out.nodes.push(node);
        Ok(())
    }

    /// Outside training Dropout is the identity.
    fn dropout(&self, node: &mut Node) -> Result<(), String> {
        let training = match node.input(2) {
            None => false,
            Some(name) => match self.pen.out.constants.get(name).map(|t| t.data().clone()) {
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
