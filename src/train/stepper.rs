//! Runs step graphs: feeds them, keeps their schedule, reads their state.

use super::{
    batch_norm::Running,
    network::Weights,
    optimizer::Optimizer,
    steps::{Range, fed},
};
use crate::{
    runtime::{RuntimeError, Stepper},
    tensor::Tensor,
};
use std::sync::Arc;

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

/// Trains weights, step by step.
pub struct WeightStepper {
    pub(super) stepper: Stepper,
    pub(super) optimizer: Optimizer,
    pub(super) input: String,
    pub(super) names: Vec<String>,
    pub(super) running: Vec<Running>,
    pub(super) t: usize,
}

impl WeightStepper {
    /// The batch of the next step: rows of samples, one-hot targets [predictions, classes] and weights [predictions].
    pub fn feed(&mut self, x: &[f32], targets: &[f32], sample_weights: &[f32]) {
        self.stepper.feed(&self.input).copy_from_slice(x);
        self.stepper.feed(fed::TARGETS).copy_from_slice(targets);
        self.stepper.feed(fed::SAMPLE_WEIGHTS).copy_from_slice(sample_weights);
    }

    /// One step at learning rate `lr`.
    pub fn step(&mut self, lr: f64) -> Result<Step, RuntimeError> {
        self.t += 1;
        set_schedule(&mut self.stepper, self.optimizer, self.t, lr);
        let read = self.stepper.step()?;
        Ok(Step { loss: read[0], hits: read[1] })
    }

    /// The weights and running statistics as they are now.
    pub fn weights(&self) -> Result<Weights, RuntimeError> {
        let mut weights = Weights::new();
        for name in &self.names {
            weights.insert(name.clone(), Arc::new(self.stepper.state(&format!("{name}/next"))?));
        }
        for r in &self.running {
            weights.insert(r.name.clone(), Arc::new(self.stepper.state(&r.next)?));
        }
        Ok(weights)
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
