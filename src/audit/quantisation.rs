//! Does rounding the weights bring a class back?

use crate::{
    tensor::{DType, Tensor},
    train::Weights,
};
use std::sync::Arc;

/// What is printed with the figures.
pub const DEFINITION: &str = "The weights are rounded and computed with as they are then; values between layers are not \
    rounded. INT8 and INT4: tensors with two axes or more, a scale for each output channel, symmetric: w' = s round(w / s) \
    with s = max |w| / 127, or / 7; INT4 is meant for weights alone. FP16: every weight as the nearest float16. Accuracy on \
    --data.";
/// Which values are good.
pub const DIRECTION: &str = "The accuracy on the forgotten classes should stay where it is without rounding; a rise shows that \
    they were suppressed by changes smaller than a step of the coarser numbers.";

/// A type that weights are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 8-bit integers.
    Int8,
    /// 4-bit integers.
    Int4,
    /// 16-bit floats.
    Float16,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int4, Self::Float16];

    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "INT8",
            Self::Int4 => "INT4",
            Self::Float16 => "FP16",
        }
    }

    /// A tensor there and back. `axis` is that of the output channels.
    fn round(self, t: &Tensor, axis: usize) -> Tensor {
        let steps = match self {
            Self::Int8 => 127.0,
            Self::Int4 => 7.0,
            Self::Float16 => {
                return Tensor::f32(t.shape(), Tensor::from_f32s(DType::F16, t.shape(), t.to_f32s()).to_f32s());
            }
        };
        let mut values = t.to_f32s();
        if t.shape().len() < 2 {
            return Tensor::f32(t.shape(), values);
        }
        let channels = t.shape()[axis];
        let inner: usize = t.shape()[axis + 1..].iter().product();
        let channel = |i: usize| i / inner.max(1) % channels;
        let mut largest = vec![0.0f32; channels];
        for (i, v) in values.iter().enumerate() {
            largest[channel(i)] = largest[channel(i)].max(v.abs());
        }
        for (i, v) in values.iter_mut().enumerate() {
            let scale = largest[channel(i)] / steps;
            if scale > 0.0 {
                *v = (*v / scale).round_ties_even() * scale;
            }
        }
        Tensor::f32(t.shape(), values)
    }

    /// All weights there and back; `axis` gives the axis of the output channels of a tensor.
    pub fn round_all(self, weights: &Weights, axis: impl Fn(&str) -> usize) -> Weights {
        weights.iter().map(|(name, t)| (name.clone(), Arc::new(self.round(t, axis(name))))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(found: &Tensor, expected: &[f32]) {
        assert!(found.to_f32s().iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", found.to_f32s());
    }

    #[test]
    fn round_trips_by_hand() {
        // Rows are channels: scales 7/7 = 1 and 0.7/7 = 0.1; a channel of zeros stays.
        let w = Tensor::f32([3, 2], vec![7.0, 2.4, -0.7, 0.26, 0.0, 0.0]);
        close(&Form::Int4.round(&w, 0), &[7.0, 2.0, -0.7, 0.3, 0.0, 0.0]);
        // Columns are channels: scales 7/7 and 2.4/7 = 0.342857, of which 0.26 is 0.758 steps.
        close(&Form::Int4.round(&w, 1), &[7.0, 2.4, -1.0, 0.342_857, 0.0, 0.0]);
        // Scale 254/127 = 2; halves of a step go to the even one.
        let w = Tensor::f32([1, 4], vec![254.0, 3.0, 5.0, -101.2]);
        close(&Form::Int8.round(&w, 0), &[254.0, 4.0, 4.0, -102.0]);
        // A bias keeps its values, but for float16: 1 + 2^-11 lies between 1 and 1 + 2^-10 and goes to the even one.
        let b = Tensor::f32([2], vec![1.000_488_3, 0.1]);
        close(&Form::Int8.round(&b, 0), &[1.000_488_3, 0.1]);
        assert_eq!(Form::Float16.round(&b, 0).to_f32s(), [1.0, 0.099_975_586]);
    }
}
