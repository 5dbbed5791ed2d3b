//! Counts and what they are worth: intervals and tests.

use serde::Serialize;

/// The 0.975 quantile of the standard normal distribution: two-sided intervals of 95 %.
pub const Z: f64 = 1.959_963_984_540_054;

/// Wilson's score interval of 95 % for a share of which `successes` of `n` were seen; `None` for no sample.
///
/// (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)        p = successes / n, z = 1.96
///
/// (Wilson, "Probable inference, the law of succession, and statistical inference", 1927, without a correction for
/// continuity.) It stays within 0 and 1 and has its nominal coverage on average also near both ends (Brown, Cai and
/// DasGupta, "Interval estimation for a binomial proportion", 2001). It supposes that the samples are independent.
pub fn wilson(successes: usize, n: usize) -> Option<[f64; 2]> {
    if n == 0 {
        return None;
    }
    let (successes, n) = (successes as f64, n as f64);
    let p = successes / n;
    let z2 = Z * Z;
    let middle = p + z2 / (2.0 * n);
    let reach = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    // At the ends middle and reach are equal but for rounding.
    let low = if successes > 0.0 { (middle - reach) / scale } else { 0.0 };
    let high = if successes < n { (middle + reach) / scale } else { 1.0 };
    Some([low, high])
}

/// What two classifiers did on the same labels, where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Discordant {
    /// Labels that only the first one predicts.
    pub only_first: usize,
    /// Labels that only the second one predicts.
    pub only_second: usize,
}

/// McNemar's exact test: how likely the discordant pairs are at least this uneven if both classifiers are equally often
/// right, two-sided.
///
/// min(1, 2 sum_{i <= k} C(n, i) / 2^n)        n = b + c, k = min(b, c), b and c the discordant pairs
///
/// (McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947; the exact
/// form is the sign test on the discordant pairs.) 1 where there are none.
pub fn mcnemar(pairs: Discordant) -> f64 {
    let (b, c) = (pairs.only_first, pairs.only_second);
    let (n, k) = (b + c, b.min(c));
    // Logarithms, because 2^-n is no float64 for n above 1074.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = log_term.exp();
    for i in 0..k {
        log_term += ((n - i) as f64 / (i + 1) as f64).ln();
        sum += log_term.exp();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} and {expected}");
    }

    #[test]
    fn wilson_by_hand() {
        assert_eq!(wilson(0, 0), None);
        // p = 1/2, n = 4: the middle is 1/2, and the reach z sqrt(1/16 + z^2/64) / (1 + z^2/4) is z/2 / sqrt(4 + z^2), since
        // z/8 sqrt(4 + z^2) * 4 / (4 + z^2). With z^2 = 3.841458820694124 that is 0.979981992270027 / 2.800260492...
        let [low, high] = wilson(2, 4).expect("samples");
        let reach = 0.979_981_992_270_027 / 7.841_458_820_694_124f64.sqrt();
        close(low, 0.5 - reach);
        close(high, 0.5 + reach);
        assert!((low - 0.150_04).abs() < 1e-5, "{low}");
        // At no success the interval is [0, z^2 / (n + z^2)]: for n = 10 3.8414588 / 13.8414588 = 0.27753.
        let [low, high] = wilson(0, 10).expect("samples");
        assert!(low.abs() < f64::MIN_POSITIVE);
        close(high, 3.841_458_820_694_124 / 13.841_458_820_694_124);
        // It is symmetric: k of n mirrors n - k of n.
        let ([a, b], [c, d]) = (wilson(3, 10).expect("samples"), wilson(7, 10).expect("samples"));
        close(a, 1.0 - d);
        close(b, 1.0 - c);
        assert!((wilson(10, 10).expect("samples")[1] - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn mcnemar_by_hand() {
        let p = |only_first, only_second| mcnemar(Discordant { only_first, only_second });
        close(p(0, 0), 1.0);
        // n = 4: 2 * 1/16.
        close(p(4, 0), 0.125);
        close(p(0, 4), 0.125);
        // n = 8, k = 1: 2 * (1 + 8) / 256.
        close(p(1, 7), 18.0 / 256.0);
        // n = 10, k = 2: 2 * (1 + 10 + 45) / 1024.
        close(p(8, 2), 112.0 / 1024.0);
        // Even pairs: the sum is above a half.
        close(p(3, 3), 1.0);
        // Far beyond what 2^-n can hold: the normal approximation (c - b - 1) / sqrt n = 99 / sqrt 2900 = 1.838 has p 0.066.
        let large = p(1400, 1500);
        assert!((large - 0.066).abs() < 5e-4, "{large}");
        assert!(p(0, 5000) < 1e-300);
    }
}
