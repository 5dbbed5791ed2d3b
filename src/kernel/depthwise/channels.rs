//! The depthwise form for small maps, whose channels are worked on together.
//!
//! Inside, as in [`convolution`](super::super::convolution), positions come first: [position, image, channel]. The images and
//! channels at one position are then one long row, and every map is a sum of such rows multiplied element by element. A task
//! takes some images, and of these some channels at a time, so that what it works on stays in a core's cache.

use super::super::{
    isa::Isa,
    lines::products,
    pool::{Pool, chunks, shift},
    tile::Pair,
    transpose::transpose,
    windows::{Axis, Plan, Run},
};
use std::cell::RefCell;

/// Floats that a task works on at a time.
const PART: usize = 1 << 16;
/// Channels that are worked on together at least: a cache line.
const LINE: usize = 16;

/// The maps of [`Depthwise`](super::Depthwise).
#[derive(Clone, Debug)]
pub struct Channels {
    isa: Isa,
    plan: Plan,
}

thread_local! {
    /// Source, result and weights in the inner layout, kept from task to task.
    static BUFFERS: RefCell<[Vec<f32>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

impl Channels {
    /// The convolution with these windows.
    pub fn new(axes: &[Axis], isa: Isa) -> Self {
        Self { isa, plan: Plan::new(axes) }
    }

    /// y = the convolution of x with w, plus bias [c] where there is one.
    pub fn forward(&self, pool: &dyn Pool, c: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        self.images(pool, &self.plan.outputs, [self.plan.positions, self.plan.windows], c, x, w, y);
        if let Some(bias) = bias {
            chunks(pool, y, c * self.plan.windows, |_, y| {
                for (y, b) in y.chunks_exact_mut(self.plan.windows).zip(bias) {
                    shift(y, *b);
                }
            });
        }
    }

    /// dx = what dy [n, c, out...] says about x.
    pub fn input_gradient(&self, pool: &dyn Pool, c: usize, dy: &[f32], w: &[f32], dx: &mut [f32]) {
        self.images(pool, &self.plan.inputs, [self.plan.windows, self.plan.positions], c, dy, w, dx);
    }

    /// Images of a part and channels of a block, for `n` images of `c` channels.
    fn part(&self, pool: &dyn Pool, n: usize, c: usize) -> (usize, usize) {
        let each = self.plan.positions + self.plan.windows;
        let block = (PART / each.max(1)).clamp(LINE, c.next_multiple_of(LINE)) / LINE * LINE;
        let images = (PART / (each * block).max(1)).clamp(1, n.div_ceil(pool.threads()).max(1));
        (images, block.min(c))
    }

    #[allow(clippy::too_many_arguments)] // the two public maps are its only callers
    fn images(
        &self,
        pool: &dyn Pool,
        runs: &[Run],
        [sources, results]: [usize; 2],
        c: usize,
        source: &[f32],
        w: &[f32],
        result: &mut [f32],
    ) {
        let n = source.len() / (c * sources).max(1);
        let (part, block) = self.part(pool, n, c);
        chunks(pool, result, part * c * results, |i, result| {
            let n = result.len() / (c * results);
            let source = &source[i * part * c * sources..][..n * c * sources];
            BUFFERS.with_borrow_mut(|[x, y, weights]| {
                let mut pairs: Vec<Pair> = Vec::new();
                for first in (0..c).step_by(block) {
                    let channels = block.min(c - first);
                    let row = n * channels;
                    self.turn(source, [c, first, channels, sources], x);
                    self.spread(&w[first * self.plan.taps..], channels, n, weights);
                    y.resize(results * row, 0.0);
                    for run in runs {
                        for j in 0..run.len {
                            let pair = |&(tap, place): &(usize, usize)| Pair {
                                a: (place + j * run.source_step) * row,
                                b: tap * row,
                            };
                            pairs.clear();
                            pairs.extend(run.taps.iter().map(pair));
                            let y = &mut y[(run.first + j * run.step) * row..][..row];
                            products(self.isa, &pairs, x, weights, y);
                        }
                    }
                    for image in 0..n {
                        let result = &mut result[(image * c + first) * results..][..channels * results];
                        let y = &y[image * channels..];
                        transpose(self.isa, y, row, result, results, results, channels);
                    }
                }
            });
        });
    }

    /// `channels` of images [c, positions] from `first` on, as [positions, image, channel].
    fn turn(&self, images: &[f32], [c, first, channels, positions]: [usize; 4], out: &mut Vec<f32>) {
        let n = images.len() / (c * positions);
        out.resize(positions * n * channels, 0.0);
        for (k, image) in images.chunks_exact(c * positions).enumerate() {
            let v = &image[first * positions..];
            transpose(self.isa, v, positions, &mut out[k * channels..], n * channels, channels, positions);
        }
    }

    /// w [channel, tap] as [tap, image, channel], the same for every image.
    fn spread(&self, w: &[f32], channels: usize, n: usize, out: &mut Vec<f32>) {
        out.resize(self.plan.taps * n * channels, 0.0);
        for (tap, row) in out.chunks_exact_mut(n * channels).enumerate() {
            for image in row.chunks_exact_mut(channels) {
                image.iter_mut().enumerate().for_each(|(c, v)| *v = w[c * self.plan.taps + tap]);
            }
        }
    }

    /// dw [c, 1, kernel...] = what dy says about w.
    ///
    /// Every thread sums up its share of the images; the shares are added in order, so that equal runs are equal.
    pub fn weight_gradient(&self, pool: &dyn Pool, c: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let n = x.len() / (c * self.plan.positions).max(1);
        let (part, block) = self.part(pool, n, c);
        let share = n.div_ceil(pool.threads()).max(1);
        let mut pairs: Vec<Vec<(usize, usize)>> = vec![Vec::new(); self.plan.taps];
        for run in &self.plan.outputs {
            for &(tap, place) in &run.taps {
                pairs[tap].extend((0..run.len).map(|j| (place + j * run.source_step, run.first + j * run.step)));
            }
        }
        let mut sums = vec![0.0; n.div_ceil(share) * c * self.plan.taps];
        chunks(pool, &mut sums, c * self.plan.taps, |i, sums| {
            let end = n.min((i + 1) * share);
            BUFFERS.with_borrow_mut(|[xs, dys, sums_of_row]| {
                for at in (i * share..end).step_by(part) {
                    let n = part.min(end - at);
                    let x = &x[at * c * self.plan.positions..][..n * c * self.plan.positions];
                    let dy = &dy[at * c * self.plan.windows..][..n * c * self.plan.windows];
                    for first in (0..c).step_by(block) {
                        let channels = block.min(c - first);
                        let row = n * channels;
                        self.turn(x, [c, first, channels, self.plan.positions], xs);
                        self.turn(dy, [c, first, channels, self.plan.windows], dys);
                        sums_of_row.resize(row, 0.0);
                        for (tap, pairs) in pairs.iter().enumerate() {
                            let pairs: Vec<Pair> =
                                pairs.iter().map(|&(p, o)| Pair { a: p * row, b: o * row }).collect();
                            products(self.isa, &pairs, xs, dys, sums_of_row);
                            for image in sums_of_row.chunks_exact(channels) {
                                for (k, v) in image.iter().enumerate() {
                                    sums[(first + k) * self.plan.taps + tap] += v;
                                }
                            }
                        }
                    }
                }
            });
        });
        dw.fill(0.0);
        for share in sums.chunks_exact(dw.len()) {
            dw.iter_mut().zip(share).for_each(|(v, s)| *v += s);
        }
    }
}
