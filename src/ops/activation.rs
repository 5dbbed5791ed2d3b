//! Activation functions.
//!
//! Masks are made with `HardSigmoid`, which is one vectorised pass on every device; comparing and selecting
//! (`Greater`, `Where`) takes about three times as long on the CPU for the same result.

use super::{Emit, Flow::Vjp, MICROSOFT, Op, OpError};
use crate::graph::{Attr, Value};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

pub(super) const OPS: &[Op] = &[
    Op::new("Relu", &[], &[Vjp(relu)]),
    Op::new("LeakyRelu", &["alpha"], &[Vjp(leaky_relu)]),
    Op::new("ThresholdedRelu", &["alpha"], &[Vjp(thresholded_relu)]),
    Op::new("PRelu", &[], &[Vjp(prelu), Vjp(prelu_slope)]),
    Op::new("Sigmoid", &[], &[Vjp(sigmoid)]),
    Op::new("Tanh", &[], &[Vjp(tanh)]),
    Op::new("HardSigmoid", &["alpha", "beta"], &[Vjp(hard_sigmoid)]),
    Op::new("HardSwish", &[], &[Vjp(hard_swish)]),
    Op::new("Elu", &["alpha"], &[Vjp(elu)]),
    Op::new("Selu", &["alpha", "gamma"], &[Vjp(selu)]),
    Op::new("Celu", &["alpha"], &[Vjp(celu)]),
    Op::new("Softplus", &[], &[Vjp(softplus)]),
    Op::new("Softsign", &[], &[Vjp(softsign)]),
    Op::new("Gelu", &["approximate"], &[Vjp(gelu)]),
    Op::new("Gelu", &[], &[Vjp(gelu)]).of(MICROSOFT),
    Op::new("FastGelu", &[], &[Vjp(fast_gelu)]).of(MICROSOFT),
    Op::new("QuickGelu", &["alpha"], &[Vjp(quick_gelu)]).of(MICROSOFT),
    Op::new("Swish", &["alpha"], &[Vjp(swish)]),
    Op::new("Mish", &[], &[Vjp(mish)]),
    Op::new("Shrink", &["bias", "lambd"], &[Vjp(shrink)]),
];

/// alpha * x + beta, cut to 0..1.
fn ramp(e: &mut Emit<'_>, x: &Value, alpha: f32, beta: f32) -> Value {
    e.op("HardSigmoid", &[x], &[("alpha", Attr::Float(alpha)), ("beta", Attr::Float(beta))], x.shape())
}

/// 1 where x > 0, else 0: a ramp so steep that no normal number lies on it.
pub(super) fn step(e: &mut Emit<'_>, x: &Value) -> Value {
    ramp(e, x, 3e38, 0.0)
}

/// 1 where low < x < high, else 0; `None` when no bound excludes anything. A bound other than 0 may count as inside
/// itself, by rounding.
pub(super) fn inside(e: &mut Emit<'_>, x: &Value, low: Option<f64>, high: Option<f64>) -> Option<Value> {
    // Exporters write "no bound" as infinity or as the largest float.
    let real = |b: &f64| b.abs() < f64::from(f32::MAX);
    let low = low.filter(real).map(|b| beyond(e, x, b, 1.0));
    let high = high.filter(real).map(|b| beyond(e, x, b, -1.0));
    match (low, high) {
        (Some(a), Some(b)) => Some(e.mul(&a, &b)),
        (a, b) => a.or(b),
    }
}

/// 1 where x lies on the side of `bound` that `sign` points to, else 0.
fn beyond(e: &mut Emit<'_>, x: &Value, bound: f64, sign: f64) -> Value {
    if bound.abs() < 1e6 {
        // Steep enough for the distance between neighbouring floats, flat enough not to overflow at the bound.
        return ramp(e, x, (sign * 1e30) as f32, (-sign * bound * 1e30) as f32);
    }
    let bound = e.num(bound);
    let far = if sign > 0.0 { e.sub(x, &bound) } else { e.sub(&bound, x) };
    step(e, &far)
}

/// y = max(x, 0)      dx = dy where y > 0, else 0
fn relu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let y = e.y(0)?;
    let mask = step(e, &y);
    Ok(e.mul(dy, &mask))
}

/// y = x > 0 ? x : alpha x      dx = dy * (x > 0 ? 1 : alpha)
fn leaky_relu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let alpha = f64::from(e.float("alpha", 0.01)?);
    let x = e.x(0)?;
    let mask = step(e, &x);
    let slope = if (0.0..=1.0).contains(&alpha) {
        let alpha = e.num(alpha);
        e.binary("Max", &mask, &alpha)
    } else {
        let rest = e.scale(&mask, 1.0 - alpha);
        let alpha = e.num(alpha);
        e.add(&rest, &alpha)
    };
    Ok(e.mul(dy, &slope))
}

/// y = x > alpha ? x : 0      dx = dy where x > alpha, else 0
fn thresholded_relu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let alpha = f64::from(e.float("alpha", 1.0)?);
    let x = e.x(0)?;
    let mask = beyond(e, &x, alpha, 1.0);
    Ok(e.mul(dy, &mask))
}

/// y = x > 0 ? x : s x      dx = dy * (s + (1 - s) [x > 0])
fn prelu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, s) = (e.x(0)?, e.x(1)?);
    let mask = step(e, &x);
    let one = e.num(1.0);
    let rest = e.sub(&one, &s);
    let slope = e.mul(&mask, &rest);
    let slope = e.add(&slope, &s);
    Ok(e.mul(dy, &slope))
}

/// y = x > 0 ? x : s x      ds = dy * min(x, 0)
fn prelu_slope(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let negative = negative_part(e, &x);
    let d = e.mul(dy, &negative);
    e.to_input(&d)
}

fn negative_part(e: &mut Emit<'_>, x: &Value) -> Value {
    let zero = e.num(0.0);
    e.binary("Min", x, &zero)
}

/// y = 1 / (1 + exp(-x))      dx = dy * y (1 - y)
fn sigmoid(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (y, one) = (e.y(0)?, e.num(1.0));
    let rest = e.sub(&one, &y);
    let slope = e.mul(&y, &rest);
    Ok(e.mul(dy, &slope))
}

/// y = tanh x      dx = dy * (1 - y^2)
fn tanh(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let y = e.y(0)?;
    let slope = one_minus_square(e, &y);
    Ok(e.mul(dy, &slope))
}

fn one_minus_square(e: &mut Emit<'_>, y: &Value) -> Value {
    let one = e.num(1.0);
    let square = e.mul(y, y);
    e.sub(&one, &square)
}

/// y = min(max(alpha x + beta, 0), 1)      dx = alpha dy where 0 < y < 1, else 0
fn hard_sigmoid(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let alpha = f64::from(e.float("alpha", 0.2)?);
    let y = e.y(0)?;
    // y is exactly 0 or 1 outside, so both ends are told apart without rounding.
    let (low, high) = (step(e, &y), ramp(e, &y, -1e30, 1e30));
    let mask = e.mul(&low, &high);
    let d = e.mul(dy, &mask);
    Ok(e.scale(&d, alpha))
}

/// y = x u, u = min(max(x/6 + 1/2, 0), 1)      dx = dy * (u + (u - 1/2) [-3 < x < 3])
fn hard_swish(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let u = ramp(e, &x, 1.0 / 6.0, 0.5);
    let half = e.num(0.5);
    // x/6, as far as it is needed.
    let sixth = e.sub(&u, &half);
    let slope = match inside(e, &x, Some(-3.0), Some(3.0)) {
        Some(mask) => e.mul(&sixth, &mask),
        None => sixth,
    };
    let slope = e.add(&slope, &u);
    Ok(e.mul(dy, &slope))
}

/// y = x > 0 ? x : alpha (exp x - 1)      dx = dy * (x > 0 ? 1 : alpha exp x)
fn elu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let alpha = f64::from(e.float("alpha", 1.0)?);
    let slope = exponential_slope(e, alpha, 1.0)?;
    Ok(e.mul(dy, &slope))
}

/// y = gamma * Elu(x, alpha)      dx = dy * gamma * (x > 0 ? 1 : alpha exp x)
fn selu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    // The defaults the operator's definition gives.
    let alpha = f64::from(e.float("alpha", 1.673_263_2)?);
    let gamma = f64::from(e.float("gamma", 1.050_701)?);
    let slope = exponential_slope(e, alpha * gamma, gamma)?;
    Ok(e.mul(dy, &slope))
}

/// x > 0 ? right : left exp x, as left exp(min(x, 0)) + (right - left) [x > 0]: never a large power.
fn exponential_slope(e: &mut Emit<'_>, left: f64, right: f64) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let negative = negative_part(e, &x);
    let power = e.unary("Exp", &negative);
    let slope = e.scale(&power, left);
    if (right - left).abs() == 0.0 {
        return Ok(slope);
    }
    let mask = step(e, &x);
    let jump = e.scale(&mask, right - left);
    Ok(e.add(&slope, &jump))
}

/// y = max(x, 0) + min(alpha (exp(x/alpha) - 1), 0)      dx = dy * exp(min(x, 0) / alpha)
fn celu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let alpha = f64::from(e.float("alpha", 1.0)?);
    let x = e.x(0)?;
    let negative = negative_part(e, &x);
    let scaled = e.scale(&negative, 1.0 / alpha);
    let slope = e.unary("Exp", &scaled);
    Ok(e.mul(dy, &slope))
}

/// y = log(1 + exp x)      dx = dy * sigmoid x
fn softplus(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let slope = e.unary("Sigmoid", &x);
    Ok(e.mul(dy, &slope))
}

/// y = x / (1 + |x|)      dx = dy / (1 + |x|)^2
fn softsign(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, one) = (e.x(0)?, e.num(1.0));
    let size = e.unary("Abs", &x);
    let root = e.add(&one, &size);
    let square = e.mul(&root, &root);
    Ok(e.div(dy, &square))
}

/// approximate = none:  y = x Phi(x),  Phi(x) = (1 + erf(x / sqrt 2)) / 2
///                      dx = dy * (Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi))
/// approximate = tanh:  y = x (1 + t) / 2,  t = tanh(c (x + k x^3)),  c = sqrt(2 / pi),  k = 0.044715
///                      dx = dy * ((1 + t) / 2 + x (1 - t^2) c (1 + 3 k x^2) / 2)
fn gelu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let (share, bump) = match e.str("approximate", "none")?.as_str() {
        "none" => gelu_exact(e, &x),
        "tanh" => gelu_tanh(e, &x),
        other => {
            return Err(OpError::Attribute {
                name: "approximate".into(),
                expected: "none or tanh".into(),
                got: format!("{other:?}"),
            });
        }
    };
    let bump = e.mul(&x, &bump);
    let slope = e.add(&share, &bump);
    Ok(e.mul(dy, &slope))
}

/// As [`gelu`] with approximate = tanh
fn fast_gelu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let (share, bump) = gelu_tanh(e, &x);
    let bump = e.mul(&x, &bump);
    let slope = e.add(&share, &bump);
    Ok(e.mul(dy, &slope))
}

/// Phi(x) and its derivative.
fn gelu_exact(e: &mut Emit<'_>, x: &Value) -> (Value, Value) {
    let t = e.scale(x, FRAC_1_SQRT_2);
    let erf = e.unary("Erf", &t);
    let square = e.mul(&t, &t);
    let negative = e.neg(&square);
    let bell = e.unary("Exp", &negative);
    // erf lies in -1..1, so the ramp cuts nothing off: (1 + erf) / 2 in one pass.
    (ramp(e, &erf, 0.5, 0.5), e.scale(&bell, 0.5 * FRAC_2_PI.sqrt()))
}

/// (1 + t) / 2 and its derivative.
fn gelu_tanh(e: &mut Emit<'_>, x: &Value) -> (Value, Value) {
    let (c, k) = (FRAC_2_PI.sqrt(), 0.044_715);
    let square = e.mul(x, x);
    let affine = |e: &mut Emit<'_>, slope: f64, offset: f64| {
        let scaled = e.scale(&square, slope);
        let offset = e.num(offset);
        e.add(&scaled, &offset)
    };
    let (inner, outer) = (affine(e, c * k, c), affine(e, 1.5 * c * k, 0.5 * c));
    let argument = e.mul(x, &inner);
    let t = e.unary("Tanh", &argument);
    let fall = one_minus_square(e, &t);
    (ramp(e, &t, 0.5, 0.5), e.mul(&fall, &outer))
}

/// As [`swish`], with another default for alpha
fn quick_gelu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let alpha = e.float("alpha", 1.702)?;
    sigmoid_gated(e, dy, alpha)
}

/// y = x s, s = sigmoid(alpha x)      dx = dy * (s + alpha y (1 - s))
fn swish(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let alpha = e.float("alpha", 1.0)?;
    sigmoid_gated(e, dy, alpha)
}

fn sigmoid_gated(e: &mut Emit<'_>, dy: &Value, alpha: f32) -> Result<Value, OpError> {
    let (x, y, one) = (e.x(0)?, e.y(0)?, e.num(1.0));
    let scaled = e.scale(&x, f64::from(alpha));
    let s = e.unary("Sigmoid", &scaled);
    let rest = e.sub(&one, &s);
    let rise = e.mul(&y, &rest);
    let rise = e.scale(&rise, f64::from(alpha));
    let slope = e.add(&s, &rise);
    Ok(e.mul(dy, &slope))
}

/// y = x - bias where x > lambd, x + bias where x < -lambd, else 0      dx = dy where |x| > lambd, else 0
fn shrink(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let lambd = f64::from(e.float("lambd", 0.5)?);
    let x = e.x(0)?;
    let size = e.unary("Abs", &x);
    let mask = beyond(e, &size, lambd, 1.0);
    Ok(e.mul(dy, &mask))
}

/// y = x t, t = tanh(softplus x)      dx = dy * (t + x (1 - t^2) sigmoid x)
fn mish(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let soft = e.unary("Softplus", &x);
    let t = e.unary("Tanh", &soft);
    let sigmoid = e.unary("Sigmoid", &x);
    let fall = one_minus_square(e, &t);
    let slope = e.mul(&fall, &sigmoid);
    let slope = e.mul(&x, &slope);
    let slope = e.add(&t, &slope);
    Ok(e.mul(dy, &slope))
}
