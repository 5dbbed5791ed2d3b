//! Is a class too gone? A model that was retrained without a class rarely predicts it either, but one that was pushed away
//! may avoid it more than that, and so tell which class it was.

use super::Outputs;
use crate::evaluate::entropy;

/// What is printed with the figures.
pub const DEFINITION: &str = "On the held-out samples of each forgotten class (--data): mean cross-entropy (nats); mean entropy \
    of the softmax output (bits); log10 of the probability of the class, mean over samples; the same of a typical absent \
    class, which is the median over the classes that are not forgotten; the class that most samples are predicted as, by its \
    share, and the entropy of the predicted classes (bits). Flag 'too gone': the log10 of the class is more than 1 below that \
    of retrained; without --retrained, more than 4 below that of the typical absent class. Flag 'one place': that share is \
    more than 20 points above that of retrained; without --retrained, above 90 %.";
/// Which values are good.
pub const DIRECTION: &str = "What a model retrained without the class comes to is the target, in both directions; 0 means not \
    flagged. A flagged model tells by its outputs which class was taken out.";

/// Decades below the retrained model's, and below a typical absent class's: that of a retrained model, whose output for the
/// class was never a target, is some 2 below by itself.
const DECADES: [f64; 2] = [1.0, 4.0];

/// Shares above the retrained model's, and without one.
const SHARES: [f64; 2] = [0.2, 0.9];

/// How the samples of a class fare.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fate {
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Mean entropy of the softmax output in bits.
    pub entropy: f64,
    /// Mean over the samples of log10 of the probability of the class.
    pub own: f64,
    /// Median over the other classes that are not forgotten of the same.
    pub typical: f64,
    /// The class that most of the samples are predicted as; the first among equals.
    pub top: usize,
    /// Its share.
    pub share: f64,
    /// Entropy of the predicted classes in bits.
    pub routing_entropy: f64,
}

impl Fate {
    /// Of the samples of `class`, those with finite scores; `None` where there are none, or no class is left to compare with.
    pub fn of(outputs: &Outputs, class: usize, forgotten: &[usize]) -> Option<Self> {
        let rows: Vec<usize> = outputs.samples(|c| c == class);
        let log_p: Vec<Vec<f64>> = rows.iter().filter_map(|&i| outputs.log_probabilities(i)).collect();
        // A probability of 0 has no logarithm; the smallest float32 stands for it, as in the losses.
        let floor = f64::from(f32::MIN_POSITIVE).ln();
        let mean_log10 =
            |c: usize| super::mean(log_p.iter().map(|row| row[c].max(floor))).map(|m| m / std::f64::consts::LN_10);
        let spread = |row: &Vec<f64>| {
            let bits = |v: &f64| if v.is_finite() { -v.exp() * v / std::f64::consts::LN_2 } else { 0.0 };
            row.iter().map(bits).sum::<f64>()
        };
        let kept = (0..outputs.classes).filter(|c| !forgotten.contains(c) && *c != class);
        let counts = outputs.predicted(&rows);
        let top = (0..counts.len()).fold(0, |best, c| if counts[c] > counts[best] { c } else { best });
        Some(Self {
            loss: super::mean(log_p.iter().map(|row| -row[class].max(floor)))?,
            entropy: super::mean(log_p.iter().map(spread))?,
            own: mean_log10(class)?,
            typical: median(kept.filter_map(mean_log10).collect())?,
            top,
            share: counts[top] as f64 / log_p.len() as f64,
            routing_entropy: entropy(&counts)?,
        })
    }

    /// The flags 'too gone' and 'one place'.
    pub fn flags(&self, retrained: Option<&Self>) -> [bool; 2] {
        match retrained {
            Some(r) => [self.own < r.own - DECADES[0], self.share > r.share + SHARES[0]],
            None => [self.own < self.typical - DECADES[1], self.share > SHARES[1]],
        }
    }
}

/// The middle value, of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (n > 0).then(|| f64::midpoint(values[(n - 1) / 2], values[n / 2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
    }

    #[test]
    fn a_fate_by_hand() {
        let o = Outputs::made(&[
            (0, &[0.01, 0.5, 0.49, 0.0]),
            (0, &[1e-8, 0.25, 0.5, 0.25]),
            (1, &[0.1, 0.9, 0.0, 0.0]),
            (0, &[f64::NAN, 0.5, 0.5, 0.0]),
        ]);
        let fate = Fate::of(&o, 0, &[0]).expect("samples");
        near(fate.own, -5.0);
        near(fate.loss, 5.0 * std::f64::consts::LN_10);
        // Of the others: class 1 has (log10 1/2 + log10 1/4)/2, class 2 (log10 0.49 + log10 1/2)/2, class 3 far less.
        near(fate.typical, 0.125f64.log10() / 2.0);
        let bits = |p: &[f64]| p.iter().filter(|p| **p > 0.0).map(|p| -p * p.log2()).sum::<f64>();
        near(fate.entropy, f64::midpoint(bits(&[0.01, 0.5, 0.49]), bits(&[1e-8, 0.25, 0.5, 0.25])));
        assert_eq!((fate.top, fate.share, fate.routing_entropy), (1, 0.5, 1.0));
        // 4.55 below the typical class; spread over two places.
        assert_eq!(fate.flags(None), [true, false]);
        assert_eq!(fate.flags(Some(&Fate { own: -4.5, share: 0.25, ..fate })), [false, true]);
        assert_eq!(fate.flags(Some(&Fate { own: -3.9, share: 0.4, ..fate })), [true, false]);
        assert_eq!(Fate::of(&o, 2, &[0]), None);
    }

    #[test]
    fn medians() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0]), median(vec![])), (Some(2.0), Some(2.5), None));
    }
}
