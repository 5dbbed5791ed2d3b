//! Operators that move elements and change none.

use super::{
    Emit,
    Flow::{Constant, Vjp},
    Op, OpError, resolve_axis,
};
use crate::graph::{Attr, Builder, Value};

pub(super) const OPS: &[Op] = &[
    Op::new("Reshape", &["allowzero"], &[Vjp(same_elements), Constant]),
    Op::new("Flatten", &["axis"], &[Vjp(same_elements)]),
    Op::new("Squeeze", &[], &[Vjp(same_elements), Constant]),
    Op::new("Unsqueeze", &[], &[Vjp(same_elements), Constant]),
    Op::new("Transpose", &["perm"], &[Vjp(transpose)]),
    Op::variadic("Concat", &["axis"], &[Vjp(concat)]),
    Op::new("Split", &["axis", "num_outputs"], &[Vjp(split), Constant]),
    Op::new("Slice", &[], &[Vjp(slice), Constant, Constant, Constant, Constant]),
    Op::new("Pad", &["mode"], &[Vjp(pad), Constant, Vjp(pad_value), Constant]),
    Op::new("CenterCropPad", &["axes"], &[Vjp(center_crop_pad), Constant]),
    Op::new("Expand", &[], &[Vjp(expand), Constant]),
    Op::new("Tile", &[], &[Vjp(tile), Constant]),
    Op::new("DepthToSpace", &["blocksize", "mode"], &[Vjp(depth_to_space)]),
    Op::new("SpaceToDepth", &["blocksize"], &[Vjp(space_to_depth)]),
    Op::new("Shape", &["start", "end"], &[Constant]),
    Op::new("Size", &[], &[Constant]),
    Op::new("ConstantOfShape", &["value"], &[Constant]),
    Op::new("Range", &[], &[Constant, Constant, Constant]),
    Op::new("NonZero", &[], &[Constant]),
];

/// y = the elements of x under another shape      dx = dy under the shape of x
fn same_elements(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let shape = e.x(0)?.shape().to_vec();
    Ok(e.reshape(dy, &shape))
}

/// axis i of y = axis perm[i] of x      dx = dy under the inverse permutation
fn transpose(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let rank = dy.rank();
    let perm = e.ints("perm")?.unwrap_or_else(|| (0..rank as i64).rev().collect());
    let mut inverse = vec![0; rank];
    for (to, from) in perm.iter().enumerate() {
        let from = resolve_axis(*from, rank).ok_or_else(|| OpError::Attribute {
            name: "perm".into(),
            expected: format!("axes of {rank}"),
            got: format!("{perm:?}"),
        })?;
        inverse[from] = to;
    }
    Ok(e.transpose(dy, &inverse))
}

/// y = x[0], x[1] ... side by side      dx[i] = its part of dy
fn concat(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let axis = e.axis("axis", 1, dy.rank())?;
    let start: usize = (0..e.at()).map(|i| e.x(i).map(|x| x.shape()[axis])).sum::<Result<_, _>>()?;
    let end = start + e.x(e.at())?.shape()[axis];
    Ok(e.slice(dy, &[axis], &[start as i64], &[end as i64], &[1]))
}

/// y[0], y[1] ... = consecutive parts of x      dx = the dy[i] side by side, zeros for outputs nothing depends on
fn split(e: &mut Emit<'_>, _: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let axis = e.axis("axis", 0, x.rank())?;
    let mut parts = Vec::new();
    for i in 0..e.node().outputs.len() {
        if let Some(dy) = e.dy(i).cloned() {
            parts.push(dy);
        } else {
            let shape = e.y(i)?.shape().to_vec();
            parts.push(e.zeros(&shape));
        }
    }
    Ok(e.concat(&parts.iter().collect::<Vec<_>>(), axis))
}

/// y = x[start : end : step] along some axes      dx = zeros, with dy where it was read
fn slice(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let starts = e.known_ints(1)?.ok_or_else(|| OpError::Unsupported("starts are missing".into()))?;
    let axes = e.known_ints(3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = e.known_ints(4)?.unwrap_or_else(|| vec![1; starts.len()]);
    let rank = x.rank();
    let (mut before, mut after, mut strides) = (vec![0; rank], vec![0; rank], vec![1; rank]);
    let mut flipped = Vec::new();
    for ((&start, &axis), &step) in starts.iter().zip(&axes).zip(&steps) {
        let axis = resolve_axis(axis, rank).ok_or_else(|| OpError::Unsupported(format!("axis {axis} of {rank}")))?;
        let (size, count) = (x.shape()[axis] as i64, dy.shape()[axis] as i64);
        if count == 0 {
            return Ok(e.zeros(x.shape()));
        }
        let start = if start < 0 { start + size } else { start };
        let first = start.clamp(0, size - 1);
        let last = first + (count - 1) * step;
        if step < 0 {
            flipped.push(axis);
        }
        strides[axis] = step.unsigned_abs() as usize;
        before[axis] = first.min(last);
        after[axis] = size - 1 - first.max(last);
    }
    let dy = e.reversed(dy, &flipped);
    let dy = apart(e, &dy, &strides);
    Ok(e.pad(&dy, &before, &after))
}

/// Puts `strides[i] - 1` zeros between neighbours along axis i.
fn apart(e: &mut Emit<'_>, v: &Value, strides: &[usize]) -> Value {
    if strides.iter().zip(v.shape()).all(|(&s, &d)| s == 1 || d == 1) {
        return v.clone();
    }
    let (mut one, mut gaps, mut joined, mut cut) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (&s, &d) in strides.iter().zip(v.shape()) {
        one.extend([d, 1]);
        gaps.extend([0, s as i64 - 1]);
        joined.push(d * s);
        cut.push(1 - s as i64);
    }
    let v = e.reshape(v, &one);
    let v = e.pad(&v, &vec![0; gaps.len()], &gaps);
    let v = e.reshape(&v, &joined);
    e.pad(&v, &vec![0; cut.len()], &cut)
}

/// What values are padded from, in order, and the axis, where each is one part of an axis padded with zeros and the parts fill
/// it side by side.
pub(super) fn side_by_side(graph: &Builder, padded: &[Value]) -> Option<(usize, Vec<Value>)> {
    if padded.len() < 2 {
        return None;
    }
    let mut parts: Vec<(usize, usize, Value)> = Vec::new();
    for value in padded {
        let node = graph.writer(value.name()).filter(|n| n.op == "Pad" && n.inputs.len() == 2 && n.attrs.is_empty())?;
        let pads = graph.known(node.input(1)?)?.to_i64s()?;
        let (before, after) = pads.split_at(value.rank());
        let part = graph.value(node.input(0)?)?;
        let mut cut =
            (0..value.rank()).filter(|&i| part.shape()[i] != value.shape()[i] || before[i] != 0 || after[i] != 0);
        let axis = cut.next().filter(|&i| before[i] >= 0 && after[i] >= 0)?;
        if cut.next().is_some() {
            return None;
        }
        parts.push((axis, before[axis] as usize, part.clone()));
    }
    parts.sort_by_key(|(_, at, _)| *at);
    let axis = parts[0].0;
    let end =
        parts.iter().try_fold(0, |end, (a, at, part)| (*a == axis && *at == end).then(|| end + part.shape()[axis]));
    (end == Some(padded[0].shape()[axis])).then(|| (axis, parts.into_iter().map(|(_, _, part)| part).collect()))
}

/// Elements added in front of and behind each axis (negative: cut off).
fn pads(e: &Emit<'_>) -> Result<(Vec<i64>, Vec<i64>), OpError> {
    let rank = e.x(0)?.rank();
    let pads = e.known_ints(1)?.ok_or_else(|| OpError::Unsupported("pads are missing".into()))?;
    let axes = target_axes(rank, e.known_ints(3)?)?;
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    for (i, &axis) in axes.iter().enumerate() {
        (before[axis], after[axis]) = (pads[i], pads[axes.len() + i]);
    }
    Ok((before, after))
}

/// y = x with elements added around it      dx = the part of dy that is x, and for the modes that repeat elements of x
/// what arrives at the repetitions, added to the elements repeated
fn pad(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (before, after) = pads(e)?;
    let mode = e.str("mode", "constant")?;
    let minus = |v: &[i64]| v.iter().map(|p| -p).collect::<Vec<_>>();
    if mode == "constant" {
        return Ok(e.pad(dy, &minus(&before), &minus(&after)));
    }
    // Each axis by itself: row i of dy belongs to element source(i) of x, which is a product with a 0/1 matrix.
    let x = e.x(0)?;
    let mut dx = dy.clone();
    for axis in (0..x.rank()).filter(|&a| before[a] != 0 || after[a] != 0) {
        let (size, long) = (x.shape()[axis], dy.shape()[axis]);
        let mut matrix = vec![0.0; size * long];
        for i in 0..long {
            let source = source(&mode, i as i64 - before[axis], size as i64)?;
            matrix[source as usize * long + i] = 1.0;
        }
        let matrix = e.nums(&[size, long], &matrix);
        dx = product_along(e, &matrix, &dx, axis);
    }
    Ok(dx)
}

/// The product of a matrix [n, m] with every row of length m along an axis of `v`.
pub(super) fn product_along(e: &mut Emit<'_>, matrix: &Value, v: &Value, axis: usize) -> Value {
    let mut shape = v.shape().to_vec();
    let (head, tail): (usize, usize) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
    let long = shape[axis];
    shape[axis] = matrix.shape()[0];
    let products = if tail == 1 {
        let rows = e.reshape(v, &[head, long]);
        e.gemm(&rows, matrix, false, true)
    } else {
        let rows = e.reshape(v, &[head, long, tail]);
        e.matmul(matrix, &rows)
    };
    e.reshape(&products, &shape)
}

/// The axes a list names, or all of them in order.
pub(super) fn target_axes(rank: usize, given: Option<Vec<i64>>) -> Result<Vec<usize>, OpError> {
    let Some(given) = given else { return Ok((0..rank).collect()) };
    let axis = |a: i64| resolve_axis(a, rank).ok_or_else(|| OpError::Unsupported(format!("axis {a} of {rank}")));
    given.into_iter().map(axis).collect()
}

/// The element of an axis of length `size` that stands at position `i` of the padded axis.
fn source(mode: &str, i: i64, size: i64) -> Result<i64, OpError> {
    match mode {
        "edge" => Ok(i.clamp(0, size - 1)),
        "wrap" => Ok(i.rem_euclid(size)),
        "reflect" => {
            let period = (2 * (size - 1)).max(1);
            let i = i.rem_euclid(period);
            Ok(i.min(period - i).min(size - 1))
        }
        other => Err(OpError::Attribute {
            name: "mode".into(),
            expected: "constant, reflect, edge or wrap".into(),
            got: format!("{other:?}"),
        }),
    }
}

/// dvalue = the sum of dy outside x
fn pad_value(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let inside = pad(e, dy)?;
    let value = e.x(2)?;
    let total = |e: &mut Emit<'_>, v: &Value| {
        let axes: Vec<usize> = (0..v.rank()).collect();
        e.reduce_sum(v, &axes, false)
    };
    let (all, inside) = (total(e, dy), total(e, &inside));
    let outside = e.sub(&all, &inside);
    Ok(e.reshape(&outside, value.shape()))
}

/// y = the middle of x, or x in the middle of zeros, axis by axis      dx = dy likewise
///
/// Where the lengths differ by an odd number, the larger part lies behind, in both cases.
fn center_crop_pad(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let missing = |(&size, &out): (&usize, &usize)| {
        let missing = size as i64 - out as i64;
        let before = missing / 2;
        (before, missing - before)
    };
    let (before, after): (Vec<i64>, Vec<i64>) = x.shape().iter().zip(dy.shape()).map(missing).unzip();
    Ok(e.pad(dy, &before, &after))
}

/// y = x repeated along axes of length 1      dx = dy summed over them
fn expand(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    e.to_input(dy)
}

/// y = x side by side with itself      dx = the sum of the copies in dy
fn tile(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let (mut shape, mut axes) = (Vec::new(), Vec::new());
    for (&d, &total) in x.shape().iter().zip(dy.shape()) {
        let copies = total.checked_div(d).unwrap_or(1);
        if copies > 1 {
            axes.push(shape.len());
            shape.push(copies);
        }
        shape.push(d);
    }
    if dy.is_empty() {
        return Ok(e.zeros(x.shape()));
    }
    let copies = e.reshape(dy, &shape);
    let dx = e.reduce_sum(&copies, &axes, false);
    Ok(e.reshape(&dx, x.shape()))
}

/// The block size, checked.
fn block(e: &Emit<'_>) -> Result<usize, OpError> {
    let b = e.int("blocksize", 0)?;
    if b > 0 {
        return Ok(b as usize);
    }
    Err(OpError::Attribute { name: "blocksize".into(), expected: "a positive integer".into(), got: b.to_string() })
}

/// y = channels laid out as blocks of pixels      dx = dy's blocks as channels again
fn depth_to_space(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let b = block(e)?;
    let x = e.x(0)?;
    let &[n, c, h, w] = x.shape() else { return Err(OpError::Unsupported("expected four axes".into())) };
    let blocks = e.reshape(dy, &[n, c / (b * b), h, b, w, b]);
    let perm = match e.str("mode", "DCR")?.as_str() {
        // Depth, column, row: the block comes before the channel in x.
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => {
            return Err(OpError::Attribute {
                name: "mode".into(),
                expected: "DCR or CRD".into(),
                got: format!("{other:?}"),
            });
        }
    };
    let dx = e.transpose(&blocks, &perm);
    Ok(e.reshape(&dx, x.shape()))
}

/// y = blocks of pixels laid out as channels      dx = dy's channels as blocks again
fn space_to_depth(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let b = block(e)?;
    let x = e.x(0)?;
    Ok(e.op("DepthToSpace", &[dy], &[("blocksize", Attr::Int(b as i64)), ("mode", "DCR".into())], x.shape()))
}
