//! The gradients of one batch without an optimizer: what a step is made of, for tests and for checking a model.

use super::{
    network::{TrainError, Weights},
    steps::{BatchedNetwork, fed},
};
use crate::{
    runtime::Session,
    tensor::{DType, Tensor},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Loss and gradients of a batch, ready to run at any weights.
pub struct Gradient {
    session: Session,
    /// Name and shape of the rows that are fed.
    input: (String, Vec<usize>),
}

impl BatchedNetwork<'_> {
    /// Opens the graph of the loss and its gradients with respect to every weight and to the value noise is learned for
    /// ([`Self::site`]).
    pub fn gradient(&self) -> Result<Gradient, TrainError> {
        let mut b = self.builder();
        self.row.declare(&mut b);
        let n = self.predictions();
        let targets = b.input(fed::TARGETS, DType::F32, &[n, self.layout.classes]);
        let equal = Tensor::f32([n, 1], vec![1.0; n]);
        let sample_weights = b.named_constant(fed::SAMPLE_WEIGHTS, Arc::new(equal));
        let mut wanted: BTreeSet<String> = self.network.trained().map(str::to_owned).collect();
        for name in &wanted {
            b.input(name, DType::F32, self.network.graph.constants[name].shape());
        }
        wanted.insert(self.site().to_owned());
        self.traced.replay(&mut b, true);
        let (logits, ce) = self.loss(&mut b, &targets, &sample_weights, None);
        let found = self.backward(&mut b, &logits, &ce, &wanted)?;
        for (name, gradient) in &found {
            b.output_as(gradient, &format!("onnx-unlearn:d/{name}"));
        }
        b.output_as(&ce.loss, fed::LOSS);
        let session = self.engine.session("the gradients", &b.finish())?;
        Ok(Gradient { session, input: self.row.input() })
    }

    /// [`Gradient::at`], once.
    pub fn gradients(
        &self,
        weights: &Weights,
        x: &Tensor,
        targets: &Tensor,
    ) -> Result<(f32, BTreeMap<String, Tensor>), TrainError> {
        self.gradient()?.at(weights, x, targets)
    }
}

impl Gradient {
    /// The mean cross-entropy of a batch in nats, and its gradients by name. `x` are the rows of the batch, flat or in the
    /// shape of the input; `targets` are [predictions, classes].
    pub fn at(
        &mut self,
        weights: &Weights,
        x: &Tensor,
        targets: &Tensor,
    ) -> Result<(f32, BTreeMap<String, Tensor>), TrainError> {
        let (input, shape) = &self.input;
        let x = &x.clone().reshaped(shape.as_slice());
        let mut feeds: Vec<(&str, &Tensor)> = vec![(input, x), (fed::TARGETS, targets)];
        feeds.extend(weights.iter().map(|(name, w)| (name.as_str(), w.as_ref())));
        let asked = self.session.inputs();
        feeds.retain(|(name, _)| asked.iter().any(|a| a == name));
        let names = self.session.outputs();
        let mut loss = f32::NAN;
        let mut gradients = BTreeMap::new();
        for (name, value) in names.into_iter().zip(self.session.run(&feeds)?) {
            match name.strip_prefix("onnx-unlearn:d/") {
                Some(name) => _ = gradients.insert(name.to_owned(), value),
                None => loss = value.to_scalar().unwrap_or(f64::NAN) as f32,
            }
        }
        Ok((loss, gradients))
    }
}
