//! Convolutions and their adjoints, in any number of spatial axes.
//!
//! A convolution is linear in its input and in its weight, so every gradient here is one of three maps over the same
//! windows: forward (x, w to y), to the input (dy, w to dx) and to the weight (x, dy to dw). `ConvTranspose` is the map
//! to the input, so its own gradients are the other two. Each map can be written in several forms that compute the same
//! numbers at very different speeds; [`choice`](super::choice) has the rules by shape, and a graph may bring what was found
//! by timing.

mod forms;
mod kernel;

pub use super::window::Axis;
pub(super) use forms::scattered;
pub use forms::{forward, input_gradient, weight_gradient};
pub(super) use kernel::trimmed;

use super::{
    Emit,
    Flow::{Constant, Vjp},
    Op, OpError, Rivals,
    choice::{Form, Map, Task, chosen},
    window::{split_padding, windows},
};
use crate::graph::Value;

const CONV: &[&str] = &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"];
const CONV_TRANSPOSE: &[&str] =
    &["auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape", "pads", "strides"];

pub(super) const OPS: &[Op] = &[
    Op::new("Conv", CONV, &[Vjp(conv_x), Vjp(conv_w), Vjp(bias)]).lowered_by(lower_forward).competing(conv_tasks),
    Op::new("ConvTranspose", CONV_TRANSPOSE, &[Vjp(transposed_x), Vjp(transposed_w), Vjp(bias)])
        .lowered_by(lower_transposed)
        .competing(transposed_tasks),
    Op::new("Col2Im", &["dilations", "pads", "strides"], &[Vjp(col2im), Constant, Constant]),
];

/// Everything that decides where a convolution reads: x [n, c, size...], w [m, c / g, kernel...], y [n, m, out...].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Batch size.
    pub n: usize,
    /// Channels of x.
    pub c: usize,
    /// Channels of y.
    pub m: usize,
    /// Groups.
    pub g: usize,
    /// Windows, one entry a spatial axis.
    pub axes: Vec<Axis>,
}

impl Geometry {
    /// Spatial lengths of x.
    pub fn size(&self) -> Vec<usize> {
        self.axes.iter().map(|a| a.size).collect()
    }

    /// Spatial lengths of y.
    pub fn out(&self) -> Vec<usize> {
        self.axes.iter().map(|a| a.out).collect()
    }

    /// Spatial lengths of w.
    pub fn kernel(&self) -> Vec<usize> {
        self.axes.iter().map(|a| a.kernel).collect()
    }

    /// Number of windows of one image.
    pub fn windows(&self) -> usize {
        self.axes.iter().map(|a| a.out).product()
    }

    /// Number of positions of one image.
    pub fn positions(&self) -> usize {
        self.axes.iter().map(|a| a.size).product()
    }

    /// Number of taps of a window.
    pub fn taps(&self) -> usize {
        self.axes.iter().map(|a| a.kernel).product()
    }

    /// `head` followed by the lengths `f` takes from each axis.
    pub(super) fn shape(&self, head: &[usize], f: impl Fn(&Axis) -> usize) -> Vec<usize> {
        head.iter().copied().chain(self.axes.iter().map(f)).collect()
    }

    /// True for one tap per position and nothing left out: the convolution is a product of matrices.
    fn is_pointwise(&self) -> bool {
        self.axes.iter().all(|a| a.kernel == 1 && a.stride == 1 && a.before == 0 && a.size == a.out)
    }

    /// True where windows are one apart.
    pub(super) fn is_unstrided(&self) -> bool {
        self.axes.iter().all(|a| a.stride == 1)
    }

    /// True where the tool's own operator covers it: one group, or a group for every channel.
    pub(super) fn is_native(&self) -> bool {
        self.g == 1 || (self.g == self.c && self.c == self.m)
    }

    /// Number of (window, position) pairs that a tap connects.
    pub(super) fn pairs(&self) -> usize {
        let along =
            |a: &Axis| (0..a.out).map(|o| (0..a.kernel).filter(|&t| a.reads(o, t).is_some()).count()).sum::<usize>();
        self.axes.iter().map(along).product()
    }
}

/// The geometry of a `Conv` node from the shapes of its values.
fn conv_geometry(e: &Emit<'_>, y: &[usize]) -> Result<Geometry, OpError> {
    let (x, w) = (e.x(0)?, e.x(1)?);
    let g = e.int("group", 1)? as usize;
    let axes = windows(e, &x.shape()[2..], &y[2..], &w.shape()[2..])?;
    Ok(Geometry { n: x.shape()[0], c: x.shape()[1], m: w.shape()[0], g, axes })
}

/// y = sum over taps of W[t] x[t] + b      dx = sum over taps of W[t]^T dy, put back where the tap read
fn conv_x(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let q = conv_geometry(e, dy.shape())?;
    let w = e.x(1)?;
    let form = chosen(e, Map::Input, &q);
    Ok(input_gradient(e, &q, form, dy, &w))
}

/// dW[t] = sum over images and windows of dy x[t]^T
fn conv_w(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let q = conv_geometry(e, dy.shape())?;
    let x = e.x(0)?;
    let form = chosen(e, Map::Weight, &q);
    Ok(weight_gradient(e, &q, form, &x, dy))
}

/// db = dy summed over images and positions
#[allow(clippy::unnecessary_wraps)] // the type of every rule
fn bias(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    if e.is_native() {
        return Ok(e.channel_sums(dy));
    }
    let axes: Vec<usize> = (0..dy.rank()).filter(|&i| i != 1).collect();
    Ok(e.reduce_sum(dy, &axes, false))
}

/// The geometry of the convolution whose map to the input a `ConvTranspose` node is: it reads the node's output.
fn transposed_geometry(e: &Emit<'_>, y: &[usize]) -> Result<Geometry, OpError> {
    let (x, w) = (e.x(0)?, e.x(1)?);
    let g = e.int("group", 1)? as usize;
    let mut axes = windows(e, &y[2..], &x.shape()[2..], &w.shape()[2..])?;
    let sized = e.ints("output_shape")?.is_some();
    let auto = e.str("auto_pad", "NOTSET")?;
    let extra = e.ints("output_padding")?.unwrap_or_else(|| vec![0; axes.len()]);
    if sized || auto.starts_with("SAME") {
        for (a, extra) in axes.iter_mut().zip(extra) {
            // With the output's length given, padding is what the full result has too much; without SAME_UPPER the
            // odd element is cut off at the front.
            let total = (a.span() as i64 + extra - a.size as i64).max(0);
            let mode = if auto == "SAME_UPPER" { "SAME_UPPER" } else { "SAME_LOWER" };
            (a.before, a.after) = split_padding(mode, total, (0, 0))?;
        }
    }
    Ok(Geometry { n: x.shape()[0], c: y[1], m: x.shape()[1], g, axes })
}

/// y = the map to the input of a convolution with weight W, so dx = that convolution of dy
fn transposed_x(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let q = transposed_geometry(e, dy.shape())?;
    let w = e.x(1)?;
    let form = chosen(e, Map::Forward, &q);
    Ok(forward(e, &q, form, dy, &w))
}

/// dW as for that convolution, with dy in the place of its input and x in the place of its output gradient
fn transposed_w(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let q = transposed_geometry(e, dy.shape())?;
    let x = e.x(0)?;
    let form = chosen(e, Map::Weight, &q);
    Ok(weight_gradient(e, &q, form, dy, &x))
}

/// y = the columns of x [n, c * taps, windows], added up where the taps read      dx = the columns of dy
fn col2im(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let lengths = |i: usize| -> Result<Vec<usize>, OpError> {
        let v = e.known_ints(i)?.ok_or_else(|| OpError::Unsupported(format!("input {i} is missing")))?;
        Ok(v.into_iter().map(|d| d.max(0) as usize).collect())
    };
    let (x, size, kernel) = (e.x(0)?, lengths(1)?, lengths(2)?);
    let mut axes = windows(e, &size, &vec![1; size.len()], &kernel)?;
    for a in &mut axes {
        let room = a.size as i64 + a.before + a.after - a.extent() as i64;
        a.out = room.max(0) as usize / a.stride + 1;
    }
    let (n, c) = (dy.shape()[0], dy.shape()[1]);
    let q = Geometry { n, c, m: c, g: c, axes };
    let columns = forms::image_columns(e, &q, dy);
    Ok(e.reshape(&columns, x.shape()))
}

fn conv_tasks(e: &Emit<'_>, y: &[usize]) -> Result<Rivals, OpError> {
    let q = conv_geometry(e, y)?;
    let task = |map| Task { map, geometry: q.clone() };
    Ok(vec![(None, task(Map::Forward)), (Some(0), task(Map::Input)), (Some(1), task(Map::Weight))])
}

fn transposed_tasks(e: &Emit<'_>, y: &[usize]) -> Result<Rivals, OpError> {
    let q = transposed_geometry(e, y)?;
    let task = |map| Task { map, geometry: q.clone() };
    Ok(vec![(Some(0), task(Map::Forward)), (Some(1), task(Map::Weight))])
}

/// Writes the node of `e`, a `Conv` whose output has the shape `y`, in another form where that is faster for weights
/// that change from step to step; `None` where the node is best left as it is. The result stands for
/// the node's output, under a name of its own; columns of x are shared with the gradient to the weight.
pub fn lower_forward(e: &mut Emit<'_>, y: &[usize]) -> Result<Option<Value>, OpError> {
    let q = conv_geometry(e, y)?;
    match chosen(e, Map::Forward, &q) {
        Form::Direct => Ok(None),
        form => with_bias(e, &q, form).map(Some),
    }
}

/// Writes a `ConvTranspose` node in another form where there is a faster one or the graph avoids the operator.
fn lower_transposed(e: &mut Emit<'_>, y: &[usize]) -> Result<Option<Value>, OpError> {
    let q = transposed_geometry(e, y)?;
    let avoided = e.graph.avoids("ConvTranspose");
    let form = if e.is_native() && q.is_native() {
        Form::Native
    } else if avoided {
        Form::Columns
    } else {
        Form::Direct
    };
    if form == Form::Direct {
        return Ok(None);
    }
    let (x, w) = (e.x(0)?, e.x(1)?);
    let sums = input_gradient(e, &q, form, &x, &w);
    biased(e, &q, sums).map(Some)
}

/// The node of `e`, a `Conv` whose output has the shape `y`, as a product of matrices.
pub(super) fn as_product(e: &mut Emit<'_>, y: &[usize]) -> Result<Value, OpError> {
    let q = conv_geometry(e, y)?;
    with_bias(e, &q, Form::Columns)
}

fn with_bias(e: &mut Emit<'_>, q: &Geometry, form: Form) -> Result<Value, OpError> {
    let (x, w) = (e.x(0)?, e.x(1)?);
    if matches!(form, Form::Native | Form::Sums) && e.has(2) {
        let b = e.x(2)?;
        return Ok(forms::native_forward(e, q, form, &x, &w, Some(&b)));
    }
    let y = forward(e, q, form, &x, &w);
    biased(e, q, y)
}

/// y and the bias of the node, where it has one.
fn biased(e: &mut Emit<'_>, q: &Geometry, y: Value) -> Result<Value, OpError> {
    if !e.has(2) {
        return Ok(y);
    }
    let b = e.x(2)?;
    let mut column = vec![b.len()];
    column.resize(q.axes.len() + 1, 1);
    let b = e.reshape(&b, &column);
    Ok(e.add(&y, &b))
}
