//! The gradient of a maximum over windows.

use super::{
    pool::{Pool, chunks},
    windows::Plan,
};

/// dx = dy added up where the largest x of each window stands; of equal ones the first counts.
///
/// x and dx are [images, positions], dy is [images, windows], where every channel counts as an image.
pub fn max_gradient(pool: &dyn Pool, plan: &Plan, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    /// Floats that a task takes at least.
    const TASK: usize = 1 << 14;
    let &Plan { positions, windows, .. } = plan;
    let images = TASK.div_ceil(positions.max(1));
    chunks(pool, dx, images * positions, |i, dx| {
        dx.fill(0.0);
        for (k, dx) in dx.chunks_exact_mut(positions).enumerate() {
            let image = i * images + k;
            let x = &x[image * positions..][..positions];
            let dy = &dy[image * windows..][..windows];
            for run in &plan.outputs {
                let Some((&(_, first), others)) = run.taps.split_first() else { continue };
                for j in 0..run.len {
                    let shift = j * run.source_step;
                    let (mut at, mut most) = (first + shift, x[first + shift]);
                    for &(_, place) in others {
                        let v = x[place + shift];
                        if v > most {
                            (at, most) = (place + shift, v);
                        }
                    }
                    dx[at] += dy[run.first + j * run.step];
                }
            }
        }
    });
}

/// Sums over images and positions: [c] from [n, c, positions].
pub fn channel_sums(pool: &dyn Pool, n: usize, positions: usize, v: &[f32], out: &mut [f32]) {
    /// Floats that are added up at once: as many as two vector registers hold.
    const SIDE: usize = 32;
    let c = out.len();
    if positions == 1 {
        return column_sums(pool, v, out);
    }
    chunks(pool, out, c.div_ceil(4 * pool.threads()), |i, out| {
        let first = i * c.div_ceil(4 * pool.threads());
        out.fill(0.0);
        for image in 0..n {
            let v = &v[(image * c + first) * positions..][..out.len() * positions];
            for (sum, v) in out.iter_mut().zip(v.chunks_exact(positions)) {
                let (blocks, rest) = v.as_chunks::<SIDE>();
                let mut sums = [0.0f32; SIDE];
                for block in blocks {
                    sums.iter_mut().zip(block).for_each(|(s, v)| *s += v);
                }
                *sum += sums.iter().sum::<f32>() + rest.iter().sum::<f32>();
            }
        }
    });
}

/// The same where an image is one row: every task sums up some rows, and their sums are added in order.
fn column_sums(pool: &dyn Pool, v: &[f32], out: &mut [f32]) {
    /// Rows of a task: enough to be worth handing out, and few enough that little is lost in a long sum.
    const ROWS: usize = 256;
    let c = out.len();
    let mut sums = vec![0.0f32; v.len().div_ceil(ROWS * c) * c];
    chunks(pool, &mut sums, c, |i, sums| {
        let rows = &v[i * ROWS * c..v.len().min((i + 1) * ROWS * c)];
        let mut four = rows.chunks_exact(4 * c);
        for rows in &mut four {
            let ((a, b), (x, y)) = (rows[..2 * c].split_at(c), rows[2 * c..].split_at(c));
            for ((((s, a), b), x), y) in sums.iter_mut().zip(a).zip(b).zip(x).zip(y) {
                *s += (a + b) + (x + y);
            }
        }
        for row in four.remainder().chunks_exact(c) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
        }
    });
    out.fill(0.0);
    for sums in sums.chunks_exact(c) {
        out.iter_mut().zip(sums).for_each(|(out, s)| *out += s);
    }
}
