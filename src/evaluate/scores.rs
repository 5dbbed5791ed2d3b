//! What the scores of a model mean.

use ndarray::ArrayView1;

/// What the scores of an output mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Before softmax.
    Logits,
    /// After softmax.
    Probabilities,
    /// Logarithms of probabilities.
    LogProbabilities,
    /// Probabilities that are independent of each other, each after a sigmoid of its own.
    Independent,
    /// The same before the sigmoids.
    IndependentLogits,
}

impl Scores {
    /// From the operator that a head ends in, and whether the classes are independent of each other. Those of a single score
    /// for two classes are not: its sigmoid is a softmax over both.
    pub fn of(behind: Option<&str>, independent: bool) -> Self {
        match behind {
            Some("LogSoftmax") => Self::LogProbabilities,
            Some("Sigmoid") if independent => Self::Independent,
            Some("Softmax" | "Sigmoid") => Self::Probabilities,
            _ if independent => Self::IndependentLogits,
            _ => Self::Logits,
        }
    }

    /// True where the scores of a sample are one distribution over the classes.
    pub fn exclusive(self) -> bool {
        matches!(self, Self::Logits | Self::Probabilities | Self::LogProbabilities)
    }

    /// The probability of every class in a row of scores: they sum to 1 only where the classes exclude each other.
    pub fn probabilities(self, row: &ArrayView1<'_, f32>) -> Vec<f64> {
        let each = |f: &dyn Fn(f64) -> f64| row.iter().map(|&v| f(v.into())).collect();
        match self {
            Self::Logits => {
                let sum = log_sum_exp(row);
                each(&|v| (v - sum).exp())
            }
            Self::LogProbabilities => each(&f64::exp),
            Self::Probabilities | Self::Independent => each(&|v| v),
            Self::IndependentLogits => each(&|v| 1.0 / (1.0 + (-v).exp())),
        }
    }

    /// The logarithm of the probability of every class, where the classes exclude each other: it does not underflow where
    /// the scores are logits or logarithms.
    pub fn log_probabilities(self, row: &ArrayView1<'_, f32>) -> Vec<f64> {
        let each = |f: &dyn Fn(f64) -> f64| row.iter().map(|&v| f(v.into())).collect();
        match self {
            Self::Logits | Self::IndependentLogits => {
                let sum = log_sum_exp(row);
                each(&|v| v - sum)
            }
            Self::LogProbabilities => each(&|v| v),
            // As in the cross-entropy.
            Self::Probabilities | Self::Independent => each(&|v| v.max(f64::from(f32::MIN_POSITIVE)).ln()),
        }
    }

    /// What the score of an independent class has to be above for the class to be predicted: a probability of 0.5.
    pub fn threshold(self) -> f32 {
        if self == Self::Independent { 0.5 } else { 0.0 }
    }

    /// The scores of class 0 and class 1 that a single score `v` stands for.
    pub(super) fn both_sides(self, v: f32) -> [f32; 2] {
        match self {
            // softmax over (0, z) is the sigmoid of z.
            Self::Logits | Self::LogProbabilities | Self::IndependentLogits => [0.0, v],
            Self::Probabilities | Self::Independent => [1.0 - v, v],
        }
    }

    /// Cross-entropy of a row of scores against the classes that are there, in nats.
    pub(super) fn cross_entropy(self, row: &ArrayView1<'_, f32>, labels: &[u32]) -> f64 {
        let of_labels = |f: &dyn Fn(f64) -> f64| labels.iter().map(|&c| f(row[c as usize].into())).sum();
        match self {
            Self::Logits => of_labels(&|v| log_sum_exp(row) - v),
            // Probabilities underflow to 0; the smallest float32 stands for what they were.
            Self::Probabilities => of_labels(&|v| -v.max(f64::from(f32::MIN_POSITIVE)).ln()),
            Self::LogProbabilities => of_labels(&|v| -v),
            Self::Independent => -(0..).zip(row).map(|(c, &p)| surprise(p, labels.contains(&c))).sum::<f64>(),
            Self::IndependentLogits => {
                (0..).zip(row).map(|(c, &z)| softplus(if labels.contains(&c) { -z } else { z })).sum()
            }
        }
    }
}

/// Index of the largest score; the first one among equals.
pub fn argmax(row: &ArrayView1<'_, f32>) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &v)| if v > row[best] { i } else { best })
}

/// Logarithm of the probability that an independent class is there, or not.
fn surprise(p: f32, there: bool) -> f64 {
    let p = if there { f64::from(p) } else { 1.0 - f64::from(p) };
    p.max(f64::from(f32::MIN_POSITIVE)).ln()
}

/// log(1 + exp z), the surprise at a class that is not there.
fn softplus(z: f32) -> f64 {
    f64::from(z.max(0.0)) + (-f64::from(z.abs())).exp().ln_1p()
}

fn log_sum_exp(row: &ArrayView1<'_, f32>) -> f64 {
    let max = f64::from(row[argmax(row)]);
    max + row.iter().map(|&v| (f64::from(v) - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_by_hand() {
        let close = |scores: Scores, row: &[f32], expected: &[f64]| {
            let found = scores.probabilities(&ArrayView1::from(row));
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{scores:?}: {found:?}");
        };
        // Softmax of (ln 1, ln 3) is (1/4, 3/4), whatever is added to both.
        close(Scores::Logits, &[100.0, 100.0 + 3f32.ln()], &[0.25, 0.75]);
        close(Scores::LogProbabilities, &[0.25f32.ln(), 0.75f32.ln()], &[0.25, 0.75]);
        close(Scores::Probabilities, &[0.25, 0.75], &[0.25, 0.75]);
        close(Scores::Independent, &[0.9, 0.9], &[0.9, 0.9]);
        close(Scores::IndependentLogits, &[0.0, 3f32.ln()], &[0.5, 0.75]);
    }

    #[test]
    fn a_sigmoid_over_one_score_is_a_softmax_over_two() {
        let scores = Scores::of(Some("Sigmoid"), false);
        let row = scores.both_sides(0.8);
        let loss = scores.cross_entropy(&ArrayView1::from(&row), &[1]);
        assert!((loss + 0.8f64.ln()).abs() < 1e-6, "{loss}");
        assert_eq!(Scores::of(Some("Sigmoid"), true), Scores::Independent);
    }
}
