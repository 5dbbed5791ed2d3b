//! Matrix products.

use super::{Emit, Flow::Vjp, MICROSOFT, Op, OpError};
use crate::graph::Value;

const FUSED: &[&str] = &["alpha", "transA", "transB", "transBatchA", "transBatchB"];

pub(super) const OPS: &[Op] = &[
    Op::new("Gemm", &["alpha", "beta", "transA", "transB"], &[Vjp(gemm_a), Vjp(gemm_b), Vjp(gemm_c)])
        .lowered_by(lower_gemm),
    Op::new("MatMul", &[], &[Vjp(matmul_a), Vjp(matmul_b)]).lowered_by(lower_matmul),
    Op::new("FusedMatMul", FUSED, &[Vjp(fused_a), Vjp(fused_b)]).of(MICROSOFT),
    Op::new("TransposeMatMul", FUSED, &[Vjp(fused_a), Vjp(fused_b)]).of(MICROSOFT),
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
    Ok(e.scaled_gemm(a, b, trans_a, trans_b, alpha))
}

/// The tool's own product where it is faster, with the bias where that is one number for each column.
fn lower_gemm(e: &mut Emit<'_>, y: &[usize]) -> Result<Option<Value>, OpError> {
    let (alpha, beta) = (e.float("alpha", 1.0)?, e.float("beta", 1.0)?);
    let sides = [flag(e, "transA")?, flag(e, "transB")?];
    let (a, b) = (e.x(0)?, e.x(1)?);
    let bias = if e.has(2) { Some(e.x(2)?) } else { None };
    let by_column = bias.as_ref().is_none_or(|c| c.len() == y[1] && c.shape().last() == y.last());
    if !by_column || (bias.is_some() && beta.to_bits() != 1f32.to_bits()) {
        return Ok(None);
    }
    Ok(e.native_product(&a, &b, sides, alpha, bias.as_ref()))
}

/// The same for a product whose right factor is one matrix.
fn lower_matmul(e: &mut Emit<'_>, y: &[usize]) -> Result<Option<Value>, OpError> {
    let (a, b) = (e.x(0)?, e.x(1)?);
    if !e.is_native() || a.rank() < 2 || b.rank() != 2 {
        return Ok(None);
    }
    let rows = flat(e, &a);
    let product = e.native_product(&rows, &b, [false, false], 1.0, None);
    Ok(product.map(|product| e.reshape(&product, y)))
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
    Ok(matrices(e, &a, &b, dy))
}

fn matrices(e: &mut Emit<'_>, a: &Value, b: &Value, dy: &Value) -> Sides {
    let mut shape = dy.shape().to_vec();
    if b.rank() == 1 {
        shape.push(1);
    }
    if a.rank() == 1 {
        shape.insert(shape.len() - 1, 1);
    }
    let row = if a.rank() == 1 { vec![1, a.len()] } else { a.shape().to_vec() };
    let column = if b.rank() == 1 { vec![b.len(), 1] } else { b.shape().to_vec() };
    Sides { a: e.reshape(a, &row), b: e.reshape(b, &column), dy: e.reshape(dy, &shape) }
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
    let s = sides(e, dy)?;
    let da = left(e, &s);
    let shape = e.x(0)?.shape().to_vec();
    Ok(e.reshape(&da, &shape))
}

fn left(e: &mut Emit<'_>, Sides { a, b, dy }: &Sides) -> Value {
    if one_matrix(b) {
        let (dy, b) = (flat(e, dy), flat(e, b));
        e.gemm(&dy, &b, false, true)
    } else {
        let bt = e.swap_last(b);
        let da = e.matmul(dy, &bt);
        e.unbroadcast(&da, a.shape())
    }
}

/// dB = A^T dy, summed over broadcast batch axes; for one matrix B the sum over the batch is part of the product
fn matmul_b(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let s = sides(e, dy)?;
    let db = right(e, &s);
    let shape = e.x(1)?.shape().to_vec();
    Ok(e.reshape(&db, &shape))
}

fn right(e: &mut Emit<'_>, Sides { a, b, dy }: &Sides) -> Value {
    if one_matrix(b) {
        let (a, dy) = (flat(e, a), flat(e, dy));
        e.gemm(&a, &dy, true, false)
    } else {
        let at = e.swap_last(a);
        let db = e.matmul(&at, dy);
        e.unbroadcast(&db, b.shape())
    }
}

/// y = alpha A' B', where A' and B' are A and B, or transposed as [`order`] says
///
/// dA' = alpha dy B'^T, and dA is dA' transposed back
fn fused_a(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (s, [order, _]) = fused(e, dy)?;
    let da = left(e, &s);
    fused_back(e, &da, &order)
}

/// dB' = alpha A'^T dy, and dB is dB' transposed back
fn fused_b(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let (s, [_, order]) = fused(e, dy)?;
    let db = right(e, &s);
    fused_back(e, &db, &order)
}

/// A' and B' as matrices, dy times alpha, and the order of the axes of A and B in A' and B'.
fn fused(e: &mut Emit<'_>, dy: &Value) -> Result<(Sides, [Vec<usize>; 2]), OpError> {
    let alpha = e.float("alpha", 1.0)?;
    let (a, b) = (e.x(0)?, e.x(1)?);
    let order_a = order(a.rank(), flag(e, "transA")?, flag(e, "transBatchA")?);
    let order_b = order(b.rank(), flag(e, "transB")?, flag(e, "transBatchB")?);
    let (a, b) = (e.transpose(&a, &order_a), e.transpose(&b, &order_b));
    let dy = e.scale(dy, f64::from(alpha));
    Ok((matrices(e, &a, &b, &dy), [order_a, order_b]))
}

/// Axis i of the operand as it is multiplied is axis `order[i]` of the input: `batch` takes the first axis behind the
/// batch axes, then `swap` exchanges the last two. A vector stays as it is.
fn order(rank: usize, swap: bool, batch: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rank).collect();
    if batch && rank > 2 {
        order[..rank - 1].rotate_left(1);
    }
    if swap && rank > 1 {
        order.swap(rank - 2, rank - 1);
    }
    order
}

fn fused_back(e: &mut Emit<'_>, d: &Value, order: &[usize]) -> Result<Value, OpError> {
    let target = e.x(e.at())?;
    let shape: Vec<usize> = order.iter().map(|&axis| target.shape()[axis]).collect();
    let d = e.reshape(d, &shape);
    let mut inverse = vec![0; order.len()];
    for (to, &from) in order.iter().enumerate() {
        inverse[from] = to;
    }
    Ok(e.transpose(&d, &inverse))
}
