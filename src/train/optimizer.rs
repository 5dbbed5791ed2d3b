//! Optimizers, written into a step graph: one update of one array from its gradient.

use crate::{
    graph::{Builder, NATIVE, Value, native},
    tensor::Tensor,
};
use serde::{Deserialize, Serialize};

/// How an array is updated from its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "name")]
pub enum Optimizer {
    /// Adam with bias correction (Kingma and Ba 2015, algorithm 1).
    Adam {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root of the bias-corrected second moment.
        epsilon: f64,
    },
    /// Stochastic gradient descent with (heavy-ball) momentum: b = mu b + g, w = w - lr b.
    Sgd {
        /// mu; 0 is plain gradient descent.
        momentum: f64,
    },
}

impl Optimizer {
    /// Adam with the constants of its paper.
    pub const ADAM: Self = Self::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

    /// Suffixes of the state arrays kept beside each trained array.
    pub fn state(&self) -> &'static [&'static str] {
        match self {
            Self::Adam { .. } => &["m", "v"],
            Self::Sgd { momentum } if *momentum == 0.0 => &[],
            Self::Sgd { .. } => &["m"],
        }
    }

    /// The two numbers that [`Optimizer::update`] reads at step `t` (from 1) with learning rate `lr`.
    ///
    /// Adam keeps its moments without the factors (1 - beta), which saves two passes over every array: with M = m / (1 -
    /// beta1), V = v / (1 - beta2) and c_i = 1 - beta_i^t,
    ///
    /// lr (m / c1) / (sqrt(v / c2) + eps) = rate * M / (sqrt(V) + floor)
    ///
    /// rate = lr (1 - beta1) / c1 * sqrt(c2 / (1 - beta2))        floor = eps sqrt(c2 / (1 - beta2))
    pub fn schedule(&self, t: usize, lr: f64) -> Schedule {
        match *self {
            Self::Adam { beta1, beta2, epsilon } => {
                let (c1, c2) = (1.0 - beta1.powi(t as i32), 1.0 - beta2.powi(t as i32));
                let root = (c2 / (1.0 - beta2)).sqrt();
                Schedule { rate: (lr * (1.0 - beta1) / c1 * root) as f32, floor: (epsilon * root) as f32 }
            }
            Self::Sgd { .. } => Schedule { rate: lr as f32, floor: 0.0 },
        }
    }

    /// True where [`Optimizer::update`] writes the new arrays over the old ones, and leaves that be where `go` is 0: with Adam
    /// where the device has the tool's own operators.
    pub fn overwrites(&self, native: bool) -> bool {
        native && matches!(self, Self::Adam { .. })
    }

    /// Writes the update of `w` from gradient `g`. `state` are the arrays named by [`Optimizer::state`], `rate` and
    /// `floor` the numbers of [`Optimizer::schedule`] as values of rank 0, so that a weight keeps its rank. Gives the new
    /// `w` and the new state.
    pub fn update(
        &self,
        b: &mut Builder,
        w: &Value,
        g: &Value,
        state: &[Value],
        [rate, floor, go]: [&Value; 3],
    ) -> (Value, Vec<Value>) {
        let full = w.shape().to_vec();
        let (direction, state) = match (*self, state) {
            (Self::Adam { beta1, beta2, .. }, [m, v]) if self.overwrites(b.is_native()) => {
                let names = [w, g, m, v, rate, floor, go].map(Value::name);
                let attrs = [(native::BETA1, (beta1 as f32).into()), (native::BETA2, (beta2 as f32).into())];
                let mut next = b.raw(NATIVE, native::ADAM, &names, &attrs, &[full.clone(), full.clone(), full]);
                return (next.remove(0), next);
            }
            (Self::Adam { beta1, beta2, .. }, [m, v]) => {
                let m = decayed(b, m, beta1, g);
                let square = b.op("Mul", &[g, g], &[], &full);
                let v = decayed(b, v, beta2, &square);
                let root = b.op("Sqrt", &[&v], &[], &full);
                let denominator = b.op("Add", &[&root, floor], &[], &full);
                (b.op("Div", &[&m, &denominator], &[], &full), vec![m, v])
            }
            (Self::Sgd { momentum, .. }, [m]) => {
                let m = decayed(b, m, momentum, g);
                (m.clone(), vec![m])
            }
            _ => (g.clone(), Vec::new()),
        };
        let step = b.op("Mul", &[&direction, rate], &[], &full);
        (b.op("Sub", &[w, &step], &[], &full), state)
    }
}

/// decay * old + new
fn decayed(b: &mut Builder, old: &Value, decay: f64, new: &Value) -> Value {
    let decay = b.constant(Tensor::scalar(decay as f32));
    let kept = b.op("Mul", &[old, &decay], &[], old.shape());
    b.op("Add", &[&kept, new], &[], old.shape())
}

/// Scales all gradients by one factor so that their joint Euclidean norm is at most `limit`.
pub fn clip_global_norm(b: &mut Builder, gradients: &mut [Value], limit: f64) {
    let scalar = [("keepdims", 0i64.into())];
    let squares: Vec<Value> = gradients.iter().map(|g| b.op("ReduceSumSquare", &[g], &scalar, &[])).collect();
    let refs: Vec<&Value> = squares.iter().collect();
    let total = b.op("Sum", &refs, &[], &[]);
    let norm = b.op("Sqrt", &[&total], &[], &[]);
    // The small number keeps a zero gradient from dividing by zero.
    let tiny = b.constant(Tensor::scalar(1e-6));
    let norm = b.op("Add", &[&norm, &tiny], &[], &[]);
    let limit = b.constant(Tensor::scalar(limit as f32));
    let ratio = b.op("Div", &[&limit, &norm], &[], &[]);
    let one = b.constant(Tensor::scalar(1.0));
    let factor = b.op("Min", &[&ratio, &one], &[], &[]);
    for g in gradients {
        *g = b.op("Mul", &[g, &factor], &[], g.shape());
    }
}

/// What changes from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Factor of the update.
    pub rate: f32,
    /// Added to the denominator.
    pub floor: f32,
}
