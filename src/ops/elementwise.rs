//! Arithmetic and functions applied element by element.

use super::{
    Emit,
    Flow::{Constant, Vjp, Zero},
    Op, OpError,
    activation::inside,
};
use crate::{
    graph::{Attr, Node, Value},
    tensor::{Data, Tensor},
};
use std::f64::consts::FRAC_2_SQRT_PI;

pub(super) const OPS: &[Op] = &[
    Op::new("Add", &[], &[Vjp(pass), Vjp(pass)]),
    Op::new("Sub", &[], &[Vjp(pass), Vjp(minus)]),
    Op::new("Mul", &[], &[Vjp(mul), Vjp(mul)]),
    Op::new("Div", &[], &[Vjp(div_left), Vjp(div_right)]),
    Op::new("Pow", &[], &[Vjp(pow_base), Vjp(pow_exponent)]),
    Op::new("Mod", &["fmod"], &[Vjp(modulo_left), Vjp(modulo_right)]),
    Op::new("Neg", &[], &[Vjp(minus)]),
    Op::new("Abs", &[], &[Vjp(abs)]),
    Op::new("Exp", &[], &[Vjp(exp)]),
    Op::new("Log", &[], &[Vjp(log)]),
    Op::new("Sqrt", &[], &[Vjp(sqrt)]),
    Op::new("Reciprocal", &[], &[Vjp(reciprocal)]),
    Op::new("Erf", &[], &[Vjp(erf)]),
    Op::new("Where", &[], &[Constant, Vjp(where_true), Vjp(where_false)]),
    Op::variadic("Min", &[], &[Vjp(extremum)]),
    Op::variadic("Max", &[], &[Vjp(extremum)]),
    Op::variadic("Sum", &[], &[Vjp(pass)]),
    Op::variadic("Mean", &[], &[Vjp(mean)]),
    Op::new("Clip", &[], &[Vjp(clip), Constant, Constant]),
    Op::new("Cast", &["to", "saturate", "round_mode"], &[Vjp(cast)]),
    Op::new("CastLike", &["saturate", "round_mode"], &[Vjp(cast), Constant]),
    Op::new("Identity", &[], &[Vjp(pass)]),
    Op::new("Floor", &[], &[Zero]),
    Op::new("Ceil", &[], &[Zero]),
    Op::new("Round", &[], &[Zero]),
    Op::new("Sign", &[], &[Zero]),
    Op::new("ArgMax", &["axis", "keepdims", "select_last_index"], &[Constant]),
    Op::new("ArgMin", &["axis", "keepdims", "select_last_index"], &[Constant]),
    Op::new("Equal", &[], &[Constant, Constant]),
    Op::new("Less", &[], &[Constant, Constant]),
    Op::new("LessOrEqual", &[], &[Constant, Constant]),
    Op::new("Greater", &[], &[Constant, Constant]),
    Op::new("GreaterOrEqual", &[], &[Constant, Constant]),
    Op::new("Not", &[], &[Constant]),
    Op::new("And", &[], &[Constant, Constant]),
    Op::new("Or", &[], &[Constant, Constant]),
    Op::new("Xor", &[], &[Constant, Constant]),
    Op::new("IsNaN", &[], &[Constant]),
    Op::new("IsInf", &[], &[Constant]),
];

/// A cast to an integer or bool rounds. Mostly it makes an index or a mask, which carries no gradient anyway.
pub(super) static CAST_TO_INTEGER: Op = Op::new("Cast", &[], &[Zero]);

/// True for a `Cast` whose result is not a float. In the file format FLOAT is 1, FLOAT16 10, DOUBLE 11 and BFLOAT16 16.
pub(super) fn casts_to_integer(node: &Node) -> bool {
    node.domain.is_empty()
        && node.op == "Cast"
        && matches!(node.attrs.get("to"), Some(Attr::Int(to)) if ![1, 10, 11, 16].contains(to))
}

/// y = x      dx = dy              y = a + b + ...      da = dy      db = dy
fn pass(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    e.to_input(dy)
}

/// y = -x     dx = -dy             y = a - b            db = -dy
fn minus(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let d = e.to_input(dy)?;
    Ok(e.neg(&d))
}

/// y = a * b      da = dy * b      db = dy * a
fn mul(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let other = e.x(1 - e.at())?;
    let d = e.mul(dy, &other);
    e.to_input(&d)
}

/// y = a / b      da = dy / b
fn div_left(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let b = e.x(1)?;
    let d = e.div(dy, &b);
    e.to_input(&d)
}

/// y = a / b      db = -dy / b * y
fn div_right(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (b, y) = (e.x(1)?, e.y(0)?);
    let d = e.div(dy, &b);
    let d = e.mul(&d, &y);
    let d = e.to_input(&d)?;
    Ok(e.neg(&d))
}

/// y = a^b      da = dy * b * a^(b-1), and 0 where b = 0, whatever a is
///
/// Exponents that are one known number, nearly all there are, skip the power where they can.
fn pow_base(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (a, y) = (e.x(0)?, e.y(0)?);
    let known = e.known(1).ok().flatten();
    if let Some(b) = known.as_deref().and_then(number) {
        let d = match b {
            0.0 => e.zeros(y.shape()),
            0.5 => e.div(dy, &y),
            1.0 => dy.clone(),
            2.0 => e.mul(dy, &a),
            _ => {
                let less = e.num(b - 1.0);
                let power = e.binary("Pow", &a, &less);
                e.mul(dy, &power)
            }
        };
        let d = e.to_input(&d)?;
        return Ok(if b == 0.0 { d } else { e.scale(&d, b) });
    }
    let b = exponent(e, &a)?;
    let (zero, one) = (e.num(0.0), e.num(1.0));
    let less = e.sub(&b, &one);
    let power = e.binary("Pow", &a, &less);
    let slope = e.mul(&power, &b);
    let flat = e.binary("Equal", &b, &zero);
    let slope = e.select(&flat, &zero, &slope);
    let d = e.mul(dy, &slope);
    e.to_input(&d)
}

/// y = a^b      db = dy * y * log a for a > 0, else 0: for other bases y is no function of a real exponent
fn pow_exponent(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (a, y) = (e.x(0)?, e.y(0)?);
    let (zero, one) = (e.num(0.0), e.num(1.0));
    let positive = e.binary("Greater", &a, &zero);
    // log 1 = 0, so the bases left out contribute nothing; 0^negative is infinite, hence the same for y.
    let base = e.select(&positive, &a, &one);
    let y = e.select(&positive, &y, &zero);
    let log = e.unary("Log", &base);
    let d = e.mul(dy, &y);
    let d = e.mul(&d, &log);
    e.to_input(&d)
}

/// y = a - b trunc(a / b), with fmod = 1      da = dy
///
/// Floats have this form only; integers, which have the other one, carry no gradient.
fn modulo_left(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    e.to_input(dy)
}

/// db = -dy * trunc(a / b) = dy * (y - a) / b
fn modulo_right(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (a, b, y) = (e.x(0)?, e.x(1)?, e.y(0)?);
    let multiple = e.sub(&y, &a);
    let times = e.div(&multiple, &b);
    let d = e.mul(dy, &times);
    e.to_input(&d)
}

/// The exponent in the type of the base; ONNX lets it be of another one.
fn exponent(e: &mut Emit<'_>, base: &Value) -> Result<Value, OpError> {
    let b = e.x(1)?;
    Ok(e.op("CastLike", &[&b, base], &[], b.shape()))
}

/// The one number a tensor holds, if it holds one number.
fn number(t: &Tensor) -> Option<f64> {
    match t.data() {
        Data::I64(v) if v.len() == 1 => Some(v[0] as f64),
        Data::I32(v) if v.len() == 1 => Some(f64::from(v[0])),
        _ => t.to_scalar(),
    }
}

/// y = |x|      dx = dy * sign x, 0 at the kink
fn abs(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let sign = e.unary("Sign", &x);
    Ok(e.mul(dy, &sign))
}

/// y = exp x      dx = dy * y
fn exp(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let y = e.y(0)?;
    Ok(e.mul(dy, &y))
}

/// y = log x      dx = dy / x
fn log(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    Ok(e.div(dy, &x))
}

/// y = sqrt x      dx = dy / 2y
fn sqrt(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let y = e.y(0)?;
    let d = e.div(dy, &y);
    Ok(e.scale(&d, 0.5))
}

/// y = 1/x      dx = -dy * y^2
fn reciprocal(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let y = e.y(0)?;
    let square = e.mul(&y, &y);
    let d = e.mul(dy, &square);
    Ok(e.neg(&d))
}

/// y = erf x      dx = dy * 2/sqrt(pi) * exp(-x^2)
fn erf(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let square = e.mul(&x, &x);
    let negative = e.neg(&square);
    let bell = e.unary("Exp", &negative);
    let d = e.mul(dy, &bell);
    Ok(e.scale(&d, FRAC_2_SQRT_PI))
}

/// y = c ? a : b      da = c ? dy : 0
///
/// A selection, not a product with the mask: what arrives at the side not taken may be infinite or NaN.
fn where_true(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (c, zero) = (e.x(0)?, e.num(0.0));
    let d = e.select(&c, dy, &zero);
    e.to_input(&d)
}

/// y = c ? a : b      db = c ? 0 : dy
fn where_false(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (c, zero) = (e.x(0)?, e.num(0.0));
    let d = e.select(&c, &zero, dy);
    e.to_input(&d)
}

/// y = max(a, b, ...)      da = dy * [a = y] / number of inputs equal to y; min likewise
///
/// Inputs that tie share the gradient equally.
fn extremum(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let n = e.node().inputs.len();
    if n == 1 {
        return e.to_input(dy);
    }
    let y = e.y(0)?;
    let mut masks = Vec::with_capacity(n);
    for i in 0..n {
        let x = e.x(i)?;
        let equal = e.binary("Equal", &x, &y);
        masks.push(e.op("CastLike", &[&equal, &y], &[], y.shape()));
    }
    let mine = masks[e.at()].clone();
    let Some((first, rest)) = masks.split_first() else { return e.to_input(dy) };
    let ties = rest.iter().fold(first.clone(), |sum, mask| e.add(&sum, mask));
    let share = e.div(dy, &ties);
    let d = e.mul(&share, &mine);
    e.to_input(&d)
}

/// y = (a + b + ...) / n      da = dy / n
fn mean(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let n = e.node().inputs.len();
    let d = e.to_input(dy)?;
    Ok(e.scale(&d, 1.0 / n as f64))
}

/// y = min(max(x, low), high)      dx = dy where low < x < high, else 0
fn clip(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let (low, high) = (bound(e, 1)?, bound(e, 2)?);
    Ok(match inside(e, &x, low, high) {
        Some(mask) => e.mul(dy, &mask),
        None => dy.clone(),
    })
}

fn bound(e: &Emit<'_>, i: usize) -> Result<Option<f64>, OpError> {
    let Some(t) = e.known(i)? else { return Ok(None) };
    let bound = number(&t).ok_or_else(|| OpError::Unsupported(format!("bound in input {i} is not one float")))?;
    Ok(Some(bound))
}

/// y = x in another float type      dx = dy in the type of x
fn cast(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    Ok(e.op("CastLike", &[dy, &x], &[], x.shape()))
}
