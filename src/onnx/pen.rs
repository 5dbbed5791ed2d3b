//! Writes nodes into a copy of a model's graph, under names that are not taken.

use super::dtype_of;
use crate::{
    graph::{Attr, Graph, Node},
    tensor::{DType, Data, Tensor},
};
use std::{collections::HashSet, sync::Arc};

/// The copy under construction: all of the source but its nodes, which are added one by one.
pub(super) struct Pen {
    taken: HashSet<String>,
    nodes: HashSet<String>,
    pub out: Graph,
}

impl Pen {
    pub fn new(source: &Graph) -> Self {
        let written =
            |n: &Node| n.outputs.iter().chain(n.subgraphs().flat_map(|g| &g.defines)).cloned().collect::<Vec<String>>();
        let used = source.nodes.iter().flat_map(|n| n.reads().map(str::to_owned).chain(written(n)));
        let inputs = source.inputs.iter().map(|p| p.name.clone());
        let taken = used.chain(source.constants.keys().cloned()).chain(inputs).collect();
        let nodes = source.nodes.iter().map(|n| n.name.clone()).collect();
        Self { taken, nodes, out: Graph { nodes: Vec::new(), ..source.clone() } }
    }

    /// A pen for a graph inside a node: new names are none of the graphs around it either.
    pub fn inner(&mut self) -> Self {
        let (taken, nodes) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.nodes));
        Self { taken, nodes, out: Graph::default() }
    }

    /// Ends the work of an inner pen.
    pub fn take_back(&mut self, inner: Self) {
        (self.taken, self.nodes) = (inner.taken, inner.nodes);
    }

    /// A constant that belongs to `node`.
    pub fn constant(&mut self, node: &Node, part: &str, tensor: Tensor) -> String {
        let name = self.fresh(node, part);
        self.out.constants.insert(name.clone(), Arc::new(tensor));
        name
    }

    /// A node of `ai.onnx` in the place of `node`; gives the name of its output.
    pub fn op(&mut self, node: &Node, op: &str, part: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> String {
        let output = self.fresh(node, part);
        let name = self.node_name(node, part);
        self.push(&name, "", op, inputs, &[&output], attrs);
        output
    }

    /// The last node in the place of `node`, which writes `output` and bears the name.
    pub fn to(&mut self, node: &Node, op: &str, inputs: &[&str], output: &str, attrs: &[(&str, Attr)]) {
        self.push(&node.name, "", op, inputs, &[output], attrs);
    }

    /// A name for a node that does part of what `node` does.
    pub fn node_name(&mut self, node: &Node, part: &str) -> String {
        free(&mut self.nodes, format!("{}/{part}", node.name))
    }

    /// Any node.
    pub fn push(
        &mut self,
        name: &str,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attrs: &[(&str, Attr)],
    ) {
        let own = |names: &[&str]| names.iter().map(|s| (*s).to_owned()).collect();
        self.out.nodes.push(Node {
            name: name.into(),
            op: op.into(),
            domain: domain.into(),
            inputs: own(inputs),
            outputs: own(outputs),
            attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        });
    }

    /// A name for a part of what `node` computes.
    pub fn fresh(&mut self, node: &Node, part: &str) -> String {
        let base = node.outputs.iter().find(|o| !o.is_empty()).unwrap_or(&node.name);
        free(&mut self.taken, format!("{base}/{part}"))
    }

    /// An error where the flag of a dropout, if it is given, says that the model is being trained.
    pub fn no_training(&self, flag: Option<&str>) -> Result<(), String> {
        let Some(name) = flag else { return Ok(()) };
        match self.out.constants.get(name).map(|t| t.data()) {
            Some(Data::Bool(v)) if v.first() != Some(&true) => Ok(()),
            Some(Data::Bool(_)) => Err("training_mode is true; export the model in inference mode".into()),
            _ => Err("training_mode is computed by the graph; export the model in inference mode".into()),
        }
    }

    /// Element type of a value that is written already, as far as the file says it: nearly every operator gives the type
    /// of its first input.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        if let Some(t) = self.out.constants.get(name) {
            return Some(t.dtype());
        }
        if let Some(port) = self.out.inputs.iter().find(|p| p.name == name) {
            return port.dtype;
        }
        let node = self.out.nodes.iter().rev().find(|n| n.outputs.iter().any(|o| o == name))?;
        if !node.domain.is_empty() {
            return None;
        }
        let input = |i: usize| node.input(i).and_then(|x| self.dtype(x));
        match node.op.as_str() {
            "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Xor" | "Not"
            | "IsNaN" | "IsInf" => Some(DType::Bool),
            "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => Some(DType::I64),
            "Cast" => match node.attrs.get("to") {
                Some(Attr::Int(to)) => i32::try_from(*to).ok().and_then(dtype_of),
                _ => None,
            },
            "ConstantOfShape" => match node.attrs.get("value") {
                Some(Attr::Tensor(t)) => Some(t.dtype()),
                _ => Some(DType::F32),
            },
            "EyeLike" => match node.attrs.get("dtype") {
                Some(Attr::Int(to)) => i32::try_from(*to).ok().and_then(dtype_of),
                _ => input(0),
            },
            "DequantizeLinear" | "Where" => input(1),
            "OneHot" => input(2),
            "QuantizeLinear" => input(2).or(Some(DType::U8)),
            "TopK" | "MaxPool" | "Unique" if node.output(0) != Some(name) => Some(DType::I64),
            "DynamicQuantizeLinear"
            | "ConvInteger"
            | "MatMulInteger"
            | "QLinearConv"
            | "QLinearMatMul"
            | "NonMaxSuppression" => None,
            _ => input(0),
        }
    }

    /// Number of axes of a value that is written already, as far as the file says it: enough for masks and their sums.
    pub fn rank(&self, name: &str) -> Option<usize> {
        if let Some(t) = self.out.constants.get(name) {
            return Some(t.shape().len());
        }
        if let Some(port) = self.out.inputs.iter().find(|p| p.name == name) {
            return port.dims.as_ref().map(Vec::len);
        }
        let node = self.out.nodes.iter().rev().find(|n| n.outputs.iter().any(|o| o == name))?;
        let input = |i: usize| node.input(i).and_then(|x| self.rank(x));
        let axes = || node.input(1).and_then(|x| self.out.constants.get(x)).map(|t| t.len());
        match node.op.as_str() {
            _ if !node.domain.is_empty() => None,
            "Cast" | "Clip" | "Identity" | "Neg" | "Not" | "Slice" => input(0),
            "Add" | "Sub" | "Mul" | "Div" | "And" | "Or" | "Equal" | "Less" | "LessOrEqual" | "Greater"
            | "GreaterOrEqual" | "Min" | "Max" => Some(input(0)?.max(input(1)?)),
            "Where" => Some(input(0)?.max(input(1)?).max(input(2)?)),
            "Unsqueeze" => Some(input(0)? + axes()?),
            "Squeeze" => input(0)?.checked_sub(axes()?),
            "Reshape" => axes(),
            "ReduceSum" | "ReduceMax" | "ReduceMin" => match node.attrs.get("keepdims") {
                Some(Attr::Int(0)) => input(0)?.checked_sub(axes()?),
                _ => input(0),
            },
            _ => None,
        }
    }
}

/// The name, or one like it that is not taken; taken from here on.
fn free(taken: &mut HashSet<String>, mut name: String) -> String {
    while !taken.insert(name.clone()) {
        name.push('_');
    }
    name
}
