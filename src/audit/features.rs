//! What the penultimate layer makes of samples.

use super::AuditError;
use crate::{data::Dataset, evaluate::Classifier, runtime::Session, tensor::Tensor, train::Penultimate};

/// Features and logits of samples, in the order of the data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// Features of a sample.
    pub width: usize,
    /// [samples, width], flat.
    pub rows: Vec<f32>,
    /// Logits, as many for each sample as the model has, flat.
    pub logits: Vec<f32>,
    /// Class of every sample.
    pub labels: Vec<usize>,
}

impl Features {
    /// Runs the model up to its logits on all samples, until `go_on` says no; `classifier` feeds the same model.
    pub fn of(
        layer: &Penultimate,
        session: &mut Session,
        classifier: &Classifier<'_>,
        data: &Dataset,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<Self, AuditError> {
        let mut all = Self { labels: data.labels().iter().map(|&c| c as usize).collect(), ..Self::default() };
        let asked = session.inputs();
        let numbers: Vec<usize> = (0..data.len()).collect();
        for some in numbers.chunks(classifier.batch) {
            if !go_on() {
                return Err(AuditError::Interrupted("looking at the penultimate layer"));
            }
            let feeds = classifier.feeds(data, some);
            let feeds: Vec<(&str, &Tensor)> =
                feeds.iter().filter(|(name, _)| asked.contains(name)).map(|(name, t)| (name.as_str(), t)).collect();
            let mut values = session.run(&feeds)?;
            let logits = values.swap_remove(1).to_f32s();
            let rows = layer.features(&values[0], classifier.batch)?;
            all.width = rows.len() / classifier.batch;
            all.rows.extend(&rows[..some.len() * all.width]);
            all.logits.extend(&logits[..some.len() * (logits.len() / classifier.batch)]);
        }
        let bad = all.rows.chunks_exact(all.width).filter(|row| row.iter().any(|v| !v.is_finite())).count();
        if bad > 0 {
            return Err(AuditError::Features { samples: bad });
        }
        Ok(all)
    }

    /// Features of sample `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.width..(i + 1) * self.width]
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}
