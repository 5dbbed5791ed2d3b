//! The part of a kernel that reads the image at all, and the matrix that a kernel spreads out to.

use super::Geometry;
use crate::{
    graph::{Attr, Value},
    ops::Emit,
};

/// A geometry without the outer taps that only ever read padding, and which taps those were.
pub struct Trimmed {
    pub geometry: Geometry,
    /// Taps dropped in front, an entry a spatial axis.
    first: Vec<usize>,
    /// Taps before trimming.
    full: Vec<usize>,
}

/// Drops the outer taps that only ever read padding, such as eight of nine of a 3x3 kernel on a 1x1 map.
pub fn trimmed(q: &Geometry) -> Trimmed {
    let mut geometry = q.clone();
    let mut first = Vec::new();
    for a in &mut geometry.axes {
        let used = |t: &usize| (0..a.out).any(|o| a.reads(o, *t).is_some());
        let low = (0..a.kernel).find(used).unwrap_or(0);
        let high = (0..a.kernel).rev().find(used).unwrap_or(0);
        a.kernel = high - low + 1;
        a.before -= (low * a.dilation) as i64;
        first.push(low);
    }
    Trimmed { geometry, first, full: q.kernel() }
}

impl Trimmed {
    /// The taps of `w` that count.
    pub fn cut(&self, e: &mut Emit<'_>, w: &Value) -> Value {
        let axes: Vec<usize> = (2..w.rank()).collect();
        let starts: Vec<i64> = self.first.iter().map(|&f| f as i64).collect();
        let ends: Vec<i64> = starts.iter().zip(self.geometry.kernel()).map(|(s, k)| s + k as i64).collect();
        e.slice(w, &axes, &starts, &ends, &vec![1; axes.len()])
    }

    /// The gradient of the whole kernel: exact zeros for the taps that do not count.
    pub fn restore(&self, e: &mut Emit<'_>, dw: &Value) -> Value {
        let mut before = vec![0, 0];
        let mut after = vec![0, 0];
        for ((&first, &full), kept) in self.first.iter().zip(&self.full).zip(self.geometry.kernel()) {
            before.push(first as i64);
            after.push((full - first - kept) as i64);
        }
        e.pad(dw, &before, &after)
    }
}

/// Which tap connects each window with each position, window-major; `None` where none does.
fn connections(q: &Geometry) -> Vec<Option<usize>> {
    let mut table = vec![None; q.windows() * q.positions()];
    let (out, kernel) = (q.out(), q.kernel());
    for window in 0..q.windows() {
        for tap in 0..q.taps() {
            let (o, t) = (unravel(window, &out), unravel(tap, &kernel));
            let at = q.axes.iter().enumerate().try_fold(0, |at, (i, a)| Some(at * a.size + a.reads(o[i], t[i])?));
            if let Some(at) = at {
                table[window * q.positions() + at] = Some(tap);
            }
        }
    }
    table
}

/// The index along each axis of element `i` of an array of this shape.
pub(super) fn unravel(mut i: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (k, &d) in shape.iter().enumerate().rev() {
        index[k] = i % d;
        i /= d;
    }
    index
}

/// The weight as a matrix [m * windows, c * positions], so that the convolution of a flattened image is one product.
pub(super) fn spread(e: &mut Emit<'_>, q: &Geometry, w: &Value) -> Value {
    let (windows, positions) = (q.windows(), q.positions());
    let table = connections(q);
    if is_identity(&table, q) {
        return e.reshape(w, &[q.m, q.c * positions]);
    }
    let taps = q.taps();
    let mut flat = e.reshape(w, &[q.m, q.c, taps]);
    if table.contains(&None) {
        flat = e.pad(&flat, &[0, 0, 0], &[0, 0, 1]);
    }
    let index: Vec<i64> = table.iter().map(|t| t.unwrap_or(taps) as i64).collect();
    let index = e.int_list(&index);
    let all = e.op("Gather", &[&flat, &index], &[("axis", Attr::Int(2))], &[q.m, q.c, table.len()]);
    let all = e.reshape(&all, &[q.m, q.c, windows, positions]);
    let all = e.transpose(&all, &[0, 2, 1, 3]);
    e.reshape(&all, &[q.m * windows, q.c * positions])
}

/// Adjoint of [`spread`]: sums the entries that hold the same tap.
pub(super) fn gathered(e: &mut Emit<'_>, q: &Geometry, matrix: &Value) -> Value {
    let (windows, positions) = (q.windows(), q.positions());
    let shape = q.shape(&[q.m, q.c], |a| a.kernel);
    let table = connections(q);
    if is_identity(&table, q) {
        return e.reshape(matrix, &shape);
    }
    let taps = q.taps();
    let split = e.reshape(matrix, &[q.m, windows, q.c, positions]);
    let split = e.transpose(&split, &[0, 2, 1, 3]);
    let rows = e.reshape(&split, &[q.m * q.c, windows * positions]);
    let mut sums = vec![0.0; table.len() * taps];
    for (i, tap) in table.iter().enumerate() {
        if let Some(tap) = tap {
            sums[i * taps + tap] = 1.0;
        }
    }
    let sums = e.nums(&[table.len(), taps], &sums);
    let dw = e.matmul(&rows, &sums);
    e.reshape(&dw, &shape)
}

/// True when there is one window and its taps read the image element by element.
fn is_identity(table: &[Option<usize>], q: &Geometry) -> bool {
    q.windows() == 1 && table.len() == q.taps() && table.iter().enumerate().all(|(i, t)| *t == Some(i))
}
