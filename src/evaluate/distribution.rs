//! Distributions over classes: how spread out one is, how far two are apart, and whether scores mean what they say.

/// Bins of [`calibration_error`].
const BINS: usize = 15;

/// Shannon's entropy in bits: -sum_i p_i log2 p_i, 0 log 0 = 0, for p_i = `counts`_i / their sum. `None` where the sum is 0.
pub fn entropy(counts: &[usize]) -> Option<f64> {
    let total = counts.iter().sum::<usize>() as f64;
    let surprise = |&n: &usize| {
        let p = n as f64 / total;
        -p * p.log2()
    };
    // A sum of nothing would be -0.
    (total > 0.0).then(|| counts.iter().filter(|n| **n > 0).map(surprise).sum::<f64>().max(0.0))
}

/// The Jensen-Shannon divergence of two distributions in bits, from 0 (equal) to 1 (no class in common).
///
/// JS(p, q) = (KL(p, m) + KL(q, m)) / 2        m = (p + q) / 2        KL(p, m) = sum_i p_i log2(p_i / m_i), 0 log 0 = 0
///
/// (Lin, "Divergence measures based on the Shannon entropy", 1991, with equal weights and base 2.) It is the divergence,
/// not its square root, and a sum over classes, not a mean. Rounding cannot take it out of 0 to 1.
pub fn jensen_shannon(p: &[f64], q: &[f64]) -> f64 {
    let term = |a: f64, m: f64| if a > 0.0 { a * (a / m).log2() } else { 0.0 };
    let sum: f64 = p.iter().zip(q).map(|(&p, &q)| term(p, f64::midpoint(p, q)) + term(q, f64::midpoint(p, q))).sum();
    (sum / 2.0).clamp(0.0, 1.0)
}

/// The expected calibration error of pairs (confidence, right or not): 15 bins of equal width, the confidence being the
/// probability of the predicted class. `None` for no pair.
///
/// ECE = sum_m |B_m| / n * |acc(B_m) - conf(B_m)|        B_m = the samples with confidence in ((m - 1)/15, m/15]
///
/// (Guo et al., "On calibration of modern neural networks", 2017, equation 3; acc is the share of a bin that is right, conf
/// its mean confidence.)
pub fn calibration_error(pairs: impl IntoIterator<Item = (f64, bool)>) -> Option<f64> {
    let mut bins = [(0usize, 0usize, 0.0f64); BINS];
    for (confidence, right) in pairs {
        let m = (confidence * BINS as f64).ceil().clamp(1.0, BINS as f64) as usize;
        let (n, hits, sum) = &mut bins[m - 1];
        *n += 1;
        *hits += usize::from(right);
        *sum += confidence;
    }
    let n: usize = bins.iter().map(|(n, ..)| n).sum();
    // |B| / n * |hits / |B| - sum / |B||, where |B| cancels out.
    (n > 0).then(|| bins.iter().map(|(_, hits, sum)| (*hits as f64 - sum).abs()).sum::<f64>() / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} and {expected}");
    }

    #[test]
    fn entropy_by_hand() {
        assert_eq!(entropy(&[0, 0]), None);
        close(entropy(&[7, 0, 0]).expect("samples"), 0.0);
        // Four equal shares: 2 bits.
        close(entropy(&[5, 5, 5, 5]).expect("samples"), 2.0);
        // 1/2, 1/4, 1/4: 1/2 * 1 + 2 * 1/4 * 2.
        close(entropy(&[2, 1, 0, 1]).expect("samples"), 1.5);
    }

    #[test]
    fn jensen_shannon_by_hand() {
        close(jensen_shannon(&[0.3, 0.7], &[0.3, 0.7]), 0.0);
        close(jensen_shannon(&[1.0, 0.0], &[0.0, 1.0]), 1.0);
        // p = (1, 0), q = (1/2, 1/2), m = (3/4, 1/4): KL(p, m) = log2(4/3), KL(q, m) = 1/2 log2(2/3) + 1/2 log2 2
        // = 1/2 log2(4/3); together 3/2 log2(4/3), half of that 0.75 * 0.415037499 = 0.311278124.
        close(jensen_shannon(&[1.0, 0.0], &[0.5, 0.5]), 0.75 * (4.0f64 / 3.0).log2());
        close(jensen_shannon(&[0.5, 0.5], &[1.0, 0.0]), 0.75 * (4.0f64 / 3.0).log2());
    }

    #[test]
    fn calibration_error_by_hand() {
        assert_eq!(calibration_error([]), None);
        // Bin 15 holds 0.95 (right) and 0.99 (wrong), bin 9 holds 0.6 = 9/15 (right) and 0.56 (wrong):
        // 2/4 |1/2 - 0.97| + 2/4 |1/2 - 0.58| = 0.235 + 0.04.
        let pairs = [(0.95, true), (0.99, false), (0.6, true), (0.56, false)];
        close(calibration_error(pairs).expect("samples"), 0.275);
        // In one bin a wrong one at 1 and a right one at 0.95 even out in part; in two bins they could not.
        close(calibration_error([(1.0, false), (0.95, true)]).expect("samples"), 0.475);
        close(calibration_error([(1.0, true), (1.0, true)]).expect("samples"), 0.0);
        // A confidence of 0 is in the first bin: |0 - 0|.
        close(calibration_error([(0.0, false)]).expect("samples"), 0.0);
    }
}
