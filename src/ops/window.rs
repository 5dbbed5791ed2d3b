//! Where the windows of convolutions and pools lie: every spelling of padding resolved to explicit numbers.

use super::{Emit, OpError};

/// The windows along one spatial axis: output o reads inputs `o * stride + t * dilation - before` for t in 0..kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Length of the input.
    pub size: usize,
    /// Number of windows.
    pub out: usize,
    /// Taps of a window.
    pub kernel: usize,
    /// Distance between windows.
    pub stride: usize,
    /// Distance between the taps of a window.
    pub dilation: usize,
    /// Padding before the first input; negative where the first inputs are never read.
    pub before: i64,
    /// Padding after the last input, as the node has it (windows of `ceil_mode` may reach farther).
    pub after: i64,
}

impl Axis {
    /// Distance from the first tap to just behind the last.
    pub fn extent(&self) -> usize {
        self.dilation * (self.kernel - 1) + 1
    }

    /// Length from the first tap of the first window to just behind the last tap of the last.
    pub fn span(&self) -> usize {
        (self.out - 1) * self.stride + self.extent()
    }

    /// Padding after the last input that makes the windows end exactly with it; negative where inputs are left over.
    pub fn tail(&self) -> i64 {
        self.span() as i64 - self.before - self.size as i64
    }

    /// The input that tap `t` of window `o` reads, `None` in the padding.
    pub fn reads(&self, o: usize, t: usize) -> Option<usize> {
        let at = (o * self.stride + t * self.dilation) as i64 - self.before;
        (0..self.size as i64).contains(&at).then_some(at as usize)
    }

    /// True when no input is read by two windows.
    pub fn apart(&self) -> bool {
        self.out == 1 || self.stride >= self.extent()
    }
}

/// The axes as the tool's own operators take them: see [`native::AXES`](crate::graph::native::AXES).
pub fn numbers(axes: &[Axis]) -> Vec<i64> {
    let axis = |a: &Axis| {
        let counts = [a.size, a.out, a.kernel, a.stride, a.dilation].map(|v| v as i64);
        counts.into_iter().chain([a.before])
    };
    axes.iter().flat_map(axis).collect()
}

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
