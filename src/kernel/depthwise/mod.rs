//! Convolutions in which every channel has a window of its own, and their two gradients.

mod channels;
mod planes;

use self::{channels::Channels, planes::Planes};
use super::{isa::Isa, pool::Pool, windows::Axis};

/// Positions of a map from which on its rows are long enough to be worked on one after the other. Below, there is more to
/// gain from neighbouring channels.
const LARGE: usize = 100;

/// A depthwise convolution: x [n, c, size...], w [c, 1, kernel...], y [n, c, out...].
#[derive(Clone, Debug)]
pub struct Depthwise(Form);

#[derive(Clone, Debug)]
enum Form {
    Channels(Channels),
    Planes(Planes),
}

impl Depthwise {
    /// The convolution with these windows.
    pub fn new(axes: &[Axis], isa: Isa) -> Self {
        let large = axes.iter().map(|a| a.size).product::<usize>() >= LARGE;
        Self(if large { Form::Planes(Planes::new(axes, isa)) } else { Form::Channels(Channels::new(axes, isa)) })
    }

    /// y = the convolution of x with w, plus bias [c] where there is one.
    pub fn forward(&self, pool: &dyn Pool, c: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        match &self.0 {
            Form::Channels(form) => form.forward(pool, c, x, w, bias, y),
            Form::Planes(form) => form.forward(pool, c, x, w, bias, y),
        }
    }

    /// dx = what dy [n, c, out...] says about x.
    pub fn input_gradient(&self, pool: &dyn Pool, c: usize, dy: &[f32], w: &[f32], dx: &mut [f32]) {
        match &self.0 {
            Form::Channels(form) => form.input_gradient(pool, c, dy, w, dx),
            Form::Planes(form) => form.input_gradient(pool, c, dy, w, dx),
        }
    }

    /// dw [c, 1, kernel...] = what dy says about w.
    pub fn weight_gradient(&self, pool: &dyn Pool, c: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        match &self.0 {
            Form::Channels(form) => form.weight_gradient(pool, c, x, dy, dw),
            Form::Planes(form) => form.weight_gradient(pool, c, x, dy, dw),
        }
    }
}
