//! Pools over windows.

use super::{
    Emit,
    Flow::Vjp,
    Op, OpError, Rivals,
    choice::{Form, Map, Task, chosen},
    conv::{Geometry, forward, input_gradient, scattered},
    reduce::{norm_exponent, over_norm_power, signed_power},
    window::{Axis, split_padding, windows},
};
use crate::graph::{Attr, NATIVE, Value, native};

const MAX_POOL: &[&str] = &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"];
const AVERAGE_POOL: &[&str] =
    &["auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"];
const LP_POOL: &[&str] = &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "p", "pads", "strides"];

pub(super) const OPS: &[Op] = &[
    Op::new("MaxPool", MAX_POOL, &[Vjp(max_pool)]).competing(|e, y| rivals(e, Map::Maximum, y)),
    Op::new("AveragePool", AVERAGE_POOL, &[Vjp(average_pool)]).competing(|e, y| rivals(e, Map::Average, y)),
    Op::new("LpPool", LP_POOL, &[Vjp(lp_pool)]).competing(|e, y| rivals(e, Map::Average, y)),
];

fn rivals(e: &Emit<'_>, map: Map, y: &[usize]) -> Result<Rivals, OpError> {
    Ok(vec![(Some(0), Task { map, geometry: geometry(e, y)? })])
}

/// What the node reads, a group for every channel.
fn geometry(e: &Emit<'_>, y: &[usize]) -> Result<Geometry, OpError> {
    Ok(Geometry { n: y[0], c: y[1], m: y[1], g: y[1], axes: pool_windows(e, y)? })
}

/// The windows of the node, whose output has the shape `y`.
fn pool_windows(e: &Emit<'_>, y: &[usize]) -> Result<Vec<Axis>, OpError> {
    let x = e.x(0)?;
    let kernel = e.ints("kernel_shape")?.ok_or_else(|| OpError::Attribute {
        name: "kernel_shape".into(),
        expected: "a list of integers".into(),
        got: "nothing".into(),
    })?;
    let kernel: Vec<usize> = kernel.iter().map(|&k| k as usize).collect();
    let mut axes = windows(e, &x.shape()[2..], &y[2..], &kernel)?;
    let auto = e.str("auto_pad", "NOTSET")?;
    if auto.starts_with("SAME") {
        for a in &mut axes {
            // For pools the runtime takes no notice of dilations here.
            let missing = ((a.size.div_ceil(a.stride) - 1) * a.stride + a.kernel) as i64 - a.size as i64;
            (a.before, a.after) = split_padding(&auto, missing, (0, 0))?;
        }
    }
    Ok(axes)
}

/// y = the largest x of each window      dx = dy added up where those stood
fn max_pool(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let q = geometry(e, dy.shape())?;
    let form = chosen(e, Map::Maximum, &q);
    if form == Form::Native {
        return Ok(native_maxima(e, &q, &x, dy));
    }
    let node = e.node();
    let places = if node.output(1).is_some() && e.int("storage_order", 0)? == 0 {
        e.y(1)?
    } else {
        // The order in which places count does not change the maxima.
        let attrs = node.attrs.iter().filter(|(name, _)| *name != "storage_order");
        let attrs: Vec<(&str, Attr)> = attrs.map(|(name, attr)| (name.as_str(), attr.clone())).collect();
        places(e, &attrs, &x, dy)
    };
    Ok(scattered_maxima(e, &q, &x, dy, &places))
}

/// dy added up where the largest x of each window stands.
pub(super) fn maximum_gradient(e: &mut Emit<'_>, q: &Geometry, form: Form, x: &Value, dy: &Value) -> Value {
    if form == Form::Native {
        return native_maxima(e, q, x, dy);
    }
    let list = |f: &dyn Fn(&Axis) -> i64| q.axes.iter().map(f).collect::<Vec<i64>>();
    let beyond = q.axes.iter().any(|a| a.tail() > a.after);
    let attrs = [
        ("kernel_shape", list(&|a| a.kernel as i64).into()),
        ("strides", list(&|a| a.stride as i64).into()),
        ("dilations", list(&|a| a.dilation as i64).into()),
        ("pads", [list(&|a| a.before), list(&|a| a.after)].concat().into()),
        ("ceil_mode", Attr::Int(beyond.into())),
    ];
    let places = places(e, &attrs, x, dy);
    scattered_maxima(e, q, x, dy, &places)
}

fn native_maxima(e: &mut Emit<'_>, q: &Geometry, x: &Value, dy: &Value) -> Value {
    let attrs = [(native::AXES, Axis::to_numbers(&q.axes).into())];
    let inputs = [x.name(), dy.name()];
    e.graph.raw(NATIVE, native::MAX_POOL_GRADIENT, &inputs, &attrs, &[x.shape().to_vec()]).remove(0)
}

/// Where the largest x of each window stands: the second output of a `MaxPool`, an index into the whole of x.
fn places(e: &mut Emit<'_>, attrs: &[(&str, Attr)], x: &Value, dy: &Value) -> Value {
    let shape = dy.shape().to_vec();
    e.graph.raw("", "MaxPool", &[x.name()], attrs, &[shape.clone(), shape]).remove(1)
}

/// dy added up at these places. Windows that share no element never share a maximum, so that nothing has to be added up.
fn scattered_maxima(e: &mut Emit<'_>, q: &Geometry, x: &Value, dy: &Value, places: &Value) -> Value {
    let index = e.reshape(places, &[dy.len()]);
    let flat = e.reshape(dy, &[dy.len()]);
    let zeros = e.zeros(&[x.len()]);
    let reduction = if q.axes.iter().all(Axis::apart) { "none" } else { "add" };
    let attrs = [("axis", Attr::Int(0)), ("reduction", reduction.into())];
    let dx = e.op("ScatterElements", &[&zeros, &index, &flat], &attrs, &[x.len()]);
    e.reshape(&dx, x.shape())
}

/// y = sum of x over each window / count      dx = sum over the windows that read x of dy / count
fn average_pool(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let q = geometry(e, dy.shape())?;
    let each = divided(e, &q.axes, dy)?;
    Ok(spread_over_windows(e, &q, &each))
}

/// The node of `e`, an `AveragePool` whose output has the shape `y`, as a product with a kernel of ones.
pub(super) fn average_as_product(e: &mut Emit<'_>, y: &[usize]) -> Result<Value, OpError> {
    let (x, q) = (e.x(0)?, flat(&geometry(e, y)?));
    let x = e.reshape(&x, &q.shape(&[q.n, 1], |a| a.size));
    let ones = ones(e, &q);
    let sums = forward(e, &q, Form::Columns, &x, &ones);
    let sums = e.reshape(&sums, y);
    divided(e, &q.axes, &sums)
}

/// One value a window, divided by what the average of that window is divided by.
fn divided(e: &mut Emit<'_>, axes: &[Axis], v: &Value) -> Result<Value, OpError> {
    let with_padding = e.int("count_include_pad", 0)? != 0;
    // Windows of ceil_mode reach beyond the padding; what lies there counts for nothing in either mode.
    let counted = |a: &Axis, o: usize| {
        let (low, high) = if with_padding { (-a.before, a.size as i64 + a.after) } else { (0, a.size as i64) };
        let at = |t: usize| (o * a.stride + t * a.dilation) as i64 - a.before;
        (0..a.kernel).filter(|&t| (low..high).contains(&at(t))).count()
    };
    let along: Vec<Vec<f64>> =
        axes.iter().map(|a| (0..a.out).map(|o| 1.0 / counted(a, o).max(1) as f64).collect()).collect();
    if along.iter().all(|v| v.iter().all(|c| (c - v[0]).abs() < f64::EPSILON)) {
        return Ok(e.scale(v, along.iter().map(|v| v[0]).product()));
    }
    let weights = along
        .iter()
        .fold(vec![1.0], |all: Vec<f64>, v| all.iter().flat_map(|a| v.iter().map(move |b| a * b)).collect());
    let shape: Vec<usize> = axes.iter().map(|a| a.out).collect();
    let weights = e.nums(&shape, &weights);
    Ok(e.mul(v, &weights))
}

/// y = (sum of |x|^p over each window)^(1/p)      dx = sign(x) |x|^(p-1) * sum over windows of dy / y^(p-1)
fn lp_pool(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let q = geometry(e, dy.shape())?;
    let p = norm_exponent(e)?;
    let (x, y) = (e.x(0)?, e.y(0)?);
    let ratio = over_norm_power(e, dy, &y, p);
    let back = spread_over_windows(e, &q, &ratio);
    let along = signed_power(e, &x, p);
    Ok(e.mul(&back, &along))
}

/// Adds every window's value to all inputs the window read.
fn spread_over_windows(e: &mut Emit<'_>, q: &Geometry, v: &Value) -> Value {
    let form = chosen(e, Map::Average, q);
    average_gradient(e, q, form, v)
}

/// True where a value for every window can be repeated over what the window reads.
pub(super) fn repeats(q: &Geometry) -> bool {
    q.axes.iter().all(|a| a.dilation == 1 && a.apart())
}

/// dy of every window added to all that the window read.
pub(super) fn average_gradient(e: &mut Emit<'_>, q: &Geometry, form: Form, dy: &Value) -> Value {
    match form {
        Form::Repeated => repeated(e, q, dy),
        Form::Native | Form::Flipped => {
            let ones = ones(e, q);
            input_gradient(e, q, form, dy, &ones)
        }
        _ => {
            let flat = flat(q);
            let dy = e.reshape(dy, &flat.shape(&[flat.n, 1], |a| a.out));
            let ones = ones(e, &flat);
            let dx = scattered(e, &flat, &dy, &ones);
            e.reshape(&dx, &q.shape(&[q.n, q.c], |a| a.size))
        }
    }
}

/// A kernel of ones for every channel.
fn ones(e: &mut Emit<'_>, q: &Geometry) -> Value {
    let shape = q.shape(&[q.m, 1], |a| a.kernel);
    e.nums(&shape, &vec![1.0; shape.iter().product()])
}

/// The same windows with every channel as an image of its own, so that all share one kernel.
fn flat(q: &Geometry) -> Geometry {
    Geometry { n: q.n * q.c, c: 1, m: 1, g: 1, axes: q.axes.clone() }
}

/// Windows side by side: every value is repeated over its window, with zeros between windows.
fn repeated(e: &mut Emit<'_>, q: &Geometry, v: &Value) -> Value {
    let (n, c) = (q.n, q.c);
    let (mut one, mut all, mut gaps, mut joined) = (vec![n, c], vec![n, c], vec![0, 0], vec![n, c]);
    let (mut before, mut after) = (vec![0, 0], vec![0, 0]);
    for a in &q.axes {
        let step = if a.out == 1 { a.kernel } else { a.stride };
        one.extend([a.out, 1]);
        all.extend([a.out, a.kernel]);
        gaps.extend([0, (step - a.kernel) as i64]);
        joined.push(a.out * step);
        before.push(-a.before);
        after.push(a.size as i64 + a.before - (a.out * step) as i64);
    }
    let v = e.reshape(v, &one);
    let v = e.expand(&v, &all);
    let v = e.pad(&v, &vec![0; gaps.len()], &gaps);
    let v = e.reshape(&v, &joined);
    e.pad(&v, &before, &after)
}
