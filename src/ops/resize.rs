//! Resampling.
//!
//! What resampling computes along an axis is a product with a matrix that depends on nothing but sizes and attributes,
//! and it goes through the axes one by one. There are dozens of ways to place and weight samples, and the matrix has to be
//! the runtime's to the last digit; so the runtime makes it, once, by resampling the unit vectors.

use super::{
    Emit,
    Flow::{Constant, Vjp},
    Op, OpError,
    layout::{product_along, target_axes},
};
use crate::{
    graph::{Attr, Value},
    tensor::Tensor,
};

const ATTRS: &[&str] = &[
    "antialias",
    "axes",
    "coordinate_transformation_mode",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
    "mode",
    "nearest_mode",
];

pub(super) const OPS: &[Op] = &[Op::new("Resize", ATTRS, &[Vjp(resize), Constant, Constant, Constant])];

/// y = x times A along each axis      dx = dy times A^T along each axis
fn resize(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let mut dx = dy.clone();
    for stretch in stretches(e)? {
        let back = unit_responses(e, &stretch);
        dx = product_along(e, &back, &dx, stretch.axis);
    }
    Ok(dx)
}

/// What happens along one axis.
struct Stretch {
    axis: usize,
    /// Lengths before and after.
    size: usize,
    out: usize,
    /// The factor, where the node gives factors and not lengths.
    scale: Option<f32>,
    /// Start and end of the part that is resampled, where the node cuts one out.
    part: Option<(f32, f32)>,
}

/// Every axis that the node changes.
fn stretches(e: &Emit<'_>) -> Result<Vec<Stretch>, OpError> {
    let (x, y) = (e.x(0)?, e.y(0)?);
    let policy = e.str("keep_aspect_ratio_policy", "stretch")?;
    if policy != "stretch" {
        return Err(OpError::Attribute {
            name: "keep_aspect_ratio_policy".into(),
            expected: "stretch".into(),
            got: format!("{policy:?}"),
        });
    }
    let axes = target_axes(x.rank(), e.ints("axes")?)?;
    let scales = floats(e, 2)?;
    let crops = e.str("coordinate_transformation_mode", "half_pixel")? == "tf_crop_and_resize";
    let parts = if crops { floats(e, 1)? } else { None };
    let mut stretches = Vec::new();
    for (k, &axis) in axes.iter().enumerate() {
        let scale = scales.as_ref().and_then(|s| s.get(k)).copied();
        let part = parts.as_ref().and_then(|p| Some((*p.get(k)?, *p.get(axes.len() + k)?)));
        let (size, out) = (x.shape()[axis], y.shape()[axis]);
        let (is_zero, is_one) = (|v: f32| v.abs() == 0.0, |v: f32| (v - 1.0).abs() == 0.0);
        let whole = part.is_none_or(|(start, end)| is_zero(start) && is_one(end));
        let same = size == out && scale.is_none_or(is_one);
        if !(whole && same) {
            stretches.push(Stretch { axis, size, out, scale, part });
        }
    }
    Ok(stretches)
}

/// A constant input of floats; `None` where it is left out or empty.
fn floats(e: &Emit<'_>, i: usize) -> Result<Option<Vec<f32>>, OpError> {
    let Some(t) = e.known(i)? else { return Ok(None) };
    let values =
        t.as_f32().ok_or_else(|| OpError::Unsupported(format!("input {i} holds {}, not floats", t.dtype())))?;
    Ok((!values.is_empty()).then(|| values.to_vec()))
}

/// A^T, [size, out]: row k is what becomes of the unit vector k.
fn unit_responses(e: &mut Emit<'_>, s: &Stretch) -> Value {
    // As many axes as x has, because kernels differ by rank: the vectors along one, their number along another.
    let rank = e.node().input(0).and_then(|x| e.graph.value(x)).map_or(2, Value::rank).max(2);
    let (axis, beside) = if s.axis == 0 { (0, 1) } else { (s.axis, 0) };
    let mut shape = vec![1; rank];
    (shape[axis], shape[beside]) = (s.size, s.size);
    let unit: Vec<f64> = (0..s.size * s.size).map(|i| if i % (s.size + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let unit = e.nums(&shape, &unit);

    let mut resized = shape.clone();
    resized[axis] = s.out;
    let whole = |v: f32, at: f32| (0..rank).map(|i| if i == axis { at } else { v }).collect::<Vec<_>>();
    let roi = s.part.map(|(start, end)| {
        let roi = [whole(0.0, start), whole(1.0, end)].concat();
        e.graph.constant(Tensor::f32([2 * rank], roi))
    });
    let scales = s.scale.map(|scale| e.graph.constant(Tensor::f32([rank], whole(1.0, scale))));
    let sizes = match s.scale {
        Some(_) => None,
        None => Some(e.int_list(&resized.iter().map(|&d| d as i64).collect::<Vec<_>>())),
    };
    let name = |v: &Option<Value>| v.as_ref().map_or(String::new(), |v| v.name().to_owned());
    let (roi, scales, sizes) = (name(&roi), name(&scales), name(&sizes));

    let own = |name: &str| !matches!(name, "axes" | "extrapolation_value" | "keep_aspect_ratio_policy");
    let mut attrs: Vec<(&str, Attr)> =
        e.node().attrs.iter().filter(|(name, _)| own(name)).map(|(name, v)| (name.as_str(), v.clone())).collect();
    // What the node puts where it reads outside does not depend on x.
    attrs.push(("extrapolation_value", Attr::Float(0.0)));
    let moved = e.graph.raw("", "Resize", &[unit.name(), &roi, &scales, &sizes], &attrs, &[resized]).remove(0);
    // [size, out] whichever of the two axes comes first: all others have length 1.
    if axis < beside {
        let flat = e.reshape(&moved, &[s.out, s.size]);
        return e.transpose(&flat, &[1, 0]);
    }
    e.reshape(&moved, &[s.size, s.out])
}
