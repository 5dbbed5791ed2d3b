//! Writes nodes into a copy of a model's graph, under names that are not taken.

use super::dtype_of;
use crate::{
    graph::{Attr, Graph, Node, Port},
    tensor::{DType, Data, Tensor},
};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// The copy under construction: all of the source but its nodes, which are added one by one.
pub(super) struct Pen {
    taken: HashSet<String>,
    nodes: HashSet<String>,
    dtypes: RefCell<Known<DType>>,
    ranks: RefCell<Known<usize>>,
    pub out: Graph,
}

/// What is known of the values that the first nodes write. Each node is asked once: along every path from a value back to
/// the inputs it would be asked twice as often with every sum of a value with itself.
struct Known<T> {
    nodes: usize,
    values: HashMap<String, T>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { nodes: 0, values: HashMap::new() }
    }
}

impl Pen {
    pub fn new(source: &Graph) -> Self {
        let written =
            |n: &Node| n.outputs.iter().chain(n.subgraphs().flat_map(|g| &g.defines)).cloned().collect::<Vec<String>>();
        let used = source.nodes.iter().flat_map(|n| n.reads().map(str::to_owned).chain(written(n)));
        let inputs = source.inputs.iter().map(|p| p.name.clone());
        let taken = used.chain(source.constants.keys().cloned()).chain(inputs).collect();
        let nodes = source.nodes.iter().map(|n| n.name.clone()).collect();
        Self::with(taken, nodes, Graph { nodes: Vec::new(), ..source.clone() })
    }

    fn with(taken: HashSet<String>, nodes: HashSet<String>, out: Graph) -> Self {
        Self { taken, nodes, dtypes: RefCell::default(), ranks: RefCell::default(), out }
    }

    /// A pen for a graph inside a node: new names are none of the graphs around it either.
    pub fn inner(&mut self) -> Self {
        let (taken, nodes) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.nodes));
        Self::with(taken, nodes, Graph::default())
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
        self.known(&self.dtypes, name, Tensor::dtype, |port| port.dtype, dtype)
    }

    /// Number of axes of a value that is written already, as far as the file says it: enough for masks and their sums.
    pub fn rank(&self, name: &str) -> Option<usize> {
        let length = |x: &str| self.out.constants.get(x).map(|t| t.len());
        let of_node = |node: &Node, _: &str, input: &dyn Fn(usize) -> Option<usize>| rank(node, input, &length);
        self.known(&self.ranks, name, |t| t.shape().len(), |port| port.dims.as_ref().map(Vec::len), of_node)
    }

    /// What is known of a value that is written already; `of_node` says it of an output from what is known of the inputs.
    fn known<T: Copy>(
        &self,
        known: &RefCell<Known<T>>,
        name: &str,
        of_tensor: impl Fn(&Tensor) -> T,
        of_port: impl Fn(&Port) -> Option<T>,
        of_node: impl Fn(&Node, &str, &dyn Fn(usize) -> Option<T>) -> Option<T>,
    ) -> Option<T> {
        let Known { nodes, values } = &mut *known.borrow_mut();
        let port = |name: &str| self.out.inputs.iter().find(|p| p.name == name);
        let look = |values: &HashMap<String, T>, name: &str| {
            let stored = self.out.constants.get(name).map(|t| of_tensor(t));
            stored.or_else(|| values.get(name).copied()).or_else(|| port(name).and_then(&of_port))
        };
        for node in self.out.nodes.iter().skip(*nodes) {
            for output in node.outputs.iter().filter(|o| !o.is_empty()) {
                let found = of_node(node, output, &|i| node.input(i).and_then(|x| look(values, x)));
                values.extend(found.map(|found| (output.clone(), found)));
            }
        }
        *nodes = self.out.nodes.len();
        look(values, name)
    }
}

fn dtype(node: &Node, output: &str, input: &dyn Fn(usize) -> Option<DType>) -> Option<DType> {
    if !node.domain.is_empty() {
        return None;
    }
    match node.op.as_str() {
        "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Xor" | "Not" | "IsNaN"
        | "IsInf" => Some(DType::Bool),
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
        "TopK" | "MaxPool" | "Unique" if node.output(0) != Some(output) => Some(DType::I64),
        "DynamicQuantizeLinear"
        | "ConvInteger"
        | "MatMulInteger"
        | "QLinearConv"
        | "QLinearMatMul"
        | "NonMaxSuppression" => None,
        _ => input(0),
    }
}

/// `length` is that of a constant.
fn rank(node: &Node, input: &dyn Fn(usize) -> Option<usize>, length: &dyn Fn(&str) -> Option<usize>) -> Option<usize> {
    let axes = || node.input(1).and_then(length);
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

/// The name, or one like it that is not taken; taken from here on.
fn free(taken: &mut HashSet<String>, mut name: String) -> String {
    while !taken.insert(name.clone()) {
        name.push('_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_a_value_with_itself_are_looked_at_once() {
        let inputs = vec![Port::fixed("v0", DType::F16, &[2, 3])];
        let mut pen = Pen::new(&Graph { inputs, ..Graph::default() });
        for i in 0..60 {
            let (x, y) = (format!("v{i}"), format!("v{}", i + 1));
            pen.push(&y, "", "Add", &[&x, &x], &[&y], &[]);
            pen.push(&format!("w{i}"), "", "Where", &["c", &y, &y], &[&format!("w{i}")], &[]);
        }
        assert_eq!(
            (pen.rank("v60"), pen.dtype("v60"), pen.dtype("w59")),
            (Some(2), Some(DType::F16), Some(DType::F16))
        );
        // What comes later is looked at too, and what cannot be known stays unknown.
        pen.push("b", "", "Equal", &["v60", "v0"], &["b"], &[]);
        assert_eq!((pen.rank("b"), pen.dtype("b")), (Some(2), Some(DType::Bool)));
        assert_eq!((pen.rank("w59"), pen.dtype("nowhere")), (None, None));
    }
}
