//! Tells which branch an `If` takes, where constants of the file alone decide it.

use super::{export::dtype_of, schema::NodeProto};
use crate::{
    graph::{Attr, Graph, Node},
    tensor::{DType, Data, Tensor},
};
use std::collections::HashMap;

/// Values of one element that nodes compute from constants, as exporters do between a constant and an `If`.
#[derive(Default)]
pub(super) struct Conditions(HashMap<String, Tensor>);

impl Conditions {
    /// Takes note of what a node of `graph` computes.
    pub fn note(&mut self, graph: &Graph, node: &Node) {
        if let Some(value) = self.computed(graph, node)
            && let Some(output) = node.output(0)
        {
            self.0.insert(output.to_owned(), value);
        }
    }

    /// True for `then_branch`, false for `else_branch`; `None` when `node` is no `If`, or when only a run can tell.
    pub fn decided(&self, graph: &Graph, node: &NodeProto) -> Option<bool> {
        if node.op_type() != "If" || !matches!(node.domain(), "" | "ai.onnx") {
            return None;
        }
        match self.value(graph, node.input.first()?)?.data() {
            Data::Bool(v) => v.first().copied(),
            _ => None,
        }
    }

    fn value<'a>(&'a self, graph: &'a Graph, name: &str) -> Option<&'a Tensor> {
        let constant = || graph.constants.get(name).map(AsRef::as_ref);
        self.0.get(name).or_else(constant).filter(|t| t.len() == 1)
    }

    fn computed(&self, graph: &Graph, node: &Node) -> Option<Tensor> {
        let input = |i: usize| self.value(graph, node.input(i)?);
        match (node.domain.as_str(), node.op.as_str()) {
            ("", "Identity") => input(0).cloned(),
            ("", "Not") => match input(0)?.data() {
                Data::Bool(v) => Some(boolean(!v[0])),
                _ => None,
            },
            ("", "Equal") => {
                let (a, b) = (input(0)?, input(1)?);
                (a.dtype() == b.dtype()).then(|| boolean(a.data() == b.data()))
            }
            ("", "Cast") => cast(node, input(0)?),
            _ => None,
        }
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
