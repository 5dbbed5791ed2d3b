//! Softmax, its logarithm and its hard form.
//!
//! Before opset 13 they flatten their input to two axes; `onnx::lift` writes that out.

use super::{
    Emit,
    Flow::{Vjp, Zero},
    Op, OpError,
};
use crate::graph::Value;

pub(super) const OPS: &[Op] = &[
    Op::new("Softmax", &["axis"], &[Vjp(softmax)]),
    Op::new("LogSoftmax", &["axis"], &[Vjp(log_softmax)]),
    Op::new("Hardmax", &["axis"], &[Zero]),
];

/// y = exp x / sum exp x      dx = y * (dy - sum(dy * y))
fn softmax(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let y = e.y(0)?;
    let axis = e.axis("axis", -1, y.rank())?;
    let weighted = e.mul(dy, &y);
    let mean = e.reduce_sum(&weighted, &[axis], true);
    let centred = e.sub(dy, &mean);
    Ok(e.mul(&y, &centred))
}

/// y = x - log sum exp x      dx = dy - exp y * sum dy
fn log_softmax(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let y = e.y(0)?;
    let axis = e.axis("axis", -1, y.rank())?;
    let p = e.unary("Exp", &y);
    let total = e.reduce_sum(dy, &[axis], true);
    let drawn = e.mul(&p, &total);
    Ok(e.sub(dy, &drawn))
}
