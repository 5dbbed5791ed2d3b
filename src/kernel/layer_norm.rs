//! The gradients of layer normalization (Ba, Kiros and Hinton, "Layer Normalization", 2016) in one pass over its rows.
//!
//! y = scale xhat + bias for every row, xhat = (x - mean x) inv, inv = 1 / sqrt(var x + epsilon). With g = scale dy:
//!
//! dx = inv (g - mean g - xhat mean(g xhat))        dscale = sum of dy xhat        dbias = sum of dy

use super::{
    isa::Isa,
    pool::{Pool, hand_out},
};

/// Floats that are summed up beside each other.
const SIDE: usize = 32;

/// The three gradients.
pub struct Gradients<'o> {
    /// Of x, [rows, len].
    pub x: &'o mut [f32],
    /// Of the scale, [len].
    pub scale: &'o mut [f32],
    /// Of the bias, [len].
    pub bias: &'o mut [f32],
}

/// Writes the gradients from x and dy, [rows, len], and the scale, [len].
///
/// # Panics
/// When an array is not of its size.
pub fn gradient(isa: Isa, pool: &dyn Pool, epsilon: f32, x: &[f32], scale: &[f32], dy: &[f32], to: Gradients<'_>) {
    let Gradients { x: dx, scale: dscale, bias: dbias } = to;
    let len = scale.len();
    assert!(x.len() == dy.len() && x.len() == dx.len(), "arrays of rows");
    assert!(len == dscale.len() && len == dbias.len() && x.len().is_multiple_of(len.max(1)), "rows of {len}");
    if len == 0 {
        return;
    }
    let rows = (x.len() / len).div_ceil(4 * pool.threads()).max(1);
    let mut sums = vec![0.0; x.len().div_ceil(rows * len) * 2 * len];
    hand_out(pool, dx.chunks_mut(rows * len).zip(sums.chunks_mut(2 * len)), |i, (dx, sums)| {
        let (x, dy) = (&x[i * rows * len..][..dx.len()], &dy[i * rows * len..][..dx.len()]);
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::part512(epsilon, x, scale, dy, dx, sums),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::part256(epsilon, x, scale, dy, dx, sums),
            _ => part(epsilon, x, scale, dy, dx, sums),
        }
    });
    dscale.fill(0.0);
    dbias.fill(0.0);
    // In order, so that equal runs are equal.
    for sums in sums.chunks_exact(2 * len) {
        dscale.iter_mut().zip(&sums[..len]).for_each(|(v, s)| *v += s);
        dbias.iter_mut().zip(&sums[len..]).for_each(|(v, s)| *v += s);
    }
}

/// Some rows; `sums` are those of dy xhat, then those of dy.
// Inlined so that it is compiled for the instructions of its callers, as is what it calls.
#[allow(clippy::inline_always)]
#[inline(always)]
fn part(epsilon: f32, x: &[f32], scale: &[f32], dy: &[f32], dx: &mut [f32], sums: &mut [f32]) {
    let len = scale.len();
    let share = 1.0 / len as f32;
    let (scales, biases) = sums.split_at_mut(len);
    for ((x, dy), dx) in x.chunks_exact(len).zip(dy.chunks_exact(len)).zip(dx.chunks_exact_mut(len)) {
        let mean = share * sum(x, |_, v| v);
        let inv = 1.0 / (share * sum(x, |_, v| (v - mean) * (v - mean)) + epsilon).sqrt();
        for i in 0..len {
            // The row of dx holds xhat until all sums are known.
            let hat = (x[i] - mean) * inv;
            dx[i] = hat;
            scales[i] += dy[i] * hat;
            biases[i] += dy[i];
        }
        let g = share * sum(dy, |i, v| v * scale[i]);
        let along = share * sum(dy, |i, v| v * scale[i] * dx[i]);
        for i in 0..len {
            dx[i] = inv * (scale[i] * dy[i] - g - dx[i] * along);
        }
    }
}

/// The sum of `f` over all places and elements.
#[allow(clippy::inline_always)]
#[inline(always)]
fn sum(v: &[f32], f: impl Fn(usize, f32) -> f32) -> f32 {
    let mut sums = [0.0; SIDE];
    let (whole, rest) = v.as_chunks::<SIDE>();
    for (c, chunk) in whole.iter().enumerate() {
        for (l, v) in chunk.iter().enumerate() {
            sums[l] += f(c * SIDE + l, *v);
        }
    }
    for (l, v) in rest.iter().enumerate() {
        sums[l] += f(whole.len() * SIDE + l, *v);
    }
    let mut width = SIDE / 2;
    while width > 0 {
        for l in 0..width {
            sums[l] += sums[l + width];
        }
        width /= 2;
    }
    sums[0]
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{
        super::isa::{Isa, compiled},
        part,
    };

    compiled!(part512, Isa::Avx512, "avx512f", part, (
        epsilon: f32, x: &[f32], scale: &[f32], dy: &[f32], dx: &mut [f32], sums: &mut [f32]
    ));
    compiled!(part256, Isa::Avx2, "avx2,fma", part, (
        epsilon: f32, x: &[f32], scale: &[f32], dy: &[f32], dx: &mut [f32], sums: &mut [f32]
    ));
}
