//! Arithmetic and functions applied element by element.

use super::{Emit, Flow::Vjp, Op, OpError};
use crate::graph::Value;

pub(super) const OPS: &[Op] = &[Op::new("Add", &[], &[Vjp(add), Vjp(add)]), Op::new("Mul", &[], &[Vjp(mul), Vjp(mul)])];

/// y = a + b      da = dy      db = dy
fn add(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    e.to_input(dy)
}

/// y = a * b      da = dy * b      db = dy * a
fn mul(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let other = e.x(1 - e.at())?;
    let d = e.mul(dy, &other);
    e.to_input(&d)
}
