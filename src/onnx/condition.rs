//! Tells which branch an `If` takes, where constants of the file alone decide it.

use super::{export::dtype_of, schema::NodeProto};
use crate::{
    graph::{Attr, Graph, Node},
    tensor::{DType, Data, Tensor},
};

/// Nodes looked back through: exporters put a Cast, a Not or a comparison between a constant and its If, not more.
const MAX_STEPS: usize = 8;

/// True for `then_branch`, false for `else_branch`; `None` when `node` is no `If`, or when only a run can tell.
///
/// `graph` holds the constants and the nodes before this one.
pub(super) fn decided(graph: &Graph, node: &NodeProto) -> Option<bool> {
    if node.op_type() != "If" || !matches!(node.domain(), "" | "ai.onnx") {
        return None;
    }
    match value(graph, node.input.first()?, MAX_STEPS)?.data() {
        Data::Bool(v) => v.first().copied(),
        _ => None,
    }
}

/// A value of one element, computed from constants.
fn value(graph: &Graph, name: &str, steps: usize) -> Option<Tensor> {
    if let Some(constant) = graph.constants.get(name) {
        return (constant.len() == 1).then(|| constant.as_ref().clone());
    }
    let node = graph.nodes.iter().rev().find(|n| n.domain.is_empty() && n.output(0) == Some(name))?;
    let input = |i: usize| value(graph, node.input(i)?, steps.checked_sub(1)?);
    match (node.op.as_str(), node.inputs.len()) {
        ("Identity", 1) => input(0),
        ("Not", 1) => match input(0)?.data() {
            Data::Bool(v) => Some(boolean(!v[0])),
            _ => None,
        },
        ("Equal", 2) => {
            let (a, b) = (input(0)?, input(1)?);
            (a.dtype() == b.dtype()).then(|| boolean(a.data() == b.data()))
        }
        ("Cast", 1) => cast(node, &input(0)?),
        _ => None,
    }
}

fn boolean(value: bool) -> Tensor {
    Tensor::new(vec![1], Data::Bool(vec![value]))
}

/// To bool from any number, and between bool and the integers a condition is made of.
fn cast(node: &Node, x: &Tensor) -> Option<Tensor> {
    let Some(Attr::Int(to)) = node.attrs.get("to") else { return None };
    let integer = match x.data() {
        Data::Bool(v) => Some(i64::from(v[0])),
        Data::U8(v) => Some(i64::from(v[0])),
        _ => x.to_i64s().map(|v| v[0]),
    };
    let shape = || x.shape().to_vec();
    match dtype_of(i32::try_from(*to).ok()?)? {
        DType::Bool => match (integer, x.to_scalar()) {
            (Some(v), _) => Some(boolean(v != 0)),
            (None, Some(v)) => Some(boolean(v != 0.0)),
            (None, None) => None,
        },
        DType::I64 => Some(Tensor::i64(shape(), vec![integer?])),
        DType::I32 => Some(Tensor::new(shape(), Data::I32(vec![i32::try_from(integer?).ok()?]))),
        _ => None,
    }
}
