//! Convolutions of inputs with few channels, such as the first one of a network.
//!
//! A tile has more columns than such an input has channels, so the taps of all channels make up the columns instead: a
//! row holds what one window reads, [channel, tap], which is the order of a weight's row in a file.

use super::{
    isa::Isa,
    pool::{Pool, chunks, shift},
    tile::{Factors, LANES, Pair, ROWS, Tile, tile},
    transpose::transpose,
    windows::Plan,
};
use std::cell::RefCell;

/// Which parts of an image every window reads.
#[derive(Clone, Debug)]
pub struct Patches {
    isa: Isa,
    taps: usize,
    positions: usize,
    windows: usize,
    parts: Vec<Part>,
}

/// Neighbouring windows and the neighbouring taps of theirs that read neighbouring positions.
#[derive(Clone, Debug)]
struct Part {
    window: usize,
    windows: usize,
    tap: usize,
    position: usize,
    len: usize,
    step: usize,
}

thread_local! {
    /// Rows of one image and its products, kept from image to image.
    static BUFFERS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

impl Patches {
    /// What the windows of a plan read.
    pub fn new(isa: Isa, plan: &Plan) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        for run in &plan.outputs {
            let begin = parts.len();
            for &(tap, position) in &run.taps {
                match parts[begin..].last_mut() {
                    Some(p) if p.tap + p.len == tap && p.position + p.len == position => p.len += 1,
                    _ => {
                        let (window, windows, step) = (run.first, run.len, run.source_step);
                        parts.push(Part { window, windows, tap, position, len: 1, step });
                    }
                }
            }
        }
        let &Plan { taps, positions, windows, .. } = plan;
        Self { isa, taps, positions, windows, parts }
    }

    /// Distance of two rows.
    fn row(&self, channels: usize) -> usize {
        (channels * self.taps).next_multiple_of(LANES)
    }

    /// What every window of one image [channels, positions] reads, a row each.
    fn gather(&self, image: &[f32], rows: &mut Vec<f32>) {
        let row = self.row(image.len() / self.positions);
        rows.clear();
        rows.resize(self.windows * row, 0.0);
        for (c, image) in image.chunks_exact(self.positions).enumerate() {
            for p in &self.parts {
                let at = p.window * row + c * self.taps + p.tap;
                for j in 0..p.windows {
                    rows[at + j * row..][..p.len].copy_from_slice(&image[p.position + j * p.step..][..p.len]);
                }
            }
        }
    }

    /// The adjoint: adds the rows up where they were read.
    fn scatter(&self, rows: &[f32], image: &mut [f32]) {
        let row = self.row(image.len() / self.positions);
        image.fill(0.0);
        for (c, image) in image.chunks_exact_mut(self.positions).enumerate() {
            for p in &self.parts {
                let at = p.window * row + c * self.taps + p.tap;
                for j in 0..p.windows {
                    let to = &mut image[p.position + j * p.step..][..p.len];
                    to.iter_mut().zip(&rows[at + j * row..][..p.len]).for_each(|(v, x)| *v += x);
                }
            }
        }
    }

    /// y [n, m, windows] from x [n, c, positions] and w [m, c, taps].
    pub fn forward(&self, pool: &dyn Pool, c: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let (columns, m) = (c * self.taps, w.len() / (c * self.taps).max(1));
        let (row, wide) = (self.row(c), m.next_multiple_of(LANES));
        let panels = panels(w, columns, |m, column| (m, column), wide, columns);
        chunks(pool, y, m * self.windows, |image, y| {
            BUFFERS.with_borrow_mut(|[rows, products]| {
                self.gather(&x[image * c * self.positions..][..c * self.positions], rows);
                products.resize(self.windows * wide, 0.0);
                self.multiply(rows, row, columns, &panels, wide, products);
                transpose(self.isa, products, wide, y, self.windows, self.windows, m);
                if let Some(bias) = bias {
                    for (y, b) in y.chunks_exact_mut(self.windows).zip(bias) {
                        shift(y, *b);
                    }
                }
            });
        });
    }

    /// dx [n, c, positions] from dy [n, m, windows] and w [m, c, taps].
    pub fn input_gradient(&self, pool: &dyn Pool, c: usize, dy: &[f32], w: &[f32], dx: &mut [f32]) {
        let (columns, m) = (c * self.taps, w.len() / (c * self.taps).max(1));
        let wide = self.row(c);
        let panels = panels(w, columns, |m, column| (column, m), wide, m);
        chunks(pool, dx, c * self.positions, |image, dx| {
            BUFFERS.with_borrow_mut(|[rows, products]| {
                let dy = &dy[image * m * self.windows..][..m * self.windows];
                rows.resize(self.windows * m, 0.0);
                transpose(self.isa, dy, self.windows, rows, m, m, self.windows);
                products.resize(self.windows * wide, 0.0);
                self.multiply(rows, m, m, &panels, wide, products);
                self.scatter(products, dx);
            });
        });
    }

    /// products [windows, wide] = rows [windows, row] times panels [wide / LANES][depth][LANES].
    fn multiply(&self, rows: &[f32], row: usize, depth: usize, panels: &[f32], wide: usize, products: &mut [f32]) {
        let mut out: Tile = [[0.0; LANES]; ROWS];
        for (i, b) in panels.chunks_exact(depth * LANES).enumerate() {
            for first in (0..self.windows).step_by(ROWS) {
                let height = ROWS.min(self.windows - first);
                let (pairs, a) = (&[Pair { a: 0, b: 0 }], &rows[first * row..]);
                tile(self.isa, height, Factors { pairs, a, row, step: 1, b, next: LANES, depth }, &mut out, false);
                for (r, out) in out[..height].iter().enumerate() {
                    products[(first + r) * wide + i * LANES..][..LANES].copy_from_slice(out);
                }
            }
        }
    }

    /// dw [m, c, taps] from x [n, c, positions] and dy [n, m, windows].
    pub fn weight_gradient(&self, pool: &dyn Pool, c: usize, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let (columns, n) = (c * self.taps, x.len() / (c * self.positions).max(1));
        let (m, wide) = (dw.len() / columns.max(1), self.row(c));
        // Every thread sums up its share of the images; the shares are added in order, so that equal runs are equal.
        let share = n.div_ceil(pool.threads()).max(1);
        let height = m.next_multiple_of(ROWS);
        let mut sums = vec![0.0; n.div_ceil(share) * height * wide];
        chunks(pool, &mut sums, height * wide, |i, sums| {
            BUFFERS.with_borrow_mut(|[rows, turned]| {
                for image in i * share..n.min((i + 1) * share) {
                    self.gather(&x[image * c * self.positions..][..c * self.positions], rows);
                    let dy = &dy[image * m * self.windows..][..m * self.windows];
                    turned.resize(self.windows * m, 0.0);
                    transpose(self.isa, dy, self.windows, turned, m, m, self.windows);
                    self.add_products(turned, m, rows, wide, sums);
                }
            });
        });
        for (m, dw) in dw.chunks_exact_mut(columns).enumerate() {
            dw.fill(0.0);
            for share in sums.chunks_exact(height * wide) {
                dw.iter_mut().zip(&share[m * wide..]).for_each(|(v, s)| *v += s);
            }
        }
    }

    /// Adds turned^T [m, windows] times rows [windows, wide] to sums [m, wide].
    fn add_products(&self, turned: &[f32], m: usize, rows: &[f32], wide: usize, sums: &mut [f32]) {
        let mut out: Tile = [[0.0; LANES]; ROWS];
        for at in (0..wide).step_by(LANES) {
            for first in (0..m).step_by(ROWS) {
                let height = ROWS.min(m - first);
                let (pairs, a, b) = (&[Pair { a: 0, b: 0 }], &turned[first..], &rows[at..]);
                let f = Factors { pairs, a, row: 1, step: m, b, next: wide, depth: self.windows };
                tile(self.isa, height, f, &mut out, false);
                for (r, out) in out[..height].iter().enumerate() {
                    let sums = &mut sums[(first + r) * wide + at..][..LANES];
                    sums.iter_mut().zip(out).for_each(|(v, s)| *v += s);
                }
            }
        }
    }
}

/// w [m, columns] as panels [wide / LANES][depth][LANES]; `place` says which lane and which depth an element goes to.
fn panels(
    w: &[f32],
    columns: usize,
    place: impl Fn(usize, usize) -> (usize, usize),
    wide: usize,
    depth: usize,
) -> Vec<f32> {
    let mut panels = vec![0.0; wide * depth];
    for (m, w) in w.chunks_exact(columns).enumerate() {
        for (column, v) in w.iter().enumerate() {
            let (lane, k) = place(m, column);
            panels[(lane / LANES * depth + k) * LANES + lane % LANES] = *v;
        }
    }
    panels
}
