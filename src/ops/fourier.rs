//! Fourier transforms. They are linear, and what they multiply by depends on nothing but lengths and attributes: the way
//! back is a product with the same cosines and sines.
//!
//! ONNX Runtime has `DFT` and `STFT` on the CPU only. A matrix product it has everywhere.

use super::{
    Emit,
    Flow::{Constant, Vjp},
    Op, OpError, resolve_axis,
};
use crate::graph::Value;
use std::f64::consts::TAU;

const WINDOW: &[&str] = &["output_datatype", "periodic"];

pub(super) const OPS: &[Op] = &[
    Op::new("DFT", &["axis", "inverse", "onesided"], &[Vjp(dft), Constant, Constant]),
    Op::new("STFT", &["onesided"], &[Vjp(stft), Constant, Vjp(stft_window), Constant]),
    Op::new("HannWindow", WINDOW, &[Constant]),
    Op::new("HammingWindow", WINDOW, &[Constant]),
    Op::new("BlackmanWindow", WINDOW, &[Constant]),
    Op::new("MelWeightMatrix", &["output_datatype"], &[Constant, Constant, Constant, Constant, Constant]),
];

/// Most entries of a matrix of cosines and sines: 64 MiB.
const MOST: usize = 1 << 24;

/// Entry (k, j) of the transform: cos and sin of 2 pi j k / n.
fn turn(j: usize, k: usize, n: usize) -> (f64, f64) {
    let (sin, cos) = ((j * k % n) as f64 / n as f64 * TAU).sin_cos();
    (cos, sin)
}

fn small_enough(entries: usize, n: usize) -> Result<(), OpError> {
    if entries <= MOST {
        return Ok(());
    }
    Err(OpError::Unsupported(format!(
        "a transform over {n} points is too long for its rule, which writes it as a matrix"
    )))
}

/// y[k] = s sum_j e^(-+ 2 pi i j k / n) x[j], where s = 1, or with `inverse` 1/n and the other sign
///
/// With c and d the cosine and the sine of the angle of j and k (its sign included):
/// y = s sum (c re - d im, d re + c im)      dx[j] = s sum_k (c re + d im, c im - d re) of dy[k]
///
/// `inverse` with `onesided` gives the real part of the transform of half a spectrum, whose other half is its mirror
/// image.
fn dft(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let x = e.x(0)?;
    let rank = x.rank();
    let axis = if e.graph.opset() < 20 {
        e.axis("axis", 1, rank)?
    } else {
        let axis = e.known_ints(2)?.map_or(-2, |v| v[0]);
        resolve_axis(axis, rank).ok_or_else(|| OpError::Unsupported(format!("axis {axis} of {rank}")))?
    };
    let inverse = e.int("inverse", 0)? != 0;
    let half = inverse && e.int("onesided", 0)? != 0;
    let (long, parts) = (x.shape()[axis], x.shape()[rank - 1]);
    let (out, given) = (dy.shape()[axis], dy.shape()[rank - 1]);
    // Shorter inputs are filled with zeros, longer ones cut.
    let n = if half { out } else { e.known_ints(1)?.map_or(long, |v| v[0] as usize) };
    if half && long != n / 2 + 1 {
        // Of others every runtime makes something else.
        return Err(OpError::Unsupported(format!("half the spectrum of {n} values has {}, not {long}", n / 2 + 1)));
    }
    small_enough(given * out * long * parts, n)?;
    let (sign, scale) = if inverse { (1.0, 1.0 / n as f64) } else { (-1.0, 1.0) };
    let width = long * parts;
    let mut matrix = vec![0.0; given * out * width];
    for k in 0..out {
        for j in 0..long.min(n) {
            // All but the ends of half a spectrum stand for two.
            let scale = if half && j > 0 && 2 * j < n { 2.0 * scale } else { scale };
            let (cos, sin) = turn(j, k, n);
            let (cos, sin) = (scale * cos, scale * sign * sin);
            for part in 0..parts {
                let y = if part == 0 { [cos, sin] } else { [-sin, cos] };
                for (i, y) in y.into_iter().enumerate().take(given) {
                    matrix[(given * k + i) * width + j * parts + part] = y;
                }
            }
        }
    }
    let matrix = e.nums(&[given * out, width], &matrix);
    // The axis beside that of the real and the imaginary part.
    let mut perm: Vec<usize> = (0..rank).filter(|&i| i != axis).collect();
    perm.insert(rank - 2, axis);
    let mut back = vec![0; rank];
    perm.iter().enumerate().for_each(|(to, &from)| back[from] = to);
    let dy = e.transpose(dy, &perm);
    let rows = dy.len() / (given * out);
    let dy = e.reshape(&dy, &[rows, given * out]);
    let d = e.gemm(&dy, &matrix, false, false);
    let shape: Vec<usize> = perm.iter().map(|&i| x.shape()[i]).collect();
    let d = e.reshape(&d, &shape);
    Ok(e.transpose(&d, &back))
}

/// What both rules of a transform of frames work with.
struct Frames {
    batch: usize,
    /// Length of the signal.
    long: usize,
    /// Number of frames.
    count: usize,
    bins: usize,
    /// Points of a frame.
    n: usize,
    step: i64,
    /// Cosines and negative sines of every bin in turn, [2 bins, n], without the window.
    basis: Value,
}

fn frames(e: &mut Emit<'_>, dy: &Value) -> Result<Frames, OpError> {
    let x = e.x(0)?;
    let &[batch, count, bins, _] = dy.shape() else {
        return Err(OpError::Unsupported("expected an output of four axes".into()));
    };
    let long = x.shape()[1];
    if x.len() != batch * long {
        return Err(OpError::Unsupported("the signal is complex; the rule covers real ones".into()));
    }
    let step = e.known_ints(1)?.ok_or_else(|| OpError::Unsupported("the step of the frames is missing".into()))?[0];
    let window = if e.has(2) { Some(e.x(2)?.len()) } else { None };
    let given = e.known_ints(3)?.map(|v| v[0] as usize);
    let n = given
        .or(window)
        .ok_or_else(|| OpError::Unsupported("neither a window nor the length of the frames is given".into()))?;
    if let Some(window) = window.filter(|&length| length != n) {
        return Err(OpError::Unsupported(format!("a window of {window} in frames of {n}")));
    }
    small_enough(2 * bins * n, n)?;
    let mut basis = Vec::with_capacity(2 * bins * n);
    for k in 0..bins {
        basis.extend((0..n).map(|t| turn(t, k, n).0));
        basis.extend((0..n).map(|t| -turn(t, k, n).1));
    }
    let basis = e.nums(&[2 * bins, n], &basis);
    Ok(Frames { batch, long, count, bins, n, step, basis })
}

/// y[f, k] = sum_t e^(-2 pi i t k / n) w[t] x[f step + t]: a convolution with windows of cosines and sines
/// dx = its transposed convolution of dy
fn stft(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let Frames { batch, long, count, bins, n, step, basis } = frames(e, dy)?;
    let mut basis = e.reshape(&basis, &[2 * bins, 1, n]);
    if e.has(2) {
        let window = e.x(2)?;
        let window = e.reshape(&window, &[1, 1, n]);
        basis = e.mul(&basis, &window);
    }
    let dy = e.reshape(dy, &[batch, count, 2 * bins]);
    let dy = e.transpose(&dy, &[0, 2, 1]);
    let reached = (count - 1) * step as usize + n;
    let dx = e.op("ConvTranspose", &[&dy, &basis], &[("strides", [step].into())], &[batch, 1, reached]);
    let dx = e.pad(&dx, &[0, 0, 0], &[0, 0, long as i64 - reached as i64]);
    let x = e.x(0)?;
    Ok(e.reshape(&dx, x.shape()))
}

/// dw[t] = sum_f x[f step + t] sum_k (cos re + -sin im) of dy[f, k]
fn stft_window(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let Frames { batch, long, count, bins, n, step, basis } = frames(e, dy)?;
    let dy = e.reshape(dy, &[batch * count, 2 * bins]);
    let back = e.gemm(&dy, &basis, false, false);
    let places: Vec<i64> = (0..count as i64).flat_map(|f| (0..n as i64).map(move |t| f * step + t)).collect();
    let places = e.int_list(&places);
    let x = e.x(0)?;
    let x = e.reshape(&x, &[batch, long]);
    let x = e.op("Gather", &[&x, &places], &[("axis", 1i64.into())], &[batch, count * n]);
    let x = e.reshape(&x, &[batch * count, n]);
    let each = e.mul(&back, &x);
    let dw = e.reduce_sum(&each, &[0], false);
    let window = e.x(2)?;
    Ok(e.reshape(&dw, window.shape()))
}
