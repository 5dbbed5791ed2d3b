//! Central differences of many results of one number, in float32, and where they can be trusted.

/// Two extrapolations from different steps have to agree to this share of the usual derivative. What is left of the error
/// then is well below the tolerance of the comparison.
const AGREE: f64 = 1e-4;
/// What two steps give for a bend may differ by this share.
const BEND: f64 = 0.01;
/// What rounding may do to a difference, in units of the results over the step.
pub const ROUNDING: f64 = 5e-7;

/// Results at -h, -h/2, -h/4, 0, h/4, h/2 and h.
pub type Samples = [Vec<f64>; 7];

/// The derivative of every result at 0, with the results for which that is one.
pub struct Slope {
    /// The error is of order h^4.
    pub derivative: Vec<f64>,
    /// False where the result bends, jumps or is not finite within the steps.
    pub smooth: Vec<bool>,
}

/// Where the samples of all directions were taken: usual sizes of derivatives and of results.
pub struct Usual {
    derivative: f64,
    rounding: f64,
}

impl Usual {
    /// The middle of all derivatives that are not zero, over the samples of one output along all directions.
    pub fn of(samples: &[Samples], h: f64) -> Self {
        let n = samples.first().map_or(0, |s| s[3].len());
        let all = samples.iter().flat_map(|s| (0..n).map(move |i| fine(s, i, h).abs()));
        let mut all: Vec<f64> = all.filter(|d| d.is_finite() && *d > 0.0).collect();
        let middle = all.len() / 2;
        let derivative = if all.is_empty() { 0.0 } else { *all.select_nth_unstable_by(middle, f64::total_cmp).1 };
        let finite = samples.iter().flat_map(|s| &s[3]).filter(|v| v.is_finite());
        let largest = finite.fold(0.0f64, |m, v| m.max(v.abs()));
        Self { derivative, rounding: ROUNDING * largest / h }
    }
}

/// D(h) = (f(h) - f(-h)) / 2h
fn difference(s: &Samples, i: usize, h: f64, k: usize) -> f64 {
    (s[6 - k][i] - s[k][i]) / (2.0 * h / f64::from(1 << k))
}

/// (4 D(h/4) - D(h/2)) / 3
fn fine(s: &Samples, i: usize, h: f64) -> f64 {
    (4.0 * difference(s, i, h, 2) - difference(s, i, h, 1)) / 3.0
}

/// Takes the slope along one direction.
///
/// The derivative is extrapolated from h/2 and h/4. A result is smooth when h and h/2 give the same, and when the bend
/// (f(h) + f(-h) - 2 f(0)) / h is twice that of half the step, as that of a parabola is. On a kink at 0 only the second
/// fails; a kink elsewhere that passes one of the two fails the other. Rules play no part in this, so what is left out
/// cannot hide a wrong one.
pub fn slope(s: &Samples, h: f64, usual: &Usual) -> Slope {
    let n = s[3].len();
    let coarse = |i: usize| (4.0 * difference(s, i, h, 1) - difference(s, i, h, 0)) / 3.0;
    let bend = |i: usize, k: usize| (s[6 - k][i] + s[k][i] - 2.0 * s[3][i]) / (h / f64::from(1 << k));
    let smooth = |i: usize| {
        let size = fine(s, i, h).abs().max(usual.derivative);
        let (two, straight) = ((coarse(i) - fine(s, i, h)).abs(), (bend(i, 0) - 2.0 * bend(i, 1)).abs());
        // A comparison with NaN is false.
        two <= AGREE * size + usual.rounding && straight <= BEND * size + 8.0 * usual.rounding && s[3][i].is_finite()
    };
    Slope { derivative: (0..n).map(|i| fine(s, i, h)).collect(), smooth: (0..n).map(smooth).collect() }
}

#[cfg(test)]
mod tests {
    use super::{Samples, Slope, Usual, slope};

    /// The slope of elementwise `f` at `x` in direction 1.
    fn of(f: impl Fn(f64) -> f64, x: &[f64], h: f64) -> Slope {
        let steps = [-h, -h / 2.0, -h / 4.0, 0.0, h / 4.0, h / 2.0, h];
        let samples: Samples = steps.map(|d| x.iter().map(|&x| f(x + d)).collect());
        let usual = Usual::of(std::slice::from_ref(&samples), h);
        slope(&samples, h, &usual)
    }

    #[test]
    fn smooth_functions_are_seen_as_such() {
        let x = [-1.0, -0.3, 0.2, 0.9];
        let s = of(f64::sin, &x, 0.1);
        assert_eq!(s.smooth, [true; 4]);
        assert!(s.derivative.iter().zip(x).all(|(d, x)| (d - x.cos()).abs() < 1e-6));
    }

    #[test]
    fn kinks_and_jumps_within_the_step_are_seen_wherever_they_lie() {
        for k in 0..100 {
            // The last hundredth of the step is too near its end to matter.
            let x = f64::from(k) * 0.00098;
            for x in [x, -x] {
                assert_eq!(of(|x| x.max(0.0), &[x, 1.0, 1.1], 0.1).smooth, [false, true, true], "kink at {x}");
                let step = |x: f64| if x > 0.0 { x + 1.0 } else { x };
                assert_eq!(of(step, &[x, 1.0, 1.1], 0.1).smooth, [false, true, true], "jump at {x}");
            }
        }
        // The second derivative jumps at 0.
        assert_eq!(of(|x| x / (1.0 + x.abs()), &[0.0, 1.0, 1.1], 0.1).smooth, [false, true, true]);
        assert_eq!(of(f64::sqrt, &[-1.0, 0.0, 2.0, 3.0], 0.02).smooth, [false, false, true, true]);
    }
}
