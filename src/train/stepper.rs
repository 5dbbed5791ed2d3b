//! Runs step graphs: feeds them, keeps their schedule, reads their state.

use super::{
    batch_norm::Running,
    network::{TrainError, Weights},
    optimizer::Optimizer,
    shorter::Shorter,
    snapshot::Snapshot,
    steps::{Range, fed},
};
use crate::{
    runtime::{RuntimeError, Stepper},
    tensor::Tensor,
};
use std::{collections::BTreeMap, sync::Arc};

/// Learns noise, step by step.
pub struct NoiseStepper {
    pub(super) stepper: Stepper,
    pub(super) optimizer: Optimizer,
    pub(super) range: Range,
    pub(super) running: Vec<Running>,
    pub(super) t: usize,
}

impl NoiseStepper {
    /// Starts anew from standardized `noise`, [batch, ...], for the classes given one-hot in `targets`.
    pub fn restart(&mut self, noise: &Arc<Tensor>, targets: &[f32]) -> Result<(), RuntimeError> {
        self.t = 0;
        self.stepper.set_state(&format!("{}/next", fed::Z), Some(noise))?;
        for part in self.optimizer.state() {
            self.stepper.set_state(&format!("onnx-unlearn:{part}/{}/next", fed::Z), None)?;
        }
        self.stepper.feed(fed::TARGETS).copy_from_slice(targets);
        Ok(())
    }

    /// One step at learning rate `lr`; gives J before the step.
    pub fn step(&mut self, lr: f64) -> Result<f32, RuntimeError> {
        self.t += 1;
        set_schedule(&mut self.stepper, self.optimizer, self.t, lr);
        Ok(self.stepper.step()?[0])
    }

    /// The noise as it is now, in the range that the model is used to.
    pub fn noise(&self) -> Result<Tensor, RuntimeError> {
        let z = self.stepper.state(&format!("{}/next", fed::Z))?;
        let Range { center, spread } = self.range;
        let values = z.to_f32s().into_iter().map(|v| (center + spread * f64::from(v)) as f32).collect();
        Ok(Tensor::f32(z.shape(), values))
    }

    /// The running statistics as they are now; empty when BatchNormalization is frozen.
    pub fn statistics(&self) -> Result<Weights, RuntimeError> {
        self.running.iter().map(|r| Ok((r.name.clone(), Arc::new(self.stepper.state(&r.next)?)))).collect()
    }
}

/// What a training step read, before it changed the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Mean loss of the batch, in nats.
    pub loss: f32,
    /// Samples of the batch that were predicted as their target, padding not counted.
    pub hits: f32,
}

/// How many of what a batch holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Samples in a batch.
    pub samples: usize,
    /// Samples that the graph takes at once.
    pub at_once: usize,
    /// Elements of a row.
    pub row: usize,
    /// Predictions for a sample.
    pub predictions: usize,
    /// Classes.
    pub classes: usize,
}

/// Trains weights, step by step.
pub struct WeightStepper<'n> {
    stepper: Stepper,
    optimizer: Optimizer,
    input: String,
    names: Vec<String>,
    running: Vec<Running>,
    sizes: Sizes,
    /// The batch, where it is fed in parts: rows, targets and sample weights.
    batch: [Vec<f32>; 3],
    shorter: Option<Shorter<'n>>,
    t: usize,
}

impl<'n> WeightStepper<'n> {
    pub(super) fn new(
        stepper: Stepper,
        optimizer: Optimizer,
        input: String,
        names: Vec<String>,
        running: Vec<Running>,
        sizes: Sizes,
        shorter: Option<Shorter<'n>>,
    ) -> Self {
        Self { stepper, optimizer, input, names, running, sizes, batch: Default::default(), shorter, t: 0 }
    }

    /// The same with one graph, and no others for batches that are not full.
    #[must_use]
    pub fn in_one_size(self) -> Self {
        Self { shorter: None, ..self }
    }

    /// Graphs that it has by now, one for each number of samples.
    pub fn graphs(&self) -> usize {
        self.stepper.graphs()
    }

    /// The batch of the next step: rows of samples, targets [predictions, classes] (1 for the classes that are
    /// there) and weights, one a prediction. Samples of weight 0 at the end make up what a batch lacks.
    pub fn feed(&mut self, x: &[f32], targets: &[f32], sample_weights: &[f32]) {
        let Sizes { samples, at_once, row, predictions, classes } = self.sizes;
        if at_once < samples {
            self.batch = [x.to_vec(), targets.to_vec(), sample_weights.to_vec()];
            return;
        }
        let counted = sample_weights.iter().rposition(|&w| w != 0.0).map_or(0, |last| last / predictions + 1);
        let graph = match &mut self.shorter {
            Some(shorter) => shorter.graph(&mut self.stepper, counted, x),
            None => 0,
        };
        let n = if graph == 0 { samples } else { counted };
        self.stepper.choose(graph);
        self.put(&x[..n * row], &targets[..n * predictions * classes], &sample_weights[..n * predictions]);
    }

    fn put(&mut self, x: &[f32], targets: &[f32], sample_weights: &[f32]) {
        for (name, values) in [(self.input.as_str(), x), (fed::TARGETS, targets), (fed::SAMPLE_WEIGHTS, sample_weights)]
        {
            let place = self.stepper.feed(name);
            let (filled, rest) = place.split_at_mut(values.len());
            filled.copy_from_slice(values);
            // The last part of a batch may be short; what is missing has weight 0.
            rest.fill(0.0);
        }
    }

    /// One step at learning rate `lr`.
    pub fn step(&mut self, lr: f64) -> Result<Step, RuntimeError> {
        self.t += 1;
        set_schedule(&mut self.stepper, self.optimizer, self.t, lr);
        let Sizes { samples, at_once, row, predictions, classes } = self.sizes;
        if at_once >= samples {
            let read = self.stepper.step()?;
            return Ok(Step { loss: read[0], hits: read[1] });
        }
        let [x, targets, weights] = std::mem::take(&mut self.batch);
        self.stepper.feed(fed::TOTAL)[0] = weights.iter().sum();
        let mut all = Step { loss: 0.0, hits: 0.0 };
        let parts = x.chunks(at_once * row).zip(targets.chunks(at_once * predictions * classes));
        for (i, ((x, targets), weights)) in parts.zip(weights.chunks(at_once * predictions)).enumerate() {
            self.put(x, targets, weights);
            self.stepper.feed(fed::LAST)[0] = if (i + 1) * at_once >= samples { 1.0 } else { 0.0 };
            let read = self.stepper.step()?;
            all.loss += read[0];
            all.hits += read[1];
        }
        Ok(all)
    }

    /// Names of the weights and running statistics, and the state that each is.
    fn outputs(&self) -> BTreeMap<String, String> {
        let weights = self.names.iter().map(|name| (name.clone(), format!("{name}/next")));
        weights.chain(self.running.iter().map(|r| (r.name.clone(), r.next.clone()))).collect()
    }

    /// The weights and running statistics as they are now.
    pub fn weights(&self) -> Result<Weights, RuntimeError> {
        self.outputs().into_iter().map(|(name, output)| Ok((name, Arc::new(self.stepper.state(&output)?)))).collect()
    }

    /// The same, for later.
    pub fn snapshot(&self) -> Result<Snapshot, TrainError> {
        let outputs = self.outputs();
        let shape = |(name, output): (&String, &String)| Some((name.clone(), self.stepper.shape(output)?.to_vec()));
        let shapes = outputs.iter().filter_map(shape).collect();
        Snapshot::new(shapes, |name, take| Ok(self.stepper.show_state(&outputs[name], take)?))
    }

    /// Starts anew from what they were; `unlearn::train` begins with a fresh optimizer.
    pub fn restart_from(&mut self, snapshot: &Snapshot) -> Result<(), TrainError> {
        let outputs = self.outputs();
        snapshot.each(|name, tensor| Ok(self.stepper.set_state(&outputs[name], Some(tensor))?))
    }

    /// Starts anew from these weights and running statistics, with a fresh optimizer.
    pub fn restart(&mut self, weights: &Weights) -> Result<(), RuntimeError> {
        for (name, output) in self.outputs() {
            self.stepper.set_state(&output, weights.get(&name))?;
        }
        self.fresh_optimizer()
    }

    /// Forgets what the optimizer remembers, as a new optimizer on the same weights would.
    pub fn fresh_optimizer(&mut self) -> Result<(), RuntimeError> {
        self.t = 0;
        for name in &self.names {
            for part in self.optimizer.state() {
                self.stepper.set_state(&format!("onnx-unlearn:{part}/{name}/next"), None)?;
            }
        }
        Ok(())
    }
}

fn set_schedule(stepper: &mut Stepper, optimizer: Optimizer, t: usize, lr: f64) {
    let schedule = optimizer.schedule(t, lr);
    stepper.feed(fed::RATE)[0] = schedule.rate;
    stepper.feed(fed::FLOOR)[0] = schedule.floor;
}
