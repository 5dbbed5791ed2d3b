//! Knows, per operator, the gradient of each input.
//!
//! One [`Op`] record an operator, one file a family. A rule writes the gradient of one input from the gradient of the
//! output; it never asks whether its result is needed, and work that two rules of a node share is written once, because
//! the [`Builder`] never writes the same node twice.
//!
//! Nodes are in the spelling of the step graph's opset (18 or later): `onnx::lift` has rewritten older spellings before.

mod activation;
mod choice;
pub mod conv;
mod double;
mod einsum;
mod elementwise;
mod emit;
mod fourier;
mod gather;
mod integer;
mod layout;
mod matmul;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod resize;
mod rotary;
mod sample;
mod softmax;
mod trigonometry;
mod window;

pub use choice::{Form, Map, Task};
pub use double::written_out;
pub use emit::{Emit, broadcast, resolve_axis};
pub use integer::is_quantised;
pub use quantize::is_estimated;

use crate::graph::{Builder, Node, Value};
use thiserror::Error;

/// Writes the gradient of one input: `dy` is the gradient of the first output, the result has the input's shape.
pub type Rule = fn(&mut Emit<'_>, dy: &Value) -> Result<Value, OpError>;

/// Writes a forward node in another form, for weights that change from step to step: gives the value that stands for the
/// node's output of the given shape, or `None` where the node is best left as it is.
pub type Lowering = fn(&mut Emit<'_>, y: &[usize]) -> Result<Option<Value>, OpError>;

/// What of a node may be written in several forms: the gradient of the input of that number, or where there is none the node.
pub type Rivals = Vec<(Option<usize>, Task)>;

/// Lists what of a node, whose output has the given shape, has several forms.
pub type Competing = fn(&Emit<'_>, y: &[usize]) -> Result<Rivals, OpError>;

/// What an operator says about the gradient of one input. There is no other answer: an operator without a record, or an
/// input without a flow, is an error that names the node.
#[derive(Clone, Copy, Debug)]
pub enum Flow {
    /// The gradient of this input.
    Vjp(Rule),
    /// Not differentiable by nature: an index, a shape, a mask, a bound.
    Constant,
    /// A step function of this input: its derivative is zero wherever it exists. Nothing before it learns through it,
    /// which the user has to hear ([`dead_ends`](crate::autodiff::dead_ends)).
    Zero,
}

/// Domain of the operators that ONNX Runtime adds to those of the standard.
pub const MICROSOFT: &str = "com.microsoft";

/// The record of one operator.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    /// Operator name.
    pub name: &'static str,
    /// Operator domain; empty for `ai.onnx`.
    pub domain: &'static str,
    /// Attributes the rules understand; any other attribute on a differentiated node is an error.
    pub attrs: &'static [&'static str],
    /// Flow of each input. The last one stands for all further inputs of a variadic operator.
    pub inputs: &'static [Flow],
    /// True when the last flow repeats.
    pub variadic: bool,
    /// A faster way to write the forward node into a step graph, where there is one.
    pub lower: Option<Lowering>,
    /// What of it has several forms, where something has.
    pub rivals: Option<Competing>,
}

impl Op {
    /// Record of an operator with a fixed number of inputs.
    pub const fn new(name: &'static str, attrs: &'static [&'static str], inputs: &'static [Flow]) -> Self {
        Self { name, domain: "", attrs, inputs, variadic: false, lower: None, rivals: None }
    }

    /// Record of an operator with any number of inputs, all treated alike.
    pub const fn variadic(name: &'static str, attrs: &'static [&'static str], inputs: &'static [Flow]) -> Self {
        Self { name, domain: "", attrs, inputs, variadic: true, lower: None, rivals: None }
    }

    /// The same record for the operator of another domain.
    #[must_use]
    pub const fn of(self, domain: &'static str) -> Self {
        Self { domain, ..self }
    }

    /// The same record with a faster forward form.
    #[must_use]
    pub const fn lowered_by(self, lower: Lowering) -> Self {
        Self { lower: Some(lower), ..self }
    }

    /// The same record with forms that may compete.
    #[must_use]
    pub const fn competing(self, rivals: Competing) -> Self {
        Self { rivals: Some(rivals), ..self }
    }

    /// Flow of input `i`, `None` when the operator has no such input.
    pub fn flow(&self, i: usize) -> Option<Flow> {
        let last = self.variadic.then(|| self.inputs.last()).flatten();
        self.inputs.get(i).or(last).copied()
    }
}

/// Why a node cannot be differentiated. The node is named by whoever knows it.
#[derive(Debug, Error)]
pub enum OpError {
    /// The operator has no record.
    #[error("no gradient rule for this operator")]
    NoRule,
    /// The operator runs a graph of its own.
    #[error(
        "no gradient rule for control flow; take it out of the file before: export the model without it, or fold it at \
         a fixed input shape (onnxsim does)"
    )]
    ControlFlow,
    /// The record says nothing about this input.
    #[error("no gradient rule for input {0}")]
    NoFlow(usize),
    /// The rules do not know this attribute.
    #[error("attribute {name} is not understood (value {value})")]
    UnknownAttribute {
        /// Name of the attribute.
        name: String,
        /// Its value, printed.
        value: String,
    },
    /// An attribute has a value outside the operator's definition or outside what the rule covers.
    #[error("attribute {name}: expected {expected}, got {got}")]
    Attribute {
        /// Name of the attribute.
        name: String,
        /// What the rule can work with.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// An input that has to be known when the graph is written is computed from data.
    #[error("input {0} is computed from data; it has to be a constant here")]
    NotConstant(usize),
    /// Anything else the rule does not cover, in words.
    #[error("{0}")]
    Unsupported(String),
}

/// The sum of all gradients that arrive at a value. Where they are those of slices that lie side by side, they are joined: a
/// network that cuts a value into parts would otherwise have each padded with zeros and added to the others.
pub fn total(graph: &mut Builder, parts: &[Value]) -> Option<Value> {
    if let Some((axis, slices)) = layout::side_by_side(graph, parts) {
        let slices: Vec<&Value> = slices.iter().collect();
        return Some(graph.op("Concat", &slices, &[("axis", (axis as i64).into())], parts[0].shape()));
    }
    let (first, rest) = parts.split_first()?;
    Some(rest.iter().fold(first.clone(), |sum, part| graph.op("Add", &[&sum, part], &[], sum.shape())))
}

/// Every operator record, by family.
pub fn records() -> impl Iterator<Item = &'static Op> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

const FAMILIES: &[&[Op]] = &[
    elementwise::OPS,
    trigonometry::OPS,
    activation::OPS,
    softmax::OPS,
    norm::OPS,
    reduce::OPS,
    matmul::OPS,
    conv::OPS,
    pool::OPS,
    layout::OPS,
    gather::OPS,
    quantize::OPS,
    recurrent::OPS,
    resize::OPS,
    rotary::OPS,
    sample::OPS,
    fourier::OPS,
    integer::BITS,
    integer::QUANTISED,
    einsum::OPS,
];

/// Why a node without a record cannot be differentiated.
pub fn missing(node: &Node) -> OpError {
    if node.subgraphs().next().is_some() { OpError::ControlFlow } else { OpError::NoRule }
}

/// The record of a node's operator.
pub fn find(node: &Node) -> Option<&'static Op> {
    if elementwise::casts_to_integer(node) {
        return Some(&elementwise::CAST_TO_INTEGER);
    }
    if sample::takes_nearest(node) {
        return Some(&sample::NEAREST);
    }
    records().find(|op| op.name == node.op && op.domain == node.domain)
}
