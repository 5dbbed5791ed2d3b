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
    Op::new("ReduceProd", ATTRS, &[Vjp(prod), Constant]),
    Op::new("ReduceL1", ATTRS, &[Vjp(l1), Constant]),
    Op::new("ReduceL2", ATTRS, &[Vjp(l2), Constant]),
    Op::new("ReduceSumSquare", ATTRS, &[Vjp(sum_square), Constant]),
    Op::new("ReduceLogSum", ATTRS, &[Vjp(log_sum), Constant]),
    Op::new("ReduceLogSumExp", ATTRS, &[Vjp(log_sum_exp), Constant]),
    Op::new("GlobalAveragePool", &[], &[Vjp(global_average)]),
    Op::new("GlobalMaxPool", &[], &[Vjp(global_max)]),
    Op::new("GlobalLpPool", &["p"], &[Vjp(global_lp)]),
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
    let shape: Vec<usize> = x.shape().iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
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

/// y = prod x      dx = dy * the product of the other elements
///
/// With P the product of the elements that are not zero: P / x where no element is zero; where one is, P for this one and
/// 0 for the others; 0 where several are.
fn prod(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = reduced(e, dy)?;
    let (zero, one) = (e.num(0.0), e.num(1.0));
    let vanishes = e.binary("Equal", &r.x, &zero);
    let marks = e.op("CastLike", &[&vanishes, &r.y], &[], r.x.shape());
    let filled = e.select(&vanishes, &one, &r.x);
    let product = e.reduce("ReduceProd", &filled, &r.axes, true);
    let zeros = e.reduce_sum(&marks, &r.axes, true);
    let none = e.binary("Equal", &zeros, &zero);
    let single = e.binary("Equal", &zeros, &one);
    let share = e.mul(&r.dy, &product);
    let (without, with) = (e.select(&none, &share, &zero), e.select(&single, &share, &zero));
    let without = e.div(&without, &filled);
    let with = e.mul(&with, &marks);
    Ok(e.add(&without, &with))
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

/// y = (sum of |x|^p over the image)^(1/p)      dx = dy * sign(x) (|x| / y)^(p-1)
fn global_lp(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let r = pooled(e, dy)?;
    let p = norm_exponent(e)?;
    let share = over_norm_power(e, &r.dy, &r.y, p);
    let along = signed_power(e, &r.x, p);
    Ok(e.mul(&along, &share))
}

/// The exponent of a pool over norms.
pub(super) fn norm_exponent(e: &Emit<'_>) -> Result<i64, OpError> {
    let p = e.int("p", 2)?;
    if p >= 1 {
        return Ok(p);
    }
    Err(OpError::Attribute { name: "p".into(), expected: "a positive integer".into(), got: p.to_string() })
}

/// sign(x) |x|^(p-1): the slope of |x|^p / p.
pub(super) fn signed_power(e: &mut Emit<'_>, x: &Value, p: i64) -> Value {
    if p == 2 {
        return x.clone();
    }
    let sign = e.unary("Sign", x);
    if p == 1 {
        return sign;
    }
    let (size, exponent) = (e.unary("Abs", x), e.num((p - 1) as f64));
    let power = e.binary("Pow", &size, &exponent);
    e.mul(&sign, &power)
}

/// a / norm^(p-1), and 0 where the norm is 0: an image of zeros has no direction.
pub(super) fn over_norm_power(e: &mut Emit<'_>, a: &Value, norm: &Value, p: i64) -> Value {
    match p {
        1 => a.clone(),
        2 => over_norm(e, a, norm),
        _ => {
            let exponent = e.num((p - 1) as f64);
            let power = e.binary("Pow", norm, &exponent);
            over_norm(e, a, &power)
        }
    }
}
