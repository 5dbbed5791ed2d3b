//! Every number that decides what a run does.

use crate::train::{BatchNorm, BatchedNetwork, NoiseLoss, Optimizer, Range, TrainError, WeightStepper, Weights};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Which UNSIR is run; `docs/method.md` has the differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// The intended algorithm.
    Corrected,
    /// Step for step what the published notebook does.
    Reference,
}

/// How deep a class is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// As standard, with little noise.
    Shallow,
    /// An impairment after which the class is not predicted and the others lose as little as can be.
    Standard,
    /// The strongest impairment whose repair keeps the other classes.
    Deep,
}

impl Depth {
    /// The rate of repair as a part of that of impair: half, as published; for deep forgetting a tenth, because repair at a
    /// high rate brings back what the inner layers knew of the class together with the other classes.
    pub fn repair(self) -> f64 {
        match self {
            Self::Shallow | Self::Standard => 0.5,
            Self::Deep => 0.1,
        }
    }

    /// The same for a model that loses by the usual repair what it should give back.
    pub fn gentler_repair(self) -> Option<f64> {
        match self {
            Self::Shallow | Self::Standard => Some(0.1),
            Self::Deep => None,
        }
    }
}

/// What the retain sample teaches in impair and repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Targets {
    /// Its labels.
    Labels,
    /// The answers of the source model, less the classes to forget.
    Source,
}

/// How noise is learned and used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseSettings {
    /// Noise images learned for each class, together in one batch.
    pub images: usize,
    /// Optimizer steps.
    pub steps: usize,
    /// Learning rate of Adam.
    pub lr: f64,
    /// The objective.
    pub loss: NoiseLoss,
    /// The range that noise starts in; `None` lets the retain sample tell.
    pub range: Option<Range>,
    /// Noise samples of each class in the impair set; the images are repeated up to this number.
    pub samples: usize,
}

/// One training phase.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseSettings {
    /// Learning rate.
    pub lr: f64,
    /// Passes over the samples.
    pub epochs: usize,
}

/// Every setting of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Which UNSIR.
    pub variant: Variant,
    /// How deep to forget: what trials look for.
    pub depth: Depth,
    /// What the retain sample teaches.
    pub targets: Targets,
    /// Classes to forget, ascending.
    pub forget: Vec<usize>,
    /// Classes that earlier runs took out of the source, ascending: they are not to be learned again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten_before: Vec<usize>,
    /// Seed of the noise and of the shuffles.
    pub seed: u64,
    /// Samples in a batch of impair and repair.
    pub batch_size: usize,
    /// The noise.
    pub noise: NoiseSettings,
    /// Training on noise and retain sample.
    pub impair: PhaseSettings,
    /// Training on the retain sample.
    pub repair: PhaseSettings,
    /// Optimizer of impair and repair.
    pub optimizer: Optimizer,
    /// Largest joint norm of the gradients.
    pub clip_norm: Option<f64>,
    /// What BatchNormalization does while training.
    pub batch_norm: BatchNorm,
    /// Bytes that a step may take at most; larger batches are fed in parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<usize>,
}

impl Recipe {
    /// Steps of `network` from these weights, with the optimizer and the batch of the recipe. Under a limit of memory there are
    /// no further graphs beside the one that the limit was worked out for.
    pub fn stepper<'n>(
        &self,
        network: &BatchedNetwork<'n>,
        weights: &Weights,
    ) -> Result<WeightStepper<'n>, TrainError> {
        let stepper = network.weight_stepper(weights, self.optimizer, self.clip_norm, self.batch_size)?;
        Ok(if self.memory_limit.is_some() { stepper.in_one_size() } else { stepper })
    }

    /// True for a class that the model is to know as before.
    pub fn keeps(&self, class: usize) -> bool {
        !self.forget.contains(&class) && !self.forgotten_before.contains(&class)
    }

    /// All classes that the model is not to know, ascending.
    pub fn forgotten(&self) -> Vec<usize> {
        let all: BTreeSet<usize> = self.forget.iter().chain(&self.forgotten_before).copied().collect();
        all.into_iter().collect()
    }

    /// What BatchNormalization does while noise is learned: the intended algorithm leaves the model alone, the notebook
    /// keeps it in training mode.
    pub fn noise_batch_norm(&self) -> BatchNorm {
        match self.variant {
            Variant::Corrected => BatchNorm::Frozen,
            Variant::Reference => self.batch_norm,
        }
    }

    /// Noise images that enter the impair set. The notebook's loop runs over the channel axis and so takes as many
    /// images as a sample has channels.
    pub fn noise_images_used(&self, channels: usize) -> usize {
        match self.variant {
            Variant::Corrected => self.noise.images,
            Variant::Reference => self.noise.images.min(channels),
        }
    }

    /// The label that noise of `class` gets. The notebook labels all noise 0.
    pub fn noise_label(&self, class: usize) -> usize {
        match self.variant {
            Variant::Corrected => class,
            Variant::Reference => 0,
        }
    }
}
