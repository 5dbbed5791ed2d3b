//! Measures a model: accuracy and loss per class, from the bytes that are (or will be) the result.

mod distribution;
mod measurement;
mod predictions;
mod scores;
mod statistics;

pub use distribution::{calibration_error, entropy, jensen_shannon};
pub use measurement::{Comparison, Group, Measurement, Route, Share, Versus};
pub use predictions::Predictions;
pub use scores::{Scores, argmax};
pub use statistics::{Discordant, Z, mcnemar, wilson};

use crate::{
    data::Dataset,
    runtime::{RuntimeError, Session},
    tensor::{DType, Tensor},
};
use ndarray::{Array1, Array2, ArrayView1, s};
use serde::Serialize;
use thiserror::Error;

/// Why a model could not be measured.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum EvaluateError {
    #[error("the model has no output {0:?}")]
    NoOutput(String),
    #[error("output {output:?} has {found} elements for {rows} samples of {classes} classes")]
    Shape { output: String, found: usize, rows: usize, classes: usize },
    #[error("output {0:?} holds no floats")]
    Type(String),
    #[error("interrupted while measuring; nothing was written")]
    Interrupted,
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// How one class fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClassScore {
    /// Samples of the class.
    pub total: usize,
    /// Samples of the class that were predicted as it.
    pub correct: usize,
    /// The samples without the class, where labels are multi-hot. Elsewhere they are the samples of other classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negatives: Option<Negatives>,
    /// Sum of the cross-entropy over the samples of the class, in nats.
    #[serde(skip)]
    pub loss: f64,
}

/// Samples without a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Negatives {
    /// All of them.
    pub total: usize,
    /// Those that were predicted as the class.
    pub false_positives: usize,
}

/// How a model fared on a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// One entry a class.
    pub classes: Vec<ClassScore>,
    /// Samples whose scores were not finite; they count as wrong, for every class.
    pub not_finite: usize,
    /// Class of every label and whether it was predicted, in the order of the data.
    #[serde(skip)]
    pub hits: Vec<(usize, bool)>,
    /// Beside each of these the class with the largest score, the first one among equals; `None` where a score is not finite.
    #[serde(skip)]
    pub top: Vec<Option<usize>>,
}

impl Evaluation {
    /// Of no samples.
    pub fn new(classes: usize, multi_hot: bool) -> Self {
        let negatives = multi_hot.then(Negatives::default);
        Self { classes: vec![ClassScore { negatives, ..ClassScore::default() }; classes], ..Self::default() }
    }

    /// True where samples have any number of classes, and each class is predicted or not by its own score.
    pub fn multi_hot(&self) -> bool {
        self.classes.iter().any(|class| class.negatives.is_some())
    }

    /// Adds a sample: its scores and the classes that are there.
    pub fn add(&mut self, row: &ArrayView1<'_, f32>, labels: &[u32], scores: Scores) {
        let finite = row.iter().all(|v| v.is_finite());
        self.not_finite += usize::from(!finite);
        for &label in labels {
            let label = label as usize;
            let class = &mut self.classes[label];
            let predicted =
                if class.negatives.is_some() { row[label] > scores.threshold() } else { argmax(row) == label };
            let hit = finite && predicted;
            class.total += 1;
            class.correct += usize::from(hit);
            class.loss += if finite { scores.cross_entropy(row, labels) } else { f64::INFINITY };
            self.hits.push((label, hit));
            self.top.push(finite.then(|| argmax(row)));
        }
        for ((label, class), &score) in (0..).zip(&mut self.classes).zip(row) {
            if let Some(negatives) = class.negatives.as_mut().filter(|_| !labels.contains(&label)) {
                negatives.total += 1;
                negatives.false_positives += usize::from(!finite || score > scores.threshold());
            }
        }
    }

    /// Of the samples of the classes that `pick` takes, the share predicted as what they are (with multi-hot labels: the
    /// recall, micro-averaged); `None` without samples.
    pub fn accuracy(&self, pick: impl Fn(usize) -> bool) -> Option<f64> {
        let sum = self.sum(pick);
        share(sum.correct, sum.total)
    }

    /// Of the predictions as a class that `pick` takes, the share that is right, micro-averaged; `None` without
    /// predictions, and where labels are not multi-hot.
    pub fn precision(&self, pick: impl Fn(usize) -> bool) -> Option<f64> {
        let sum = self.sum(pick);
        share(sum.correct, sum.correct + sum.negatives?.false_positives)
    }

    /// The harmonic mean of the two, 2 TP / (2 TP + FP + FN), micro-averaged over the classes that `pick` takes; `None`
    /// without samples of them, and where labels are not multi-hot.
    pub fn micro_f1(&self, pick: impl Fn(usize) -> bool) -> Option<f64> {
        let sum = self.sum(pick);
        let false_positives = sum.negatives?.false_positives;
        (sum.total > 0).then(|| 2.0 * sum.correct as f64 / (sum.correct + sum.total + false_positives) as f64)
    }

    /// What the classes that `pick` takes are judged by: the micro-F1 where labels are multi-hot, the accuracy elsewhere.
    pub fn quality(&self, pick: impl Fn(usize) -> bool) -> Option<f64> {
        if self.multi_hot() { self.micro_f1(pick) } else { self.accuracy(pick) }
    }

    /// Mean cross-entropy in nats over the samples of the classes that `pick` takes.
    pub fn loss(&self, pick: impl Fn(usize) -> bool) -> Option<f64> {
        let sum = self.sum(pick);
        (sum.total > 0).then(|| sum.loss / sum.total as f64)
    }

    /// Mean of the accuracies of batches of `batch` samples of the classes that `pick` takes, in the order of the data: a
    /// smaller last batch counts as much as a full one. `None` without samples.
    pub fn mean_of_batches(&self, pick: impl Fn(usize) -> bool, batch: usize) -> Option<f64> {
        let hits: Vec<bool> = self.hits.iter().filter(|(class, _)| pick(*class)).map(|&(_, hit)| hit).collect();
        let share = |b: &[bool]| b.iter().filter(|&&hit| hit).count() as f64 / b.len() as f64;
        Array1::from_iter(hits.chunks(batch).map(share)).mean()
    }

    fn sum(&self, pick: impl Fn(usize) -> bool) -> ClassScore {
        let picked = self.classes.iter().enumerate().filter(|(c, _)| pick(*c)).map(|(_, s)| s);
        picked.fold(ClassScore::default(), |a, b| ClassScore {
            total: a.total + b.total,
            correct: a.correct + b.correct,
            loss: a.loss + b.loss,
            negatives: b.negatives.map(|b| {
                let a = a.negatives.unwrap_or_default();
                Negatives { total: a.total + b.total, false_positives: a.false_positives + b.false_positives }
            }),
        })
    }
}

/// A session that is asked for class scores.
pub struct Classifier<'a> {
    /// The model, opened.
    pub session: Session,
    /// The inputs that a row of the data holds, the one of the samples first.
    pub inputs: Vec<String>,
    /// Inputs that are the same for every sample, at this batch.
    pub constants: Vec<(String, Tensor)>,
    /// Name of the output that holds the scores.
    pub output: &'a str,
    /// What the scores mean.
    pub scores: Scores,
    /// Samples in a batch.
    pub batch: usize,
}

impl Classifier<'_> {
    /// What the model is fed for these samples, each input in its type. The batch is filled up with the samples over again,
    /// so that a model whose scores depend on the batch sees nothing foreign.
    pub fn feeds(&self, data: &Dataset, rows: &[usize]) -> Vec<(String, Tensor)> {
        let constants = self.constants.iter().map(|(n, t)| (n.clone(), self.typed(n, t)));
        constants.chain(self.samples(data, rows, self.batch)).collect()
    }

    /// The inputs that hold samples, filled up to `batch` samples in the same way.
    pub fn samples(&self, data: &Dataset, rows: &[usize], batch: usize) -> Vec<(String, Tensor)> {
        let width = data.sample_len();
        let mut x = vec![0.0; batch * width];
        let full: Vec<usize> = rows.iter().copied().cycle().take(batch).collect();
        data.batch(&full, &mut x[..full.len() * width]);
        let further = data.further();
        let shapes = std::iter::once(data.sample_shape()).chain(further.iter().map(|f| f.shape.as_slice()));
        let mut at = 0;
        let mut feeds = Vec::new();
        for (name, shape) in self.inputs.iter().zip(shapes) {
            let length: usize = shape.iter().product();
            let values = x.chunks_exact(width).flat_map(|row| &row[at..at + length]).copied().collect();
            at += length;
            let shape: Vec<usize> = std::iter::once(batch).chain(shape.iter().copied()).collect();
            feeds.push((name.clone(), self.typed(name, &Tensor::f32(shape, values))));
        }
        feeds
    }

    /// Values in the type that the file wants for an input.
    fn typed(&self, input: &str, t: &Tensor) -> Tensor {
        let dtype = self.session.input_type(input).unwrap_or(DType::F32);
        if dtype == t.dtype() { t.clone() } else { Tensor::from_f32s(dtype, t.shape(), t.to_f32s()) }
    }

    /// The output, as the model gives it.
    pub fn run(&mut self, feeds: &[(String, Tensor)]) -> Result<Tensor, EvaluateError> {
        let at = self.session.outputs().iter().position(|o| o == self.output);
        let at = at.ok_or_else(|| EvaluateError::NoOutput(self.output.into()))?;
        let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(name, t)| (name.as_str(), t)).collect();
        Ok(self.session.run(&feeds)?.swap_remove(at))
    }

    /// Scores of at most a batch of samples, [predictions, classes]. What the batch is filled up with is ignored,
    /// so that a model with a fixed batch can be measured.
    pub fn predict(&mut self, data: &Dataset, rows: &[usize]) -> Result<Array2<f32>, EvaluateError> {
        let y = self.run(&self.feeds(data, rows))?;
        if !y.dtype().is_float() {
            return Err(EvaluateError::Type(self.output.into()));
        }
        let mut values = y.to_f32s();
        let (predictions, classes) = (self.batch * data.predictions(), data.classes());
        if classes == 2 && values.len() == predictions {
            values = values.into_iter().flat_map(|v| self.scores.both_sides(v)).collect();
        }
        let found = values.len();
        let scores = Array2::from_shape_vec((predictions, classes), values).map_err(|_| EvaluateError::Shape {
            output: self.output.to_owned(),
            found,
            rows: predictions,
            classes,
        })?;
        Ok(scores.slice_move(s![..rows.len() * data.predictions(), ..]))
    }

    /// Measures the model on the samples `numbers` of a data set, until `go_on` says no.
    pub fn evaluate(
        &mut self,
        data: &Dataset,
        numbers: &[usize],
        go_on: impl FnMut() -> bool,
    ) -> Result<Evaluation, EvaluateError> {
        let mut result = Evaluation::new(data.classes(), data.multi_hot());
        let scores = self.scores;
        self.for_each(data, numbers, go_on, |row, labels| result.add(row, labels, scores))?;
        Ok(result)
    }

    /// Hands on the scores and the classes of every prediction of the samples `numbers`, in their order; `go_on` is asked
    /// before each batch.
    pub fn for_each(
        &mut self,
        data: &Dataset,
        numbers: &[usize],
        mut go_on: impl FnMut() -> bool,
        mut take: impl FnMut(&ArrayView1<'_, f32>, &[u32]),
    ) -> Result<(), EvaluateError> {
        for rows in numbers.chunks(self.batch) {
            if !go_on() {
                return Err(EvaluateError::Interrupted);
            }
            let scores = self.predict(data, rows)?;
            let labels = rows.iter().flat_map(|&i| data.labels_of(i));
            for (row, labels) in scores.rows().into_iter().zip(labels) {
                take(&row, labels);
            }
        }
        Ok(())
    }
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_mean_what_the_head_says() {
        let logits = [1.0f32, 3.0, 0.5];
        let sum: f64 = logits.iter().map(|&z| f64::from(z).exp()).sum();
        let p: Vec<f32> = logits.iter().map(|&z| (f64::from(z).exp() / sum) as f32).collect();
        let log_p: Vec<f32> = p.iter().map(|v| v.ln()).collect();
        let expected = sum.ln() - 3.0;
        for (row, kind) in
            [(logits.to_vec(), Scores::Logits), (p, Scores::Probabilities), (log_p, Scores::LogProbabilities)]
        {
            let mut e = Evaluation::new(3, false);
            e.add(&ArrayView1::from(&row), &[1], kind);
            assert_eq!((e.classes[1].total, e.classes[1].correct), (1, 1));
            assert!((e.classes[1].loss - expected).abs() < 1e-6, "{kind:?}: {}", e.classes[1].loss);
        }
    }

    #[test]
    fn scores_that_are_not_numbers_are_wrong_and_counted() {
        let mut e = Evaluation::new(2, false);
        e.add(&ArrayView1::from(&[f32::NAN, 0.0]), &[0], Scores::Logits);
        e.add(&ArrayView1::from(&[2.0, 0.0]), &[0], Scores::Logits);
        assert_eq!((e.not_finite, e.classes[0].correct, e.classes[0].total), (1, 1, 2));
        assert_eq!(e.accuracy(|_| true), Some(0.5));
        assert_eq!(e.accuracy(|c| c == 1), None);
    }

    #[test]
    fn several_classes_in_a_sample_are_told_by_their_own_scores() {
        let mut e = Evaluation::new(3, true);
        for (row, labels) in [
            ([0.9, 0.6, 0.1], &[0, 1][..]),
            ([0.9, 0.5, 0.7], &[1]),
            ([0.2, 0.1, 0.4], &[2]),
            ([0.1, 0.2, 0.3], &[]),
            ([0.9, f32::NAN, 0.9], &[0]),
        ] {
            e.add(&ArrayView1::from(&row), labels, Scores::Independent);
        }
        let counts = |c: usize| {
            let ClassScore { total, correct, negatives, .. } = e.classes[c];
            let negatives = negatives.expect("they are counted");
            [total, correct, negatives.total, negatives.false_positives]
        };
        // A score of 0.5 is not above 0.5, and scores that are not numbers are wrong for every class.
        assert_eq!([counts(0), counts(1), counts(2)], [[2, 1, 3, 1], [2, 1, 3, 1], [1, 0, 4, 2]]);
        assert_eq!((e.not_finite, e.multi_hot()), (1, true));
        assert_eq!((e.accuracy(|c| c < 2), e.precision(|c| c < 2)), (Some(0.5), Some(0.5)));
        // 2 right of 5 labels, and 4 false positives.
        assert_eq!(e.micro_f1(|_| true), Some(4.0 / 11.0));
        assert_eq!((e.precision(|c| c == 2), e.micro_f1(|c| c == 2)), (Some(0.0), Some(0.0)));
        assert_eq!(e.micro_f1(|_| false), None);
        let expected = -(0.9f64.ln() + 0.6f64.ln() + 0.9f64.ln());
        let mut first = Evaluation::new(3, true);
        first.add(&ArrayView1::from(&[0.9, 0.6, 0.1]), &[0, 1], Scores::Independent);
        assert!((first.classes[0].loss - expected).abs() < 1e-6, "{}", first.classes[0].loss);

        // The same before the sigmoids.
        let logits = [0.9f32, 0.6, 0.1].map(|p| (p / (1.0 - p)).ln());
        let mut before = Evaluation::new(3, true);
        before.add(&ArrayView1::from(&logits), &[0, 1], Scores::IndependentLogits);
        assert!((before.classes[0].loss - expected).abs() < 1e-6, "{}", before.classes[0].loss);
        assert_eq!(before.hits, [(0, true), (1, true)]);
        assert_eq!(before.classes[2].negatives, first.classes[2].negatives);
    }

    #[test]
    fn micro_f1_is_accuracy_where_one_class_is_there_and_one_is_predicted() {
        let rows = [([0.9f32, 0.1, 0.2], 0), ([0.1, 0.8, 0.3], 0), ([0.3, 0.2, 0.6], 2), ([0.7, 0.3, 0.1], 1)];
        let (mut one, mut many) = (Evaluation::new(3, false), Evaluation::new(3, true));
        for (row, label) in rows {
            one.add(&ArrayView1::from(&row), &[label], Scores::Independent);
            many.add(&ArrayView1::from(&row), &[label], Scores::Independent);
        }
        assert_eq!((one.accuracy(|_| true), one.micro_f1(|_| true)), (Some(0.5), None));
        assert_eq!(many.micro_f1(|_| true), Some(0.5));
    }

    #[test]
    fn a_small_last_batch_counts_as_much_as_a_full_one() {
        let mut e = Evaluation::new(2, false);
        for (label, hit) in [(0, true), (1, false), (0, true), (0, false)] {
            e.add(&ArrayView1::from(&[f32::from(u8::from((label == 0) == hit)), 0.5]), &[label], Scores::Logits);
        }
        // Class 0 in batches of 2: both right, then one wrong.
        assert_eq!(e.mean_of_batches(|c| c == 0, 2), Some(0.5));
        assert_eq!(e.accuracy(|c| c == 0), Some(2.0 / 3.0));
        assert_eq!(e.mean_of_batches(|c| c > 1, 2), None);
    }
}
