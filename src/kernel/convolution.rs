//! Convolutions and their two gradients over a whole batch.
//!
//! Inside, a value holds its positions first and its channels last, [position, image, channel]: the images at one position
//! are a matrix, and each of the three maps is a sum of products of such matrices over the (window, position) pairs
//! that a tap connects:
//!
//! Y[o] = sum X[p] W[t]        dX[p] = sum dY[o] W[t]^T        dW[t] = sum X[p]^T dY[o]
//!
//! Inputs with few channels go to [`narrow`](super::narrow), most windows of 3 x 3 to [`winograd`](super::winograd); this
//! is what is left. Pairs in the padding are left out, so a 3x3 window costs nine products in the middle of a map and four
//! in its corner. Batches are worked on in parts that stay in a core's cache.

use super::{
    isa::Isa,
    narrow::Narrow,
    pool::{Pool, chunks, shift},
    room::Room,
    tile::{Factors, LANES, Pair, ROWS, tile, tiles},
    transpose::transpose,
    windows::{Axis, Plan, Run},
    winograd::Grid,
};
use std::cell::RefCell;

/// Bytes that a part of the batch may take in its inner layout: about what a core has for itself.
const PART: usize = 1 << 20;

thread_local! {
    /// The weight in the inner layout, of the thread that calls.
    static PANELS: RefCell<Room> = const { RefCell::new(Room::new()) };
    /// Both images and sums that all threads work on, of the thread that calls.
    static TOGETHER: RefCell<[Room; 3]> = const { RefCell::new([Room::new(), Room::new(), Room::new()]) };
    /// Parts of both images, of every thread that works.
    static BUFFERS: RefCell<[Room; 2]> = const { RefCell::new([Room::new(), Room::new()]) };
}

/// A convolution of one group: x [n, c, size...], w [m, c, kernel...], y [n, m, out...].
#[derive(Clone, Debug)]
pub struct Convolution {
    isa: Isa,
    plan: Plan,
    stretches: Vec<Stretch>,
    narrow: Narrow,
    /// Tiles of the convolution, and of its gradient to the input, where there are any.
    tiles: Option<Grid>,
    input_tiles: Option<Grid>,
}

/// What one tap connects: stretches of neighbouring windows, all of one length, with the positions that they read.
#[derive(Clone, Debug)]
struct Stretch {
    tap: usize,
    /// Windows of each stretch.
    len: usize,
    /// How far the position moves from one window to the next.
    source_step: usize,
    /// First window and first position of every stretch.
    starts: Vec<(usize, usize)>,
}

/// The part of the gradient to the weight that one tap gets from a part of the batch.
struct Sum {
    tap: usize,
    pairs: Vec<Pair>,
    step: usize,
    next: usize,
    depth: usize,
}

impl Sum {
    fn factors<'f>(&'f self, a: &'f [f32], b: &'f [f32]) -> Factors<'f> {
        Factors { pairs: &self.pairs, a, row: 1, step: self.step, b, next: self.next, depth: self.depth }
    }
}

impl Stretch {
    /// The stretches of every tap.
    fn all(plan: &Plan) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for tap in 0..plan.taps {
            // First window, first position, length.
            let mut stretches: Vec<(usize, usize, usize)> = Vec::new();
            let mut source_step = 1;
            for run in &plan.outputs {
                let Some(&(_, source)) = run.taps.iter().find(|(t, _)| *t == tap) else { continue };
                source_step = run.source_step;
                match stretches.last_mut() {
                    Some((o, p, len)) if *o + *len == run.first && *p + *len * source_step == source => *len += run.len,
                    _ => stretches.push((run.first, source, run.len)),
                }
            }
            let mut lengths: Vec<usize> = stretches.iter().map(|s| s.2).collect();
            lengths.sort_unstable();
            lengths.dedup();
            found.extend(lengths.into_iter().map(|len| {
                let starts = stretches.iter().filter(|s| s.2 == len).map(|s| (s.0, s.1)).collect();
                Self { tap, len, source_step, starts }
            }));
        }
        found
    }

    /// The sum over `n` images; rows of dy and x are `ms` and `cs` floats apart.
    fn sums(&self, n: usize, ms: usize, cs: usize) -> Sum {
        let pair = |o: usize, p: usize| Pair { a: o * n * ms, b: p * n * cs };
        let whole = || self.starts.iter().map(|&(o, p)| pair(o, p)).collect();
        // Images of neighbouring positions are neighbouring terms where no position is skipped.
        if self.source_step == 1 {
            Sum { tap: self.tap, pairs: whole(), step: ms, next: cs, depth: self.len * n }
        } else if n == 1 {
            Sum { tap: self.tap, pairs: whole(), step: ms, next: self.source_step * cs, depth: self.len }
        } else {
            let each = |&(o, p): &(usize, usize)| (0..self.len).map(move |j| pair(o + j, p + j * self.source_step));
            Sum { tap: self.tap, pairs: self.starts.iter().flat_map(each).collect(), step: ms, next: cs, depth: n }
        }
    }
}

/// The sizes that the arrays bring along.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Images.
    pub n: usize,
    /// Channels of x.
    pub c: usize,
    /// Channels of y.
    pub m: usize,
}

/// One map from images to images: results of `to` channels at `results` positions from `from` channels at `sources`.
struct Map<'r> {
    runs: &'r [Run],
    sources: usize,
    results: usize,
    from: usize,
    to: usize,
}

impl Map<'_> {
    /// Distance of two rows of results.
    fn wide(&self) -> usize {
        self.to.next_multiple_of(LANES)
    }
}

impl Convolution {
    /// The convolution with these windows.
    pub fn new(axes: &[Axis], isa: Isa) -> Self {
        let plan = Plan::new(axes);
        let (tiles, input_tiles) = (Grid::forward(axes, isa), Grid::backward(axes, isa));
        Self { isa, stretches: Stretch::all(&plan), narrow: Narrow::new(axes, isa), tiles, input_tiles, plan }
    }

    /// The same by plain sums alone.
    #[must_use]
    pub fn without_tiles(self) -> Self {
        Self { tiles: None, input_tiles: None, ..self }
    }

    /// True where the gradient of these sizes to the input goes by tiles; without `input` the other two maps.
    pub fn has_tiles(&self, s: Sizes, input: bool) -> bool {
        let tiles = if input { &self.input_tiles } else { &self.tiles };
        !self.is_narrow(s) && tiles.as_ref().is_some_and(|t| t.suits(s))
    }

    /// y = the convolution of x with w, plus bias [m] where there is one.
    pub fn forward(&self, pool: &dyn Pool, s: Sizes, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        if self.is_narrow(s) {
            return self.narrow.forward(pool, s.c, x, w, bias, y);
        }
        if let Some(tiles) = self.tiles.as_ref().filter(|t| t.suits(s)) {
            return tiles.images(pool, [s.n, s.c, s.m], x, w, bias, y);
        }
        let map = Map {
            runs: &self.plan.outputs,
            sources: self.plan.positions,
            results: self.plan.windows,
            from: s.c,
            to: s.m,
        };
        // w [m, c, tap] as panels [m / LANES][tap][c][LANES].
        let mut room = PANELS.take();
        let panels = self.panels(pool, [s.m, s.c], [s.c * self.plan.taps, self.plan.taps], w, &mut room);
        self.images(pool, s.n, &map, panels, x, bias, y);
        PANELS.set(room);
    }

    /// dx = what dy [n, m, out...] says about x.
    pub fn input_gradient(&self, pool: &dyn Pool, s: Sizes, dy: &[f32], w: &[f32], dx: &mut [f32]) {
        if self.is_narrow(s) {
            return self.narrow.input_gradient(pool, s.c, dy, w, dx);
        }
        if let Some(tiles) = self.input_tiles.as_ref().filter(|t| t.suits(s)) {
            return tiles.images(pool, [s.n, s.m, s.c], dy, w, None, dx);
        }
        let map = Map {
            runs: &self.plan.inputs,
            sources: self.plan.windows,
            results: self.plan.positions,
            from: s.m,
            to: s.c,
        };
        // The same w as panels [c / LANES][tap][m][LANES].
        let mut room = PANELS.take();
        let panels = self.panels(pool, [s.c, s.m], [self.plan.taps, s.c * self.plan.taps], w, &mut room);
        self.images(pool, s.n, &map, panels, dy, None, dx);
        PANELS.set(room);
    }

    /// True where x has too few channels for the columns of a tile, but taps to make up for them.
    fn is_narrow(&self, s: Sizes) -> bool {
        s.c < LANES / 2 && self.plan.taps > 1
    }

    /// The weight as panels of LANES columns: [columns / LANES][tap][row][LANES], where the lanes behind the last column are of
    /// no meaning. The windows of two columns begin `column` floats apart in w, those of two rows `row`.
    fn panels<'b>(
        &self,
        pool: &dyn Pool,
        [columns, rows]: [usize; 2],
        [column, row]: [usize; 2],
        w: &[f32],
        room: &'b mut Room,
    ) -> &'b [f32] {
        let Plan { used, taps, .. } = &self.plan;
        let size = used.len() * rows * LANES;
        let panels = room.of(columns.div_ceil(LANES) * size);
        chunks(pool, panels, size, |i, panel| {
            let lanes = LANES.min(columns - i * LANES);
            for r in 0..rows {
                let (w, panel) = (&w[i * LANES * column + r * row..], &mut panel[r * LANES..]);
                if used.len() == *taps {
                    transpose(self.isa, w, column, panel, rows * LANES, lanes, *taps);
                    continue;
                }
                for (l, w) in w.chunks(column).take(lanes).enumerate() {
                    for (slot, &tap) in used.iter().enumerate() {
                        panel[slot * rows * LANES + l] = w[tap];
                    }
                }
            }
        });
        panels
    }

    #[allow(clippy::too_many_arguments)] // the two public maps are its only callers
    fn images(
        &self,
        pool: &dyn Pool,
        n: usize,
        map: &Map<'_>,
        panels: &[f32],
        source: &[f32],
        bias: Option<&[f32]>,
        result: &mut [f32],
    ) {
        let (row, wide) = (stride(map.from), map.wide());
        let part = part(pool, n, map.sources * row + map.results * wide);
        let (source_len, result_len) = (map.from * map.sources, map.to * map.results);
        chunks(pool, result, part * result_len, |i, result| {
            BUFFERS.with_borrow_mut(|[x, y]| {
                let n = result.len() / result_len;
                let source = &source[i * part * source_len..][..n * source_len];
                let x = x.of(map.sources * n * row + LANES);
                let y = y.of(map.results * n * wide);
                for (image, source) in source.chunks_exact(source_len).enumerate() {
                    transpose(self.isa, source, map.sources, &mut x[image * row..], n * row, map.from, map.sources);
                }
                self.multiply(map, n, panels, x, y);
                for (image, result) in result.chunks_exact_mut(result_len).enumerate() {
                    transpose(self.isa, &y[image * wide..], n * wide, result, map.results, map.results, map.to);
                    if let Some(bias) = bias {
                        for (channel, b) in result.chunks_exact_mut(map.results).zip(bias) {
                            shift(channel, *b);
                        }
                    }
                }
            });
        });
    }

    /// Inner layouts: x [source, image, stride(from)] to y [result, image, to rounded up].
    fn multiply(&self, map: &Map<'_>, n: usize, panels: &[f32], x: &[f32], y: &mut [f32]) {
        let (row, wide) = (stride(map.from), map.wide());
        let Plan { used, slots, .. } = &self.plan;
        if used.is_empty() {
            return y.fill(0.0);
        }
        let lists: Vec<Vec<Pair>> = map
            .runs
            .iter()
            .map(|run| {
                let pair =
                    |&(tap, source): &(usize, usize)| Pair { a: source * n * row, b: slots[tap] * map.from * LANES };
                run.taps.iter().map(pair).collect()
            })
            .collect();
        for (i, panel) in panels.chunks_exact((used.len() * map.from * LANES).max(1)).enumerate() {
            for (run, pairs) in map.runs.iter().zip(&lists) {
                // Images of neighbouring positions are neighbouring rows where nothing is skipped between them.
                let whole = n == 1 || (run.step == 1 && run.source_step == 1);
                let (times, rows) = if whole { (1, run.len * n) } else { (run.len, n) };
                let (apart, leap) = if n == 1 { (run.source_step * row, run.step) } else { (row, 1) };
                for j in 0..times {
                    // What no window reads may be a longer run than there are windows.
                    let a = if pairs.is_empty() { x } else { &x[j * run.source_step * n * row..] };
                    let f = Factors { pairs, a, row: apart, step: 1, b: panel, next: LANES, depth: map.from };
                    let at = (run.first + j * run.step) * n * wide + i * LANES;
                    tiles(self.isa, rows, f, &mut y[at..], leap * wide);
                }
            }
        }
    }

    /// dw [m, c, kernel...] = what dy says about w.
    pub fn weight_gradient(&self, pool: &dyn Pool, s: Sizes, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        if self.is_narrow(s) {
            return self.narrow.weight_gradient(pool, s.c, x, dy, dw);
        }
        if let Some(tiles) = self.tiles.as_ref().filter(|t| t.suits(s)) {
            return tiles.weight_gradient(pool, s, x, dy, dw);
        }
        let images = s.n * (self.plan.positions * s.c + self.plan.windows * s.m);
        if dw.len() * pool.threads() * 4 < images {
            self.shared_out(pool, s, x, dy, dw);
        } else {
            self.together(pool, s, x, dy, dw);
        }
    }

    /// The weight's gradient where it is small beside the images: every thread sums up its share of them, and the shares are
    /// added in order, so that equal runs are equal.
    fn shared_out(&self, pool: &dyn Pool, s: Sizes, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let (cs, ms, wide) = (stride(s.c), stride(s.m), s.c.next_multiple_of(LANES));
        let (x_len, dy_len) = (s.c * self.plan.positions, s.m * self.plan.windows);
        let share = s.n.div_ceil(pool.threads()).max(1);
        // Every tap reads the part again, so a smaller one is better than for the other maps.
        let part = (PART / 16 / (self.plan.positions * cs + self.plan.windows * ms).max(1)).clamp(1, share);
        let size = self.plan.taps * s.m * wide;
        let mut sums = vec![0.0; s.n.div_ceil(share) * size];
        chunks(pool, &mut sums, size, |i, sums| {
            BUFFERS.with_borrow_mut(|[xs, dys]| {
                let end = s.n.min((i + 1) * share);
                for first in (i * share..end).step_by(part) {
                    let n = part.min(end - first);
                    let xs = xs.of(self.plan.positions * n * cs + LANES);
                    let dys = dys.of(self.plan.windows * n * ms + ROWS);
                    for k in 0..n {
                        let x = &x[(first + k) * x_len..][..x_len];
                        transpose(
                            self.isa,
                            x,
                            self.plan.positions,
                            &mut xs[k * cs..],
                            n * cs,
                            s.c,
                            self.plan.positions,
                        );
                        let dy = &dy[(first + k) * dy_len..][..dy_len];
                        transpose(self.isa, dy, self.plan.windows, &mut dys[k * ms..], n * ms, s.m, self.plan.windows);
                    }
                    let parts: Vec<Sum> = self.stretches.iter().map(|s| s.sums(n, ms, cs)).collect();
                    for c in (0..s.c).step_by(LANES) {
                        for m in (0..s.m).step_by(ROWS) {
                            let rows = ROWS.min(s.m - m);
                            for part in &parts {
                                let sums = &mut sums[(part.tap * s.m + m) * wide + c..];
                                tile(self.isa, rows, part.factors(&dys[m..], &xs[c..]), sums, wide, true);
                            }
                        }
                    }
                }
            });
        });
        chunks(pool, dw, s.c * self.plan.taps, |m, dw| {
            dw.fill(0.0);
            for share in sums.chunks_exact(size) {
                for tap in 0..self.plan.taps {
                    let row = &share[(tap * s.m + m) * wide..][..s.c];
                    dw[tap..].iter_mut().step_by(self.plan.taps).zip(row).for_each(|(v, s)| *v += s);
                }
            }
        });
    }

    /// The weight's gradient where it is large beside the images: all threads work on one part of the batch, each on rows of
    /// its own.
    fn together(&self, pool: &dyn Pool, s: Sizes, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let Plan { taps, positions, windows, used, slots, .. } = &self.plan;
        let (cs, ms, wide) = (stride(s.c), stride(s.m), s.c.next_multiple_of(LANES));
        let each = positions * cs + windows * ms;
        let part = (PART / 4 / each.max(1)).clamp(1, s.n.max(1));
        let part = s.n.div_ceil(s.n.div_ceil(part).max(1)).max(1);
        let [mut xs, mut dys, mut sums] = TOGETHER.take();
        let height = ROWS.min(s.m.div_ceil(2 * pool.threads())).max(4);
        // [m, slot of a tap, c], which is the weight's order but for the last two.
        let row = used.len() * wide;
        let all = sums.of(s.m * row);
        all.fill(0.0);
        for first in (0..s.n).step_by(part) {
            let n = part.min(s.n - first);
            let xs = inner(self.isa, pool, &x[first * s.c * positions..], n, s.c, *positions, &mut xs);
            let dys = inner(self.isa, pool, &dy[first * s.m * windows..], n, s.m, *windows, &mut dys);
            let parts: Vec<Sum> = self.stretches.iter().map(|s| s.sums(n, ms, cs)).collect();
            chunks(pool, all, height * row, |i, sums| {
                let rows = sums.len() / row;
                for c in (0..s.c).step_by(LANES) {
                    for part in &parts {
                        let sums = &mut sums[slots[part.tap] * wide + c..];
                        tile(self.isa, rows, part.factors(&dys[i * height..], &xs[c..]), sums, row, true);
                    }
                }
            });
        }
        let all = &*all;
        chunks(pool, dw, s.c * taps, |m, dw| {
            let sums = &all[m * row..][..row];
            if used.len() == *taps {
                return transpose(self.isa, sums, wide, dw, *taps, *taps, s.c);
            }
            dw.fill(0.0);
            for (sums, tap) in sums.chunks_exact(wide).zip(used) {
                dw[*tap..].iter_mut().step_by(*taps).zip(sums).for_each(|(v, s)| *v = *s);
            }
        });
        TOGETHER.set([xs, dys, sums]);
    }
}

/// [n, channels, positions] as [positions, n, stride(channels)], with room behind it for a tile that reads on.
fn inner<'b>(
    isa: Isa,
    pool: &dyn Pool,
    v: &[f32],
    n: usize,
    channels: usize,
    positions: usize,
    room: &'b mut Room,
) -> &'b [f32] {
    /// A cache line of positions.
    const GROUP: usize = 16;
    let row = stride(channels);
    let used = positions * n * row;
    let out = room.of(used + LANES + ROWS);
    chunks(pool, &mut out[..used], GROUP * n * row, |i, out| {
        let count = out.len() / (n * row);
        for (image, v) in v[..n * channels * positions].chunks_exact(channels * positions).enumerate() {
            transpose(isa, &v[i * GROUP..], positions, &mut out[image * row..], n * row, channels, count);
        }
    });
    out
}

/// Images of a part: what fits, spread evenly over the threads.
fn part(pool: &dyn Pool, n: usize, each: usize) -> usize {
    let fits = (PART / 4 / each.max(1)).max(1);
    let parts = n.div_ceil(fits).next_multiple_of(pool.threads()).max(1);
    n.div_ceil(parts).max(1)
}

/// Distance of two rows of this many floats: whole registers for long ones, and never a multiple of a memory page, whose
/// lines would push each other out of the cache.
pub(super) fn stride(len: usize) -> usize {
    let padded = if len < 16 { len } else { len.next_multiple_of(16) };
    if padded.is_multiple_of(1024) { padded + 16 } else { padded }
}
