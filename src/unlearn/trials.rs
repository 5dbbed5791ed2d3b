//! Runs impair and repair again and again from the same weights. Graphs, noise and data stay loaded between trials.

use super::{Mix, PhaseRecord, PhaseSettings, Recipe, UnlearnError, Watch, train};
use crate::{
    data::Dataset,
    evaluate::{Evaluation, Scores},
    train::{BatchedNetwork, Scorer, Snapshot, TrainError, WeightStepper, Weights},
};
use ndarray::ArrayView1;

/// What every trial starts from.
pub struct Trials<'n> {
    stepper: WeightStepper<'n>,
    scorer: Scorer,
    start: Weights,
    batch: usize,
    seed: u64,
    scores: Scores,
}

/// What the phases of a trial learn from.
pub struct Material<'d> {
    /// Noise and retain sample.
    pub impair: Mix<'d>,
    /// The retain sample.
    pub repair: Mix<'d>,
}

/// What a trial came to.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Weights after impair and after repair.
    pub weights: [Snapshot; 2],
    /// What the phases did.
    pub phases: [PhaseRecord; 2],
}

impl<'n> Trials<'n> {
    /// `network` has the batch and the BatchNormalization of `recipe`; `judge` is the same network in inference mode. Every
    /// trial starts from these weights.
    pub fn new(
        network: &BatchedNetwork<'n>,
        judge: &BatchedNetwork<'_>,
        recipe: &Recipe,
        weights: &Weights,
    ) -> Result<Self, TrainError> {
        let start = network.with_statistics(weights);
        let stepper = recipe.stepper(network, &start)?;
        let scorer = judge.scorer(&start)?;
        let scores = if network.layout.independent { Scores::IndependentLogits } else { Scores::Logits };
        Ok(Self { stepper, scorer, start, batch: recipe.batch_size, seed: recipe.seed, scores })
    }

    /// Trains from the start with these settings.
    pub fn run(
        &mut self,
        material: &Material<'_>,
        impair: PhaseSettings,
        repair: PhaseSettings,
        watch: &mut dyn Watch,
    ) -> Result<Trial, UnlearnError> {
        let (impaired, first) = self.impair(material, impair, watch)?;
        let (repaired, second) = self.phase(&material.repair, repair, "repair", watch)?;
        Ok(Trial { weights: [impaired, repaired], phases: [first, second] })
    }

    /// The first phase of a trial: its weights, and what it did.
    pub fn impair(
        &mut self,
        material: &Material<'_>,
        settings: PhaseSettings,
        watch: &mut dyn Watch,
    ) -> Result<(Snapshot, PhaseRecord), UnlearnError> {
        self.stepper.restart(&self.start)?;
        self.phase(&material.impair, settings, "impair", watch)
    }

    /// The second phase; several may follow the same first one.
    pub fn repair(
        &mut self,
        material: &Material<'_>,
        impaired: &(Snapshot, PhaseRecord),
        settings: PhaseSettings,
        watch: &mut dyn Watch,
    ) -> Result<Trial, UnlearnError> {
        let (weights, first) = impaired.clone();
        self.stepper.restart_from(&weights)?;
        let (repaired, second) = self.phase(&material.repair, settings, "repair", watch)?;
        Ok(Trial { weights: [weights, repaired], phases: [first, second] })
    }

    /// Trains on from where the stepper is.
    fn phase(
        &mut self,
        mix: &Mix<'_>,
        settings: PhaseSettings,
        name: &'static str,
        watch: &mut dyn Watch,
    ) -> Result<(Snapshot, PhaseRecord), UnlearnError> {
        let record = train(&mut self.stepper, mix, settings, self.batch, self.seed, name, watch)?;
        Ok((self.stepper.snapshot()?, record))
    }

    /// The weights that trials start from.
    pub fn start(&self) -> &Weights {
        &self.start
    }

    /// Samples that are scored at once.
    pub fn batch(&self) -> usize {
        self.scorer.batch()
    }

    /// Measures weights on the samples `rows` of a data set.
    pub fn evaluate(&mut self, weights: &Weights, data: &Dataset, rows: &[usize]) -> Result<Evaluation, UnlearnError> {
        let mut found = Evaluation::new(data.classes(), data.multi_hot());
        let scores = self.scores_of_data(weights, data, rows)?;
        let labels = rows.iter().flat_map(|&i| data.labels_of(i));
        for (row, labels) in scores.chunks_exact(data.classes()).zip(labels) {
            found.add(&ArrayView1::from(row), labels, self.scores);
        }
        Ok(found)
    }

    /// Scores of the samples `rows` of a data set, flat.
    pub fn scores_of_data(
        &mut self,
        weights: &Weights,
        data: &Dataset,
        rows: &[usize],
    ) -> Result<Vec<f32>, UnlearnError> {
        let mut scores = Vec::new();
        let mut samples = Vec::new();
        for some in rows.chunks(self.scorer.batch()) {
            samples.resize(some.len() * data.sample_len(), 0.0);
            data.batch(some, &mut samples);
            // What a row has beside the data, noise and its flag, is 0.
            let mut rows = vec![0.0; some.len() * self.scorer.width()];
            let each = rows.chunks_exact_mut(self.scorer.width()).zip(samples.chunks_exact(data.sample_len()));
            each.for_each(|(row, sample)| row[..sample.len()].copy_from_slice(sample));
            scores.extend(self.scorer.scores(weights, &rows)?);
        }
        Ok(scores)
    }

    /// Scores of whole rows, noise and flag included, flat.
    pub fn scores_of_full_rows(&mut self, weights: &Weights, rows: &[f32]) -> Result<Vec<f32>, UnlearnError> {
        let mut scores = Vec::new();
        for some in rows.chunks(self.scorer.batch() * self.scorer.width()) {
            scores.extend(self.scorer.scores(weights, some)?);
        }
        Ok(scores)
    }

    /// True where every class has a score of its own and the threshold is 0.
    pub fn independent(&self) -> bool {
        self.scores == Scores::IndependentLogits
    }
}
