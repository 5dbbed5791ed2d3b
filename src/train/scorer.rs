//! The scores of samples under weights that change: the forward half of a step, for judging weights while they are made.

use super::{
    network::TrainError,
    network::Weights,
    steps::{BatchedNetwork, fed},
};
use crate::{
    runtime::{RuntimeError, Session},
    tensor::{DType, Tensor},
};

/// Computes scores. The graph stays loaded; weights are fed with every batch.
pub struct Scorer {
    session: Session,
    input: (String, Vec<usize>),
    /// Inputs that hold weights.
    weights: Vec<String>,
    /// Weights of the samples, where the graph computes statistics of the batch.
    sample_weights: Option<Tensor>,
    predictions: usize,
    classes: usize,
}

impl Scorer {
    /// Samples that it takes at once.
    pub fn batch(&self) -> usize {
        self.input.1[0]
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.input.1[1..].iter().product()
    }

    /// Scores, [samples * predictions, classes], flat, of at most [`batch`](Self::batch) rows: before a final softmax or
    /// sigmoid, and two for one logit that decides between two classes. What is missing in a batch is filled up with the
    /// rows over again, which changes nothing about the others.
    pub fn scores(&mut self, weights: &Weights, rows: &[f32]) -> Result<Vec<f32>, RuntimeError> {
        let (name, shape) = &self.input;
        let full: usize = shape.iter().product();
        let samples = rows.len() * shape[0] / full;
        let x = Tensor::f32(shape.clone(), rows.iter().copied().cycle().take(full).collect());
        let mut feeds: Vec<(&str, &Tensor)> = vec![(name, &x)];
        feeds.extend(self.weights.iter().map(|name| (name.as_str(), weights[name].as_ref())));
        feeds.extend(self.sample_weights.iter().map(|t| (fed::SAMPLE_WEIGHTS, t)));
        let mut scores = self.session.run(&feeds)?.swap_remove(0).to_f32s();
        scores.truncate(samples * (self.predictions / self.batch()) * self.classes);
        Ok(scores)
    }
}

impl BatchedNetwork<'_> {
    /// The graph from the rows of a batch to its scores, with the tensors that `weights` names as inputs.
    pub fn scorer(&self, weights: &Weights) -> Result<Scorer, TrainError> {
        let mut b = self.builder();
        self.row.declare(&mut b);
        let sample_weights = self.traced.values.contains_key(fed::SAMPLE_WEIGHTS).then(|| {
            b.input(fed::SAMPLE_WEIGHTS, DType::F32, &[self.batch, 1]);
            Tensor::f32([self.batch, 1], vec![1.0; self.batch])
        });
        for (name, tensor) in weights {
            b.input(name, DType::F32, tensor.shape());
        }
        self.traced.replay(&mut b, true);
        let scores = self.scores(&mut b);
        b.output(&scores);
        let session = self.engine.session("the scores", &b.finish())?;
        let asked = session.inputs();
        let names = weights.keys().filter(|name| asked.contains(name)).cloned().collect();
        Ok(Scorer {
            session,
            input: self.row.input(),
            weights: names,
            sample_weights,
            predictions: self.predictions(),
            classes: self.layout.classes,
        })
    }
}
