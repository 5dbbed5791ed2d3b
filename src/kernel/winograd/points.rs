//! From positions to points and back.
//!
//! A product of polynomials of known degree follows from its values at enough points. Six points give four results of a
//! window of three: 0, plus and minus [`P`], plus and minus [`Q`], and infinity. Lagrange's interpolation through them makes
//! the matrices of `winograd`. With the usual 1 and 2 more is lost by rounding: with these the error is about twice that of
//! the plain sum, and every factor but those of the weight is exact.
//!
//! On two positions with padding around them the window is a matrix (g1 g2; g0 g1), whose equal diagonal saves a product of
//! four: y0 = g1 (x0 + x1) + (g2 - g1) x1 and y1 = g1 (x0 + x1) + (g0 - g1) x0.

#![allow(clippy::inline_always)] // what vector instructions are compiled into has to be one function

#[cfg(target_arch = "x86_64")]
use super::super::isa::compiled;
use super::{
    super::isa::{Isa, on_each},
    TAPS,
};
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

impl Turn<6, 6> for Positions {
    #[inline(always)]
    fn turn(d: [Lane; 6]) -> [Lane; 6] {
        let (ep, op) = (d[4] - d[2] * QQ, (d[3] - d[1] * QQ) * P);
        let (eq, oq) = (d[4] - d[2] * PP, (d[3] - d[1] * PP) * Q);
        let ends = |a: Lane, b: Lane, c: Lane| a * (PP * QQ) - b * (PP + QQ) + c;
        [ends(d[0], d[2], d[4]), ep + op, ep - op, eq + oq, eq - oq, ends(d[1], d[3], d[5])]
    }
}

impl Turn<2, 3> for Positions {
    #[inline(always)]
    fn turn(d: [Lane; 2]) -> [Lane; 3] {
        [d[0], d[0] + d[1], d[1]]
    }
}

/// G g: a window at the points.
struct Window;

impl Turn<TAPS, 6> for Window {
    #[inline(always)]
    fn turn(g: [Lane; TAPS]) -> [Lane; 6] {
        let (ep, op) = ((g[0] + g[2] * PP) * AT_P, g[1] * (P * AT_P));
        let (eq, oq) = ((g[0] + g[2] * QQ) * AT_Q, g[1] * (Q * AT_Q));
        [g[0] * AT_0, ep + op, ep - op, eq + oq, eq - oq, g[2]]
    }
}

impl Turn<TAPS, 3> for Window {
    #[inline(always)]
    fn turn(g: [Lane; TAPS]) -> [Lane; 3] {
        [g[0] - g[1], g[1], g[2] - g[1]]
    }
}

/// Gt u: the adjoint.
struct WindowAdjoint;

impl Turn<6, TAPS> for WindowAdjoint {
    #[inline(always)]
    fn turn(u: [Lane; 6]) -> [Lane; TAPS] {
        let (ep, op) = ((u[1] + u[2]) * AT_P, (u[1] - u[2]) * (P * AT_P));
        let (eq, oq) = ((u[3] + u[4]) * AT_Q, (u[3] - u[4]) * (Q * AT_Q));
        [u[0] * AT_0 + ep + eq, op + oq, ep * PP + eq * QQ + u[5]]
    }
}

impl Turn<3, TAPS> for WindowAdjoint {
    #[inline(always)]
    fn turn(u: [Lane; 3]) -> [Lane; TAPS] {
        [u[0], u[1] - u[0] - u[2], u[2]]
    }
}

/// At m: results from the points.
struct Results;

impl Turn<6, 4> for Results {
    #[inline(always)]
    fn turn(m: [Lane; 6]) -> [Lane; 4] {
        let (ep, op) = (m[1] + m[2], m[1] - m[2]);
        let (eq, oq) = (m[3] + m[4], m[3] - m[4]);
        [m[0] + ep + eq, op * P + oq * Q, ep * PP + eq * QQ, op * (P * PP) + oq * (Q * QQ) + m[5]]
    }
}

impl Turn<3, 2> for Results {
    #[inline(always)]
    fn turn(m: [Lane; 3]) -> [Lane; 2] {
        [m[1] + m[2], m[0] + m[1]]
    }
}

/// A y: the adjoint.
struct ResultsAdjoint;

impl Turn<4, 6> for ResultsAdjoint {
    #[inline(always)]
    fn turn(y: [Lane; 4]) -> [Lane; 6] {
        let (ep, op) = (y[0] + y[2] * PP, y[1] * P + y[3] * (P * PP));
        let (eq, oq) = (y[0] + y[2] * QQ, y[1] * Q + y[3] * (Q * QQ));
        [y[0], ep + op, ep - op, eq + oq, eq - oq, y[3]]
    }
}

impl Turn<2, 3> for ResultsAdjoint {
    #[inline(always)]
    fn turn(y: [Lane; 2]) -> [Lane; 3] {
        [y[1], y[0] + y[1], y[0]]
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

/// Where an element of a tile lies, [`SIDE`] floats; `None` where there is none.
pub type Place = Option<usize>;

/// The places of every tile, row by row.
#[inline(always)]
fn each<const N: usize>(tiles: &[Place]) -> impl Iterator<Item = (usize, &[[Place; N]; N])> {
    tiles.as_chunks().0.as_chunks().0.iter().enumerate()
}

#[inline(always)]
fn read(place: Place, v: &[f32]) -> Lane {
    place.map_or(ZERO, |at| Lane::read(&v[at..][..SIDE]))
}

/// Where elements at the points lie: those of a point `point` floats behind those of the one before, those of a tile `tile`
/// floats behind those of the one before.
#[derive(Clone, Copy)]
pub struct Apart {
    pub point: usize,
    pub tile: usize,
}

impl Apart {
    #[inline(always)]
    fn at(&self, tile: usize, point: usize) -> usize {
        tile * self.tile + point * self.point
    }
}

#[inline(always)]
fn any_to_points<T: Turn<I, O>, const I: usize, const O: usize>(
    tiles: &[Place],
    v: &[f32],
    out: &mut [f32],
    apart: Apart,
) {
    for (t, places) in each::<I>(tiles) {
        let write = |i, j, v: Lane| out[apart.at(t, i * O + j)..][..SIDE].copy_from_slice(&v.0);
        square::<T, I, O>(|i, j| read(places[i][j], v), write);
    }
}

#[inline(always)]
fn any_results<const I: usize, const O: usize>(tiles: &[Place], m: &[f32], y: &mut [f32], apart: Apart)
where
    Results: Turn<I, O>,
{
    for (t, places) in each::<O>(tiles) {
        let write = |i: usize, j: usize, v: Lane| {
            if let Some(at) = places[i][j] {
                y[at..][..SIDE].copy_from_slice(&v.0);
            }
        };
        let read = |i, j| Lane::read(&m[apart.at(t, i * I + j)..][..SIDE]);
        square::<Results, I, O>(read, write);
    }
}

#[inline(always)]
fn any_window<const O: usize>(g: &[f32], out: &mut [f32], point: usize)
where
    Window: Turn<TAPS, O>,
{
    let write = |i, j, v: Lane| out[(i * O + j) * point..][..SIDE].copy_from_slice(&v.0);
    square::<Window, TAPS, O>(|i, j| Lane::read(&g[(i * TAPS + j) * SIDE..][..SIDE]), write);
}

#[inline(always)]
fn any_window_adjoint<const I: usize>(u: &[f32], out: &mut [f32])
where
    WindowAdjoint: Turn<I, TAPS>,
{
    let write = |i: usize, j: usize, v: Lane| out[(i * TAPS + j) * SIDE..][..SIDE].copy_from_slice(&v.0);
    square::<WindowAdjoint, I, TAPS>(|i, j| Lane::read(&u[(i * I + j) * SIDE..][..SIDE]), write);
}

/// Tiles to the points or back: where they lie, what is turned, and what it becomes.
pub type OfTiles = fn(Isa, &[Place], &[f32], &mut [f32], Apart);

/// A way to save products of a tile.
#[derive(Debug)]
pub struct Scheme {
    /// Results of a tile along an axis.
    pub results: usize,
    /// Positions of a tile along an axis.
    pub positions: usize,
    /// How many positions that its windows reach lie before these, in the padding.
    pub before: usize,
    /// Points along an axis.
    pub along: usize,
    /// Bt d B: tiles of x at the points.
    pub positions_at_points: OfTiles,
    /// A dy At: tiles of the gradient of the results at the points.
    pub results_at_points: OfTiles,
    /// At m A: tiles of results from the points.
    pub results_from_points: OfTiles,
    /// G g Gt: windows [3, 3, SIDE] at the points, which are as many floats apart.
    pub windows_at_points: fn(Isa, &[f32], &mut [f32], usize),
    /// Gt u G: windows [3, 3, SIDE] from the points, [along, along, SIDE].
    pub windows_from_points: fn(Isa, &[f32], &mut [f32]),
}

impl Scheme {
    /// Products of a tile for each pair of channels.
    pub fn points(&self) -> usize {
        self.along * self.along
    }
}

macro_rules! scheme {
    ($results:literal results, $positions:literal positions behind $before:literal, $along:literal points) => {{
        on_each!(positions, any_to_points::<Positions, $positions, $along>, (at: &[Place], x: &[f32], out: &mut [f32], apart: Apart));
        on_each!(adjoint, any_to_points::<ResultsAdjoint, $results, $along>, (at: &[Place], y: &[f32], out: &mut [f32], apart: Apart));
        on_each!(results, any_results::<$along, $results>, (at: &[Place], m: &[f32], y: &mut [f32], apart: Apart));
        on_each!(windows, any_window::<$along>, (g: &[f32], out: &mut [f32], point: usize));
        on_each!(back, any_window_adjoint::<$along>, (u: &[f32], out: &mut [f32]));
        Scheme {
            results: $results,
            positions: $positions,
            before: $before,
            along: $along,
            positions_at_points: positions,
            results_at_points: adjoint,
            results_from_points: results,
            windows_at_points: windows,
            windows_from_points: back,
        }
    }};
}

/// Tiles of 4 x 4 results.
pub static FOUR: Scheme = scheme!(4 results, 6 positions behind 0, 6 points);
/// Maps of 2 x 2 positions, with padding around them.
pub static TWO: Scheme = scheme!(2 results, 2 positions behind 1, 3 points);
