//! Products of matrices, y = alpha a' b' + bias, where a' and b' are a and b or these transposed.
//!
//! The columns of b' are laid out in panels of [`LANES`]. A left factor that stands row by row is read where it is. One that
//! is transposed, as in the gradient of a weight, has its terms far apart and many of them: every task lays out its rows of
//! it, some terms at a time, and adds up.

use super::{
    isa::Isa,
    pool::{Pool, chunks},
    room::Room,
    tile::{Factors, LANES, Pair, ROWS, Tile, tile},
    transpose::transpose,
};
use std::{cell::RefCell, ops::Range};

/// Terms that are laid out at a time: a panel of them stays in a core's nearest cache.
const DEPTH: usize = 256;
/// Floats of panels that stay in a core's second cache while all rows of a task pass by.
const NEAR: usize = 1 << 16;
/// Rows of y that a task takes at most, where a stands row by row and where it is transposed.
const TALL: usize = 8 * ROWS;
const DEEP: usize = 16 * ROWS;

thread_local! {
    /// Panels or sums that all tasks work on, of the thread that calls.
    static SHARED: RefCell<Room> = const { RefCell::new(Room::new()) };
    /// Both factors of a task, laid out.
    static LAID_OUT: RefCell<[Room; 2]> = const { RefCell::new([Room::new(), Room::new()]) };
}

/// The sizes of a product: y is [m, n], and every element is a sum of k terms.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Rows of y.
    pub m: usize,
    /// Terms of a sum.
    pub k: usize,
    /// Columns of y.
    pub n: usize,
}

/// What is multiplied: a' is [m, k] and b' [k, n].
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Instructions to use.
    pub isa: Isa,
    /// a is a' transposed, [k, m].
    pub transposed_a: bool,
    /// b is b' transposed, [n, k].
    pub transposed_b: bool,
    /// Factor of the product.
    pub alpha: f32,
}

impl Product {
    /// y = alpha a' b' + bias, with the bias [n] added to every row where there is one.
    ///
    /// # Panics
    /// When an array is not of its size.
    #[allow(clippy::many_single_char_names)] // as in the formula
    pub fn run(self, pool: &dyn Pool, s: Size, a: &[f32], b: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        assert_eq!((a.len(), b.len(), y.len()), (s.m * s.k, s.k * s.n, s.m * s.n), "arrays of a product");
        assert!(bias.is_none_or(|bias| bias.len() == s.n), "a bias of another length");
        if s.n == 0 {
            return;
        }
        if self.transposed_a { self.deep(pool, s, a, b, bias, y) } else { self.tall(pool, s, a, b, bias, y) }
    }

    /// Rows of a are read where they are; all tasks share the panels of b.
    fn tall(self, pool: &dyn Pool, s: Size, a: &[f32], b: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let count_of_panels = s.n.div_ceil(LANES);
        let mut room = SHARED.take();
        let panels = room.of(count_of_panels * s.k * LANES);
        chunks(pool, panels, (s.k * LANES).max(1), |p, panel| self.panel(s, b, p, 0, panel));
        let panels = &*panels;
        let rows = s.m.div_ceil(2 * pool.threads()).next_multiple_of(ROWS).min(TALL);
        let near = (NEAR / (s.k * LANES).max(1)).max(1);
        chunks(pool, y, rows * s.n, |i, y| {
            let mut sums: Tile = [[0.0; LANES]; ROWS];
            let count = y.len() / s.n;
            for first in (0..count_of_panels).step_by(near) {
                for r in (0..count).step_by(ROWS) {
                    let height = ROWS.min(count - r);
                    let a = &a[(i * rows + r) * s.k..];
                    for p in first..count_of_panels.min(first + near) {
                        let panel = &panels[p * s.k * LANES..][..s.k * LANES];
                        let pairs = &[Pair { a: 0, b: 0 }];
                        let f = Factors { pairs, a, row: s.k, step: 1, b: panel, next: LANES, depth: s.k };
                        tile(self.isa, height, f, sums.as_flattened_mut(), LANES, false);
                        for (row, sums) in y[r * s.n..].chunks_mut(s.n).zip(&sums[..height]) {
                            let row = row[p * LANES..].iter_mut().take(LANES);
                            match bias {
                                Some(bias) => row
                                    .zip(sums)
                                    .zip(&bias[p * LANES..])
                                    .for_each(|((v, sum), bias)| *v = self.alpha * sum + bias),
                                None => row.zip(sums).for_each(|(v, sum)| *v = self.alpha * sum),
                            }
                        }
                    }
                }
            }
        });
        SHARED.set(room);
    }

    /// Where y is small beside the factors, every thread sums up a share of the terms; else every task goes through all
    /// terms for rows of its own.
    fn deep(self, pool: &dyn Pool, s: Size, a: &[f32], b: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        if y.len() * pool.threads() * 4 < s.k * (s.m + s.n) {
            let share = s.k.div_ceil(pool.threads()).next_multiple_of(DEPTH);
            let mut room = SHARED.take();
            let sums = room.of(y.len() * s.k.div_ceil(share));
            chunks(pool, sums, y.len(), |i, sums| {
                sums.fill(0.0);
                self.add_up(s, a, b, 0, i * share..s.k.min((i + 1) * share), sums);
            });
            chunks(pool, y, s.n, |i, y| {
                start(y, bias);
                // In order, so that equal runs are equal.
                for sums in sums.chunks_exact(s.m * s.n) {
                    y.iter_mut().zip(&sums[i * s.n..]).for_each(|(v, sum)| *v += sum);
                }
            });
            SHARED.set(room);
        } else {
            let rows = s.m.div_ceil(2 * pool.threads()).next_multiple_of(ROWS).min(DEEP);
            chunks(pool, y, rows * s.n, |i, y| {
                y.chunks_exact_mut(s.n).for_each(|row| start(row, bias));
                self.add_up(s, a, b, i * rows, 0..s.k, y);
            });
        }
    }

    /// Adds the product over some terms to y, which begins with row `row`.
    fn add_up(self, s: Size, a: &[f32], b: &[f32], row: usize, terms: Range<usize>, y: &mut [f32]) {
        let count = y.len() / s.n;
        let mut sums: Tile = [[0.0; LANES]; ROWS];
        LAID_OUT.with_borrow_mut(|[left, right]| {
            for first in terms.clone().step_by(DEPTH) {
                let depth = DEPTH.min(terms.end - first);
                // Groups that were a power of two apart would push each other out of the cache.
                let group = depth * ROWS + LANES / 2;
                let left = left.of((count.div_ceil(ROWS) + 1) * group);
                let right = right.of(depth * LANES);
                for t in 0..depth {
                    let (whole, rest) = a[(first + t) * s.m + row..][..count].as_chunks::<ROWS>();
                    for (g, part) in whole.iter().enumerate() {
                        left[g * group + t * ROWS..][..ROWS].copy_from_slice(part);
                    }
                    left[whole.len() * group + t * ROWS..][..rest.len()].copy_from_slice(rest);
                }
                for p in 0..s.n.div_ceil(LANES) {
                    self.panel(s, b, p, first, right);
                    for r in (0..count).step_by(ROWS) {
                        let a = &left[r / ROWS * group..][..group];
                        let pairs = &[Pair { a: 0, b: 0 }];
                        let f = Factors { pairs, a, row: 1, step: ROWS, b: right, next: LANES, depth };
                        let height = ROWS.min(count - r);
                        tile(self.isa, height, f, sums.as_flattened_mut(), LANES, false);
                        for (row, sums) in y[r * s.n..].chunks_mut(s.n).zip(&sums[..height]) {
                            let row = row[p * LANES..].iter_mut().take(LANES);
                            row.zip(sums).for_each(|(v, sum)| *v += self.alpha * sum);
                        }
                    }
                }
            }
        });
    }

    /// Panel `p` of b', [terms, LANES], from term `first` on; what lies behind the last column is left as it is.
    fn panel(self, s: Size, b: &[f32], p: usize, first: usize, panel: &mut [f32]) {
        let lanes = LANES.min(s.n - p * LANES);
        if self.transposed_b {
            let terms = panel.len() / LANES;
            transpose(self.isa, &b[p * LANES * s.k + first..], s.k, panel, LANES, lanes, terms);
        } else {
            let rows = b[first * s.n + p * LANES..].chunks(s.n);
            for (to, from) in panel.as_chunks_mut::<LANES>().0.iter_mut().zip(rows) {
                match from.first_chunk::<LANES>() {
                    Some(from) if lanes == LANES => *to = *from,
                    _ => to[..lanes].copy_from_slice(&from[..lanes]),
                }
            }
        }
    }
}

/// What a row of y is before anything is added.
fn start(row: &mut [f32], bias: Option<&[f32]>) {
    match bias {
        Some(bias) => row.copy_from_slice(bias),
        None => row.fill(0.0),
    }
}
