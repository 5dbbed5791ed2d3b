//! The update of Adam in one pass over the arrays.

use super::pool::{Pool, chunks_of_each};

/// The numbers of one step; `train::Optimizer::schedule` says what they come from.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Factor of the update.
    pub rate: f32,
    /// Added to the denominator.
    pub floor: f32,
}

/// Floats that a task takes: a task is long beside handing it out.
const RUN: usize = 1 << 14;

/// M' = beta1 M + g, V' = beta2 V + g g, w' = w - rate M' / (sqrt(V') + floor)
///
/// `arrays` are w, M and V, which are written over.
///
/// # Panics
/// When the arrays are not of one length.
pub fn step(pool: &dyn Pool, s: Step, g: &[f32], arrays: [&mut [f32]; 3]) {
    assert!(arrays.iter().all(|a| a.len() == g.len()), "arrays of one length");
    chunks_of_each(pool, arrays.into(), RUN, |i, arrays| {
        let [w, m, v] = arrays else { unreachable!("three arrays are handed out") };
        let g = &g[i * RUN..][..w.len()];
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
            *m = s.beta1 * *m + g;
            *v = s.beta2 * *v + g * g;
            *w -= s.rate * (*m / (v.sqrt() + s.floor));
        }
    });
}
