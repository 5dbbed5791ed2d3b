//! Noise, impair, repair.

use super::{Job, tune::Tuner};
use crate::{
    cli::{commands::output::Output, plan, printer::Printer, progress::Progress},
    evaluate::Evaluation,
    graph::Forms,
    report::{Warning, percent},
    tensor::Tensor,
    train::{BatchNorm, BatchedNetwork, Range, Site, Weights},
    unlearn::{self, Calibration, Material, Mix, NoiseRun, PhaseRecord, Recipe, Trial, Trials, UnlearnError},
};
use anyhow::Result;

/// What training came to.
pub(super) struct Work {
    /// The settings that were used, found ones included.
    pub recipe: Recipe,
    pub calibration: Option<Calibration>,
    pub phases: Vec<PhaseRecord>,
    pub objective: Vec<Vec<f32>>,
    /// Class and its noise, [images, ...], standardised.
    pub noise: Vec<(usize, Tensor)>,
    pub range: Range,
    pub before: Evaluation,
    pub after_impair: Evaluation,
    pub warning: Option<Warning>,
    /// Forms of convolutions that were not the usual ones.
    pub forms: Forms,
}

/// What trials share: loaded once.
pub(super) struct Lab<'j> {
    pub noise: NoiseRun,
    pub range: Range,
    pub network: BatchedNetwork<'j>,
    pub trials: Trials<'j>,
    /// What the retain sample teaches, where that is not its labels.
    pub answers: Option<Vec<f32>>,
}

impl Job<'_> {
    /// Noise, impair, repair; measures the source and the impaired model on the way. Gives the weights that came out as well.
    pub(super) fn train(&self, output: &Output, mut tuner: Tuner, printer: Printer) -> Result<(Work, Weights)> {
        let mut progress = Progress::new(printer);
        let source = self.network.weights()?;
        // Without held-out data there is nothing to warn of, and training starts at once.
        let first = if self.eval.is_some() { Some(self.evaluate_file(&self.args.model)?) } else { None };
        let accuracy = first.as_ref().and_then(|before| before.accuracy(|c| self.recipe.forget.contains(&c)));
        let unknown = accuracy.filter(|&a| a < 0.5);
        let warning = unknown.map(|accuracy| Warning::NotKnownBefore { accuracy });
        if let Some(warning) = &warning {
            printer.warning(warning);
        }

        let Lab { noise, range, network, mut trials, answers } =
            self.lab(&self.recipe, &source, &mut tuner, &mut progress, printer)?;
        let mut recipe = self.recipe.clone();
        let material = |rows: Vec<usize>| self.material(&noise, &network, answers.as_deref(), rows);
        let (mut calibration, mut taken) = (None, None);
        if plan::calibrates(&self.args.method) {
            let (found, trial) = self.calibrate(&mut trials, &source, range, material, &mut progress, printer)?;
            (recipe.impair.lr, recipe.repair.lr) = found.rates();
            (calibration, taken) = (Some(found), trial);
        }
        let Trial { weights: [impaired, repaired], phases: trained } = if let Some(trial) = taken {
            trial
        } else {
            let all = material((0..self.retain.len()).collect());
            trials.run(&all, recipe.impair, recipe.repair, &mut progress)?
        };
        progress.finish();
        drop(trials);
        let phases: Vec<PhaseRecord> = noise.records.into_iter().chain(trained).collect();
        let before = first.map_or_else(|| self.evaluate_file(&self.args.model), Ok)?;
        let after_impair = self.evaluate_weights(&output.scratch("impaired")?, &impaired.weights()?)?;
        drop(impaired);
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
        let work = Work {
            recipe,
            calibration,
            phases,
            objective: noise.objective,
            noise: noise.noise,
            range,
            before,
            after_impair,
            warning,
            forms: tuner.used,
        };
        Ok((work, repaired.weights()?))
    }

    /// Learns the noise and loads what trials share, with the settings of `recipe`.
    pub(super) fn lab(
        &self,
        recipe: &Recipe,
        source: &Weights,
        tuner: &mut Tuner,
        progress: &mut Progress,
        printer: Printer,
    ) -> Result<Lab<'_>> {
        let engine = &self.runtime.engine;
        let images = self.at_once(recipe.noise.images, recipe.noise_batch_norm())?;
        let at_once = self.at_once(recipe.batch_size, recipe.batch_norm)?;
        let rows = self.rows(images);
        let mut network = self.network.at_batch_of(engine, self.samples(&rows), recipe.noise_batch_norm())?;
        // Most often noise and weights take the same.
        let same = (at_once, recipe.batch_norm) == (images, recipe.noise_batch_norm());
        if same {
            let tasks = || [network.weight_tasks(), network.noise_tasks()].concat();
            network.set_forms(tuner.forms(engine, tasks, 1));
        } else {
            network.set_forms(tuner.forms(engine, || network.noise_tasks(), 2));
        }
        let range = network.range(source, recipe.noise.range, &rows)?;
        printer.note(self.noise_note(range));
        let noise = unlearn::learn(&network, source, recipe, range, &rows, progress)?;
        let rows = self.rows(at_once);
        if !same {
            drop(network);
            network = self.network.at_batch_of(engine, self.samples(&rows), recipe.batch_norm)?;
            network.set_forms(tuner.forms(engine, || network.weight_tasks(), 2));
        }
        let judge = match recipe.batch_norm {
            BatchNorm::Frozen => None,
            BatchNorm::Batch => Some(self.network.at_batch_of(engine, self.samples(&rows), BatchNorm::Frozen)?),
        };
        let mut start = source.clone();
        start.extend(noise.statistics.clone());
        let mut trials = Trials::new(&network, judge.as_ref().unwrap_or(&network), recipe, &start)?;
        let answers = unlearn::answers(&mut trials, &network.with_statistics(source), recipe, &self.retain, progress)?;
        Ok(Lab { noise, range, network, trials, answers })
    }

    /// How many of a batch of so many samples a step takes at once: all, or where that may take more memory than is allowed,
    /// the largest equal parts that fit.
    pub(super) fn at_once(&self, samples: usize, batch_norm: BatchNorm) -> Result<usize, UnlearnError> {
        let Some(limit) = self.recipe.memory_limit else { return Ok(samples) };
        let frozen = self.network.inputs.frozen_batch();
        // Two small batches show what each sample takes and what is there in any case.
        let few = frozen.unwrap_or(2).min(samples);
        let at = |n: usize| {
            let rows = self.rows(n);
            self.network.at_batch_of(&self.runtime.engine, self.samples(&rows), batch_norm)
        };
        let (one, two) = (at(few)?, at(2 * few)?);
        let memory = |n: usize, part: bool| {
            let of = |network: &BatchedNetwork<'_>| network.memory(self.recipe.optimizer, part);
            let (first, grown) = (of(&one), of(&two).saturating_sub(of(&one)));
            first + grown * n.saturating_sub(one.batch) / (two.batch - one.batch).max(1)
        };
        if memory(samples, false) <= limit {
            return Ok(samples);
        }
        let whole =
            self.network.has_live_batch_norm() || batch_norm == BatchNorm::Batch && self.network.has_batch_norm();
        let least = if whole { samples } else { one.batch.min(frozen.unwrap_or(1)) };
        let parts = (1..=samples).map(|parts| samples.div_ceil(parts)).find(|n| memory(*n, true) <= limit);
        match parts.filter(|n| *n >= least) {
            Some(n) => Ok(n),
            None => Err(UnlearnError::Memory { samples: least, needed: memory(least, !whole), limit }),
        }
    }

    /// What UNSIR learns from, with these samples of the retain sample.
    pub(super) fn material<'m>(
        &'m self,
        noise: &NoiseRun,
        network: &BatchedNetwork<'_>,
        answers: Option<&'m [f32]>,
        rows: Vec<usize>,
    ) -> Material<'m> {
        Material {
            impair: self.impair_mix(noise, network).taught(answers).of(rows.clone()),
            repair: Mix::retain_only(&self.retain, network.row.clone()).taught(answers).of(rows),
        }
    }

    fn noise_note(&self, range: Range) -> String {
        let place = match &self.network.site {
            Site::Input => format!("input {}", self.network.input),
            Site::Value { name, node } => format!(
                "{name}, what node {node} makes of the integers of input {} (there is no noise of integers)",
                self.network.input
            ),
        };
        let source = match self.recipe.noise.range {
            Some(_) => "as given",
            None if range == Range::NORMALISED => "normalised, as the retain sample shows",
            None => "as the retain sample shows",
        };
        format!(
            "noise is learned for {place}; values there: mean {:.3}, standard deviation {:.3} ({source})",
            range.center, range.spread
        )
    }

    fn impair_mix<'m>(&'m self, noise: &NoiseRun, network: &BatchedNetwork<'_>) -> Mix<'m> {
        let channels = network.noise_shape().get(1).copied().unwrap_or(1);
        let used = self.recipe.noise_images_used(channels);
        let entries = noise.noise.iter().map(|(class, z)| (self.recipe.noise_label(*class), z, used)).collect();
        Mix::new(&self.retain, network.row.clone(), entries, self.recipe.noise.samples)
    }

    /// One batch of retain samples, flat, repeated where there are fewer.
    pub(super) fn rows(&self, batch: usize) -> Vec<f32> {
        let numbers: Vec<usize> = (0..batch).map(|i| i % self.retain.len()).collect();
        let mut rows = vec![0.0; batch * self.retain.sample_len()];
        self.retain.batch(&numbers, &mut rows);
        rows
    }

    /// Rows taken apart, a batch for each input.
    pub(super) fn samples(&self, rows: &[f32]) -> Vec<(String, Tensor)> {
        let width = self.retain.sample_len();
        let batch = rows.len() / width;
        let further = self.retain.further();
        let main = (self.network.input.as_str(), self.retain.sample_shape());
        let parts = std::iter::once(main).chain(further.iter().map(|f| (f.name.as_str(), f.shape.as_slice())));
        let mut at = 0;
        parts
            .map(|(name, shape)| {
                let length: usize = shape.iter().product();
                let values = rows.chunks_exact(width).flat_map(|row| &row[at..at + length]).copied().collect();
                at += length;
                let shape: Vec<usize> = std::iter::once(batch).chain(shape.iter().copied()).collect();
                (name.to_owned(), Tensor::f32(shape, values))
            })
            .collect()
    }
}
