//! Measures a model: accuracy and loss per class, from the bytes that are (or will be) the result.

use crate::{
    data::Dataset,
    runtime::{RuntimeError, Session},
    tensor::Tensor,
};
use serde::Serialize;
use thiserror::Error;

/// What the scores of an output mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// Before softmax.
    Logits,
    /// After softmax.
    Probabilities,
    /// Logarithms of probabilities.
    LogProbabilities,
}

impl Scores {
    /// From the operator that a head ends in.
    pub fn of(behind: Option<&str>) -> Self {
        match behind {
            Some("Softmax") => Self::Probabilities,
            Some("LogSoftmax") => Self::LogProbabilities,
            _ => Self::Logits,
        }
    }
}

/// Why a model could not be measured.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum EvaluateError {
    #[error("the model has no output {0:?}")]
    NoOutput(String),
    #[error("output {output:?} has {found} elements for {rows} samples of {classes} classes")]
    Shape { output: String, found: usize, rows: usize, classes: usize },
    #[error("output {0:?} is not float32")]
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
    /// Samples predicted as the class.
    pub correct: usize,
    /// Sum of the cross-entropy over the samples, in nats.
    #[serde(skip)]
    pub loss: f64,
}

/// How a model fared on a data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// One entry a class.
    pub classes: Vec<ClassScore>,
    /// Samples whose scores were not finite; they count as wrong.
    pub not_finite: usize,
}

impl Evaluation {
    /// Share of right predictions among the samples of the classes that `pick` takes; `None` without samples.
    pub fn accuracy(&self, pick: impl Fn(usize) -> bool) -> Option<f64> {
        let (correct, total, _) = self.sums(pick);
        (total > 0).then(|| correct as f64 / total as f64)
    }

    /// Mean cross-entropy in nats over the samples of the classes that `pick` takes.
    pub fn loss(&self, pick: impl Fn(usize) -> bool) -> Option<f64> {
        let (_, total, loss) = self.sums(pick);
        (total > 0).then(|| loss / total as f64)
    }

    fn sums(&self, pick: impl Fn(usize) -> bool) -> (usize, usize, f64) {
        let picked = self.classes.iter().enumerate().filter(|(c, _)| pick(*c)).map(|(_, s)| s);
        picked.fold((0, 0, 0.0), |(c, t, l), s| (c + s.correct, t + s.total, l + s.loss))
    }
}

/// Runs the whole data set through `session` in batches of `batch` and scores the output named `output`.
///
/// The last batch is filled up with zeros, whose scores are ignored, so that a model with a fixed batch can be measured.
pub fn evaluate(
    session: &mut Session,
    input: &str,
    output: &str,
    scores: Scores,
    data: &Dataset,
    batch: usize,
    mut go_on: impl FnMut() -> bool,
) -> Result<Evaluation, EvaluateError> {
    let classes = data.classes();
    let mut result = Evaluation { classes: vec![ClassScore::default(); classes], not_finite: 0 };
    let numbers: Vec<usize> = (0..data.len()).collect();
    for rows in numbers.chunks(batch) {
        if !go_on() {
            return Err(EvaluateError::Interrupted);
        }
        let values = predict(session, input, output, data, rows, batch)?;
        for (row, &i) in values.chunks_exact(classes).zip(rows) {
            score(&mut result, row, data.labels()[i] as usize, scores);
        }
    }
    Ok(result)
}

/// Scores of the samples `rows`, flat: [rows, classes].
pub fn predict(
    session: &mut Session,
    input: &str,
    output: &str,
    data: &Dataset,
    rows: &[usize],
    batch: usize,
) -> Result<Vec<f32>, EvaluateError> {
    let mut shape = vec![batch];
    shape.extend(data.sample_shape());
    let mut x = vec![0.0; batch * data.sample_len()];
    data.batch(rows, &mut x[..rows.len() * data.sample_len()]);
    let at = session.outputs().iter().position(|o| o == output);
    let at = at.ok_or_else(|| EvaluateError::NoOutput(output.into()))?;
    let y = session.run(&[(input, &Tensor::f32(shape, x))])?.swap_remove(at);
    let values = y.as_f32().ok_or_else(|| EvaluateError::Type(output.into()))?;
    let classes = data.classes();
    if values.len() != batch * classes {
        let output = output.to_owned();
        return Err(EvaluateError::Shape { output, found: values.len(), rows: batch, classes });
    }
    Ok(values[..rows.len() * classes].to_vec())
}

/// Index of the largest score; the first one among equals.
pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &v)| if v > row[best] { i } else { best })
}

fn score(result: &mut Evaluation, row: &[f32], label: usize, scores: Scores) {
    let class = &mut result.classes[label];
    class.total += 1;
    if row.iter().any(|v| !v.is_finite()) {
        result.not_finite += 1;
        class.loss = f64::INFINITY;
        return;
    }
    class.correct += usize::from(argmax(row) == label);
    let own = f64::from(row[label]);
    class.loss += match scores {
        Scores::Logits => log_sum_exp(row) - own,
        // Probabilities underflow to 0; the smallest float32 stands for what they were.
        Scores::Probabilities => -own.max(f64::from(f32::MIN_POSITIVE)).ln(),
        Scores::LogProbabilities => -own,
    };
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = f64::from(row[argmax(row)]);
    max + row.iter().map(|&v| (f64::from(v) - max).exp()).sum::<f64>().ln()
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
            let mut e = Evaluation { classes: vec![ClassScore::default(); 3], not_finite: 0 };
            score(&mut e, &row, 1, kind);
            assert_eq!((e.classes[1].total, e.classes[1].correct), (1, 1));
            assert!((e.classes[1].loss - expected).abs() < 1e-6, "{kind:?}: {}", e.classes[1].loss);
        }
    }

    #[test]
    fn scores_that_are_not_numbers_are_wrong_and_counted() {
        let mut e = Evaluation { classes: vec![ClassScore::default(); 2], not_finite: 0 };
        score(&mut e, &[f32::NAN, 0.0], 0, Scores::Logits);
        score(&mut e, &[2.0, 0.0], 0, Scores::Logits);
        assert_eq!((e.not_finite, e.classes[0].correct, e.classes[0].total), (1, 1, 2));
        assert_eq!(e.accuracy(|_| true), Some(0.5));
        assert_eq!(e.accuracy(|c| c == 1), None);
    }
}
