//! Operators that read or write by index. An index has no gradient; reading by index goes backwards as adding by index.

use super::{
    Emit,
    Flow::{Constant, Vjp},
    Op, OpError,
};
use crate::{
    graph::{Attr, Value},
    tensor::Data,
};

pub(super) const OPS: &[Op] = &[
    Op::new("Gather", &["axis"], &[Vjp(gather), Constant]),
    Op::new("GatherElements", &["axis"], &[Vjp(gather_elements), Constant]),
    Op::new("GatherND", &["batch_dims"], &[Vjp(gather_nd), Constant]),
    Op::new("ScatterElements", &["axis", "reduction"], &[Vjp(scatter_x), Constant, Vjp(scatter_updates)]),
    Op::new("ScatterND", &["reduction"], &[Vjp(scatter_nd_x), Constant, Vjp(scatter_nd_updates)]),
    Op::new("MaxUnpool", &["kernel_shape", "pads", "strides"], &[Vjp(max_unpool), Constant, Constant]),
    Op::new("TopK", &["axis", "largest", "sorted"], &[Vjp(top_k), Constant]),
    Op::new("OneHot", &["axis"], &[Constant, Constant, Vjp(one_hot_values)]),
    Op::new("Trilu", &["upper"], &[Vjp(trilu), Constant]),
    Op::new("ReverseSequence", &["batch_axis", "time_axis"], &[Vjp(reverse_sequence), Constant]),
    Op::new("Compress", &["axis"], &[Vjp(compress), Constant]),
    Op::new("EyeLike", &["dtype", "k"], &[Constant]),
    Op::new("CumSum", &["exclusive", "reverse"], &[Vjp(cum_sum), Constant]),
    Op::new("CumProd", &["exclusive", "reverse"], &[Vjp(cum_prod), Constant]),
    // Boxes, scores and bounds make indices.
    Op::new("NonMaxSuppression", &["center_point_box"], &[Constant, Constant, Constant, Constant, Constant]),
];

/// y = x[.., i, ..] for every i of an index of any shape      dx = zeros, with dy added at the indices
///
/// One constant index is a slice; anything else adds whole rows, with the axis in front.
fn gather(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let axis = e.axis("axis", 0, x.rank())?;
    let size = x.shape()[axis];
    if let Ok(Some(index)) = e.known_ints(1)
        && let [i] = index.as_slice()
    {
        let i = if *i < 0 { i + size as i64 } else { *i };
        let mut one = x.shape().to_vec();
        one[axis] = 1;
        let dy = e.reshape(dy, &one);
        let (mut before, mut after) = (vec![0; x.rank()], vec![0; x.rank()]);
        (before[axis], after[axis]) = (i, size as i64 - 1 - i);
        return Ok(e.pad(&dy, &before, &after));
    }
    let index = e.x(1)?;
    let (head, tail) = (&x.shape()[..axis], &x.shape()[axis + 1..]);
    let (heads, tails): (usize, usize) = (head.iter().product(), tail.iter().product());
    let rows = e.reshape(dy, &[heads, index.len(), tails]);
    let rows = e.transpose(&rows, &[1, 0, 2]);
    let list = long(e, &index);
    let list = e.reshape(&list, &[index.len(), 1]);
    let zeros = e.zeros(&[size, heads, tails]);
    let dx = e.op("ScatterND", &[&zeros, &list, &rows], &[("reduction", "add".into())], &[size, heads, tails]);
    let dx = e.transpose(&dx, &[1, 0, 2]);
    Ok(e.reshape(&dx, x.shape()))
}

/// The index as int64, which is all that `ScatterND` takes.
fn long(e: &mut Emit<'_>, index: &Value) -> Value {
    // 7 is int64 in the file format.
    e.op("Cast", &[index], &[("to", Attr::Int(7))], index.shape())
}

/// y[p] = x[p with the axis replaced by i[p]]      dx = zeros, with dy added there
fn gather_elements(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let axis = e.axis("axis", 0, x.rank())?;
    let index = e.x(1)?;
    Ok(add_elements(e, &x, &index, dy, axis))
}

/// Zeros in the shape of `like`, with `v` added along `axis` where `index` says.
fn add_elements(e: &mut Emit<'_>, like: &Value, index: &Value, v: &Value, axis: usize) -> Value {
    let zeros = e.zeros(like.shape());
    let attrs = [("axis", Attr::Int(axis as i64)), ("reduction", "add".into())];
    e.op("ScatterElements", &[&zeros, index, v], &attrs, like.shape())
}

/// y[p] = x[i[p]], i[p] being a list of leading indices      dx = zeros, with dy added there
fn gather_nd(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    if e.int("batch_dims", 0)? != 0 {
        return Err(OpError::Attribute {
            name: "batch_dims".into(),
            expected: "0".into(),
            got: e.int("batch_dims", 0)?.to_string(),
        });
    }
    let (x, index) = (e.x(0)?, e.x(1)?);
    let zeros = e.zeros(x.shape());
    Ok(e.op("ScatterND", &[&zeros, &index, dy], &[("reduction", "add".into())], x.shape()))
}

/// How updates meet what stands there: `none` replaces it, `add` adds.
fn adds(e: &Emit<'_>) -> Result<bool, OpError> {
    match e.str("reduction", "none")?.as_str() {
        "none" => Ok(false),
        "add" => Ok(true),
        other => Err(OpError::Attribute {
            name: "reduction".into(),
            expected: "none or add".into(),
            got: format!("{other:?}"),
        }),
    }
}

/// y = x with updates written at the indices      dx = dy, with zeros written there (dy where updates are added)
fn scatter_x(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    if adds(e)? {
        return Ok(dy.clone());
    }
    let axis = e.axis("axis", 0, dy.rank())?;
    let index = e.x(1)?;
    let zeros = e.zeros(index.shape());
    Ok(e.op("ScatterElements", &[dy, &index, &zeros], &[("axis", Attr::Int(axis as i64))], dy.shape()))
}

/// dupdates = dy read at the indices
fn scatter_updates(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    adds(e)?;
    let axis = e.axis("axis", 0, dy.rank())?;
    let index = e.x(1)?;
    Ok(e.op("GatherElements", &[dy, &index], &[("axis", Attr::Int(axis as i64))], index.shape()))
}

/// As [`scatter_x`], by lists of leading indices
fn scatter_nd_x(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    if adds(e)? {
        return Ok(dy.clone());
    }
    let (index, updates) = (e.x(1)?, e.x(2)?);
    let zeros = e.zeros(updates.shape());
    Ok(e.op("ScatterND", &[dy, &index, &zeros], &[], dy.shape()))
}

/// dupdates = dy read at the indices
fn scatter_nd_updates(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    adds(e)?;
    let (index, updates) = (e.x(1)?, e.x(2)?);
    Ok(e.op("GatherND", &[dy, &index], &[], updates.shape()))
}

/// y = zeros, with x at the places that a MaxPool of that size took      dx = dy read at those places
///
/// The places count through the whole of y. Where windows share one, both hold the same x, and each gets its gradient.
fn max_unpool(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let places = e.x(1)?;
    let flat = e.reshape(dy, &[dy.len()]);
    Ok(e.op("Gather", &[&flat, &places], &[("axis", Attr::Int(0))], places.shape()))
}

/// y = the k largest of x along an axis      dx = zeros, with dy where those stood
fn top_k(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let axis = e.axis("axis", -1, x.rank())?;
    // Both outputs are required by the operator's definition.
    let index = e.y(1)?;
    Ok(add_elements(e, &x, &index, dy, axis))
}

/// y = values[1] at the index of each position, values[0] elsewhere
/// dvalues = the sum of dy elsewhere, and at the indices
fn one_hot_values(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let axis = e.axis("axis", -1, dy.rank())?;
    let (index, depth) = (e.x(0)?, e.x(1)?);
    let marks = e.nums(&[2], &[0.0, 1.0]);
    let marks = e.op("OneHot", &[&index, &depth, &marks], &[("axis", Attr::Int(axis as i64))], dy.shape());
    let axes: Vec<usize> = (0..dy.rank()).collect();
    let at = e.mul(dy, &marks);
    let at = e.reduce_sum(&at, &axes, false);
    let all = e.reduce_sum(dy, &axes, false);
    let elsewhere = e.sub(&all, &at);
    let (at, elsewhere) = (e.reshape(&at, &[1]), e.reshape(&elsewhere, &[1]));
    Ok(e.concat(&[&elsewhere, &at], 0))
}

/// y = the triangle of x above or below a diagonal      dx = the same triangle of dy
fn trilu(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let upper = e.int("upper", 1)?;
    let mut inputs = vec![dy.clone()];
    if e.has(1) {
        inputs.push(e.x(1)?);
    }
    Ok(e.op("Trilu", &inputs.iter().collect::<Vec<_>>(), &[("upper", Attr::Int(upper))], dy.shape()))
}

/// y[i] = sum of x[j] for j <= i      dx[j] = sum of dy[i] for i >= j: the same sum from the other end
fn cum_sum(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (exclusive, reverse) = (e.int("exclusive", 0)?, e.int("reverse", 0)?);
    let axis = e.x(1)?;
    let attrs = [("exclusive", Attr::Int(exclusive)), ("reverse", Attr::Int(1 - reverse))];
    Ok(e.op("CumSum", &[dy, &axis], &attrs, dy.shape()))
}

/// y[i] = product of x[j] for j <= i      dx[j] = sum of dy[i] y[i] for i >= j, over x[j]
///
/// Behind the first 0 of a row y is 0, and with it this sum. At that 0 itself x is left out of the products instead.
fn cum_prod(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (x, y, axis) = (e.x(0)?, e.y(0)?, e.x(1)?);
    let (exclusive, reverse) = (e.int("exclusive", 0)?, e.int("reverse", 0)?);
    let flags = |exclusive, reverse| [("exclusive", Attr::Int(exclusive)), ("reverse", Attr::Int(reverse))];
    let (zero, one) = (e.num(0.0), e.num(1.0));
    let vanishes = e.binary("Equal", &x, &zero);
    let marks = e.op("CastLike", &[&vanishes, &x], &[], x.shape());
    let count = e.op("CumSum", &[&marks, &axis], &flags(0, reverse), x.shape());
    let first = e.binary("Equal", &count, &one);
    let first = e.binary("And", &vanishes, &first);
    let others = e.select(&first, &one, &x);
    let others = e.op("CumProd", &[&others, &axis], &flags(exclusive, reverse), x.shape());
    let back = |e: &mut Emit<'_>, y: &Value| {
        let weighted = e.mul(dy, y);
        e.op("CumSum", &[&weighted, &axis], &flags(exclusive, 1 - reverse), dy.shape())
    };
    let (direct, at_zero) = (back(e, &y), back(e, &others));
    let divisor = e.select(&vanishes, &one, &x);
    let direct = e.div(&direct, &divisor);
    Ok(e.select(&first, &at_zero, &direct))
}

/// y = x with the first steps of each sequence in reverse order      dx = dy, reversed the same way
fn reverse_sequence(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let lengths = e.x(1)?;
    let attrs = [("batch_axis", Attr::Int(e.int("batch_axis", 1)?)), ("time_axis", Attr::Int(e.int("time_axis", 0)?))];
    Ok(e.op("ReverseSequence", &[dy, &lengths], &attrs, dy.shape()))
}

/// y = the rows of x that a mask names (the elements, where no axis is given)      dx = zeros, with dy at those rows
///
/// The mask decides the shape of y, so it is the same for every batch.
fn compress(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let mask = e.known(1)?.ok_or_else(|| OpError::Unsupported("the condition is missing".into()))?;
    let Data::Bool(mask) = mask.data() else {
        return Err(OpError::Unsupported(format!("the condition holds {}, not bools", mask.dtype())));
    };
    let flat = [x.len()];
    let (shape, axis) =
        if e.node().attrs.contains_key("axis") { (x.shape(), e.axis("axis", 0, x.rank())?) } else { (&flat[..], 0) };
    // dy with one row of zeros behind it, read once for every row of x.
    let kept = dy.shape()[axis];
    let mut after = vec![0; dy.rank()];
    after[axis] = 1;
    let source = e.pad(dy, &vec![0; dy.rank()], &after);
    let mut next = 0;
    let mut rows = Vec::with_capacity(shape[axis]);
    for i in 0..shape[axis] {
        let named = mask.get(i).copied().unwrap_or(false);
        rows.push(if named { next } else { kept as i64 });
        next += i64::from(named);
    }
    let rows = e.int_list(&rows);
    let dx = e.op("Gather", &[&source, &rows], &[("axis", Attr::Int(axis as i64))], shape);
    Ok(e.reshape(&dx, x.shape()))
}
