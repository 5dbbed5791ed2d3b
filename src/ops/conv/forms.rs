//! The maps of a convolution in each of their forms.
//!
//! The batch forms put the batch last ([c, size..., n]): images are copied in long runs however small the maps are, and
//! the weight stays in the file's layout, because moving a large weight costs more than a product with it.

use super::{
    Axis, Geometry,
    kernel::{gathered, spread, trimmed, unravel},
};
use crate::{
    graph::{Attr, NATIVE, Value, native},
    ops::{Emit, Form},
};

/// The convolution of x with w, without bias. Forms that do not apply count as [`Form::Direct`].
pub fn forward(e: &mut Emit<'_>, q: &Geometry, form: Form, x: &Value, w: &Value) -> Value {
    let shape = q.shape(&[q.n, q.m], |a| a.out);
    match form {
        Form::Native | Form::Sums if q.is_native() => native_forward(e, q, form, x, w, None),
        Form::Dense if q.g == 1 => {
            let cut = trimmed(q);
            let q = &cut.geometry;
            let w = cut.cut(e, w);
            let matrix = spread(e, q, &w);
            let x = e.reshape(x, &[q.n, q.c * q.positions()]);
            let y = e.gemm(&x, &matrix, false, true);
            e.reshape(&y, &shape)
        }
        Form::Columns => {
            let cut = trimmed(q);
            let q = &cut.geometry;
            let w = cut.cut(e, w);
            let cols = columns(e, q, x);
            let w = e.reshape(&w, &[q.g, q.m / q.g, q.c / q.g * q.taps()]);
            let y = grouped(e, &w, &cols, false, false);
            let y = e.reshape(&y, &q.shape(&[q.m], |a| a.out).into_iter().chain([q.n]).collect::<Vec<_>>());
            batch_first(e, &y)
        }
        _ => {
            // Inputs that no window reaches are cut off, because operators take no negative padding.
            let (x, before, after) = reached(e, q, x);
            let mut attrs = attributes(q);
            attrs.push(("pads", before.into_iter().chain(after).collect::<Vec<_>>().into()));
            e.op("Conv", &[&x, w], &attrs, &shape)
        }
    }
}

/// The tool's own convolution, with the bias where it is given.
pub(super) fn native_forward(
    e: &mut Emit<'_>,
    q: &Geometry,
    form: Form,
    x: &Value,
    w: &Value,
    bias: Option<&Value>,
) -> Value {
    let shape = q.shape(&[q.n, q.m], |a| a.out);
    let inputs: Vec<&str> = [x.name(), w.name()].into_iter().chain(bias.map(Value::name)).collect();
    own(e, q, form, native::FORWARD, &inputs, &shape)
}

/// An operator of the tool's own over these windows.
fn own(e: &mut Emit<'_>, q: &Geometry, form: Form, op: &str, inputs: &[&str], shape: &[usize]) -> Value {
    let mut attrs = vec![(native::AXES, Axis::to_numbers(&q.axes).into()), (native::GROUP, (q.g as i64).into())];
    if form == Form::Sums {
        attrs.push((native::TILES, 0i64.into()));
    }
    e.graph.raw(NATIVE, op, inputs, &attrs, &[shape.to_vec()]).remove(0)
}

/// The gradient of x. Forms that do not apply count as [`Form::Direct`].
pub fn input_gradient(e: &mut Emit<'_>, q: &Geometry, form: Form, dy: &Value, w: &Value) -> Value {
    let shape = q.shape(&[q.n, q.c], |a| a.size);
    match form {
        Form::Native | Form::Sums if q.is_native() => {
            own(e, q, form, native::INPUT_GRADIENT, &[dy.name(), w.name()], &shape)
        }
        Form::Dense if q.g == 1 => {
            let cut = trimmed(q);
            let q = &cut.geometry;
            let w = cut.cut(e, w);
            let matrix = spread(e, q, &w);
            let dy = e.reshape(dy, &[q.n, q.m * q.windows()]);
            let dx = e.gemm(&dy, &matrix, false, false);
            e.reshape(&dx, &shape)
        }
        Form::Columns => {
            let cut = trimmed(q);
            let q = &cut.geometry;
            let w = cut.cut(e, w);
            let dy = batch_last(e, dy);
            let dy = e.reshape(&dy, &[q.g, q.m / q.g, q.windows() * q.n]);
            let w = e.reshape(&w, &[q.g, q.m / q.g, q.c / q.g * q.taps()]);
            let cols = grouped(e, &w, &dy, true, false);
            let dx = images(e, q, &cols);
            batch_first(e, &dx)
        }
        Form::Flipped if q.is_unstrided() => {
            let back = q.axes.iter().map(|a| super::Axis {
                size: a.out,
                out: a.size,
                before: a.extent() as i64 - 1 - a.before,
                ..*a
            });
            let back = Geometry { n: q.n, c: q.m, m: q.c, g: q.g, axes: back.collect() };
            let w = turned(e, q, w);
            forward(e, &back, Form::Direct, dy, &w)
        }
        _ => scattered(e, q, dy, w),
    }
}

/// The kernel turned round on all spatial axes, input and output channels swapped inside each group.
fn turned(e: &mut Emit<'_>, q: &Geometry, w: &Value) -> Value {
    let (mg, cg) = (q.m / q.g, q.c / q.g);
    let split = e.reshape(w, &q.shape(&[q.g, mg, cg], |a| a.kernel));
    let perm: Vec<usize> = [0, 2, 1].into_iter().chain(3..split.rank()).collect();
    let swapped = e.transpose(&split, &perm);
    let w = e.reshape(&swapped, &q.shape(&[q.c, mg], |a| a.kernel));
    let axes: Vec<usize> = (2..w.rank()).filter(|&i| w.shape()[i] > 1).collect();
    e.reversed(&w, &axes)
}

/// The gradient of w. Forms that do not apply ([`Form::Direct`] with groups among them) count as [`Form::Columns`].
pub fn weight_gradient(e: &mut Emit<'_>, q: &Geometry, form: Form, x: &Value, dy: &Value) -> Value {
    if matches!(form, Form::Native | Form::Sums) && q.is_native() {
        let shape = q.shape(&[q.m, q.c / q.g], |a| a.kernel);
        return own(e, q, form, native::WEIGHT_GRADIENT, &[x.name(), dy.name()], &shape);
    }
    let cut = trimmed(q);
    let dw = match form {
        Form::Dense if q.g == 1 => dense_weight(e, &cut.geometry, x, dy),
        Form::Images => image_weight(e, &cut.geometry, x, dy),
        Form::Direct if q.g == 1 => direct_weight(e, &cut.geometry, x, dy),
        _ => {
            let q = &cut.geometry;
            let cols = columns(e, q, x);
            let dy = batch_last(e, dy);
            let dy = e.reshape(&dy, &[q.g, q.m / q.g, q.windows() * q.n]);
            let dw = grouped(e, &dy, &cols, false, true);
            e.reshape(&dw, &q.shape(&[q.m, q.c / q.g], |a| a.kernel))
        }
    };
    cut.restore(e, &dw)
}

fn dense_weight(e: &mut Emit<'_>, q: &Geometry, x: &Value, dy: &Value) -> Value {
    let x = e.reshape(x, &[q.n, q.c * q.positions()]);
    let dy = e.reshape(dy, &[q.n, q.m * q.windows()]);
    let matrix = e.gemm(&dy, &x, true, false);
    gathered(e, q, &matrix)
}

/// Per image dy [m, windows] times columns [windows, c * taps], then the sum over images.
fn image_weight(e: &mut Emit<'_>, q: &Geometry, x: &Value, dy: &Value) -> Value {
    let (p, rows) = (q.windows(), q.c / q.g * q.taps());
    let cols = if q.is_pointwise() {
        e.reshape(x, &[q.n, q.g, rows, p])
    } else {
        let cols = image_columns(e, q, x);
        e.reshape(&cols, &[q.n, q.g, rows, p])
    };
    let dy = e.reshape(dy, &[q.n, q.g, q.m / q.g, p]);
    let cols = e.swap_last(&cols);
    let each = e.matmul(&dy, &cols);
    let dw = e.reduce_sum(&each, &[0], false);
    e.reshape(&dw, &q.shape(&[q.m, q.c / q.g], |a| a.kernel))
}

/// [n, c, taps, windows]: what every tap reads, image by image.
pub(super) fn image_columns(e: &mut Emit<'_>, q: &Geometry, x: &Value) -> Value {
    let parts = taps_of(e, q, x, 2);
    let parts: Vec<Value> = parts.iter().map(|t| e.reshape(t, &[q.n, q.c, 1, q.windows()])).collect();
    e.concat(&parts.iter().collect::<Vec<_>>(), 2)
}

/// A convolution of x with dy, images and channels trading places: stride and dilation trade places too.
fn direct_weight(e: &mut Emit<'_>, q: &Geometry, x: &Value, dy: &Value) -> Value {
    let (x, before, after) = reached(e, q, x);
    let swap: Vec<usize> = [1, 0].into_iter().chain(2..x.rank()).collect();
    let (x, dy) = (e.transpose(&x, &swap), e.transpose(dy, &swap));
    let attrs = [
        ("dilations", q.axes.iter().map(|a| a.stride as i64).collect::<Vec<_>>().into()),
        ("strides", q.axes.iter().map(|a| a.dilation as i64).collect::<Vec<_>>().into()),
        ("pads", before.into_iter().chain(after).collect::<Vec<_>>().into()),
    ];
    // `reached` leaves exactly the span of the windows, so exactly the taps come out.
    let dw = e.op("Conv", &[&x, &dy], &attrs, &q.shape(&[q.c, q.m], |a| a.kernel));
    e.transpose(&dw, &swap)
}

/// The runtime's `ConvTranspose`: every output gradient times the kernel, added up where the taps read.
pub fn scattered(e: &mut Emit<'_>, q: &Geometry, dy: &Value, w: &Value) -> Value {
    if e.graph.avoids("ConvTranspose") {
        return input_gradient(e, q, Form::Columns, dy, w);
    }
    // Operators take no negative padding: inputs before the first window are zeros put in front afterwards, and inputs
    // after the last one are zeros that output_padding appends.
    let mut attrs = attributes(q);
    let (before, after): (Vec<i64>, Vec<i64>) = q.axes.iter().map(|a| (a.before.max(0), a.tail().max(0))).unzip();
    let extra: Vec<i64> = q.axes.iter().map(|a| (-a.tail()).max(0)).collect();
    let front: Vec<i64> = [0, 0].into_iter().chain(q.axes.iter().map(|a| (-a.before).max(0))).collect();
    // A long tail is beyond what output_padding may be.
    let long = q.axes.iter().zip(&extra).any(|(a, &x)| x >= a.stride.max(a.dilation) as i64);
    let appended = if long { vec![0; extra.len()] } else { extra.clone() };
    attrs.push(("pads", before.into_iter().chain(after).collect::<Vec<_>>().into()));
    attrs.push(("output_padding", appended.clone().into()));
    let mut shape = vec![q.n, q.c];
    for (i, a) in q.axes.iter().enumerate() {
        shape.push((a.size as i64 - front[i + 2] - extra[i] + appended[i]) as usize);
    }
    let dx = e.op("ConvTranspose", &[dy, w], &attrs, &shape);
    let back: Vec<i64> = [0, 0].into_iter().chain(extra.iter().zip(&appended).map(|(x, a)| x - a)).collect();
    e.pad(&dx, &front, &back)
}

/// Group, strides and dilations as the operators spell them.
fn attributes(q: &Geometry) -> Vec<(&'static str, Attr)> {
    vec![
        ("dilations", q.axes.iter().map(|a| a.dilation as i64).collect::<Vec<_>>().into()),
        ("group", Attr::Int(q.g as i64)),
        ("strides", q.axes.iter().map(|a| a.stride as i64).collect::<Vec<_>>().into()),
    ]
}

/// x [n, c, size...] without the inputs outside all windows, and the padding that then makes up their span.
fn reached(e: &mut Emit<'_>, q: &Geometry, x: &Value) -> (Value, Vec<i64>, Vec<i64>) {
    let edge = |f: &dyn Fn(&super::Axis) -> i64| [0, 0].into_iter().chain(q.axes.iter().map(f)).collect::<Vec<i64>>();
    let x = e.pad(x, &edge(&|a| a.before.min(0)), &edge(&|a| a.tail().min(0)));
    let pads = |f: &dyn Fn(&super::Axis) -> i64| q.axes.iter().map(|a| f(a).max(0)).collect::<Vec<i64>>();
    (x, pads(&|a| a.before), pads(&super::Axis::tail))
}

/// What each tap reads, in the order of the kernel; the spatial axes of x begin at `at`.
fn taps_of(e: &mut Emit<'_>, q: &Geometry, x: &Value, at: usize) -> Vec<Value> {
    let mut before = vec![0; x.rank()];
    let mut after = vec![0; x.rank()];
    for (i, a) in q.axes.iter().enumerate() {
        (before[at + i], after[at + i]) = (a.before, a.tail());
    }
    let x = e.pad(x, &before, &after);
    let axes: Vec<usize> = (at..at + q.axes.len()).collect();
    let kernel = q.kernel();
    let steps: Vec<i64> = q.axes.iter().map(|a| a.stride as i64).collect();
    (0..q.taps())
        .map(|tap| {
            let t = unravel(tap, &kernel);
            let starts: Vec<i64> = q.axes.iter().zip(&t).map(|(a, t)| (t * a.dilation) as i64).collect();
            let ends: Vec<i64> =
                q.axes.iter().zip(&starts).map(|(a, s)| s + ((a.out - 1) * a.stride) as i64 + 1).collect();
            e.slice(&x, &axes, &starts, &ends, &steps)
        })
        .collect()
}

/// [g, c / g * taps, windows * n]: what every tap reads, the batch last.
fn columns(e: &mut Emit<'_>, q: &Geometry, x: &Value) -> Value {
    let run = q.windows() * q.n;
    let x = batch_last(e, x);
    let parts = taps_of(e, q, &x, 1);
    let parts: Vec<Value> = parts.iter().map(|t| e.reshape(t, &[q.c, 1, run])).collect();
    let cols = e.concat(&parts.iter().collect::<Vec<_>>(), 1);
    e.reshape(&cols, &[q.g, q.c / q.g * q.taps(), run])
}

/// Adjoint of [`columns`] up to the batch axis: adds every tap's values where the tap read; [c, size..., n].
fn images(e: &mut Emit<'_>, q: &Geometry, cols: &Value) -> Value {
    let taps = q.taps();
    let mut split = vec![q.c, taps];
    split.extend(q.out());
    split.push(q.n);
    let cols = e.reshape(cols, &split);
    let kernel = q.kernel();
    let mut parts = Vec::new();
    for tap in 0..taps {
        let one = e.slice(&cols, &[1], &[tap as i64], &[tap as i64 + 1], &[1]);
        let one = e.reshape(&one, &[&[q.c], &q.out()[..], &[q.n]].concat());
        parts.push(placed(e, q, &one, &unravel(tap, &kernel)));
    }
    if let [only] = parts.as_slice() {
        return only.clone();
    }
    let shape = parts[0].shape().to_vec();
    e.op("Sum", &parts.iter().collect::<Vec<_>>(), &[], &shape)
}

/// One value a window [c, out..., n], put where tap `t` of the window read: [c, size..., n].
fn placed(e: &mut Emit<'_>, q: &Geometry, v: &Value, t: &[usize]) -> Value {
    // First the zeros between windows, then those around them.
    let mut apart = vec![q.c];
    let mut gaps = vec![0];
    let mut wide = vec![q.c];
    for a in &q.axes {
        let step = if a.out == 1 { 1 } else { a.stride };
        apart.extend([a.out, 1]);
        gaps.extend([0, step as i64 - 1]);
        wide.push(a.out * step);
    }
    apart.push(q.n);
    gaps.push(0);
    wide.push(q.n);
    let mut v = v.clone();
    if gaps.iter().any(|&g| g > 0) {
        v = e.reshape(&v, &apart);
        v = e.pad(&v, &vec![0; gaps.len()], &gaps);
        v = e.reshape(&v, &wide);
    }
    let mut before = vec![0];
    let mut after = vec![0];
    for (i, a) in q.axes.iter().enumerate() {
        let start = (t[i] * a.dilation) as i64 - a.before;
        before.push(start);
        after.push(a.size as i64 - start - wide[i + 1] as i64);
    }
    before.push(0);
    after.push(0);
    e.pad(&v, &before, &after)
}

/// [n, c, size...] as [c, size..., n].
fn batch_last(e: &mut Emit<'_>, v: &Value) -> Value {
    let (n, rest) = (v.shape()[0], v.shape()[1..].to_vec());
    let flat = e.reshape(v, &[n, rest.iter().product()]);
    let flat = e.transpose(&flat, &[1, 0]);
    e.reshape(&flat, &[&rest[..], &[n]].concat())
}

/// [c, size..., n] as [n, c, size...].
fn batch_first(e: &mut Emit<'_>, v: &Value) -> Value {
    let (rest, n) = (v.shape()[..v.rank() - 1].to_vec(), v.shape()[v.rank() - 1]);
    let flat = e.reshape(v, &[rest.iter().product(), n]);
    let flat = e.transpose(&flat, &[1, 0]);
    e.reshape(&flat, &[&[n], &rest[..]].concat())
}

/// Product per group of [g, ., .] with [g, ., .]; one group needs no batched product and no transposes.
fn grouped(e: &mut Emit<'_>, a: &Value, b: &Value, trans_a: bool, trans_b: bool) -> Value {
    if a.shape()[0] == 1 {
        let a = e.reshape(a, &a.shape()[1..]);
        let b = e.reshape(b, &b.shape()[1..]);
        return e.gemm(&a, &b, trans_a, trans_b);
    }
    let a = if trans_a { e.swap_last(a) } else { a.clone() };
    let b = if trans_b { e.swap_last(b) } else { b.clone() };
    e.matmul(&a, &b)
}
