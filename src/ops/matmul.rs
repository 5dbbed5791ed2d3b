//! Matrix products.

use super::{Emit, Flow::Vjp, Op, OpError};
use crate::graph::{Attr, Value};

pub(super) const OPS: &[Op] = &[
    Op::new("Gemm", &["alpha", "beta", "transA", "transB"], &[Vjp(gemm_a), Vjp(gemm_b), Vjp(gemm_c)]),
    Op::new("MatMul", &[], &[Vjp(matmul_a), Vjp(matmul_b)]),
];

/// y = alpha * A' B' + beta * c, where A' = A or A^T and B' = B or B^T
///
/// dA' = alpha * dy B'^T, so dA = alpha * dy B'^T or alpha * B' dy^T: one product either way, nothing is transposed.
fn gemm_a(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (ta, tb) = (flag(e, "transA")?, flag(e, "transB")?);
    let b = e.x(1)?;
    if ta { product(e, &b, dy, tb, true) } else { product(e, dy, &b, false, !tb) }
}

/// dB' = alpha * A'^T dy, so dB = alpha * A'^T dy or alpha * dy^T A'
fn gemm_b(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (ta, tb) = (flag(e, "transA")?, flag(e, "transB")?);
    let a = e.x(0)?;
    if tb { product(e, dy, &a, true, ta) } else { product(e, &a, dy, !ta, false) }
}

/// dc = beta * dy, summed where c was broadcast
fn gemm_c(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let beta = e.float("beta", 1.0)?;
    let dc = e.to_input(dy)?;
    Ok(e.scale(&dc, f64::from(beta)))
}

/// alpha * a b with either side transposed, alpha being the node's.
fn product(e: &mut Emit<'_>, a: &Value, b: &Value, trans_a: bool, trans_b: bool) -> Result<Value, OpError> {
    let alpha = e.float("alpha", 1.0)?;
    let shape = [a.shape()[usize::from(trans_a)], b.shape()[usize::from(!trans_b)]];
    let attrs =
        [("alpha", Attr::Float(alpha)), ("transA", Attr::Int(trans_a.into())), ("transB", Attr::Int(trans_b.into()))];
    Ok(e.op("Gemm", &[a, b], &attrs, &shape))
}

fn flag(e: &Emit<'_>, name: &str) -> Result<bool, OpError> {
    match e.int(name, 0)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(OpError::Attribute { name: name.into(), expected: "0 or 1".into(), got: other.to_string() }),
    }
}

/// The operands and the output gradient as matrices: a vector is a row on the left and a column on the right.
struct Sides {
    a: Value,
    b: Value,
    dy: Value,
}

fn sides(e: &mut Emit<'_>, dy: &Value) -> Result<Sides, OpError> {
    let (a, b) = (e.x(0)?, e.x(1)?);
    let mut shape = dy.shape().to_vec();
    if b.rank() == 1 {
        shape.push(1);
    }
    if a.rank() == 1 {
        shape.insert(shape.len() - 1, 1);
    }
    let row = if a.rank() == 1 { vec![1, a.len()] } else { a.shape().to_vec() };
    let column = if b.rank() == 1 { vec![b.len(), 1] } else { b.shape().to_vec() };
    Ok(Sides { a: e.reshape(&a, &row), b: e.reshape(&b, &column), dy: e.reshape(dy, &shape) })
}

/// The value as one matrix: all axes but the last in one.
fn flat(e: &mut Emit<'_>, v: &Value) -> Value {
    let last = v.shape()[v.rank() - 1];
    let rows = v.shape()[..v.rank() - 1].iter().product();
    e.reshape(v, &[rows, last])
}

/// True when `b` is the same matrix for every element of the batch, so that the batch is only more rows.
fn one_matrix(b: &Value) -> bool {
    b.shape()[..b.rank() - 2].iter().all(|&d| d == 1)
}

/// y = A B per batch element      dA = dy B^T, summed over broadcast batch axes
fn matmul_a(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let Sides { a, b, dy } = sides(e, dy)?;
    let da = if one_matrix(&b) {
        let (dy, b) = (flat(e, &dy), flat(e, &b));
        e.gemm(&dy, &b, false, true)
    } else {
        let bt = e.swap_last(&b);
        let da = e.matmul(&dy, &bt);
        e.unbroadcast(&da, a.shape())
    };
    let shape = e.x(0)?.shape().to_vec();
    Ok(e.reshape(&da, &shape))
}

/// dB = A^T dy, summed over broadcast batch axes; for one matrix B the sum over the batch is part of the product
fn matmul_b(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let Sides { a, b, dy } = sides(e, dy)?;
    let db = if one_matrix(&b) {
        let (a, dy) = (flat(e, &a), flat(e, &dy));
        e.gemm(&a, &dy, true, false)
    } else {
        let at = e.swap_last(&a);
        let db = e.matmul(&at, &dy);
        e.unbroadcast(&db, b.shape())
    };
    let shape = e.x(1)?.shape().to_vec();
    Ok(e.reshape(&db, &shape))
}
