//! The gradient of a maximum over windows.

#![allow(clippy::inline_always)] // what vector instructions are compiled into has to be one function

#[cfg(target_arch = "x86_64")]
use super::isa::compiled;
use super::{
    isa::{Isa, on_each},
    pool::{Pool, chunks},
    room::Room,
    transpose::transpose,
    windows::Plan,
};
use std::{array::from_fn, cell::RefCell};

/// Images that are looked at side by side.
const SIDE: usize = 16;

/// dx = dy added up where the largest x of each window stands; of equal ones the first counts.
///
/// x and dx are [images, positions], dy is [images, windows], where every channel counts as an image.
pub fn max_gradient(pool: &dyn Pool, isa: Isa, plan: &Plan, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    thread_local! {
        static BUFFERS: RefCell<[Room; 3]> = const { RefCell::new([Room::new(), Room::new(), Room::new()]) };
    }
    /// Positions up to which the maps of SIDE images fit where a core is quick to read.
    const LARGE: usize = 1 << 16;
    let &Plan { positions, windows, .. } = plan;
    if positions > LARGE {
        return chunks(pool, dx, positions, |i, dx| {
            let (x, dy) = (&x[i * positions..][..positions], &dy[i * windows..][..windows]);
            any_maxima::<1>(plan, x, dy, dx);
        });
    }
    chunks(pool, dx, SIDE * positions, |i, dx| {
        BUFFERS.with_borrow_mut(|[xs, dys, dxs]| {
            let (first, n) = (i * SIDE, dx.len() / positions);
            let (xs, dys, dxs) = (xs.of(positions * SIDE), dys.of(windows * SIDE), dxs.of(positions * SIDE));
            transpose(isa, &x[first * positions..], positions, xs, SIDE, n, positions);
            transpose(isa, &dy[first * windows..], windows, dys, SIDE, n, windows);
            maxima(isa, plan, xs, dys, dxs);
            transpose(isa, dxs, SIDE, dx, positions, positions, n);
        });
    });
}

on_each!(maxima, any_maxima::<SIDE>, (plan: &Plan, x: &[f32], dy: &[f32], dx: &mut [f32]));

/// The same of N images that lie side by side: x and dx are [positions, N], dy is [windows, N].
#[inline(always)]
fn any_maxima<const N: usize>(plan: &Plan, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    let (x, dy, dx) = (x.as_chunks::<N>().0, dy.as_chunks::<N>().0, dx.as_chunks_mut::<N>().0);
    dx.fill([0.0; N]);
    for run in &plan.outputs {
        let Some((&(_, first), others)) = run.taps.split_first() else { continue };
        for j in 0..run.len {
            let shift = j * run.source_step;
            // Which of two is larger cannot be foreseen, so nothing branches.
            let (mut at, mut most) = ([first as u32; N], x[first + shift]);
            for &(_, place) in others {
                let v = &x[place + shift];
                for l in 0..N {
                    let more = v[l] > most[l];
                    most[l] = if more { v[l] } else { most[l] };
                    at[l] = if more { place as u32 } else { at[l] };
                }
            }
            let dy = dy[run.first + j * run.step];
            for &(_, place) in &run.taps {
                let dx = &mut dx[place + shift];
                // As a choice between two numbers it would become a branch.
                let part: [f32; N] = from_fn(|l| {
                    let mask = u32::from(at[l] == place as u32).wrapping_neg();
                    f32::from_bits(dy[l].to_bits() & mask)
                });
                *dx = from_fn(|l| dx[l] + part[l]);
            }
        }
    }
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
