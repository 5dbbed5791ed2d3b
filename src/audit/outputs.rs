//! What a model says about every sample.

use crate::{
    data::Dataset,
    evaluate::{Classifier, EvaluateError},
};

/// The distributions of a model over the classes, in the order of the data; one prediction a sample, classes that exclude
/// each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// Number of classes.
    pub classes: usize,
    /// Class of every sample.
    pub labels: Vec<usize>,
    /// Logarithms of the probabilities, [samples, classes]; of a row with scores that are not finite nothing is finite.
    log_p: Vec<f32>,
}

impl Outputs {
    /// Asks the model about the samples `numbers`, until `go_on` says no.
    pub fn of(
        classifier: &mut Classifier<'_>,
        data: &Dataset,
        numbers: &[usize],
        go_on: impl FnMut() -> bool,
    ) -> Result<Self, EvaluateError> {
        let scores = classifier.scores;
        let mut all = Self { classes: data.classes(), ..Self::default() };
        classifier.for_each(data, numbers, go_on, |row, labels| {
            let label = labels.first().map_or(0, |&label| label as usize);
            let finite = row.iter().all(|v| v.is_finite());
            all.push(label, &if finite { scores.log_probabilities(row) } else { vec![f64::NAN; row.len()] });
        })?;
        Ok(all)
    }

    fn push(&mut self, label: usize, log_p: &[f64]) {
        self.labels.push(label);
        self.log_p.extend(log_p.iter().map(|&v| v as f32));
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The samples whose class `pick` takes.
    pub fn samples(&self, pick: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..self.len()).filter(|&i| pick(self.labels[i])).collect()
    }

    /// Logarithms of the probabilities of sample `i`; `None` where they are not finite.
    pub fn log_probabilities(&self, i: usize) -> Option<Vec<f64>> {
        let row = &self.log_p[i * self.classes..(i + 1) * self.classes];
        row.iter().all(|v| !v.is_nan()).then(|| row.iter().map(|&v| v.into()).collect())
    }

    /// Probabilities of sample `i`.
    pub fn probabilities(&self, i: usize) -> Option<Vec<f64>> {
        Some(self.log_probabilities(i)?.into_iter().map(f64::exp).collect())
    }

    /// The class with the largest probability, the first among equals.
    pub fn top(&self, i: usize) -> Option<usize> {
        let row = self.log_probabilities(i)?;
        Some((0..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best }))
    }

    /// Cross-entropy of sample `i` in nats; infinite where scores are not finite.
    pub fn loss(&self, i: usize) -> f64 {
        self.log_probabilities(i).map_or(f64::INFINITY, |row| -row[self.labels[i]])
    }

    /// Share of the samples `rows` that are predicted as what they are.
    pub fn accuracy(&self, rows: &[usize]) -> Option<f64> {
        super::mean(rows.iter().map(|&i| f64::from(u8::from(self.top(i) == Some(self.labels[i])))))
    }

    /// How many of the samples `rows` are predicted as each class.
    pub fn predicted(&self, rows: &[usize]) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        rows.iter().filter_map(|&i| self.top(i)).for_each(|class| counts[class] += 1);
        counts
    }

    /// Made up from labels and probabilities.
    #[cfg(test)]
    pub(super) fn made(rows: &[(usize, &[f64])]) -> Self {
        let mut all = Self { classes: rows[0].1.len(), ..Self::default() };
        for (label, p) in rows {
            all.push(*label, &p.iter().map(|p| p.ln()).collect::<Vec<_>>());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::{super::close, *};

    #[test]
    fn samples_that_are_not_finite_are_wrong() {
        let o = Outputs::made(&[(0, &[0.75, 0.25]), (1, &[f64::NAN, 0.5]), (1, &[0.5, 0.5]), (0, &[0.0, 1.0])]);
        assert_eq!([0, 1, 2, 3].map(|i| o.top(i)), [Some(0), None, Some(0), Some(1)]);
        close(o.loss(0), f64::from((0.75f64.ln()) as f32).abs());
        assert!(o.loss(1).is_infinite() && o.loss(3).is_infinite() && o.probabilities(3).is_some());
        assert_eq!((o.accuracy(&[0, 1, 2, 3]), o.accuracy(&[])), (Some(0.25), None));
        assert_eq!((o.predicted(&[0, 1, 2, 3]), o.samples(|c| c == 1)), (vec![2, 1], vec![1, 2]));
    }
}
