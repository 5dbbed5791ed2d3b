//! Graphs for the last batch of an epoch, which is seldom full.
//!
//! A step graph has a fixed batch, and what a batch lacks is made up with samples of weight 0, which take as long as any. So a
//! last batch gets a graph of its own size, on the same weights and moments, where that saves more than it takes to make.

use super::{
    inputs::Row,
    network::{BatchNorm, Network, TrainError},
    optimizer::Optimizer,
    rebatch,
    steps::{BatchedNetwork, fed},
};
use crate::runtime::{Engine, Stepper};

/// More sizes than this are not expected of a run: each phase has one.
const SIZES: usize = 4;

/// What such graphs are made from.
pub(super) struct Shorter<'n> {
    network: &'n Network,
    engine: Engine,
    row: Row,
    batch: usize,
    optimizer: Optimizer,
    clip_norm: Option<f64>,
    /// Numbers of samples, and the graph of the stepper that takes so many.
    made: Vec<(usize, usize)>,
}

impl<'n> Shorter<'n> {
    /// For the steps of `network` with whole batches; `None` where a shorter step would not be much shorter, or another one.
    pub fn new(network: &BatchedNetwork<'n>, optimizer: Optimizer, clip_norm: Option<f64>) -> Option<Self> {
        let free = network.network.inputs.frozen_batch().is_none();
        // On a GPU a step takes less time than its graph takes to make.
        let on_cpu = network.engine.device().has_native();
        let samples_count = network.values() > network.network.weight_elements();
        // Statistics of the batch take more runs to trace than a short step saves.
        let apart = !network.traced.values.contains_key(fed::SAMPLE_WEIGHTS);
        (free && on_cpu && samples_count && apart).then(|| Self {
            network: network.network,
            engine: network.engine.clone(),
            row: network.row.clone(),
            batch: network.batch,
            optimizer,
            clip_norm,
            made: Vec::new(),
        })
    }

    /// The graph of `stepper` for `samples` samples, which are the first of the batch `rows`: number 0, which takes a whole
    /// batch, where they fill most of it.
    pub fn graph(&mut self, stepper: &mut Stepper, samples: usize, rows: &[f32]) -> Result<usize, TrainError> {
        if let Some(&(_, graph)) = self.made.iter().find(|(n, _)| *n == samples) {
            return Ok(graph);
        }
        if samples == 0 || 4 * samples > 3 * self.batch || self.made.len() == SIZES {
            return Ok(0);
        }
        let first = |(name, t)| (name, rebatch::rows(&t, 0, samples));
        let data = self.row.split(rows).into_iter().filter(|(name, _)| !fed::is_noise(name)).map(first);
        let network = self.network.at_batch_of(&self.engine, data.collect(), BatchNorm::Frozen)?;
        let graph = network.weight_graph(self.optimizer, self.clip_norm, samples)?.add_to(stepper)?;
        self.made.push((samples, graph));
        Ok(graph)
    }
}
