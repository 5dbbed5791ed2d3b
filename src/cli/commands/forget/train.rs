//! Noise, impair, repair.

use super::Job;
use crate::{
    cli::{commands::output::Output, printer::Printer, progress::Progress},
    evaluate::Evaluation,
    report::{Warning, percent},
    tensor::Tensor,
    train::{BatchedNetwork, Weights},
    unlearn::{self, Mix, NoiseRun, PhaseRecord, UnlearnError},
};
use anyhow::Result;

/// What training came to.
pub(super) struct Work {
    pub weights: Weights,
    pub phases: Vec<PhaseRecord>,
    pub objective: Vec<Vec<f32>>,
    pub before: Evaluation,
    pub after_impair: Evaluation,
    pub warning: Option<Warning>,
}

impl Job<'_> {
    /// Noise, impair, repair; measures the source and the impaired model on the way.
    pub(super) fn train(&self, output: &Output, printer: Printer) -> Result<Work> {
        let mut progress = Progress::new(printer);
        let engine = &self.runtime.engine;
        let source = self.network.weights()?;
        let before = self.evaluate_file(&self.args.model)?;
        let unknown = before.accuracy(|c| self.recipe.forget.contains(&c)).filter(|&a| a < 0.5);
        let warning = unknown.map(|accuracy| Warning::NotKnownBefore { accuracy });
        if let Some(warning) = &warning {
            printer.warning(warning);
        }

        let noise = {
            let statistics = self.recipe.noise_batch_norm();
            let network = self.network.at_batch(engine, &self.sample(self.recipe.noise.images), statistics)?;
            unlearn::learn(&network, &source, &self.recipe, &mut progress)?
        };
        let network = self.network.at_batch(engine, &self.sample(self.recipe.batch_size), self.recipe.batch_norm)?;
        let mut start = source.clone();
        start.extend(noise.statistics.clone());
        let mut stepper = network.weight_stepper(&start, self.recipe.optimizer, self.recipe.clip_norm)?;
        let mut phases = noise.records.clone();
        let mut pass = |mix: &Mix<'_>, settings, phase| -> Result<Weights, UnlearnError> {
            let (batch, seed) = (self.recipe.batch_size, self.recipe.seed);
            phases.push(unlearn::train(&mut stepper, mix, settings, batch, seed, phase, &mut progress)?);
            Ok(stepper.weights()?)
        };
        let impaired = pass(&self.impair_mix(&noise, &network), self.recipe.impair, "impair")?;
        let after_impair = self.evaluate_weights(&output.scratch("impaired")?, &impaired)?;
        let weights = pass(&unlearn::retain_only(&self.retain), self.recipe.repair, "repair")?;
        progress.finish();
        for phase in &phases {
            printer.note(format!(
                "{:>7}: {} steps in {:.1} s ({:.0} ms a step), loss {:.4} to {:.4}{}",
                phase.phase,
                phase.steps,
                phase.seconds,
                1000.0 * phase.seconds / phase.steps as f64,
                phase.first_loss,
                phase.last_loss,
                phase.accuracy.map_or(String::new(), |a| format!(", training accuracy {}", percent(a)))
            ));
        }
        Ok(Work { weights, phases, objective: noise.objective, before, after_impair, warning })
    }

    fn impair_mix<'m>(&'m self, noise: &NoiseRun, network: &BatchedNetwork<'_>) -> Mix<'m> {
        let channels = network.input_shape().get(1).copied().unwrap_or(1);
        let used = self.recipe.noise_images_used(channels);
        let entries = noise.noise.iter().map(|(class, z)| (self.recipe.noise_label(*class), z, used)).collect();
        Mix::new(&self.retain, entries, self.recipe.noise.samples)
    }

    /// One batch of retain samples, repeated where there are fewer.
    fn sample(&self, batch: usize) -> Tensor {
        let rows: Vec<usize> = (0..batch).map(|i| i % self.retain.len()).collect();
        let mut x = vec![0.0; batch * self.retain.sample_len()];
        self.retain.batch(&rows, &mut x);
        let mut shape = vec![batch];
        shape.extend(self.retain.sample_shape());
        Tensor::f32(shape, x)
    }
}
