//! Rotary position embedding: pairs of features turned by an angle that grows with the position.
//!
//! The tables of cosines and sines are numbers of the architecture, like positions, and not trained.

use super::{
    Emit,
    Flow::{Constant, Vjp},
    MICROSOFT, Op, OpError,
};
use crate::graph::{Attr, Value};

pub(super) const OPS: &[Op] = &[
    // x, cosines, sines, positions
    Op::new(
        "RotaryEmbedding",
        &["interleaved", "num_heads", "rotary_embedding_dim"],
        &[Vjp(standard), Constant, Constant, Constant],
    ),
    // x, positions, cosines, sines
    Op::new(
        "RotaryEmbedding",
        &["interleaved", "is_packed_batching", "num_heads", "rotary_embedding_dim", "scale"],
        &[Vjp(microsoft), Constant, Constant, Constant],
    )
    .of(MICROSOFT),
];

/// y = R x      dx = R^T dy: the same turn the other way round, with -sine for sine
fn standard(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    turned_back(e, dy, 2)
}

/// As [`standard`], with the inputs in another order
fn microsoft(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    turned_back(e, dy, 3)
}

fn turned_back(e: &mut Emit<'_>, dy: &Value, at_sines: usize) -> Result<Value, OpError> {
    let sines = e.x(at_sines)?;
    let back = e.neg(&sines);
    let node = e.node();
    let mut inputs: Vec<&str> = node.inputs.iter().map(String::as_str).collect();
    inputs[0] = dy.name();
    inputs[at_sines] = back.name();
    let attrs: Vec<(&str, Attr)> = node.attrs.iter().map(|(name, v)| (name.as_str(), v.clone())).collect();
    Ok(e.graph.raw(&node.domain, &node.op, &inputs, &attrs, &[dy.shape().to_vec()]).remove(0))
}
