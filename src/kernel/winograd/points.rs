//! From positions to points and back.
//!
//! A product of polynomials of known degree follows from its values at enough points. Six points give four results of a
//! window of three: 0, plus and minus [`P`], plus and minus [`Q`], and infinity. Lagrange's interpolation through them makes
//! the matrices of `winograd`. With the usual 1 and 2 more is lost by rounding: with these the error is about twice that of
//! the plain sum, and every factor but those of the weight is exact.

#![allow(clippy::inline_always)] // what vector instructions are compiled into has to be one function

#[cfg(target_arch = "x86_64")]
use super::super::isa::compiled;
use super::{super::isa::Isa, IN, OUT, TAPS};
use std::{
    array::from_fn,
    ops::{Add, Mul, Sub},
};

const P: f32 = 0.625;
const Q: f32 = 1.5;
const PP: f32 = P * P;
const QQ: f32 = Q * Q;
/// One over the product of a point's distances from the others.
const AT_0: f32 = 1.0 / (PP * QQ);
const AT_P: f32 = 1.0 / (2.0 * PP * (PP - QQ));
const AT_Q: f32 = 1.0 / (2.0 * QQ * (QQ - PP));

/// Floats that are turned side by side.
pub const SIDE: usize = 16;

#[derive(Clone, Copy)]
struct Lane([f32; SIDE]);

const ZERO: Lane = Lane([0.0; SIDE]);

impl Add for Lane {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i] + other.0[i]))
    }
}

impl Sub for Lane {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(from_fn(|i| self.0[i] - other.0[i]))
    }
}

impl Mul<f32> for Lane {
    type Output = Self;
    #[inline(always)]
    fn mul(self, by: f32) -> Self {
        Self(from_fn(|i| self.0[i] * by))
    }
}

impl Lane {
    #[inline(always)]
    fn read(v: &[f32]) -> Self {
        Self(from_fn(|i| v[i]))
    }
}

/// What is done along one axis. (A type for each, as functions that are handed over are not compiled into their callers.)
trait Turn<const I: usize, const O: usize> {
    fn turn(v: [Lane; I]) -> [Lane; O];
}

/// Bt d: positions at the points.
struct Positions;

impl Turn<IN, IN> for Positions {
    #[inline(always)]
    fn turn(d: [Lane; IN]) -> [Lane; IN] {
        let (ep, op) = (d[4] - d[2] * QQ, (d[3] - d[1] * QQ) * P);
        let (eq, oq) = (d[4] - d[2] * PP, (d[3] - d[1] * PP) * Q);
        let ends = |a: Lane, b: Lane, c: Lane| a * (PP * QQ) - b * (PP + QQ) + c;
        [ends(d[0], d[2], d[4]), ep + op, ep - op, eq + oq, eq - oq, ends(d[1], d[3], d[5])]
    }
}

/// G g: a window at the points.
struct Window;

impl Turn<TAPS, IN> for Window {
    #[inline(always)]
    fn turn(g: [Lane; TAPS]) -> [Lane; IN] {
        let (ep, op) = ((g[0] + g[2] * PP) * AT_P, g[1] * (P * AT_P));
        let (eq, oq) = ((g[0] + g[2] * QQ) * AT_Q, g[1] * (Q * AT_Q));
        [g[0] * AT_0, ep + op, ep - op, eq + oq, eq - oq, g[2]]
    }
}

/// Gt u: the adjoint.
struct WindowAdjoint;

impl Turn<IN, TAPS> for WindowAdjoint {
    #[inline(always)]
    fn turn(u: [Lane; IN]) -> [Lane; TAPS] {
        let (ep, op) = ((u[1] + u[2]) * AT_P, (u[1] - u[2]) * (P * AT_P));
        let (eq, oq) = ((u[3] + u[4]) * AT_Q, (u[3] - u[4]) * (Q * AT_Q));
        [u[0] * AT_0 + ep + eq, op + oq, ep * PP + eq * QQ + u[5]]
    }
}

/// At m: results from the points.
struct Results;

impl Turn<IN, OUT> for Results {
    #[inline(always)]
    fn turn(m: [Lane; IN]) -> [Lane; OUT] {
        let (ep, op) = (m[1] + m[2], m[1] - m[2]);
        let (eq, oq) = (m[3] + m[4], m[3] - m[4]);
        [m[0] + ep + eq, op * P + oq * Q, ep * PP + eq * QQ, op * (P * PP) + oq * (Q * QQ) + m[5]]
    }
}

/// A y: the adjoint.
struct ResultsAdjoint;

impl Turn<OUT, IN> for ResultsAdjoint {
    #[inline(always)]
    fn turn(y: [Lane; OUT]) -> [Lane; IN] {
        let (ep, op) = (y[0] + y[2] * PP, y[1] * P + y[3] * (P * PP));
        let (eq, oq) = (y[0] + y[2] * QQ, y[1] * Q + y[3] * (Q * QQ));
        [y[0], ep + op, ep - op, eq + oq, eq - oq, y[3]]
    }
}

/// Turns both axes of a square.
#[allow(clippy::needless_range_loop)] // by index a quarter faster
#[inline(always)]
fn square<T: Turn<I, O>, const I: usize, const O: usize>(
    read: impl Fn(usize, usize) -> Lane,
    mut write: impl FnMut(usize, usize, Lane),
) {
    let mut half = [[ZERO; I]; O];
    for j in 0..I {
        let column = T::turn(from_fn(|i| read(i, j)));
        for i in 0..O {
            half[i][j] = column[i];
        }
    }
    for (i, row) in half.into_iter().enumerate() {
        for (j, v) in T::turn(row).into_iter().enumerate() {
            write(i, j, v);
        }
    }
}

/// Where the elements of a tile lie, each [`SIDE`] floats; `None` where there is none.
pub type Places<const N: usize> = [[Option<usize>; N]; N];

#[inline(always)]
fn place<const N: usize>(places: &Places<N>, i: usize, j: usize, v: &[f32]) -> Lane {
    places[i][j].map_or(ZERO, |at| Lane::read(&v[at..][..SIDE]))
}

/// Where elements at the points lie: those of a point `point` floats behind those of the one before, those of a tile `tile`
/// floats behind those of the one before.
#[derive(Clone, Copy)]
pub struct Apart {
    pub point: usize,
    pub tile: usize,
}

impl Apart {
    fn at(&self, t: usize, i: usize, j: usize) -> usize {
        t * self.tile + (i * IN + j) * self.point
    }
}

#[inline(always)]
fn any_positions(tiles: &[Places<IN>], x: &[f32], out: &mut [f32], apart: Apart) {
    for (t, places) in tiles.iter().enumerate() {
        let write = |i, j, v: Lane| out[apart.at(t, i, j)..][..SIDE].copy_from_slice(&v.0);
        square::<Positions, IN, IN>(|i, j| place(places, i, j, x), write);
    }
}

#[inline(always)]
fn any_results_adjoint(tiles: &[Places<OUT>], dy: &[f32], out: &mut [f32], apart: Apart) {
    for (t, places) in tiles.iter().enumerate() {
        let write = |i, j, v: Lane| out[apart.at(t, i, j)..][..SIDE].copy_from_slice(&v.0);
        square::<ResultsAdjoint, OUT, IN>(|i, j| place(places, i, j, dy), write);
    }
}

#[inline(always)]
fn any_results(m: &[f32], apart: Apart, tiles: &[Places<OUT>], y: &mut [f32]) {
    for (t, places) in tiles.iter().enumerate() {
        let write = |i: usize, j: usize, v: Lane| {
            if let Some(at) = places[i][j] {
                y[at..][..SIDE].copy_from_slice(&v.0);
            }
        };
        square::<Results, IN, OUT>(|i, j| Lane::read(&m[apart.at(t, i, j)..][..SIDE]), write);
    }
}

#[inline(always)]
fn any_window(g: &[f32], out: &mut [f32], point: usize) {
    let write = |i, j, v: Lane| out[(i * IN + j) * point..][..SIDE].copy_from_slice(&v.0);
    square::<Window, TAPS, IN>(|i, j| Lane::read(&g[(i * TAPS + j) * SIDE..][..SIDE]), write);
}

#[inline(always)]
fn any_window_adjoint(u: &[f32], out: &mut [f32]) {
    let write = |i: usize, j: usize, v: Lane| out[(i * TAPS + j) * SIDE..][..SIDE].copy_from_slice(&v.0);
    square::<WindowAdjoint, IN, TAPS>(|i, j| Lane::read(&u[(i * IN + j) * SIDE..][..SIDE]), write);
}

/// A function that is compiled for every instruction set.
macro_rules! on_each {
    ($(#[$doc:meta])* $name:ident, $of:ident, ($($arg:ident: $type:ty),*)) => {
        $(#[$doc])*
        pub fn $name(isa: Isa, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                compiled!(wide, Isa::Avx512, "avx512f", $of, ($($arg: $type),*));
                compiled!(narrow, Isa::Avx2, "avx2", $of, ($($arg: $type),*));
                match isa {
                    Isa::Avx512 => return wide($($arg),*),
                    Isa::Avx2 => return narrow($($arg),*),
                    Isa::Portable => (),
                }
            }
            let _ = isa;
            $of($($arg),*);
        }
    };
}

on_each!(
    /// Bt d B: tiles of x at the points.
    positions_at_points,
    any_positions,
    (tiles: &[Places<IN>], x: &[f32], out: &mut [f32], apart: Apart)
);
on_each!(
    /// A dy At: tiles of the gradient of the results at the points.
    results_at_points,
    any_results_adjoint,
    (tiles: &[Places<OUT>], dy: &[f32], out: &mut [f32], apart: Apart)
);
on_each!(
    /// At m A: tiles of results from the points.
    results_from_points,
    any_results,
    (m: &[f32], apart: Apart, tiles: &[Places<OUT>], y: &mut [f32])
);
on_each!(
    /// G g Gt: windows [3, 3, SIDE] at the points, which are `point` floats apart.
    windows_at_points,
    any_window,
    (g: &[f32], out: &mut [f32], point: usize)
);
on_each!(
    /// Gt u G: windows [3, 3, SIDE] from the points, [6, 6, SIDE].
    windows_from_points,
    any_window_adjoint,
    (u: &[f32], out: &mut [f32])
);
