//! Normalisation.
//!
//! In the formulas xhat = (x - mean) * inv, inv = 1 / sqrt(var + epsilon); statistics are those of the population.

use super::{
    Emit,
    Flow::{Constant, Vjp},
    Op, OpError,
    layout::target_axes,
    reduce::over_norm,
};
use crate::graph::Value;

const LAYER: &[&str] = &["axis", "epsilon", "stash_type"];
const GROUP: &[&str] = &["num_groups", "epsilon", "stash_type"];

pub(super) const OPS: &[Op] = &[
    Op::new(
        "BatchNormalization",
        &["epsilon", "momentum", "training_mode"],
        &[Vjp(batch_x), Vjp(batch_scale), Vjp(batch_bias), Constant, Constant],
    ),
    Op::new("LayerNormalization", LAYER, &[Vjp(layer_x), Vjp(layer_scale), Vjp(layer_bias)]),
    Op::new("RMSNormalization", LAYER, &[Vjp(rms_x), Vjp(rms_scale)]),
    Op::new("SimplifiedLayerNormalization", LAYER, &[Vjp(rms_x), Vjp(rms_scale)]),
    Op::new("InstanceNormalization", &["epsilon"], &[Vjp(instance_x), Vjp(instance_scale), Vjp(channel_sum)]),
    Op::new("GroupNormalization", GROUP, &[Vjp(group_x), Vjp(group_scale), Vjp(group_bias)]),
    Op::new("MeanVarianceNormalization", &["axes"], &[Vjp(mean_variance)]),
    Op::new("LpNormalization", &["axis", "p"], &[Vjp(lp)]),
    Op::new("LRN", &["alpha", "beta", "bias", "size"], &[Vjp(lrn)]),
];

/// `v` of [C] as [C, 1, ...], to be broadcast against [N, C, ...].
fn per_channel(e: &mut Emit<'_>, v: &Value, rank: usize) -> Value {
    let mut shape = vec![1; rank - 1];
    shape[0] = v.len();
    e.reshape(v, &shape)
}

/// Sum over all axes but the channels, axis 1: [N, C, ...] to [C].
fn over_images(e: &mut Emit<'_>, v: &Value) -> Value {
    let axes: Vec<usize> = (0..v.rank()).filter(|&i| i != 1).collect();
    e.reduce_sum(v, &axes, false)
}

// --- BatchNormalization: y = scale * xhat + bias with mean and var from the file ---------------------------------------

/// inv of each channel; an error where the node computes the statistics of the batch instead.
fn frozen(e: &mut Emit<'_>) -> Result<Value, OpError> {
    if e.int("training_mode", 0)? != 0 {
        return Err(OpError::Unsupported(
            "training_mode is 1, so the node normalises by its own batch and has no frozen statistics; export the model \
             in inference mode (torch: model.eval())"
                .into(),
        ));
    }
    let var = e.x(4)?;
    let epsilon = e.float("epsilon", 1e-5)?;
    Ok(inverse_root(e, &var, epsilon))
}

/// 1 / sqrt(var + epsilon)
fn inverse_root(e: &mut Emit<'_>, var: &Value, epsilon: f32) -> Value {
    let epsilon = e.num(f64::from(epsilon));
    let shifted = e.add(var, &epsilon);
    let root = e.unary("Sqrt", &shifted);
    e.unary("Reciprocal", &root)
}

/// dx = dy * (scale * inv)
fn batch_x(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let inv = frozen(e)?;
    let scale = e.x(1)?;
    let factor = e.mul(&scale, &inv);
    let factor = per_channel(e, &factor, dy.rank());
    Ok(e.mul(dy, &factor))
}

/// dscale = sum(dy * (x - mean)) * inv = (sum(dy * x) - mean * sum dy) * inv
///
/// The second form reads the batch once less. It loses accuracy in proportion to |mean| * inv, a few units for the
/// inputs of a trained normalisation.
fn batch_scale(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let inv = frozen(e)?;
    let (x, mean) = (e.x(0)?, e.x(3)?);
    let product = e.mul(dy, &x);
    let product = over_images(e, &product);
    let total = over_images(e, dy);
    let shift = e.mul(&mean, &total);
    let centred = e.sub(&product, &shift);
    Ok(e.mul(&centred, &inv))
}

/// dbias = sum dy
fn batch_bias(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    frozen(e)?;
    channel_sum(e, dy)
}

/// dbias = sum dy over everything but the channels
fn channel_sum(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let bias = e.x(e.at())?;
    let sum = over_images(e, dy);
    Ok(e.reshape(&sum, bias.shape()))
}

// --- Normalisation by the statistics of x itself ---------------------------------------------------------------------

/// An input and what normalising it over `axes` gives.
struct Standard {
    axes: Vec<usize>,
    xhat: Value,
    inv: Value,
}

impl Standard {
    /// How many values of `x` are normalised together.
    fn count(&self, x: &Value) -> f64 {
        self.axes.iter().map(|&axis| x.shape()[axis]).product::<usize>() as f64
    }
}

/// Normalises `x` over `axes`. The forward node has done so too, but does not hand it out.
fn standardise(e: &mut Emit<'_>, x: &Value, axes: Vec<usize>, epsilon: f32) -> Standard {
    let mean = e.reduce_mean(x, &axes, true);
    let centred = e.sub(x, &mean);
    let square = e.mul(&centred, &centred);
    let var = e.reduce_mean(&square, &axes, true);
    let inv = inverse_root(e, &var, epsilon);
    let xhat = e.mul(&centred, &inv);
    Standard { axes, xhat, inv }
}

/// g = gradient of xhat      dx = inv * (g - mean g - xhat * mean(g * xhat)), means over the normalised axes
fn standardise_back(e: &mut Emit<'_>, s: &Standard, g: &Value) -> Value {
    let mean = e.reduce_mean(g, &s.axes, true);
    let product = e.mul(g, &s.xhat);
    let along = e.reduce_mean(&product, &s.axes, true);
    let stretch = e.mul(&s.xhat, &along);
    let d = e.sub(g, &mean);
    let d = e.sub(&d, &stretch);
    e.mul(&d, &s.inv)
}

// --- LayerNormalization: y = scale * xhat + bias over the axes from `axis` on ------------------------------------------

fn layer(e: &mut Emit<'_>) -> Result<Standard, OpError> {
    let x = e.x(0)?;
    let axis = e.axis("axis", -1, x.rank())?;
    let epsilon = e.float("epsilon", 1e-5)?;
    Ok(standardise(e, &x, (axis..x.rank()).collect(), epsilon))
}

/// The gradients of x, scale and bias by the tool's own operator, where it computes them: for one axis or several in one
/// array of scales, and nothing that comes through Mean and InvStdDev.
fn layer_natively(e: &mut Emit<'_>, dy: &Value) -> Result<Option<Vec<Value>>, OpError> {
    let (x, scale) = (e.x(0)?, e.x(1)?);
    let axis = e.axis("axis", -1, x.rank())?;
    let epsilon = e.float("epsilon", 1e-5)?;
    let plain = e.dy(1).is_none() && e.dy(2).is_none() && scale.shape() == &x.shape()[axis..];
    Ok((e.is_native() && plain).then(|| e.layer_norm_gradient(&x, &scale, dy, epsilon)))
}

/// g = dy * scale      dx as in `standardise_back`, and what comes through Mean and InvStdDev
fn layer_x(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    if let Some(mut gradients) = layer_natively(e, dy)? {
        return Ok(gradients.swap_remove(0));
    }
    let s = layer(e)?;
    let scale = e.x(1)?;
    let g = e.mul(dy, &scale);
    let mut d = standardise_back(e, &s, &g);
    if let Some(dmean) = e.dy(1).cloned() {
        let share = e.scale(&dmean, 1.0 / s.count(dy));
        d = e.add(&d, &share);
    }
    Ok(inverse_back(e, &s, d, 2))
}

/// Adds to `d` what comes through the output with inv: dx = -dinv * inv^2 * xhat / n, n values being normalised together.
fn inverse_back(e: &mut Emit<'_>, s: &Standard, d: Value, output: usize) -> Value {
    let Some(dinv) = e.dy(output).cloned() else { return d };
    let square = e.mul(&s.inv, &s.inv);
    let factor = e.mul(&dinv, &square);
    let factor = e.scale(&factor, -1.0 / s.count(&d));
    let part = e.mul(&s.xhat, &factor);
    e.add(&d, &part)
}

/// dscale = sum(dy * xhat)
fn layer_scale(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    if let Some(mut gradients) = layer_natively(e, dy)? {
        return Ok(gradients.swap_remove(1));
    }
    let s = layer(e)?;
    let d = e.mul(dy, &s.xhat);
    e.to_input(&d)
}

/// dbias = sum dy
fn layer_bias(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let bias = e.x(2)?;
    if let Some(mut gradients) = layer_natively(e, dy)?.filter(|g| g[2].shape() == bias.shape()) {
        return Ok(gradients.swap_remove(2));
    }
    layer(e)?;
    e.to_input(dy)
}

// --- RMSNormalization: y = scale * xhat, xhat = x * inv, inv = 1 / sqrt(mean x^2 + epsilon), from `axis` on --------------

/// The axes that are normalised together, xhat and inv.
fn rms(e: &mut Emit<'_>) -> Result<Standard, OpError> {
    let x = e.x(0)?;
    let axis = e.axis("axis", -1, x.rank())?;
    let axes: Vec<usize> = (axis..x.rank()).collect();
    let epsilon = e.float("epsilon", 1e-5)?;
    let square = e.mul(&x, &x);
    let mean = e.reduce_mean(&square, &axes, true);
    let inv = inverse_root(e, &mean, epsilon);
    let xhat = e.mul(&x, &inv);
    Ok(Standard { axes, xhat, inv })
}

/// g = dy * scale      dx = inv * (g - xhat * mean(g * xhat)), and what comes through InvStdDev
fn rms_x(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let s = rms(e)?;
    let scale = e.x(1)?;
    let g = e.mul(dy, &scale);
    let product = e.mul(&g, &s.xhat);
    let along = e.reduce_mean(&product, &s.axes, true);
    let stretch = e.mul(&s.xhat, &along);
    let d = e.sub(&g, &stretch);
    let d = e.mul(&d, &s.inv);
    Ok(inverse_back(e, &s, d, 1))
}

/// dscale = sum(dy * xhat)
fn rms_scale(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let s = rms(e)?;
    let d = e.mul(dy, &s.xhat);
    e.to_input(&d)
}

// --- InstanceNormalization: y = scale * xhat + bias over the image of each sample and channel --------------------------

fn instance(e: &mut Emit<'_>) -> Result<Standard, OpError> {
    let x = e.x(0)?;
    let epsilon = e.float("epsilon", 1e-5)?;
    Ok(standardise(e, &x, (2..x.rank()).collect(), epsilon))
}

/// dx as in `standardise_back` with g = dy, times scale, which is the same for a whole image
fn instance_x(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let s = instance(e)?;
    let scale = e.x(1)?;
    let scale = per_channel(e, &scale, dy.rank());
    // Into inv, which is small, rather than into dy.
    let inv = e.mul(&s.inv, &scale);
    Ok(standardise_back(e, &Standard { inv, ..s }, dy))
}

/// dscale = sum(dy * xhat)
fn instance_scale(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let s = instance(e)?;
    let d = e.mul(dy, &s.xhat);
    Ok(over_images(e, &d))
}

// --- GroupNormalization: y = scale * xhat + bias over all channels of a group ------------------------------------------

/// [N, C, ...] seen as [N, groups, channels of a group, pixels].
fn grouped(e: &mut Emit<'_>, v: &Value) -> Result<Value, OpError> {
    let groups = e.int("num_groups", 0)?;
    let (n, c) = (v.shape()[0], v.shape()[1]);
    let g =
        usize::try_from(groups).ok().filter(|&g| g > 0 && c.is_multiple_of(g)).ok_or_else(|| OpError::Attribute {
            name: "num_groups".into(),
            expected: format!("a divisor of the {c} channels"),
            got: groups.to_string(),
        })?;
    let pixels = v.shape()[2..].iter().product();
    Ok(e.reshape(v, &[n, g, c / g, pixels]))
}

/// Shape of scale and bias against [N, groups, channels of a group, pixels]: opset 18 has one number a group, opset 21
/// one a channel.
fn group_parameter(e: &Emit<'_>, x: &Value) -> [usize; 3] {
    let per_group = e.graph.opset() < 21;
    [x.shape()[1], if per_group { 1 } else { x.shape()[2] }, 1]
}

fn group(e: &mut Emit<'_>, x: &Value) -> Result<Standard, OpError> {
    let epsilon = e.float("epsilon", 1e-5)?;
    Ok(standardise(e, x, vec![2, 3], epsilon))
}

/// g = dy * scale      dx as in `standardise_back`
fn group_x(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, scale) = (e.x(0)?, e.x(1)?);
    let (view, dy) = (grouped(e, &x)?, grouped(e, dy)?);
    let s = group(e, &view)?;
    let scale = e.reshape(&scale, &group_parameter(e, &view));
    let g = e.mul(&dy, &scale);
    let d = standardise_back(e, &s, &g);
    Ok(e.reshape(&d, x.shape()))
}

/// dscale = sum(dy * xhat)
fn group_scale(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let (view, dy) = (grouped(e, &x)?, grouped(e, dy)?);
    let s = group(e, &view)?;
    let d = e.mul(&dy, &s.xhat);
    group_sum(e, &d)
}

/// dbias = sum dy
fn group_bias(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let dy = grouped(e, dy)?;
    group_sum(e, &dy)
}

fn group_sum(e: &mut Emit<'_>, d: &Value) -> Result<Value, OpError> {
    let target = e.x(e.at())?;
    let d = e.unbroadcast(d, &group_parameter(e, d));
    Ok(e.reshape(&d, target.shape()))
}

// --- Without parameters ----------------------------------------------------------------------------------------------

/// y = (x - mean) * inv, inv = 1 / (sqrt(var) + 1e-9)      dx as in `standardise_back` with g = dy
///
/// The 1e-9 is the operator's own. It only tells in a group without any variance, which has no direction to stretch in.
fn mean_variance(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, y) = (e.x(0)?, e.y(0)?);
    let mut axes = target_axes(x.rank(), Some(e.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3])))?;
    axes.sort_unstable();
    let mean = e.reduce_mean(&x, &axes, true);
    let centred = e.sub(&x, &mean);
    let square = e.mul(&centred, &centred);
    let var = e.reduce_mean(&square, &axes, true);
    let (deviation, tiny) = (e.unary("Sqrt", &var), e.num(1e-9));
    let deviation = e.add(&deviation, &tiny);
    let inv = e.unary("Reciprocal", &deviation);
    Ok(standardise_back(e, &Standard { axes, xhat: y, inv }, dy))
}

/// y = x / |x|_p      p = 2: dx = (dy - y * sum(dy * y)) / |x|      p = 1: dx = (dy - sign x * sum(dy * y)) / |x|
fn lp(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, y) = (e.x(0)?, e.y(0)?);
    let axes = [e.axis("axis", -1, x.rank())?];
    let (norm, direction) = match e.int("p", 2)? {
        1 => ("ReduceL1", e.unary("Sign", &x)),
        2 => ("ReduceL2", y.clone()),
        other => {
            return Err(OpError::Attribute { name: "p".into(), expected: "1 or 2".into(), got: other.to_string() });
        }
    };
    let norm = e.reduce(norm, &x, &axes, true);
    let product = e.mul(dy, &y);
    let along = e.reduce_sum(&product, &axes, true);
    let shrink = e.mul(&direction, &along);
    let d = e.sub(dy, &shrink);
    let one = e.num(1.0);
    let inverse = over_norm(e, &one, &norm);
    Ok(e.mul(&d, &inverse))
}

/// D = bias + alpha/size * B x^2, y = x * D^-beta      dx = dy * D^-beta - 2 alpha beta/size * x * B^T (dy * y / D)
///
/// B sums the `size` channels around each one: entry [c, k] is 1 where c - floor((size-1)/2) <= k <= c + ceil((size-1)/2).
fn lrn(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, y) = (e.x(0)?, e.y(0)?);
    let alpha = f64::from(e.float("alpha", 1e-4)?);
    let beta = f64::from(e.float("beta", 0.75)?);
    let bias = f64::from(e.float("bias", 1.0)?);
    let size = e.int("size", 0)?;
    let (n, c) = (x.shape()[0], x.shape()[1]);
    let flat = [n, c, x.shape()[2..].iter().product()];
    let width = usize::try_from(size).ok().filter(|&s| s > 0).ok_or_else(|| OpError::Attribute {
        name: "size".into(),
        expected: "a positive number of channels".into(),
        got: size.to_string(),
    })?;
    let near = |c: usize, k: usize| k + (width - 1) / 2 >= c && k <= c + width / 2;
    let band: Vec<f64> = (0..c * c).map(|i| if near(i / c, i % c) { 1.0 } else { 0.0 }).collect();
    let band = e.nums(&[c, c], &band);
    let band_t = e.transpose(&band, &[1, 0]);

    let (x, y, dy) = (e.reshape(&x, &flat), e.reshape(&y, &flat), e.reshape(dy, &flat));
    let square = e.mul(&x, &x);
    let sums = e.matmul(&band, &square);
    let sums = e.scale(&sums, alpha / width as f64);
    let bias = e.num(bias);
    let d = e.add(&sums, &bias);
    let exponent = e.num(-beta);
    let power = e.binary("Pow", &d, &exponent);
    let direct = e.mul(&dy, &power);
    let weighted = e.mul(&dy, &y);
    let weighted = e.div(&weighted, &d);
    let back = e.matmul(&band_t, &weighted);
    let back = e.mul(&x, &back);
    let back = e.scale(&back, 2.0 * alpha * beta / width as f64);
    let dx = e.sub(&direct, &back);
    let shape = e.x(0)?;
    Ok(e.reshape(&dx, shape.shape()))
}
