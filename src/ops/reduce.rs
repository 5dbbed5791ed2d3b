//! Reductions over axes, global pooling among them.
//!
//! `onnx::lift` has moved `axes` from the attribute of old spellings to the input of new ones.

use super::{
    Emit,
    Flow::{Constant, Vjp},
    Op, OpError, resolve_axis,
};
use crate::graph::Value;

const ATTRS: &[&str] = &["keepdims", "noop_with_empty_axes"];

pub(super) const OPS: &[Op] = &[
    Op::new("ReduceSum", ATTRS, &[Vjp(sum), Constant]),
    Op::new("ReduceMean", ATTRS, &[Vjp(mean), Constant]),
    Op::new("ReduceMax", ATTRS, &[Vjp(extremum), Constant]),
    Op::new("ReduceMin", ATTRS, &[Vjp(extremum), Constant]),
    Op::new("ReduceL1", ATTRS, &[Vjp(l1), Constant]),
    Op::new("ReduceL2", ATTRS, &[Vjp(l2), Constant]),
    Op::new("ReduceSumSquare", ATTRS, &[Vjp(sum_square), Constant]),
    Op::new("ReduceLogSum", ATTRS, &[Vjp(log_sum), Constant]),
    Op::new("ReduceLogSumExp", ATTRS, &[Vjp(log_sum_exp), Constant]),
    Op::new("GlobalAveragePool", &[], &[Vjp(global_average)]),
    Op::new("GlobalMaxPool", &[], &[Vjp(global_max)]),
];

/// The axes a node sums over, in ascending order.
fn axes(e: &Emit<'_>, rank: usize) -> Result<Vec<usize>, OpError> {
    let given = e.known_ints(1)?.unwrap_or_default();
    if given.is_empty() {
        let noop = e.int("noop_with_empty_axes", 0)? != 0;
        return Ok(if noop { Vec::new() } else { (0..rank).collect() });
    }
    let mut axes = Vec::with_capacity(given.len());
    for axis in given {
        axes.push(resolve_axis(axis, rank).ok_or_else(|| OpError::Attribute {
            name: "axes".into(),
            expected: format!("axes of {rank}"),
            got: axis.to_string(),
        })?);
    }
    axes.sort_unstable();
    Ok(axes)
}

/// `v`, shaped like the output, with the summed axes back at length 1.
fn kept(e: &mut Emit<'_>, v: &Value, x: &Value, axes: &[usize]) -> Value {
    let shape: Vec<usize> =
        x.shape().iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
    e.reshape(v, &shape)
}

/// What most rules start from: x, the axes, and dy and y with the summed axes at length 1.
struct Reduced {
    x: Value,
    axes: Vec<usize>,
    dy: Value,
    y: Value,
}

fn reduced(e: &mut Emit<'_>, dy: &Value) -> Result<Reduced, OpError> {
    let (x, y) = (e.x(0)?, e.y(0)?);
    let axes = axes(e, x.rank())?;
    let dy = kept(e, dy, &x, &axes);
    let y = kept(e, &y, &x, &axes);
    Ok(Reduced { x, axes, dy, y })
}

impl Reduced {
    /// Number of elements that go into one output element.
    fn count(&self) -> usize {
        self.axes.iter().map(|&i| self.x.shape()[i]).product()
    }
}

/// y = sum x      dx = dy
fn sum(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = reduced(e, dy)?;
    Ok(e.expand(&r.dy, r.x.shape()))
}

/// y = sum x / n      dx = dy / n
fn mean(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = reduced(e, dy)?;
    let share = e.scale(&r.dy, 1.0 / r.count() as f64);
    Ok(e.expand(&share, r.x.shape()))
}

/// y = max x      dx = dy * [x = y] / number of elements equal to y; min likewise
///
/// Elements that tie share the gradient equally.
fn extremum(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = reduced(e, dy)?;
    Ok(to_extreme(e, &r))
}

fn to_extreme(e: &mut Emit<'_>, r: &Reduced) -> Value {
    let equal = e.binary("Equal", &r.x, &r.y);
    let mask = e.op("CastLike", &[&equal, &r.y], &[], r.x.shape());
    let ties = e.reduce_sum(&mask, &r.axes, true);
    let share = e.div(&r.dy, &ties);
    e.mul(&mask, &share)
}

/// y = sum |x|      dx = dy * sign x
fn l1(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = reduced(e, dy)?;
    let sign = e.unary("Sign", &r.x);
    Ok(e.mul(&sign, &r.dy))
}

/// y = sqrt(sum x^2)      dx = dy / y * x, and 0 where y = 0
fn l2(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = reduced(e, dy)?;
    let ratio = over_norm(e, &r.dy, &r.y);
    Ok(e.mul(&r.x, &ratio))
}

/// a / norm, and 0 where the norm is 0.
pub(super) fn over_norm(e: &mut Emit<'_>, a: &Value, norm: &Value) -> Value {
    let zero = e.num(0.0);
    let some = e.binary("Greater", norm, &zero);
    let ratio = e.div(a, norm);
    e.select(&some, &ratio, &zero)
}

/// y = sum x^2      dx = 2 dy * x
fn sum_square(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = reduced(e, dy)?;
    let twice = e.scale(&r.dy, 2.0);
    Ok(e.mul(&r.x, &twice))
}

/// y = log sum x      dx = dy * exp(-y)
fn log_sum(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = reduced(e, dy)?;
    let negative = e.neg(&r.y);
    let inverse = e.unary("Exp", &negative);
    let d = e.mul(&r.dy, &inverse);
    Ok(e.expand(&d, r.x.shape()))
}

/// y = log sum exp x      dx = dy * exp(x - y)
fn log_sum_exp(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = reduced(e, dy)?;
    let z = e.sub(&r.x, &r.y);
    let p = e.unary("Exp", &z);
    Ok(e.mul(&p, &r.dy))
}

/// Global pooling reduces [N, C, ...] over all axes after C and keeps them.
fn pooled(e: &mut Emit<'_>, dy: &Value) -> Result<Reduced, OpError> {
    let (x, y) = (e.x(0)?, e.y(0)?);
    Ok(Reduced { axes: (2..x.rank()).collect(), x, dy: dy.clone(), y })
}

/// y = mean of x over the image      dx = dy / (H W)
fn global_average(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = pooled(e, dy)?;
    let share = e.scale(&r.dy, 1.0 / r.count() as f64);
    Ok(e.expand(&share, r.x.shape()))
}

/// y = max of x over the image      dx = dy * [x = y] / number of elements equal to y
fn global_max(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = pooled(e, dy)?;
    Ok(to_extreme(e, &r))
}
