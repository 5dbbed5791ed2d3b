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
/// `old` are w, g, M and V, `new` are w', M' and V'.
///
/// # Panics
/// When the arrays are not of one length.
pub fn step(pool: &dyn Pool, s: Step, old: [&[f32]; 4], new: [&mut [f32]; 3]) {
    let [w, g, m, v] = old;
    assert!(new.iter().all(|n| n.len() == w.len()) && old.iter().all(|o| o.len() == w.len()), "arrays of one length");
    chunks_of_each(pool, new.into(), RUN, |i, new| {
        let [to_w, to_m, to_v] = new else { unreachable!("three arrays are handed out") };
        let range = i * RUN..i * RUN + to_w.len();
        let old = w[range.clone()].iter().zip(&g[range.clone()]).zip(&m[range.clone()]).zip(&v[range]);
        let new = to_w.iter_mut().zip(to_m.iter_mut()).zip(to_v.iter_mut());
        for ((((w, g), m), v), ((to_w, to_m), to_v)) in old.zip(new) {
            *to_m = s.beta1 * m + g;
            *to_v = s.beta2 * v + g * g;
            *to_w = w - s.rate * (*to_m / (to_v.sqrt() + s.floor));
        }
    });
}
