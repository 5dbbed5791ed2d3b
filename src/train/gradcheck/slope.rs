//! Central differences of a vector-valued function of one number, and where they can be trusted.

/// A result bends when its one-sided or shorter differences disagree with the central one by more than this share.
const BEND: f64 = 0.01;

/// The derivative of every element of a function at 0, with the elements at which the function is smooth.
pub(super) struct Slope {
    /// Per element, extrapolated from two steps; the error is of order h^4.
    pub derivative: Vec<f64>,
    /// False where the function bends or jumps within the steps, or is not finite.
    pub smooth: Vec<bool>,
}

/// Takes the slope from values at -h, -h/2, 0, h/2 and h.
///
/// D(h) = (f(h) - f(-h)) / 2h        result = (4 D(h/2) - D(h)) / 3
///
/// An element is smooth when D(h) and D(h/2) agree and f(h) - f(0) agrees with f(0) - f(-h). On a kink between -h and h
/// the latter differ, and so does no other comparison of the two: the difference is twice the error of D(h). Rules play
/// no part in this, so what is left out cannot hide a wrong one.
pub(super) fn slope(values: [&[f64]; 5], h: f64) -> Slope {
    let [ll, l, m, r, rr] = values;
    let n = m.len();
    let wide = |i: usize| (rr[i] - ll[i]) / (2.0 * h);
    let narrow = |i: usize| (r[i] - l[i]) / h;
    let bend = |i: usize| (rr[i] + ll[i] - 2.0 * m[i]) / (2.0 * h);
    let usual = median((0..n).map(|i| narrow(i).abs()).filter(|d| d.is_finite() && *d > 0.0).collect());
    let smooth = |i: usize| {
        let limit = BEND * narrow(i).abs().max(usual);
        // A comparison with NaN is false.
        bend(i).abs() <= limit && (wide(i) - narrow(i)).abs() <= limit && m[i].is_finite()
    };
    Slope {
        derivative: (0..n).map(|i| (4.0 * narrow(i) - wide(i)) / 3.0).collect(),
        smooth: (0..n).map(smooth).collect(),
    }
}

/// The middle one, 0 of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    if values.is_empty() {
        return 0.0;
    }
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// The larger of two errors; one that is not a number is larger than any.
pub(super) fn worse(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// Root of the mean of squares.
pub(super) fn rms(values: &[f32]) -> f64 {
    (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// Sum of products.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

#[cfg(test)]
mod tests {
    use super::{Slope, slope};

    /// The slope of elementwise `f` at `x` in direction 1.
    fn of(f: impl Fn(f64) -> f64, x: &[f64], h: f64) -> Slope {
        let at = |d: f64| x.iter().map(|&x| f(x + d)).collect::<Vec<_>>();
        slope([&at(-h), &at(-h / 2.0), &at(0.0), &at(h / 2.0), &at(h)], h)
    }

    #[test]
    fn smooth_functions_are_exact_to_the_fourth_order() {
        let x = [-1.0, -0.3, 0.2, 0.9];
        let s = of(f64::sin, &x, 0.004);
        assert_eq!(s.smooth, [true; 4]);
        for (d, x) in s.derivative.iter().zip(x) {
            assert!((d - x.cos()).abs() < 1e-11, "{d} at {x}");
        }
    }

    #[test]
    fn kinks_and_jumps_within_the_step_are_seen_and_no_others() {
        let h = 0.1;
        // On the kink, at a quarter, at three quarters and near the end of the step; then outside.
        let x = [0.0, 0.025, -0.075, 0.095, 0.101, -0.3];
        let relu = of(|x| x.max(0.0), &x, h);
        assert_eq!(relu.smooth, [false, false, false, false, true, true]);
        assert!(relu.derivative[5].abs() < 1e-12 && (relu.derivative[4] - 1.0).abs() < 1e-12);
        let jump = of(|x| if x > 0.0 { x + 1.0 } else { x }, &x, h);
        assert_eq!(jump.smooth, [false, false, false, false, true, true]);
        let root = of(f64::sqrt, &[-1.0, 0.0, 2.0, 3.0], 0.01);
        assert_eq!(root.smooth, [false, false, true, true]);
    }
}
