//! Convolutions with windows of 3 x 3 that lie one apart, in fewer products: Winograd's minimal filtering F(4 x 4, 3 x 3).
//!
//! For a tile d of 6 x 6 positions, the 4 x 4 windows g in it and the gradient dy of their results
//!
//! y = At [(G g Gt) * (Bt d B)] A        dg = Gt [(A dy At) * (Bt d B)] G
//!
//! where * is element by element: 36 products a tile and a pair of channels in place of 144. For each of these 36 points the
//! products are those of matrices, [tile, image, channel] times [channel, channel]. The gradient to the input is the
//! convolution of dy with the window turned round. [`points`] has the matrices, and those for maps of 2 x 2, which take 9
//! products in place of 16. What is not finite spoils its whole tile.
//!
//! Source: A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.

mod points;

use super::{
    convolution::{Sizes, stride},
    isa::Isa,
    pool::{Pool, chunks, hand_out, shift},
    room::Room,
    tile::{Factors, LANES, Pair, ROWS, tile, tiles},
    transpose::transpose,
    windows::Axis,
};
use points::{Apart, FOUR, OfTiles, Place, SIDE, Scheme, TWO};
use std::{cell::RefCell, ops::Range};

/// Taps of a window along an axis.
const TAPS: usize = 3;
/// Taps of a window.
const WINDOW: usize = TAPS * TAPS;
/// Points of a tile at most.
const MOST: usize = 36;
/// Floats that the tiles worked on at a time may take: about what a core has for itself.
const BLOCK: usize = 1 << 18;
/// Fewer channels are not worth turning tiles to points and back.
const CHANNELS: usize = 32;
/// For fewer tiles it is not worth turning the weight.
const TILES: usize = 24;
/// Floats that a weight may take at the points.
const WEIGHT: usize = 1 << 25;
/// Floats up to which every thread has sums of its own.
const APART: usize = 1 << 22;

/// The tiles of one map from images to images.
#[derive(Clone, Debug)]
pub struct Grid {
    isa: Isa,
    scheme: &'static Scheme,
    sources: [usize; 2],
    results: [usize; 2],
    before: [i64; 2],
    tiles: [usize; 2],
    /// Windows are turned round, and lead from what the weight calls m to c.
    turned: bool,
}

impl Grid {
    /// The tiles of a convolution; `None` where it has other windows, or maps so small that the plain sum takes fewer steps.
    pub fn forward(axes: &[Axis], isa: Isa) -> Option<Self> {
        let &[a, b] = axes else { return None };
        let suits = |a: &Axis| a.kernel == TAPS && a.stride == 1 && a.dilation == 1;
        let two = |a: &Axis| [a.size, a.out] == [2; 2] && a.before == 1;
        let scheme = if axes.iter().all(two) { &TWO } else { &FOUR };
        let grid = Self {
            isa,
            scheme,
            sources: [a.size, b.size],
            results: [a.out, b.out],
            before: [a.before, b.before],
            tiles: [a, b].map(|a| a.out.div_ceil(scheme.results)),
            turned: false,
        };
        (axes.iter().all(suits) && grid.pays()).then_some(grid)
    }

    /// The tiles of its gradient to the input.
    pub fn backward(axes: &[Axis], isa: Isa) -> Option<Self> {
        let last = TAPS as i64 - 1;
        let turned = |a: &Axis| Axis { size: a.out, out: a.size, before: last - a.before, after: last - a.after, ..*a };
        let grid = Self::forward(&axes.iter().map(turned).collect::<Vec<_>>(), isa)?;
        Some(Self { turned: true, ..grid })
    }

    /// True where the products and, half as long as these, the way to the points and back take less than the plain sum.
    fn pays(&self) -> bool {
        let along = |i: usize| -> usize {
            let inside = |o: usize| (0..TAPS).filter(|t| self.at(i, o + t).is_some()).count();
            (0..self.results[i]).map(inside).sum()
        };
        self.count() * self.scheme.points() * 3 <= along(0) * along(1) * 2
    }

    /// True where that also holds for so many images and channels, and the weight at the points, which is up to four times
    /// the weight, is not too large to be kept.
    pub fn suits(&self, s: Sizes) -> bool {
        s.c.min(s.m) >= CHANNELS && s.n * self.count() >= TILES && self.scheme.points() * s.c * s.m <= WEIGHT
    }

    /// Tiles of an image.
    fn count(&self) -> usize {
        self.tiles[0] * self.tiles[1]
    }

    /// The source that tap 0 of window `o` reads along axis `i`; `None` in the padding.
    fn at(&self, i: usize, o: usize) -> Option<usize> {
        usize::try_from(o as i64 - self.before[i]).ok().filter(|at| *at < self.sources[i])
    }

    /// Where the positions of tiles lie that such rows of tiles read.
    fn reads(&self, rows: &Range<usize>) -> Strip {
        let &Scheme { results, positions: side, before, .. } = self.scheme;
        let row = |at: usize| at.saturating_sub_signed(self.before[0] as isize).min(self.sources[0]);
        let [height, width] = self.sources;
        let (first, end) = (row(rows.start * results) * width, row(rows.end * results + TAPS - 1) * width);
        let place = |y, x| Some((self.at(0, y + before)? * width + self.at(1, x + before)? - first) * SIDE);
        Strip { positions: height * width, first, len: end - first, tiles: self.places(rows, side, place), side }
    }

    /// Where the results lie.
    fn writes(&self, rows: &Range<usize>) -> Strip {
        let side = self.scheme.results;
        let [height, width] = self.results;
        let (first, end) = (rows.start * side * width, height.min(rows.end * side) * width);
        let place = |y, x| (y < height && x < width).then(|| (y * width + x - first) * SIDE);
        Strip { positions: height * width, first, len: end - first, tiles: self.places(rows, side, place), side }
    }

    /// The places of the elements of tiles with so many along a side.
    fn places(&self, rows: &Range<usize>, side: usize, place: impl Fn(usize, usize) -> Place) -> Vec<Place> {
        let apart = self.scheme.results;
        let tiles = rows.clone().flat_map(|y| (0..self.tiles[1]).map(move |x| (y * apart, x * apart)));
        let elements = tiles.flat_map(|(y, x)| (0..side * side).map(move |i| (y + i / side, x + i % side)));
        elements.map(|(y, x)| place(y, x)).collect()
    }

    /// The weight [m, c, 3, 3] at the points, as panels of LANES results: [to / LANES][point][from][LANES], where the lanes
    /// behind the last result are of no meaning.
    fn filters<'b>(&self, pool: &dyn Pool, from: usize, to: usize, w: &[f32], room: &'b mut Room) -> &'b [f32] {
        let size = self.scheme.points() * from * LANES;
        let panels = room.of(to.div_ceil(LANES) * size);
        chunks(pool, panels, size, |i, panel| {
            let mut windows = [0.0; WINDOW * SIDE];
            for f in 0..from {
                for lane in (0..LANES).step_by(SIDE) {
                    let first = i * LANES + lane;
                    for t in first..to.min(first + SIDE) {
                        let window = if self.turned { f * to + t } else { t * from + f };
                        for (tap, w) in w[window * WINDOW..][..WINDOW].iter().enumerate() {
                            let tap = if self.turned { WINDOW - 1 - tap } else { tap };
                            windows[tap * SIDE + t - first] = *w;
                        }
                    }
                    (self.scheme.windows_at_points)(self.isa, &windows, &mut panel[f * LANES + lane..], from * LANES);
                }
            }
        });
        panels
    }

    /// The map from x [n, from, sources] to y [n, to, results] with the weight w, plus `bias` [to] where there is one.
    pub fn images(
        &self,
        pool: &dyn Pool,
        [n, from, to]: [usize; 3],
        x: &[f32],
        w: &[f32],
        bias: Option<&[f32]>,
        y: &mut [f32],
    ) {
        thread_local! {
            static FILTERS: RefCell<Room> = const { RefCell::new(Room::new()) };
            static BUFFERS: RefCell<[Room; 3]> = const { RefCell::new([Room::new(), Room::new(), Room::new()]) };
        }
        let mut room = FILTERS.take();
        let filters = self.filters(pool, from, to, w, &mut room);
        let (row, points_of) = (stride(from), self.scheme.points());
        let (images, rows_of_tiles) = self.parts(n, pool.threads(), BLOCK / (points_of * row));
        let strips = self.strips(rows_of_tiles);
        let (x_len, y_len) = (from * self.sources[0] * self.sources[1], to * self.results[0] * self.results[1]);
        chunks(pool, y, images * y_len, |i, y| {
            BUFFERS.with_borrow_mut(|[points, products, strip]| {
                let n = y.len() / y_len;
                let x = &x[i * images * x_len..][..n * x_len];
                for (reads, writes) in &strips {
                    let rows = n * reads.tiles();
                    let apart = stride(rows * row);
                    let points = points.of(points_of * apart);
                    reads.turn(self.isa, n, from, x, strip, points, self.scheme.positions_at_points);
                    let products = products.of(points_of * rows * LANES);
                    for (i, panel) in filters.chunks_exact(points_of * from * LANES).enumerate() {
                        for (k, b) in panel.chunks_exact(from * LANES).enumerate() {
                            let (pairs, a) = (&[Pair { a: 0, b: 0 }], &points[k * apart..]);
                            let f = Factors { pairs, a, row, step: 1, b, next: LANES, depth: from };
                            tiles(self.isa, rows, f, &mut products[k * rows * LANES..], LANES);
                        }
                        for channel in (i * LANES..to.min((i + 1) * LANES)).step_by(SIDE) {
                            let bias = bias.map(|b| &b[channel..]);
                            let products = &products[channel % LANES..];
                            writes.turn_back(self, channel, to, products, bias, strip, y);
                        }
                    }
                }
            });
        });
        FILTERS.set(room);
    }

    /// How many images, and how many rows of tiles of these, are worked on at a time, so that a matrix has about `rows`
    /// rows.
    fn parts(&self, n: usize, threads: usize, rows: usize) -> (usize, usize) {
        let rows = rows.max(4 * ROWS);
        let images = (rows / self.count()).clamp(1, n.max(1));
        let parts = n.div_ceil(images).next_multiple_of(threads);
        let images = n.div_ceil(parts).max(1);
        let rows_of_tiles = (rows / (images * self.tiles[1])).clamp(1, self.tiles[0]);
        (images, self.tiles[0].div_ceil(self.tiles[0].div_ceil(rows_of_tiles)))
    }

    /// dw [m, c, 3, 3] from x [n, c, sources] and dy [n, m, results].
    pub fn weight_gradient(&self, pool: &dyn Pool, s: Sizes, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        thread_local! {
            static SHARES: RefCell<Vec<Share>> = const { RefCell::new(Vec::new()) };
        }
        let mut shares = SHARES.take();
        shares.resize_with(pool.threads(), Share::default);
        let size = self.scheme.points() * s.m.next_multiple_of(ROWS) * s.c.next_multiple_of(LANES);
        let summed = if size * pool.threads() <= APART {
            self.sum_apart(pool, s, x, dy, &mut shares, size);
            &shares[..]
        } else {
            self.sum_together(pool, s, x, dy, &mut shares, size);
            &shares[..1]
        };
        let sums: Vec<&[f32]> = summed.iter().map(|share| share.sums.floats()).collect();
        let (wide, points_of) = (s.c.next_multiple_of(LANES), self.scheme.points());
        let apart = size / points_of;
        chunks(pool, dw, s.c * WINDOW, |m, dw| {
            let (mut points, mut windows) = ([0.0; MOST * SIDE], [0.0; WINDOW * SIDE]);
            let points = &mut points[..points_of * SIDE];
            for (i, dw) in dw.chunks_mut(WINDOW * SIDE).enumerate() {
                for (k, point) in points.chunks_exact_mut(SIDE).enumerate() {
                    let at = k * apart + m * wide + i * SIDE;
                    point.copy_from_slice(&sums[0][at..][..SIDE]);
                    for sums in &sums[1..] {
                        point.iter_mut().zip(&sums[at..]).for_each(|(p, s)| *p += s);
                    }
                }
                (self.scheme.windows_from_points)(self.isa, points, &mut windows);
                for (l, dw) in dw.chunks_exact_mut(WINDOW).enumerate() {
                    dw.iter_mut().zip(windows[l..].iter().step_by(SIDE)).for_each(|(v, w)| *v = *w);
                }
            }
        });
        SHARES.set(shares);
    }

    /// Sums at the points, [point, m, c], where these are small: every thread has some of its own over images of its own, so
    /// that no thread waits for what another one has in its cache.
    fn sum_apart(&self, pool: &dyn Pool, s: Sizes, x: &[f32], dy: &[f32], shares: &mut [Share], size: usize) {
        let share_of = s.n.div_ceil(shares.len());
        let (images, rows_of_tiles) =
            self.parts(share_of, 1, BLOCK / (self.scheme.points() * (stride(s.c) + stride(s.m))));
        let strips = self.strips(rows_of_tiles);
        hand_out(pool, shares.iter_mut(), |i, share| {
            let mut room = std::mem::take(&mut share.sums);
            let sums = room.of(size);
            sums.fill(0.0);
            let end = s.n.min((i + 1) * share_of);
            for first in (i * share_of..end).step_by(images) {
                for strips in &strips {
                    share.load(self, s, first..end.min(first + images), [x, dy], strips);
                    share.add_up(self.isa, s, 0, sums);
                }
            }
            share.sums = room;
        });
    }

    /// The same where they are large, all with the first share: every thread has images of its own to turn to points, and then
    /// some of the sums over all of these.
    fn sum_together(&self, pool: &dyn Pool, s: Sizes, x: &[f32], dy: &[f32], shares: &mut [Share], size: usize) {
        // As many tiles at a time as make no more traffic than the sums do.
        let rows = s.c * s.m / (stride(s.c) + stride(s.m));
        let (images, rows_of_tiles) = self.parts(s.n, shares.len(), rows / shares.len());
        let strips = self.strips(rows_of_tiles);
        let mut room = std::mem::take(&mut shares[0].sums);
        let sums = room.of(size);
        sums.fill(0.0);
        for begin in (0..s.n).step_by(images * shares.len()) {
            for strips in &strips {
                hand_out(pool, shares.iter_mut(), |i, share| {
                    let first = s.n.min(begin + i * images);
                    share.load(self, s, first..s.n.min(first + images), [x, dy], strips);
                });
                let some = ROWS * s.c.next_multiple_of(LANES);
                chunks(pool, sums, some, |i, sums| shares.iter().for_each(|share| share.add_up(self.isa, s, i, sums)));
            }
        }
        shares[0].sums = room;
    }

    /// What all rows of tiles, so many at a time, read and write.
    fn strips(&self, rows_of_tiles: usize) -> Vec<(Strip, Strip)> {
        let rows = (0..self.tiles[0]).step_by(rows_of_tiles);
        let rows = rows.map(|first| first..self.tiles[0].min(first + rows_of_tiles));
        rows.map(|rows| (self.reads(&rows), self.writes(&rows))).collect()
    }
}

/// Neighbouring positions of a map, and where among these the elements of tiles lie.
struct Strip {
    /// Positions of the map.
    positions: usize,
    first: usize,
    len: usize,
    /// The places of every tile, row by row.
    tiles: Vec<Place>,
    /// Elements of a tile along an axis.
    side: usize,
}

impl Strip {
    /// Number of tiles.
    fn tiles(&self) -> usize {
        self.tiles.len() / (self.side * self.side)
    }

    /// Images v [n, channels, positions] at the points: [point, image, tile, stride(channels)].
    #[allow(clippy::too_many_arguments)]
    fn turn(&self, isa: Isa, n: usize, channels: usize, v: &[f32], strip: &mut Room, out: &mut [f32], turn: OfTiles) {
        let (row, tiles) = (stride(channels), self.tiles());
        let apart = Apart { point: stride(n * tiles * row), tile: row };
        let strip = strip.of(self.len * SIDE);
        for image in 0..n {
            for c in (0..channels).step_by(SIDE) {
                let from = &v[(image * channels + c) * self.positions + self.first..];
                transpose(isa, from, self.positions, strip, SIDE, SIDE.min(channels - c), self.len);
                turn(isa, &self.tiles, strip, &mut out[image * tiles * row + c..], apart);
            }
        }
    }

    /// Up to SIDE channels of images y [n, channels, positions] from the points, [point, image, tile, LANES].
    #[allow(clippy::too_many_arguments)]
    fn turn_back(
        &self,
        grid: &Grid,
        channel: usize,
        channels: usize,
        points: &[f32],
        bias: Option<&[f32]>,
        strip: &mut Room,
        y: &mut [f32],
    ) {
        let len = channels * self.positions;
        let n = y.len() / len;
        let apart = Apart { point: n * self.tiles() * LANES, tile: LANES };
        let strip = strip.of(self.len * SIDE);
        for image in 0..n {
            let points = &points[image * self.tiles() * LANES..];
            (grid.scheme.results_from_points)(grid.isa, &self.tiles, points, strip, apart);
            let to = &mut y[image * len + channel * self.positions..];
            let count = SIDE.min(channels - channel);
            transpose(grid.isa, strip, SIDE, &mut to[self.first..], self.positions, self.len, count);
            if let Some(bias) = bias {
                for (y, b) in to.chunks_exact_mut(self.positions).take(count).zip(bias) {
                    shift(&mut y[self.first..][..self.len], *b);
                }
            }
        }
    }
}

/// What one thread has of the weight's gradient: tiles of its images at the points, with room for a product that reads on,
/// and sums over them.
#[derive(Default)]
struct Share {
    rows: usize,
    strip: Room,
    x: Room,
    dy: Room,
    sums: Room,
}

impl Share {
    /// Takes tiles of both factors to the points.
    fn load(
        &mut self,
        grid: &Grid,
        s: Sizes,
        images: Range<usize>,
        [x, dy]: [&[f32]; 2],
        (reads, writes): &(Strip, Strip),
    ) {
        let scheme = grid.scheme;
        self.rows = images.len() * reads.tiles();
        let to_x = self.x.of(scheme.points() * stride(self.rows * stride(s.c)) + LANES);
        let to_dy = self.dy.of(scheme.points() * stride(self.rows * stride(s.m)) + ROWS);
        let part = |v: &'_ [f32]| v.len() / s.n * images.start..v.len() / s.n * images.end;
        reads.turn(grid.isa, images.len(), s.c, &x[part(x)], &mut self.strip, to_x, scheme.positions_at_points);
        writes.turn(grid.isa, images.len(), s.m, &dy[part(dy)], &mut self.strip, to_dy, scheme.results_at_points);
    }

    /// Adds the products over all tiles to sums [point, m, c], of which these begin with row `first * ROWS` of all points.
    fn add_up(&self, isa: Isa, s: Sizes, first: usize, sums: &mut [f32]) {
        if self.rows == 0 {
            return;
        }
        let (step, next, depth) = (stride(s.m), stride(s.c), self.rows);
        let (groups, wide) = (s.m.div_ceil(ROWS), s.c.next_multiple_of(LANES));
        for (i, sums) in sums.chunks_exact_mut(ROWS * wide).enumerate() {
            let (point, m) = ((first + i) / groups, (first + i) % groups * ROWS);
            let rows = ROWS.min(s.m - m);
            let a = &self.dy.floats()[point * stride(depth * step) + m..];
            let b = &self.x.floats()[point * stride(depth * next)..];
            for c in (0..s.c).step_by(LANES) {
                let f = Factors { pairs: &[Pair { a: 0, b: 0 }], a, row: 1, step, b: &b[c..], next, depth };
                tile(isa, rows, f, &mut sums[c..], wide, true);
            }
        }
    }
}
