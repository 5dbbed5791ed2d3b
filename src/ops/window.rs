//! Where the windows of convolutions and pools lie: every spelling of padding resolved to explicit numbers.

use super::{Emit, OpError};
pub use crate::kernel::Axis;

/// The windows of a node with the attributes `auto_pad`, `dilations`, `pads` and `strides` over inputs of the given
/// spatial lengths; `out` are the lengths the runtime computed.
pub fn windows(e: &Emit<'_>, size: &[usize], out: &[usize], kernel: &[usize]) -> Result<Vec<Axis>, OpError> {
    let rank = size.len();
    let list = |name: &str, default: i64, len: usize| -> Result<Vec<i64>, OpError> {
        let v = e.ints(name)?.unwrap_or_else(|| vec![default; len]);
        if v.len() == len {
            return Ok(v);
        }
        Err(OpError::Attribute { name: name.into(), expected: format!("{len} integers"), got: format!("{v:?}") })
    };
    let (strides, dilations) = (list("strides", 1, rank)?, list("dilations", 1, rank)?);
    let pads = list("pads", 0, 2 * rank)?;
    let auto = e.str("auto_pad", "NOTSET")?;
    let mut axes = Vec::new();
    for i in 0..rank {
        let mut axis = Axis {
            size: size[i],
            out: out[i],
            kernel: kernel[i],
            stride: strides[i] as usize,
            dilation: dilations[i] as usize,
            before: 0,
            after: 0,
        };
        // Same: as many windows as strides fit into the input, the missing length split between both ends.
        let missing = ((size[i].div_ceil(axis.stride) - 1) * axis.stride + axis.extent()) as i64 - size[i] as i64;
        (axis.before, axis.after) = split_padding(&auto, missing.max(0), (pads[i], pads[rank + i]))?;
        axes.push(axis);
    }
    Ok(axes)
}

/// Padding before and after under `auto_pad`: `total` for the two SAME modes, `given` when the node says it itself.
pub fn split_padding(auto: &str, total: i64, given: (i64, i64)) -> Result<(i64, i64), OpError> {
    match auto {
        "NOTSET" | "" => Ok(given),
        "VALID" => Ok((0, 0)),
        "SAME_UPPER" => Ok((total / 2, total - total / 2)),
        "SAME_LOWER" => Ok((total - total / 2, total / 2)),
        other => Err(OpError::Attribute {
            name: "auto_pad".into(),
            expected: "NOTSET, VALID, SAME_UPPER or SAME_LOWER".into(),
            got: format!("{other:?}"),
        }),
    }
}
