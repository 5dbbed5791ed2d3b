//! Predictions under weights that change.

use super::AuditError;
use crate::{
    data::Dataset,
    train::{Scorer, Weights},
};

/// Tells which samples a model with certain weights predicts right; the graph stays loaded.
pub struct Judge {
    scorer: Scorer,
}

impl Judge {
    /// From the scores of the model.
    pub fn new(scorer: Scorer) -> Self {
        Self { scorer }
    }

    /// Whether each of the samples `rows` is predicted as what it is; scores that are not finite are wrong. `go_on` is asked
    /// before each batch.
    pub fn hits(
        &mut self,
        weights: &Weights,
        data: &Dataset,
        rows: &[usize],
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<bool>, AuditError> {
        let (own, width) = (data.sample_len(), self.scorer.width());
        let mut hits = Vec::new();
        for some in rows.chunks(self.scorer.batch()) {
            if !go_on() {
                return Err(AuditError::Interrupted("measuring changed weights"));
            }
            let mut samples = vec![0.0; some.len() * own];
            data.batch(some, &mut samples);
            // What a row has beside the data, noise and its flag, is 0.
            let mut full = vec![0.0; some.len() * width];
            let each = full.chunks_exact_mut(width).zip(samples.chunks_exact(own));
            each.for_each(|(row, sample)| row[..own].copy_from_slice(sample));
            let scores = self.scorer.scores(weights, &full)?;
            let labels = some.iter().flat_map(|&i| data.labels_of(i));
            for (row, labels) in scores.chunks_exact(data.classes()).zip(labels) {
                let best = (0..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best });
                hits.push(row.iter().all(|v| v.is_finite()) && labels.contains(&(best as u32)));
            }
        }
        Ok(hits)
    }
}
