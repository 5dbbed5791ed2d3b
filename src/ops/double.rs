//! Operators that ONNX Runtime computes in float32 only, written in operators that it computes in float64 too.
//!
//! Nothing here is for training: differences of a whole network are exact enough to judge its gradient only in float64.

use super::{Emit, OpError, conv, pool};
use crate::graph::Value;

/// Writes the node of `e`, whose output has the shape `y`, in operators with a float64 kernel; `None` where nobody has
/// worked that out.
pub fn written_out(e: &mut Emit<'_>, y: &[usize]) -> Result<Option<Value>, OpError> {
    let node = e.node();
    if !node.domain.is_empty() {
        return Ok(None);
    }
    Ok(Some(match node.op.as_str() {
        "Conv" => conv::as_product(e, y)?,
        "AveragePool" => pool::average_as_product(e, y)?,
        "GlobalAveragePool" => over_the_image(e, "ReduceMean")?,
        "GlobalMaxPool" => over_the_image(e, "ReduceMax")?,
        "Mean" => mean(e)?,
        _ => return Ok(None),
    }))
}

fn over_the_image(e: &mut Emit<'_>, op: &str) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let axes: Vec<usize> = (2..x.rank()).collect();
    Ok(e.reduce(op, &x, &axes, true))
}

fn mean(e: &mut Emit<'_>) -> Result<Value, OpError> {
    let n = e.node().inputs.len();
    let mut sum = e.x(0)?;
    for i in 1..n {
        let next = e.x(i)?;
        sum = e.add(&sum, &next);
    }
    Ok(e.scale(&sum, 1.0 / n as f64))
}
