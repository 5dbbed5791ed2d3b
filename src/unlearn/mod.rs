//! UNSIR: learns noise for the classes to forget, impairs and repairs the weights.
//!
//! Tarun, Chundawat, Mandal, Kankanhalli: "Fast Yet Effective Machine Unlearning", IEEE TNNLS 2023. `docs/method.md` says
//! what it does and where the two variants differ. No sample of a class to forget enters here.

mod calibrate;
mod course;
mod fresh;
mod ladder;
mod mix;
mod noise;
mod recipe;
mod rivals;
mod teach;
mod trials;
mod turned;

pub use calibrate::{
    Budget, Calibration, Calibrator, GONE, GONE_BESIDE, HELD, JUDGING, Limits, Row, Validation, split,
};
pub use fresh::fresh;
pub use ladder::Outcome;
pub use mix::Mix;
pub use noise::{NoiseRun, learn};
pub use recipe::{Depth, NoiseSettings, PhaseSettings, Recipe, Targets, Variant};
pub use rivals::{Rival, Rivals};
pub use teach::answers;
pub use trials::{Material, Trial, Trials};
pub use turned::{Sign, Turned, candidates, nearest};

use crate::{
    data::{Prefetch, Seeded},
    runtime::RuntimeError,
    train::{Step, TrainError, WeightStepper},
};
use serde::Serialize;
use std::time::Instant;
use thiserror::Error;

/// Why a phase stopped.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum UnlearnError {
    #[error(
        "the loss became {loss} at step {step} of {steps} of the {phase} phase (learning rate {lr}); lower {flag}, or \
         bound the gradients with --clip-norm"
    )]
    NotFinite { phase: &'static str, step: usize, steps: usize, loss: f32, lr: f64, flag: &'static str },
    #[error(
        "the answers of the source model for {samples} samples, {width} numbers each, take more than 4 GiB; read fewer with \
         --per-class, or teach labels with --targets labels"
    )]
    Answers { samples: usize, width: usize },
    #[error(
        "--memory-limit: a step of {samples} samples may take {} MiB, and {} MiB are allowed; allow more, lower --batch-size \
         and --noise-images, or train fewer weights with --freeze (statistics of the batch need a whole batch at once)",
        needed.div_ceil(1 << 20), limit >> 20
    )]
    Memory { samples: usize, needed: usize, limit: usize },
    #[error("interrupted at step {step} of {steps} of the {phase} phase; nothing was written")]
    Interrupted { phase: &'static str, step: usize, steps: usize },
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// Who is told about every step, and may stop the work.
pub trait Watch {
    /// A phase of `steps` steps begins.
    fn begin(&mut self, phase: &'static str, steps: usize);
    /// Step number `step` (from 1) is done; false stops the work.
    fn step(&mut self, step: usize, loss: f32) -> bool;
}

/// What a phase did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseRecord {
    /// `noise`, `impair` or `repair`.
    pub phase: &'static str,
    /// Steps done.
    pub steps: usize,
    /// Samples seen, each epoch counted.
    pub samples: usize,
    /// Wall time in seconds.
    #[serde(skip)]
    pub seconds: f64,
    /// Loss at the first step.
    pub first_loss: f32,
    /// Loss at the last step.
    pub last_loss: f32,
    /// Loss at every step; for noise J at every step of the optimizer, the mean of the parts where images are learned in
    /// parts.
    pub losses: Vec<f32>,
    /// Mean of the loss over all samples, each as its step saw it.
    pub mean_loss: f64,
    /// Share of the predictions whose highest score was that of one of their labels, each as its step saw it; none for
    /// noise, nor where the targets are no labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
}

/// Trains the weights for `settings.epochs` shuffled passes over `mix`, with a fresh optimizer.
///
/// The last batch of an epoch is filled up with samples of weight 0; where that pays, the stepper takes what counts of it alone.
pub fn train(
    stepper: &mut WeightStepper<'_>,
    mix: &Mix<'_>,
    settings: PhaseSettings,
    batch: usize,
    seed: u64,
    phase: &'static str,
    watch: &mut dyn Watch,
) -> Result<PhaseRecord, UnlearnError> {
    let started = Instant::now();
    let per_epoch = mix.len().div_ceil(batch);
    let steps = per_epoch * settings.epochs;
    let flag = match phase {
        "impair" => "--impair-lr",
        "repair" => "--repair-lr",
        _ => "--lr",
    };
    stepper.fresh_optimizer()?;
    watch.begin(phase, steps);
    let mut order = Seeded::new(seed, phase);
    let mut epoch_order = Vec::new();
    let mut losses = Vec::with_capacity(steps);
    let (mut weighted, mut hits) = (0.0f64, 0.0f64);
    std::thread::scope(|scope| {
        let mut batches = Prefetch::start(scope, steps, |prepared| {
            if prepared.step % per_epoch == 0 {
                epoch_order = order.shuffled(mix.len());
            }
            let at = (prepared.step % per_epoch) * batch;
            mix.fill(&epoch_order[at..mix.len().min(at + batch)], batch, prepared);
        });
        while let Some(prepared) = batches.next_batch() {
            stepper.feed(&prepared.x, &prepared.targets, &prepared.weights);
            let Step { loss, hits: hit } = stepper.step(settings.lr)?;
            let step = prepared.step + 1;
            if !loss.is_finite() {
                return Err(UnlearnError::NotFinite { phase, step, steps, loss, lr: settings.lr, flag });
            }
            losses.push(loss);
            hits += f64::from(hit);
            weighted += f64::from(loss) * f64::from(prepared.weights.iter().sum::<f32>());
            if !watch.step(step, loss) {
                return Err(UnlearnError::Interrupted { phase, step, steps });
            }
        }
        let samples = mix.len() * settings.epochs;
        let predictions = (samples * mix.predictions()) as f64;
        let seconds = started.elapsed().as_secs_f64();
        Ok(PhaseRecord {
            phase,
            steps,
            samples,
            seconds,
            first_loss: losses.first().copied().unwrap_or(f32::NAN),
            last_loss: losses.last().copied().unwrap_or(f32::NAN),
            losses,
            mean_loss: weighted / predictions,
            accuracy: mix.teaches_labels().then(|| hits / predictions),
        })
    })
}
