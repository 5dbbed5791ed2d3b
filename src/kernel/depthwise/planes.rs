//! The depthwise form for large maps, which are worked on one by one.
//!
//! One channel of some images is laid out as one long line, with room between rows, planes and images, so that every tap
//! reads the same line from another place on, whatever the width of a map:
//!
//! y[o] = sum over t of w[t] x[o + at(t)]      dx[p] = sum over t of w[t] dy[p - at(t)]      dw[t] = sum over o of dy[o] x[o + at(t)]
//!
//! What falls into the room is not copied back. With a stride of s along an axis, the inputs whose places are equal modulo s
//! make up a line of their own, a phase: a tap reads neighbouring inputs of one of them for neighbouring windows.

use super::super::{
    isa::Isa,
    lines::{BLOCK, LANES, Piece, Spread, Tap, correlate, dots, lay, take},
    pool::{Pool, chunks, shift},
    windows::Axis,
};
use std::{cell::RefCell, ops::Range};

/// Floats that a line has at most, unless one image has more.
const LINE: usize = 2048;
/// Floats of all lines that are worked on together: they stay in a core's cache.
const LINES: usize = 1 << 15;
/// Floats that are read in a row at least, where there are so many: what is far apart in memory takes long to arrive.
const READ: usize = 1024;

/// The maps of [`Depthwise`](super::Depthwise).
#[derive(Clone, Debug)]
pub struct Planes {
    isa: Isa,
    positions: usize,
    windows: usize,
    /// Floats of one image in a phase.
    len: usize,
    phases: usize,
    /// How far a tap reaches at most.
    reach: usize,
    /// Phase and place of the input that each tap of the first window reads.
    taps: Vec<(usize, usize)>,
    /// Where the inputs are that any window may read.
    inputs: Vec<Piece>,
    /// Where the windows are.
    outputs: Vec<Piece>,
}

impl Planes {
    /// The convolution with these windows.
    pub fn new(axes: &[Axis], isa: Isa) -> Self {
        let whole = Piece { at: 0, step: 1, phase: 0, place: 0, len: 1 };
        let (mut inputs, mut outputs, mut taps) = (vec![whole], vec![whole], vec![(0, 0)]);
        let (mut len, mut phases, mut reach) = (1, 1, 0);
        for (i, a) in axes.iter().enumerate() {
            let last = i + 1 == axes.len();
            let beyond = a.dilation * (a.kernel - 1) / a.stride;
            let long = a.out + beyond;
            let within = |p: &Piece, along: &Piece, size: usize| Piece {
                at: p.at * size + along.at,
                phase: p.phase * a.stride + along.phase,
                place: p.place * long + along.place,
                ..*along
            };
            let along = of_inputs(a, long, last);
            inputs = inputs.iter().flat_map(|p| along.iter().map(|q| within(p, q, a.size))).collect();
            let along = of_outputs(a, last);
            outputs = outputs.iter().flat_map(|p| along.iter().map(|q| within(p, q, a.out))).collect();
            let along = (0..a.kernel).map(|t| (t * a.dilation % a.stride, t * a.dilation / a.stride));
            let along: Vec<(usize, usize)> = along.collect();
            let both =
                |(phase, place): &(usize, usize), (f, p): &(usize, usize)| (phase * a.stride + f, place * long + p);
            taps = taps.iter().flat_map(|t| along.iter().map(move |u| both(t, u))).collect();
            len *= long;
            phases *= a.stride;
            reach = reach * long + beyond;
        }
        let count = |f: fn(&Axis) -> usize| axes.iter().map(f).product();
        let (positions, windows) = (count(|a| a.size), count(|a| a.out));
        Self { isa, positions, windows, len, phases, reach, taps, inputs, outputs }
    }

    /// y = the convolution of x with w, plus bias [c] where there is one.
    pub fn forward(&self, pool: &dyn Pool, c: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        self.maps(pool, c, y, self.windows, |size, line, blocks, first, y| {
            let mut taps: Vec<Tap> = self.taps.iter().map(|&(f, p)| Tap { at: f * line + p, weight: 0.0 }).collect();
            let apart = [apart(self.phases * line + self.reach), apart(line)];
            with_buffers(apart.map(|a| a * size), |[xs, ys]| {
                for block in blocks {
                    for (k, plane) in block.images(c) {
                        let spread = self.inputs(line, apart[0], block.channels.len());
                        lay(self.isa, spread, &x[plane * self.positions..], &mut xs[k * self.len..]);
                    }
                    let lines = xs.chunks_exact(apart[0]).zip(ys.chunks_exact_mut(apart[1]));
                    for (channel, (xs, ys)) in block.channels.clone().zip(lines) {
                        taps.iter_mut().zip(&w[channel * self.taps.len()..]).for_each(|(tap, w)| tap.weight = *w);
                        correlate(self.isa, &taps, xs, &mut ys[..line]);
                    }
                    for (k, plane) in block.images(c) {
                        let y = &mut y[(plane - first) * self.windows..][..block.channels.len() * self.windows];
                        take(self.isa, self.outputs(line, apart[1], block.channels.len()), &ys[k * self.len..], y);
                        if let Some(bias) = bias {
                            let planes = y.chunks_exact_mut(self.windows).zip(&bias[block.channels.start..]);
                            planes.for_each(|(y, bias)| shift(y, *bias));
                        }
                    }
                }
            });
        });
    }

    /// dx = what dy [n, c, out...] says about x.
    pub fn input_gradient(&self, pool: &dyn Pool, c: usize, dy: &[f32], w: &[f32], dx: &mut [f32]) {
        let covered = self.inputs.iter().map(|p| p.len).sum::<usize>() == self.positions;
        self.maps(pool, c, dx, self.positions, |size, line, blocks, first, dx| {
            if !covered {
                dx.fill(0.0);
            }
            let mut taps: Vec<Vec<Tap>> = vec![Vec::new(); self.phases];
            let apart = [apart(self.reach + line), apart(self.phases * line)];
            with_buffers(apart.map(|a| a * size), |[dys, dxs]| {
                for block in blocks {
                    for (k, plane) in block.images(c) {
                        let spread = self.outputs(line, apart[0], block.channels.len());
                        // The room that a tap reaches back into is before dy.
                        let at = self.reach + k * self.len;
                        lay(self.isa, spread, &dy[plane * self.windows..], &mut dys[at..]);
                    }
                    let lines = dys.chunks_exact(apart[0]).zip(dxs.chunks_exact_mut(apart[1]));
                    for (channel, (dys, dxs)) in block.channels.clone().zip(lines) {
                        taps.iter_mut().for_each(Vec::clear);
                        for (&(phase, place), &weight) in self.taps.iter().zip(&w[channel * self.taps.len()..]) {
                            taps[phase].push(Tap { at: self.reach - place, weight });
                        }
                        for (taps, dxs) in taps.iter().zip(dxs.chunks_exact_mut(line)) {
                            correlate(self.isa, taps, dys, dxs);
                        }
                    }
                    for (k, plane) in block.images(c) {
                        let spread = self.inputs(line, apart[1], block.channels.len());
                        take(self.isa, spread, &dxs[k * self.len..], &mut dx[(plane - first) * self.positions..]);
                    }
                }
            });
        });
    }

    /// dw [c, 1, kernel...] = what dy says about w.
    pub fn weight_gradient(&self, pool: &dyn Pool, c: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let n = x.len() / (c * self.positions).max(1);
        let (images, channels) = self.together(n, c.div_ceil(pool.threads()).max(1));
        let line = (images * self.len).next_multiple_of(BLOCK);
        let at: Vec<usize> = self.taps.iter().map(|&(f, p)| f * line + p).collect();
        chunks(pool, dw, channels * at.len(), |i, dw| {
            let here = i * channels..i * channels + dw.len() / at.len();
            let mut sums = vec![[0.0; LANES]; dw.len()];
            let apart = [apart(self.phases * line + self.reach), apart(line)];
            with_buffers(apart.map(|a| a * channels), |[xs, dys]| {
                for first in (0..n).step_by(images) {
                    let block = Block { images: first..n.min(first + images), channels: here.clone() };
                    if block.images.len() < images {
                        dys.fill(0.0);
                    }
                    for (k, plane) in block.images(c) {
                        let inputs = self.inputs(line, apart[0], here.len());
                        lay(self.isa, inputs, &x[plane * self.positions..], &mut xs[k * self.len..]);
                        let outputs = self.outputs(line, apart[1], here.len());
                        lay(self.isa, outputs, &dy[plane * self.windows..], &mut dys[k * self.len..]);
                    }
                    let lines = xs.chunks_exact(apart[0]).zip(dys.chunks_exact(apart[1]));
                    for (sums, (xs, dys)) in sums.chunks_exact_mut(at.len()).zip(lines) {
                        dots(self.isa, &at, xs, &dys[..line], sums);
                    }
                }
            });
            dw.iter_mut().zip(&sums).for_each(|(dw, lanes)| *dw = lanes.iter().sum());
        });
    }

    fn inputs(&self, line: usize, apart: usize, count: usize) -> Spread<'_> {
        Spread { pieces: &self.inputs, size: self.positions, count, line, apart }
    }

    fn outputs(&self, line: usize, apart: usize, count: usize) -> Spread<'_> {
        Spread { pieces: &self.outputs, size: self.windows, count, line, apart }
    }

    /// Images of a line, and channels whose lines are worked on together.
    fn together(&self, n: usize, c: usize) -> (usize, usize) {
        let channels = (READ / self.positions.max(1)).clamp(1, c.max(1));
        let line = (LINES / channels).clamp(BLOCK, LINE);
        ((line / self.len).clamp(1, n.max(1)), channels)
    }

    /// Shares the planes of `result`, `size` floats each, out to tasks: each is told how many channels a block has at most,
    /// the length of a line, its blocks, its first plane, and its part of `result`.
    fn maps(
        &self,
        pool: &dyn Pool,
        c: usize,
        result: &mut [f32],
        size: usize,
        task: impl Fn(usize, usize, &mut dyn Iterator<Item = Block>, usize, &mut [f32]) + Sync,
    ) {
        let n = result.len() / (c * size).max(1);
        let (images, channels) = self.together(n.div_ceil(pool.threads()), c);
        let line = (images * self.len).next_multiple_of(BLOCK);
        // Whole images; of a single one a part of the channels.
        let whole = n >= pool.threads();
        let part = if whole { c } else { c.div_ceil(pool.threads()) };
        let parts = (1..=c.max(1)).filter(|p| c.is_multiple_of(*p));
        let part = parts.take_while(|p| *p <= part).last().unwrap_or(1);
        let images = if part < c { 1 } else { images };
        chunks(pool, result, images * part * size, |i, result| {
            let first = i * images * part;
            let all = first / c..first / c + (result.len() / size).div_ceil(part);
            let (begin, end) = (first % c, first % c + part);
            let mut blocks = (begin..end)
                .step_by(channels)
                .map(|from| Block { images: all.clone(), channels: from..end.min(from + channels) });
            task(channels, line, &mut blocks, first, result);
        });
    }
}

/// Planes that are worked on together.
struct Block {
    images: Range<usize>,
    channels: Range<usize>,
}

impl Block {
    /// Number of every image in the block, and its first plane there, of `c` an image.
    fn images(&self, c: usize) -> impl Iterator<Item = (usize, usize)> {
        let first = self.channels.start;
        self.images.clone().enumerate().map(move |(k, image)| (k, image * c + first))
    }
}

/// Distance of two lines: never a multiple of a memory page, whose lines would push each other out of the cache.
fn apart(len: usize) -> usize {
    len.next_multiple_of(256) + 16
}

/// Two buffers of zeros.
fn with_buffers(sizes: [usize; 2], task: impl FnOnce(&mut [Vec<f32>; 2])) {
    thread_local! {
        /// Kept from task to task.
        static BUFFERS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    }
    BUFFERS.with_borrow_mut(|buffers| {
        for (buffer, size) in buffers.iter_mut().zip(sizes) {
            buffer.clear();
            buffer.resize(size, 0.0);
        }
        task(buffers);
    });
}

/// The inputs along an axis that windows may read: their phases, each `long` places.
fn of_inputs(a: &Axis, long: usize, last: bool) -> Vec<Piece> {
    let mut found: Vec<Piece> = Vec::new();
    for at in 0..a.size {
        let padded = at as i64 + a.before;
        let (phase, place) = (padded.rem_euclid(a.stride as i64) as usize, padded.div_euclid(a.stride as i64));
        if place < 0 || place >= long as i64 {
            continue;
        }
        // Along the last axis, neighbours of a phase are one piece.
        match found.iter_mut().find(|p| last && p.phase == phase) {
            Some(piece) => piece.len += 1,
            None => found.push(Piece { at, step: a.stride, phase, place: place as usize, len: 1 }),
        }
    }
    found
}

fn of_outputs(a: &Axis, last: bool) -> Vec<Piece> {
    let window = |at| Piece { at, step: 1, phase: 0, place: at, len: 1 };
    if last { vec![Piece { len: a.out, ..window(0) }] } else { (0..a.out).map(window).collect() }
}
