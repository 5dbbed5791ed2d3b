//! Graphs for the last batch of an epoch, which is seldom full.
//!
//! A step graph has a fixed batch, and what a batch lacks is made up with samples of weight 0, which take as long as any. So a
//! last batch gets a graph of its own size, on the same weights and moments. It takes a second or less to make, and serves in
//! every epoch and trial.

use super::{
    head::Layout,
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
    layout: Layout,
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
            layout: network.layout,
            batch: network.batch,
            optimizer,
            clip_norm,
            made: Vec::new(),
        })
    }

    /// The graph of `stepper` for `samples` samples, which are the first of the batch `rows`: number 0, which takes a whole
    /// batch, where they fill most of it, and where the model does not take so few.
    pub fn graph(&mut self, stepper: &mut Stepper, samples: usize, rows: &[f32]) -> usize {
        if let Some(&(_, graph)) = self.made.iter().find(|(n, _)| *n == samples) {
            return graph;
        }
        if samples == 0 || 4 * samples > 3 * self.batch || self.made.len() == SIZES {
            return 0;
        }
        let graph = self.make(stepper, samples, rows).ok().flatten().unwrap_or(0);
        self.made.push((samples, graph));
        graph
    }

    /// Makes a graph; `None` where it would read the model in another way than that of a whole batch, such as one that drops
    /// every axis of length 1 and is left with a single sample.
    fn make(&self, stepper: &mut Stepper, samples: usize, rows: &[f32]) -> Result<Option<usize>, TrainError> {
        let first = |(name, t)| (name, rebatch::rows(&t, 0, samples));
        let data = self.row.split(rows).into_iter().filter(|(name, _)| !fed::is_noise(name)).map(first);
        let network = self.network.at_batch_of(&self.engine, data.collect(), BatchNorm::Frozen)?;
        if network.layout != self.layout || network.row.len() != self.row.len() {
            return Ok(None);
        }
        Ok(Some(network.weight_graph(self.optimizer, self.clip_norm, samples)?.add_to(stepper)?))
    }
}
