//! Quantizers, trained through with a straight-through estimator (Bengio, Léonard, Courville 2013, arXiv 1308.3432).
//!
//! The gradient of a quantized value is kept in units of the real number it stands for, so that a pair of QuantizeLinear
//! and DequantizeLinear costs one mask and no division.

use super::{
    Emit,
    Flow::{Constant, Vjp},
    Op, OpError,
};
use crate::{
    graph::{Node, Value},
    tensor::DType,
};

pub(super) const OPS: &[Op] = &[
    Op::new("QuantizeLinear", QUANTIZE_ATTRS, &[Vjp(quantize), Constant, Constant]),
    Op::new("DequantizeLinear", &["axis", "block_size", "output_dtype"], &[Vjp(dequantize), Constant, Constant]),
];

const QUANTIZE_ATTRS: &[&str] = &["axis", "block_size", "output_dtype", "precision", "saturate"];

/// True for an operator whose rule stands in for a derivative that is zero wherever it exists.
pub fn is_estimated(node: &Node) -> bool {
    node.op == "QuantizeLinear" && node.domain.is_empty()
}

/// y = clip(round(x / s) + z)      dx = dy where nothing is clipped, else 0
fn quantize(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let scale = e.known(1)?.ok_or_else(|| OpError::Unsupported("the scale is missing".into()))?;
    let zero = e.known(2)?;
    let dtype = zero.as_ref().map_or(DType::U8, |z| z.dtype());
    let (low, high) = match dtype {
        DType::I8 => (-128.0, 127.0),
        DType::U8 => (0.0, 255.0),
        DType::I16 => (-32768.0, 32767.0),
        DType::U16 => (0.0, 65535.0),
        other => return Err(OpError::Unsupported(format!("quantization to {other} is not supported"))),
    };
    if e.int("block_size", 0)? != 0 {
        return Err(OpError::Unsupported("blocked quantization (block_size) is not supported".into()));
    }
    let scale = scale.to_f32s();
    let zero = zero.map_or(vec![0.0; scale.len()], |z| z.to_f32s());
    // A step of half a level beyond the ends still rounds to the ends.
    let bound = |level: f64| -> Vec<f64> {
        scale.iter().zip(&zero).map(|(&s, &z)| f64::from(s) * (level - f64::from(z))).collect()
    };
    let shape: Vec<usize> = if scale.len() == 1 {
        Vec::new()
    } else {
        let axis = e.axis("axis", 1, x.rank())?;
        (0..x.rank()).map(|i| if i == axis { scale.len() } else { 1 }).collect()
    };
    let (low, high) = (e.nums(&shape, &bound(low - 0.5)), e.nums(&shape, &bound(high + 0.5)));
    let above = e.binary("GreaterOrEqual", &x, &low);
    let below = e.binary("LessOrEqual", &x, &high);
    let inside = e.binary("And", &above, &below);
    let mask = e.op("CastLike", &[&inside, &x], &[], x.shape());
    Ok(e.mul(dy, &mask))
}

/// y = (x - z) * s      dx = dy in units of y
#[allow(clippy::unnecessary_wraps)] // A rule is a function that may fail.
fn dequantize(_: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    Ok(dy.clone())
}
