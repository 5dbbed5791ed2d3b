//! A sign of forgetting that needs no sample of the class: retained samples, turned into the class.
//!
//! The retained samples that the source model takes for the class most easily are moved towards it, by gradient steps on the
//! source model, until it is sure. How many of them a trained model still takes for the class goes with the share of real
//! samples that it still knows (`docs/method.md` has the measurements); what other signs showed stands there too.

use super::UnlearnError;
use crate::{
    data::Dataset,
    tensor::Tensor,
    train::{BatchedNetwork, Goal, NoiseLoss, Range, Weights},
};
use serde::Serialize;
use std::sync::Arc;

/// Most gradient steps that turn samples.
const STEPS: usize = 60;

/// Mean cross-entropy, in nats, at which the source model is sure of the class.
const SURE: f32 = 0.02;

/// Learning rate of Adam in these steps, in standard deviations of the values.
const LR: f64 = 0.02;

/// Retained samples among which those nearest to the class are looked for.
const CANDIDATES: usize = 4096;

/// Turned samples of one class.
pub struct Turned {
    /// The class.
    pub class: usize,
    /// Rows of the network, flat.
    pub rows: Vec<f32>,
}

/// What a model makes of turned samples of one class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sign {
    /// The class.
    pub class: usize,
    /// Share of the samples that it takes for the class.
    pub known: f64,
}

/// How far the score of `class` is above 0, the threshold of independent scores, or above the best other score.
pub fn margin(scores: &[f32], class: usize, independent: bool) -> f32 {
    if independent {
        return scores[class];
    }
    let others = scores.iter().enumerate().filter(|(c, _)| *c != class).map(|(_, &s)| s);
    scores[class] - others.fold(f32::MIN, f32::max)
}

impl Turned {
    /// Turns the samples `near` of `retain`, whose number is the batch of `network`, into `class`.
    pub fn new(
        network: &BatchedNetwork<'_>,
        weights: &Weights,
        range: Range,
        retain: &Dataset,
        near: &[usize],
        class: usize,
    ) -> Result<Self, UnlearnError> {
        let width = retain.sample_len();
        let mut samples = vec![0.0; near.len() * width];
        retain.batch(near, &mut samples);
        let classes = network.layout.classes;
        let mut targets = vec![0.0; network.predictions() * classes];
        targets.chunks_exact_mut(classes).for_each(|row| row[class] = 1.0);
        let start = network.standardized(weights, range, &samples)?;
        // Nothing pulls them away from where they are.
        let loss = NoiseLoss { penalty: 0.0, per_element: false };
        let mut stepper = network.noise_stepper(weights, Goal::Likeness, loss, range, &samples)?;
        stepper.restart(&Arc::new(start), &targets)?;
        for _ in 0..STEPS {
            if stepper.step(LR)? < SURE {
                break;
            }
        }
        let turned: Tensor = stepper.noise()?;
        let turned = turned.to_f32s();
        let row = &network.row;
        let mut rows = vec![0.0; near.len() * row.len()];
        let each = turned.chunks_exact(row.noise.len()).zip(samples.chunks_exact(width));
        for (to, (noise, sample)) in rows.chunks_exact_mut(row.len()).zip(each) {
            to[..width].copy_from_slice(sample);
            to[row.noise.clone()].copy_from_slice(noise);
            if let Some(flag) = row.flag {
                to[flag] = 1.0;
            }
        }
        Ok(Self { class, rows })
    }

    /// What scores of the rows, flat, say. With several predictions a sample each of them counts.
    pub fn sign(&self, scores: &[f32], classes: usize, independent: bool) -> Sign {
        let rows = scores.chunks_exact(classes);
        let n = rows.len().max(1) as f64;
        let known = rows.filter(|row| margin(row, self.class, independent) > 0.0).count();
        Sign { class: self.class, known: known as f64 / n }
    }
}

/// Numbers of the retained samples to look among, spread over the data, which is often sorted by class.
pub fn candidates(retain: &Dataset) -> Vec<usize> {
    let n = retain.len().min(CANDIDATES);
    (0..n).map(|i| i * retain.len() / n).collect()
}

/// Numbers of the `n` samples among `rows` whose scores, flat, come nearest to `class`; repeated where there are fewer.
pub fn nearest(
    rows: &[usize],
    scores: &[f32],
    classes: usize,
    class: usize,
    independent: bool,
    n: usize,
) -> Vec<usize> {
    let predictions = scores.len() / classes / rows.len().max(1);
    let of_sample = |s: &[f32]| s.chunks_exact(classes).map(|r| margin(r, class, independent)).fold(f32::MIN, f32::max);
    let margins: Vec<f32> = scores.chunks_exact(classes * predictions.max(1)).map(of_sample).collect();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| margins[b].total_cmp(&margins[a]));
    order.into_iter().map(|i| rows[i]).cycle().take(n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_samples_come_first_and_are_repeated() {
        // Margins for class 0: -1, 2, -3.
        let scores = [0.0, 1.0, 3.0, 1.0, -1.0, 2.0];
        assert_eq!(nearest(&[7, 8, 9], &scores, 2, 0, false, 4), [8, 7, 9, 8]);
        // Two predictions a sample: the better one counts.
        let scores = [0.0, 1.0, 0.0, 5.0, -9.0, 9.0, 4.0, 1.0];
        assert_eq!(nearest(&[3, 4], &scores, 2, 0, false, 1), [4]);
        let scores = [-1.0, 5.0, 1.0, 9.0];
        assert_eq!(nearest(&[1, 2], &scores, 2, 0, true, 1), [2]);
    }

    #[test]
    fn a_sign_is_the_share_taken_for_the_class() {
        let turned = Turned { class: 1, rows: Vec::new() };
        let scores = [0.0, 1.0, 2.0, 1.0, 0.0, 0.0, 0.0, 3.0];
        assert_eq!(turned.sign(&scores, 2, false), Sign { class: 1, known: 0.5 });
        assert_eq!(turned.sign(&scores, 2, true), Sign { class: 1, known: 0.75 });
    }
}
