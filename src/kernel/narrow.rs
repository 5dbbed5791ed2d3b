//! Convolutions of inputs with few channels, such as the first one of a network.
//!
//! A tile has more columns than such an input has channels. So the channels of the results are the columns here, and all
//! taps of all channels the terms of one sum, which read an image laid out with its padding, wherever they are:
//!
//! y[o] = sum over c, t of x[c, at(o) + at(t)] w[c, t]      dw[c, t] = sum over o of x[c, at(o) + at(t)] dy[o]
//!
//! The gradient to the input is the products dy[o] w[c, t], added up where they were read.

use super::{
    isa::Isa,
    pool::{Pool, chunks, shift},
    room::Room,
    tile::{Factors, LANES, Pair, ROWS, Tile, tile, tiles},
    transpose::transpose,
    windows::Axis,
};
use std::{cell::RefCell, ops::Range};

/// Floats of the results, or of their gradient, that are worked on at a time: they stay in a core's nearest cache, or do
/// not go far.
const STRIP: usize = 1 << 13;

/// The maps of a convolution of few channels.
#[derive(Clone, Debug)]
pub struct Narrow {
    isa: Isa,
    positions: usize,
    windows: usize,
    /// Floats of a channel with its padding.
    len: usize,
    /// Neighbours along the last axis: first position, its place with padding, number.
    rows: Vec<(usize, usize, usize)>,
    /// Places of the first window of every line along the last axis.
    lines: Vec<usize>,
    /// Places of the first tap of every line along the last axis, in the first window.
    taps: Vec<usize>,
    /// The windows of a line.
    last: Axis,
}

thread_local! {
    /// An image with its padding, a strip of results, and a second one, kept from image to image.
    static BUFFERS: RefCell<[Room; 3]> = const { RefCell::new([Room::new(), Room::new(), Room::new()]) };
    /// The weight in the inner layout, of the thread that calls.
    static PANELS: RefCell<Room> = const { RefCell::new(Room::new()) };
}

impl Narrow {
    /// The convolution with these windows.
    pub fn new(axes: &[Axis], isa: Isa) -> Self {
        let one = Axis { size: 1, out: 1, kernel: 1, stride: 1, dilation: 1, before: 0, after: 0 };
        let (last, outer) = axes.split_last().unwrap_or((&one, &[]));
        let (mut rows, mut lines, mut taps) = (vec![(0, 0)], vec![0], vec![0]);
        for a in outer {
            let span = a.span();
            let inside = |p: usize| Some((p, usize::try_from(p as i64 + a.before).ok().filter(|q| *q < span)?));
            let along: Vec<(usize, usize)> = (0..a.size).filter_map(inside).collect();
            rows =
                rows.iter().flat_map(|(p, q)| along.iter().map(move |(r, s)| (p * a.size + r, q * span + s))).collect();
            lines = lines.iter().flat_map(|at| (0..a.out).map(move |o| at * span + o * a.stride)).collect();
            taps = taps.iter().flat_map(|at| (0..a.kernel).map(move |t| at * span + t * a.dilation)).collect();
        }
        let span = last.span();
        // What padding cuts off at either end is read by no window.
        let begin = (-last.before).max(0);
        let count = (span as i64 - last.before).min(last.size as i64) - begin;
        let row = |&(p, q): &(usize, usize)| {
            let (p, q) = (p * last.size + begin as usize, q * span + (begin + last.before) as usize);
            (p, q, count as usize)
        };
        let rows = if count > 0 { rows.iter().map(row).collect() } else { Vec::new() };
        for at in lines.iter_mut().chain(&mut taps) {
            *at *= span;
        }
        let product = |f: fn(&Axis) -> usize| axes.iter().map(f).product::<usize>();
        let (positions, windows, len) = (product(|a| a.size), product(|a| a.out), product(Axis::span));
        Self { isa, positions, windows, len, rows, lines, taps, last: *last }
    }

    /// Taps of a window.
    fn taps(&self) -> usize {
        self.taps.len() * self.last.kernel
    }

    /// An image [channels, positions] with its padding.
    fn lay<'b>(&self, image: &[f32], room: &'b mut Room) -> &'b [f32] {
        let channels = image.len() / self.positions;
        let padded = room.of(channels * self.len);
        padded.fill(0.0);
        for (image, padded) in image.chunks_exact(self.positions).zip(padded.chunks_exact_mut(self.len)) {
            for &(from, to, count) in &self.rows {
                padded[to..][..count].copy_from_slice(&image[from..][..count]);
            }
        }
        padded
    }

    /// Lines of windows, so many at a time that they hold about a strip of this many channels.
    fn strips(&self, channels: usize) -> impl Iterator<Item = Range<usize>> {
        let (all, some) = (self.lines.len(), (STRIP / (self.last.out * channels)).max(1));
        (0..all).step_by(some).map(move |first| first..all.min(first + some))
    }

    /// y [n, m, windows] from x [n, c, positions] and w [m, c, taps].
    pub fn forward(&self, pool: &dyn Pool, c: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let terms = c * self.taps();
        let m = w.len() / terms.max(1);
        let wide = m.next_multiple_of(LANES);
        let mut room = PANELS.take();
        let panels = room.of(wide * terms);
        for (m, w) in w.chunks_exact(terms).enumerate() {
            let panel = &mut panels[m / LANES * LANES * terms + m % LANES..];
            panel.iter_mut().step_by(LANES).zip(w).for_each(|(p, w)| *p = *w);
        }
        let panels = &*panels;
        let line_of_taps = self.last.kernel * LANES;
        let places = (0..c).flat_map(|c| self.taps.iter().map(move |tap| c * self.len + tap));
        let pairs: Vec<Pair> = places.enumerate().map(|(i, a)| Pair { a, b: i * line_of_taps }).collect();
        let &Axis { out, kernel: depth, stride: row, dilation: step, .. } = &self.last;
        let height = out.div_ceil(out.div_ceil(ROWS));
        chunks(pool, y, m * self.windows, |image, y| {
            BUFFERS.with_borrow_mut(|[padded, products, _]| {
                let padded = self.lay(&x[image * c * self.positions..][..c * self.positions], padded);
                for strip in self.strips(wide) {
                    let first = strip.start * out;
                    let products = products.of(strip.len() * out * wide);
                    for (i, b) in panels.chunks_exact(terms * LANES).enumerate() {
                        for (line, products) in
                            self.lines[strip.clone()].iter().zip(products.chunks_exact_mut(out * wide))
                        {
                            for o in (0..out).step_by(height) {
                                let (rows, a) = (height.min(out - o), &padded[line + o * row..]);
                                let f = Factors { pairs: &pairs, a, row, step, b, next: LANES, depth };
                                tile(self.isa, rows, f, &mut products[o * wide + i * LANES..], wide, false);
                            }
                        }
                    }
                    transpose(self.isa, products, wide, &mut y[first..], self.windows, strip.len() * out, m);
                }
                if let Some(bias) = bias {
                    for (y, b) in y.chunks_exact_mut(self.windows).zip(bias) {
                        shift(y, *b);
                    }
                }
            });
        });
        PANELS.set(room);
    }

    /// dx [n, c, positions] from dy [n, m, windows] and w [m, c, taps].
    pub fn input_gradient(&self, pool: &dyn Pool, c: usize, dy: &[f32], w: &[f32], dx: &mut [f32]) {
        let columns = c * self.taps();
        let (m, wide) = (w.len() / columns.max(1), columns.next_multiple_of(LANES));
        let mut room = PANELS.take();
        let panels = room.of(wide * m);
        for (m_at, w) in w.chunks_exact(columns).enumerate() {
            for (at, w) in (0..).step_by(LANES).zip(w.chunks(LANES)) {
                panels[at * m + m_at * LANES..][..w.len()].copy_from_slice(w);
            }
        }
        let panels = &*panels;
        let out = self.last.out;
        chunks(pool, dx, c * self.positions, |image, dx| {
            BUFFERS.with_borrow_mut(|[padded, products, turned]| {
                let dy = &dy[image * m * self.windows..][..m * self.windows];
                let padded = padded.of(c * self.len);
                padded.fill(0.0);
                for strip in self.strips(wide) {
                    let rows = strip.len() * out;
                    let (products, turned) = (products.of(rows * wide), turned.of(rows * m));
                    transpose(self.isa, &dy[strip.start * out..], self.windows, turned, m, m, rows);
                    for (i, b) in panels.chunks_exact(m * LANES).enumerate() {
                        let pairs = &[Pair { a: 0, b: 0 }];
                        let f = Factors { pairs, a: turned, row: m, step: 1, b, next: LANES, depth: m };
                        tiles(self.isa, rows, f, &mut products[i * LANES..], wide);
                    }
                    for (line, products) in self.lines[strip].iter().zip(products.chunks_exact(out * wide)) {
                        self.scatter(c, products, wide, &mut padded[*line..]);
                    }
                }
                dx.fill(0.0);
                for (dx, padded) in dx.chunks_exact_mut(self.positions).zip(padded.chunks_exact(self.len)) {
                    for &(to, from, count) in &self.rows {
                        dx[to..][..count].copy_from_slice(&padded[from..][..count]);
                    }
                }
            });
        });
        PANELS.set(room);
    }

    /// Adds the products of a line of windows, [window, channel and tap], where they were read.
    fn scatter(&self, channels: usize, products: &[f32], wide: usize, padded: &mut [f32]) {
        for (o, products) in products.chunks_exact(wide).enumerate() {
            let at = o * self.last.stride;
            let places = (0..channels).flat_map(|c| self.taps.iter().map(move |tap| c * self.len + tap + at));
            for (at, products) in places.zip(products.chunks_exact(self.last.kernel)) {
                match self.last {
                    Axis { kernel: 3, dilation: 1, .. } => add::<3>(&mut padded[at..], products),
                    Axis { kernel: 5, dilation: 1, .. } => add::<5>(&mut padded[at..], products),
                    Axis { kernel: 7, dilation: 1, .. } => add::<7>(&mut padded[at..], products),
                    Axis { dilation, .. } => {
                        padded[at..].iter_mut().step_by(dilation).zip(products).for_each(|(v, p)| *v += p);
                    }
                }
            }
        }
    }

    /// dw [m, c, taps] from x [n, c, positions] and dy [n, m, windows].
    pub fn weight_gradient(&self, pool: &dyn Pool, c: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let (columns, n) = (c * self.taps(), x.len() / (c * self.positions).max(1));
        let m = dw.len() / columns.max(1);
        let wide = m.next_multiple_of(LANES);
        let &Axis { out: depth, kernel, stride: step, dilation: row, .. } = &self.last;
        // A tile of sums for every channel, line of taps, some taps of it, and panel of results.
        let groups = kernel.div_ceil(ROWS);
        let tiles = c * self.taps.len() * groups * (wide / LANES);
        // Every thread sums up its share of the images; the shares are added in order, so that equal runs are equal.
        let share = n.div_ceil(pool.threads()).max(1);
        let mut sums: Vec<Tile> = vec![[[0.0; LANES]; ROWS]; n.div_ceil(share) * tiles];
        chunks(pool, &mut sums, tiles, |i, sums| {
            BUFFERS.with_borrow_mut(|[padded, turned, _]| {
                for image in i * share..n.min((i + 1) * share) {
                    let padded = self.lay(&x[image * c * self.positions..][..c * self.positions], padded);
                    let dy = &dy[image * m * self.windows..][..m * self.windows];
                    for strip in self.strips(wide) {
                        let turned = turned.of(strip.len() * depth * wide);
                        let from = &dy[strip.start * depth..];
                        transpose(self.isa, from, self.windows, turned, wide, m, strip.len() * depth);
                        let pair = |(i, line): (usize, &usize)| Pair { a: *line, b: i * depth * wide };
                        let pairs: Vec<Pair> = self.lines[strip].iter().enumerate().map(pair).collect();
                        let places = (0..c).flat_map(|c| self.taps.iter().map(move |tap| c * self.len + tap));
                        let places = places.flat_map(|at| (0..kernel).step_by(ROWS).map(move |tap| (at, tap)));
                        for ((at, tap), sums) in places.zip(sums.chunks_exact_mut(wide / LANES)) {
                            let (rows, a) = (ROWS.min(kernel - tap), &padded[at + tap * row..]);
                            for (i, sums) in sums.iter_mut().enumerate() {
                                let b = &turned[i * LANES..];
                                let f = Factors { pairs: &pairs, a, row, step, b, next: wide, depth };
                                tile(self.isa, rows, f, sums.as_flattened_mut(), LANES, true);
                            }
                        }
                    }
                }
            });
        });
        for (m, dw) in dw.chunks_exact_mut(columns).enumerate() {
            for (line, dw) in dw.chunks_exact_mut(kernel).enumerate() {
                for (tap, dw) in dw.iter_mut().enumerate() {
                    let at = (line * groups + tap / ROWS) * (wide / LANES) + m / LANES;
                    *dw = sums.iter().skip(at).step_by(tiles).map(|tile| tile[tap % ROWS][m % LANES]).sum();
                }
            }
        }
    }
}

/// Adds N neighbours.
fn add<const N: usize>(to: &mut [f32], from: &[f32]) {
    for (v, p) in to[..N].iter_mut().zip(&from[..N]) {
        *v += p;
    }
}
