//! Sampling of images at computed places.
//!
//! A sample is a sum over the pixels around its place. Along each axis these are 1, 2 or 4 pixels, whose weights are
//! polynomials in t, the distance from the pixel before the place; the weight of a pixel is the product of its weights
//! along the axes.

use super::{
    Emit,
    Flow::{Constant, Vjp, Zero},
    MICROSOFT, Op, OpError,
};
use crate::graph::{Attr, Node, Value};

const GRID: &[&str] = &["align_corners", "mode", "padding_mode"];

pub(super) const OPS: &[Op] = &[
    Op::new("GridSample", GRID, &[Vjp(sampled), Vjp(places)]),
    Op::new("GridSample", GRID, &[Vjp(sampled), Vjp(places)]).of(MICROSOFT),
    Op::new("AffineGrid", &["align_corners"], &[Vjp(affine), Constant]),
];

/// Record of a `GridSample` that takes the nearest pixel: a step function of the place.
pub(super) static NEAREST: Op = Op::new("GridSample", GRID, &[Vjp(sampled), Zero]);

/// True for the nodes that [`NEAREST`] stands for.
pub(super) fn takes_nearest(node: &Node) -> bool {
    node.op == "GridSample" && node.attrs.get("mode") == Some(&Attr::Str("nearest".into()))
}

/// Weight of each pixel along an axis: factors of 1, t, t^2, t^3.
type Taps = &'static [[f64; 4]];

const ONE: Taps = &[[1.0, 0.0, 0.0, 0.0]];
const LINEAR: Taps = &[[1.0, -1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]];
/// Keys' cubic convolution (1981, doi 10.1109/TASSP.1981.1163711) with a = -0.75.
const CUBIC: Taps =
    &[[0.0, -0.75, 1.5, -0.75], [1.0, 0.0, -2.25, 1.25], [0.0, 0.75, 1.5, -1.25], [0.0, 0.0, -0.75, 0.75]];

/// What a node samples, and how.
struct Sampling {
    /// Samples, places a sample, channels, and the lengths of the axes of the image.
    n: usize,
    p: usize,
    c: usize,
    size: Vec<usize>,
    taps: Taps,
    padding: Padding,
    aligned: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// One pixel along one axis, for every place: [n, p] each.
struct Tap {
    /// Index of the pixel, a whole number.
    index: Value,
    weight: Value,
    /// Derivative of the weight by the coordinate of the grid.
    slope: Value,
}

fn sampling(e: &Emit<'_>) -> Result<Sampling, OpError> {
    let (x, grid) = (e.x(0)?, e.x(1)?);
    let attribute = |name: &str, expected: &str, got: &str| OpError::Attribute {
        name: name.into(),
        expected: expected.into(),
        got: format!("{got:?}"),
    };
    let taps = match e.str("mode", "linear")?.as_str() {
        "nearest" => ONE,
        "linear" | "bilinear" => LINEAR,
        "cubic" | "bicubic" => CUBIC,
        other => return Err(attribute("mode", "nearest, linear, bilinear, cubic or bicubic", other)),
    };
    let padding = match e.str("padding_mode", "zeros")?.as_str() {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => return Err(attribute("padding_mode", "zeros, border or reflection", other)),
    };
    let (n, c) = (x.shape()[0], x.shape()[1]);
    let p = grid.shape()[1..grid.rank() - 1].iter().product();
    Ok(Sampling { n, p, c, size: x.shape()[2..].to_vec(), taps, padding, aligned: e.int("align_corners", 0)? != 0 })
}

/// y = sum of x at the pixels around each place, times their weights      dx = zeros, with dy times the weights added
/// there
fn sampled(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let s = sampling(e)?;
    let x = e.x(0)?;
    let axes = s.axes(e)?;
    let rows = s.rows(e, dy, s.p);
    let (mut indices, mut parts) = (Vec::new(), Vec::new());
    for around in combinations(&axes) {
        indices.push(s.pixel(e, &around));
        let weights: Vec<&Value> = around.iter().map(|tap| &tap.weight).collect();
        let weight = product(e, &weights);
        let weight = e.expand(&weight, &[s.n, s.p]);
        let weight = e.reshape(&weight, &[s.n * s.p, 1]);
        parts.push(e.mul(&rows, &weight));
    }
    let pixels = s.n * s.size.iter().product::<usize>();
    let indices = e.concat(&indices.iter().collect::<Vec<_>>(), 0);
    let indices = e.reshape(&indices, &[indices.len(), 1]);
    let parts = e.concat(&parts.iter().collect::<Vec<_>>(), 0);
    let zeros = e.zeros(&[pixels, s.c]);
    let dx = e.op("ScatterND", &[&zeros, &indices, &parts], &[("reduction", "add".into())], &[pixels, s.c]);
    let dx = e.reshape(&dx, &[s.n, pixels / s.n, s.c]);
    let dx = e.transpose(&dx, &[0, 2, 1]);
    Ok(e.reshape(&dx, x.shape()))
}

/// dgrid along an axis = sum over the pixels of (sum of dy * x over the channels) * slope of the weight along this axis *
/// weights along the others
fn places(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let s = sampling(e)?;
    let (x, grid) = (e.x(0)?, e.x(1)?);
    let axes = s.axes(e)?;
    let rows = s.rows(e, dy, s.p);
    let image = s.rows(e, &x, s.size.iter().product());
    let mut sums: Vec<Option<Value>> = vec![None; axes.len()];
    for around in combinations(&axes) {
        let index = s.pixel(e, &around);
        let pixel = e.op("Gather", &[&image, &index], &[("axis", Attr::Int(0))], &[s.n * s.p, s.c]);
        let share = e.mul(&rows, &pixel);
        let share = e.reduce_sum(&share, &[1], false);
        let share = e.reshape(&share, &[s.n, s.p]);
        for (axis, sum) in sums.iter_mut().enumerate() {
            let along = |(i, tap): (usize, &&'_ Tap)| if i == axis { tap.slope.clone() } else { tap.weight.clone() };
            let factors: Vec<Value> = around.iter().enumerate().map(along).collect();
            let factor = product(e, &factors.iter().collect::<Vec<_>>());
            let part = e.mul(&share, &factor);
            *sum = Some(match sum.take() {
                Some(sum) => e.add(&sum, &part),
                None => part,
            });
        }
    }
    // The last axis of the image is the first coordinate.
    let sums: Vec<Value> = sums.into_iter().rev().flatten().map(|sum| e.reshape(&sum, &[s.n, s.p, 1])).collect();
    let d = e.concat(&sums.iter().collect::<Vec<_>>(), 2);
    Ok(e.reshape(&d, grid.shape()))
}

/// Every choice of one tap an axis.
fn combinations(axes: &[Vec<Tap>]) -> Vec<Vec<&Tap>> {
    let mut all = vec![Vec::new()];
    for taps in axes {
        all = all.iter().flat_map(|some| taps.iter().map(move |tap| [some.as_slice(), &[tap]].concat())).collect();
    }
    all
}

fn product(e: &mut Emit<'_>, factors: &[&Value]) -> Value {
    factors[1..].iter().fold(factors[0].clone(), |product, factor| e.mul(&product, factor))
}

impl Sampling {
    /// [n, c, ...] as [n * length, c].
    fn rows(&self, e: &mut Emit<'_>, v: &Value, length: usize) -> Value {
        let v = e.reshape(v, &[self.n, self.c, length]);
        let v = e.transpose(&v, &[0, 2, 1]);
        e.reshape(&v, &[self.n * length, self.c])
    }

    /// The rows that a pixel for each place has in the images, [n * p].
    fn pixel(&self, e: &mut Emit<'_>, around: &[&Tap]) -> Value {
        let pixels: usize = self.size.iter().product();
        let first: Vec<i64> = (0..self.n).map(|i| (i * pixels) as i64).collect();
        let first = e.int_list(&first);
        let mut row = e.reshape(&first, &[self.n, 1]);
        let mut stride = pixels;
        for (tap, &size) in around.iter().zip(&self.size) {
            stride /= size;
            // 7 is int64 in the file format.
            let index = e.op("Cast", &[&tap.index], &[("to", Attr::Int(7))], tap.index.shape());
            let stride = e.int_list(&[stride as i64]);
            let steps = e.mul(&index, &stride);
            row = e.add(&row, &steps);
        }
        e.reshape(&row, &[self.n * self.p])
    }

    /// The taps along every axis.
    fn axes(&self, e: &mut Emit<'_>) -> Result<Vec<Vec<Tap>>, OpError> {
        let grid = e.x(1)?;
        let rank = self.size.len();
        let grid = e.reshape(&grid, &[self.n, self.p, rank]);
        let mut coordinates = Vec::new();
        for (axis, &size) in self.size.iter().enumerate() {
            let k = (rank - 1 - axis) as i64;
            let g = e.slice(&grid, &[2], &[k], &[k + 1], &[1]);
            let g = e.reshape(&g, &[self.n, self.p]);
            coordinates.push(self.coordinate(e, &g, size));
        }
        Ok(coordinates.iter().zip(&self.size).map(|(u, &size)| self.taps(e, u, size)).collect())
    }

    /// -1..1 in pixels, in the order in which the runtime computes it: rounding must not take another pixel.
    fn coordinate(&self, e: &mut Emit<'_>, g: &Value, size: usize) -> Value {
        let one = e.num(1.0);
        let u = e.add(g, &one);
        if self.aligned {
            let u = e.scale(&u, 0.5);
            return e.scale(&u, size as f64 - 1.0);
        }
        let u = e.scale(&u, size as f64);
        let u = e.sub(&u, &one);
        e.scale(&u, 0.5)
    }

    /// The taps around the coordinate `u` along an axis. Beyond its ends they read zeros, the last pixel, or the pixels
    /// thrown back.
    fn taps(&self, e: &mut Emit<'_>, u: &Value, size: usize) -> Vec<Tap> {
        let last = size as f64 - 1.0;
        let base = e.unary(if self.taps.len() == 1 { "Round" } else { "Floor" }, u);
        let t = e.sub(u, &base);
        let stretch = if self.aligned { last } else { size as f64 } / 2.0;
        let before = (self.taps.len() - 1) / 2;
        let mut taps = Vec::new();
        for (k, factors) in self.taps.iter().enumerate() {
            let offset = e.num(k as f64 - before as f64);
            let place = e.add(&base, &offset);
            let mut weight = polynomial(e, factors, &t);
            let [_, a, b, c] = factors;
            let mut slope = polynomial(e, &[stretch * a, stretch * 2.0 * b, stretch * 3.0 * c, 0.0], &t);
            let place = if self.padding == Padding::Reflection { self.reflected(e, &place, size) } else { place };
            let index = clip(e, &place, last);
            if self.padding == Padding::Zeros {
                let there = e.binary("Equal", &place, &index);
                let there = e.op("CastLike", &[&there, &place], &[], place.shape());
                (weight, slope) = (e.mul(&weight, &there), e.mul(&slope, &there));
            }
            taps.push(Tap { index, weight, slope });
        }
        taps
    }

    /// `u` thrown back at the ends of the axis as often as it takes: low + R - |m - R|, m = (u - low) mod 2R, R being the
    /// distance of the ends, which are the centres or the outer edges of the end pixels.
    fn reflected(&self, e: &mut Emit<'_>, u: &Value, size: usize) -> Value {
        let (low, range) = if self.aligned { (0.0, size as f64 - 1.0) } else { (-0.5, size as f64) };
        if range <= 0.0 {
            let zero = e.num(0.0);
            return e.mul(u, &zero);
        }
        let (start, period, centre, top) = (e.num(low), e.num(2.0 * range), e.num(range), e.num(low + range));
        let d = e.sub(u, &start);
        let turns = e.div(&d, &period);
        let turns = e.unary("Floor", &turns);
        let whole = e.mul(&turns, &period);
        let m = e.sub(&d, &whole);
        let off = e.sub(&m, &centre);
        let distance = e.unary("Abs", &off);
        e.sub(&top, &distance)
    }
}

/// `u` within 0..last.
fn clip(e: &mut Emit<'_>, u: &Value, last: f64) -> Value {
    let (low, high) = (e.num(0.0), e.num(last));
    e.op("Clip", &[u, &low, &high], &[], u.shape())
}

/// factors[0] + factors[1] t + factors[2] t^2 + factors[3] t^3
fn polynomial(e: &mut Emit<'_>, factors: &[f64; 4], t: &Value) -> Value {
    let is_zero = |f: f64| f.abs() == 0.0;
    let Some(highest) = factors.iter().rposition(|&f| !is_zero(f)) else { return e.num(0.0) };
    let mut y: Option<Value> = None;
    for &factor in factors[..highest].iter().rev() {
        let risen = match &y {
            Some(y) => e.mul(y, t),
            None => e.scale(t, factors[highest]),
        };
        let constant = e.num(factor);
        y = Some(if is_zero(factor) { risen } else { e.add(&risen, &constant) });
    }
    y.unwrap_or_else(|| e.num(factors[highest]))
}

/// grid = theta times (x, y, 1) or (x, y, z, 1) of every place      dtheta = dgrid^T times those
fn affine(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let theta = e.x(0)?;
    let aligned = e.int("align_corners", 0)? != 0;
    let (n, rank) = (dy.shape()[0], dy.rank() - 2);
    let size = &dy.shape()[1..=rank];
    let p: usize = size.iter().product();
    let mut base = Vec::with_capacity(p * (rank + 1));
    for i in 0..p {
        let mut rest = i;
        for &length in size.iter().rev() {
            base.push(middle(rest % length, length, aligned));
            rest /= length;
        }
        base.push(1.0);
    }
    let base = e.nums(&[p, rank + 1], &base);
    let dy = e.reshape(dy, &[n, p, rank]);
    let dy = e.transpose(&dy, &[0, 2, 1]);
    let d = e.matmul(&dy, &base);
    Ok(e.reshape(&d, theta.shape()))
}

/// Where pixel `i` of a row lies in -1..1: between its ends, or with the first and the last one at the ends.
fn middle(i: usize, length: usize, aligned: bool) -> f64 {
    let (i, length) = (i as f64, length as f64);
    match (aligned, length > 1.0) {
        (false, _) => (2.0 * i + 1.0) / length - 1.0,
        (true, true) => 2.0 * i / (length - 1.0) - 1.0,
        // The runtime puts a single pixel at the far end.
        (true, false) => 1.0,
    }
}
