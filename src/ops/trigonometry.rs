//! Trigonometric and hyperbolic functions and their inverses.

use super::{Emit, Flow::Vjp, Op, OpError};
use crate::graph::Value;

pub(super) const OPS: &[Op] = &[
    Op::new("Sin", &[], &[Vjp(sin)]),
    Op::new("Cos", &[], &[Vjp(cos)]),
    Op::new("Tan", &[], &[Vjp(tan)]),
    Op::new("Asin", &[], &[Vjp(asin)]),
    Op::new("Acos", &[], &[Vjp(acos)]),
    Op::new("Atan", &[], &[Vjp(atan)]),
    Op::new("Sinh", &[], &[Vjp(sinh)]),
    Op::new("Cosh", &[], &[Vjp(cosh)]),
    Op::new("Asinh", &[], &[Vjp(asinh)]),
    Op::new("Acosh", &[], &[Vjp(acosh)]),
    Op::new("Atanh", &[], &[Vjp(atanh)]),
];

/// y = sin x      dx = dy * cos x
fn sin(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let cos = e.unary("Cos", &x);
    Ok(e.mul(dy, &cos))
}

/// y = cos x      dx = -dy * sin x
fn cos(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let sin = e.unary("Sin", &x);
    let d = e.mul(dy, &sin);
    Ok(e.neg(&d))
}

/// y = tan x      dx = dy * (1 + y^2)
fn tan(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (y, one) = (e.y(0)?, e.num(1.0));
    let square = e.mul(&y, &y);
    let slope = e.add(&one, &square);
    Ok(e.mul(dy, &slope))
}

/// y = asin x      dx = dy / sqrt(1 - x^2)
fn asin(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let left = beside_one(e, &x);
    let root = e.unary("Sqrt", &left);
    Ok(e.div(dy, &root))
}

/// y = acos x      dx = -dy / sqrt(1 - x^2)
fn acos(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let d = asin(e, dy)?;
    Ok(e.neg(&d))
}

/// y = atan x      dx = dy / (1 + x^2)
fn atan(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, one) = (e.x(0)?, e.num(1.0));
    let square = e.mul(&x, &x);
    let sum = e.add(&one, &square);
    Ok(e.div(dy, &sum))
}

/// y = sinh x      dx = dy * (exp x + exp(-x)) / 2
fn sinh(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let negative = e.neg(&x);
    let (up, down) = (e.unary("Exp", &x), e.unary("Exp", &negative));
    let twice = e.add(&up, &down);
    let d = e.mul(dy, &twice);
    Ok(e.scale(&d, 0.5))
}

/// y = cosh x      dx = dy * sinh x, as y * tanh x, which loses nothing near 0
fn cosh(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, y) = (e.x(0)?, e.y(0)?);
    let t = e.unary("Tanh", &x);
    let slope = e.mul(&y, &t);
    Ok(e.mul(dy, &slope))
}

/// y = asinh x      dx = dy / sqrt(x^2 + 1)
fn asinh(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, one) = (e.x(0)?, e.num(1.0));
    let square = e.mul(&x, &x);
    let sum = e.add(&square, &one);
    let root = e.unary("Sqrt", &sum);
    Ok(e.div(dy, &root))
}

/// y = acosh x      dx = dy / sqrt(x^2 - 1)
fn acosh(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let left = beside_one(e, &x);
    let beyond = e.neg(&left);
    let root = e.unary("Sqrt", &beyond);
    Ok(e.div(dy, &root))
}

/// y = atanh x      dx = dy / (1 - x^2)
fn atanh(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let left = beside_one(e, &x);
    Ok(e.div(dy, &left))
}

/// 1 - x^2 as (1 - x)(1 + x), which keeps its digits where x is near 1 or -1.
fn beside_one(e: &mut Emit<'_>, x: &Value) -> Value {
    let one = e.num(1.0);
    let (below, above) = (e.sub(&one, x), e.add(&one, x));
    e.mul(&below, &above)
}
