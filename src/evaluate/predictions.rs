//! What a model says about every sample, kept so that models can be set beside each other.

use super::{Classifier, EvaluateError, Evaluation, Scores, argmax, distribution::jensen_shannon};
use crate::data::Dataset;
use ndarray::ArrayView1;

/// The predictions of a model on a data set, in the order of the data.
#[derive(Clone, Debug, Default)]
pub struct Predictions {
    /// The counts per class.
    pub evaluation: Evaluation,
    /// The class with the largest score, the first one among equals; `None` where a score is not finite.
    pub top: Vec<Option<u32>>,
    /// The probability of that class; 0 where there is none.
    pub confidence: Vec<f32>,
    /// Where labels are multi-hot: the classes that are predicted, each by its own score.
    pub sets: Vec<Vec<u32>>,
    /// Mean Jensen-Shannon divergence to the first model, where both have one distribution over all classes.
    pub divergence: Option<f64>,
    /// True where the scores are taken for logits, but are from 0 to 1 and sum to 1 in every sample.
    pub like_probabilities: bool,
    /// Where they were asked for: the distributions, one after the other.
    pub(super) distributions: Vec<f32>,
}

impl Predictions {
    /// Asks the model about all samples, until `go_on` says no. With `keep` the distributions over the classes stay in
    /// memory, 4 bytes a class and prediction, for a later model to be compared with; `first` is an earlier one that has
    /// them.
    ///
    /// The divergence is that of [`jensen_shannon`] for every prediction, averaged over the predictions for which both
    /// models have finite scores.
    pub fn of(
        classifier: &mut Classifier<'_>,
        data: &Dataset,
        keep: bool,
        first: Option<&Self>,
        go_on: impl FnMut() -> bool,
    ) -> Result<Self, EvaluateError> {
        let scores = classifier.scores;
        let mut all = Self { evaluation: Evaluation::new(data.classes(), data.multi_hot()), ..Self::default() };
        let (mut sum, mut compared) = (0.0, 0usize);
        all.like_probabilities = scores == Scores::Logits;
        let numbers: Vec<usize> = (0..data.len()).collect();
        classifier.for_each(data, &numbers, go_on, |row, labels| {
            all.evaluation.add(row, labels, scores);
            let finite = row.iter().all(|v| v.is_finite());
            let top = argmax(row);
            all.like_probabilities &= !finite || distribution(row);
            let p = scores.probabilities(row);
            let at = all.top.len();
            all.top.push(finite.then_some(top as u32));
            all.confidence.push(if finite { p[top] as f32 } else { 0.0 });
            if data.multi_hot() {
                all.sets.push(above(row, scores.threshold(), finite));
            }
            if !scores.exclusive() {
                return;
            }
            if let Some(q) = first.and_then(|first| first.distribution(at, p.len())).filter(|_| finite) {
                sum += jensen_shannon(&p, &q);
                compared += 1;
            }
            if keep {
                all.distributions.extend(p.iter().map(|&p| p as f32));
            }
        })?;
        all.divergence = (compared > 0).then(|| sum / compared as f64);
        Ok(all)
    }

    /// The distribution of one prediction over the classes, where it was kept and is finite.
    fn distribution(&self, at: usize, classes: usize) -> Option<Vec<f64>> {
        self.top[at]?;
        let row = self.distributions.get(at * classes..(at + 1) * classes)?;
        Some(row.iter().map(|&p| p.into()).collect())
    }

    /// Share of the predictions that are the same; with multi-hot labels the same classes. What is not finite is the same
    /// as nothing.
    pub fn agreement(&self, other: &Self) -> f64 {
        let same = |i: &usize| {
            self.top[*i].is_some()
                && other.top[*i].is_some()
                && if self.sets.is_empty() { self.top[*i] == other.top[*i] } else { self.sets[*i] == other.sets[*i] }
        };
        (0..self.top.len()).filter(same).count() as f64 / self.top.len() as f64
    }
}

/// True for numbers from 0 to 1 that sum to 1, as far as float16 tells.
fn distribution(row: &ArrayView1<'_, f32>) -> bool {
    row.iter().all(|v| (0.0..=1.0).contains(v)) && (row.sum() - 1.0).abs() < 1e-2
}

/// The classes with a score above the threshold.
fn above(row: &ArrayView1<'_, f32>, threshold: f32, finite: bool) -> Vec<u32> {
    (0..).zip(row).filter(|(_, score)| finite && **score > threshold).map(|(class, _)| class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_predictions_agree_and_none_agrees_with_nothing() {
        let of = |top: &[Option<u32>]| Predictions { top: top.to_vec(), ..Predictions::default() };
        let a = of(&[Some(1), Some(2), None, None]);
        assert!((a.agreement(&of(&[Some(1), Some(0), None, Some(3)])) - 0.25).abs() < 1e-12);
        let sets = |sets: &[&[u32]]| Predictions {
            sets: sets.iter().map(|s| s.to_vec()).collect(),
            top: vec![Some(0); sets.len()],
            ..Predictions::default()
        };
        // The top class is the same everywhere, the sets are not.
        assert!((sets(&[&[0, 1], &[]]).agreement(&sets(&[&[0], &[]])) - 0.5).abs() < 1e-12);
    }
}
