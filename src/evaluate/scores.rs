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
    /// From the operator that a head ends in, and whether a sigmoid belongs to each score.
    pub fn of(behind: Option<&str>, sigmoids: bool) -> Self {
        match behind {
            Some("Softmax") => Self::Probabilities,
            Some("LogSoftmax") => Self::LogProbabilities,
            Some("Sigmoid") => Self::Independent,
            _ if sigmoids => Self::IndependentLogits,
            _ => Self::Logits,
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
