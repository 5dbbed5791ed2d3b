//! The finished bytes: written, stamped, run in a second engine, measured.

use super::{Job, folder_of, train::Work, values};
use crate::{
    check::{self, CheckError, Feeds, Preparation, Tolerance},
    cli::{
        args::GateArgs,
        commands::{
            output::{self, Output},
            session,
        },
        interrupt,
    },
    evaluate::{Classifier, Evaluation, Scores},
    onnx,
    provenance::{
        digest::Digests,
        stamp::{self, Source, StampInfo, Stamped},
    },
    report::{CheckRecord, Masking, Measured, TrainedTensor},
    runtime::Device,
    tensor::Tensor,
    train::{self, MASKED_SCORE, Weights},
};
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Samples in a batch when measuring, unless the file fixes another number.
const EVAL_BATCH: usize = 256;
/// Batches up to which measuring takes less time than it takes to prepare for more.
const FEW_RUNS: usize = 16;
/// Samples that the second engine takes at a time.
const CHECKED_AT_ONCE: usize = 4;

/// The finished files, in the staging folder.
pub(super) struct Finished {
    pub folder: PathBuf,
    pub digests: Digests,
    /// The tensors that are not those of the source, and how far they are from these.
    pub trained: Vec<TrainedTensor>,
    pub check: CheckRecord,
    pub measured: Measured,
    pub masking: Option<Masking>,
}

impl Job<'_> {
    /// Writes the finished bytes into the staging folder, stamped; runs them in the second engine and measures them. Where
    /// the output is masked, what is measured for the verdict are the weights before that.
    pub(super) fn finish(
        &self,
        output: &Output,
        work: &Work,
        weights: Weights,
        gates: &GateArgs,
        request: Option<&str>,
    ) -> Result<Finished> {
        let folder = output.scratch("finished")?;
        let texts = |classes: &[usize]| classes.iter().map(ToString::to_string).collect();
        let several = self.model.graph.outputs.len() > 1;
        let params = stamp::params_digest(&self.parameters(&work.recipe))?;
        let info = StampInfo {
            forget: texts(&self.recipe.forget),
            forgotten_before: texts(&self.recipe.forgotten_before),
            output: several.then(|| self.network.head.output.clone()),
            method: "unsir".into(),
            params,
            request: request.map(str::to_owned),
        };
        let path = folder.join(output::MODEL);
        let Stamped { model, digests, changed, .. } = self.stamped(&folder, &weights, info)?;
        output::write(&path, &model)?;
        drop(model);
        let trained = self.trained(&changed, &weights)?;
        let mut classifier = self.classifier(&path)?;
        let (feeds, ours) = self.answers(&mut classifier, gates)?;
        let (on, data, rows) = self.measured_on();
        let published = classifier.evaluate(data, &rows, || !interrupt::asked())?;
        drop(classifier);
        let (after_repair, masking) = match &self.mask {
            None => (published, None),
            Some(bias) => {
                let unmasked = self.evaluate_weights(&output.scratch("unmasked")?, &weights)?;
                (unmasked, Some(self.masking(bias, published)?))
            }
        };
        // The second engine needs room for a large model of its own.
        drop(weights);
        let check = self.check(&path, &feeds, &ours, gates);
        let (before, after_impair) = (work.before.clone(), work.after_impair.clone());
        let measured = Measured { on, before, after_impair, after_repair };
        Ok(Finished { folder, digests, trained, check, measured, masking })
    }

    /// The finished bytes with these weights; external data goes into `folder`.
    pub(super) fn stamped(&self, folder: &Path, weights: &Weights, info: StampInfo) -> Result<Stamped> {
        let mut tensors = self.network.write_back(weights)?;
        if let Some(bias) = &self.mask {
            self.mask(bias, &mut tensors)?;
        }
        let bytes = self.original.bytes()?;
        let source = Source { bytes: &bytes, folder: folder_of(&self.args.model), digests: &self.source };
        Ok(stamp::finish(&source, folder, &values(&tensors), info)?)
    }

    /// Masks the output of the forgotten classes in the tensors to be written.
    fn mask(&self, bias: &str, tensors: &mut Weights) -> Result<()> {
        let stored = tensors.get(bias).or_else(|| self.model.graph.constants.get(bias));
        let stored = stored.with_context(|| format!("--drop-output mask: the model has no tensor {bias:?}"))?;
        let masked = train::masked(stored, &self.recipe.forget);
        tensors.insert(bias.to_owned(), Arc::new(masked));
        Ok(())
    }

    /// Writes down the masking; fails where the published file predicts a masked class all the same.
    fn masking(&self, bias: &str, published: Evaluation) -> Result<Masking> {
        let forget = &self.recipe.forget;
        let predicted = |&class: &usize| {
            let score = &published.classes[class];
            let positives = score.correct + score.negatives.unwrap_or_default().false_positives;
            // Scores that are no numbers are counted as wrong, and predict nothing.
            let single = published.top.contains(&Some(class)) && !published.multi_hot();
            single || (published.multi_hot() && positives > published.not_finite)
        };
        let missed = forget.iter().find(|class| predicted(class));
        ensure!(
            missed.is_none(),
            "--drop-output mask: with its bias {bias:?} at {MASKED_SCORE} the model predicts {} all the same, so the bias does \
             not decide about that class; leave the flag out",
            missed.map_or("", |&class| self.names.name(class))
        );
        Ok(Masking { tensor: bias.to_owned(), score: MASKED_SCORE, classes: forget.clone(), published })
    }

    fn classifier(&self, path: &Path) -> Result<Classifier<'_>> {
        let batch = self.input.batch.unwrap_or_else(|| self.measured_at_once());
        let scores = Scores::of(self.network.head.behind.as_deref(), self.layout.independent);
        let mut engine = self.runtime.engine.clone();
        if self.measured_on().2.len().div_ceil(batch) <= FEW_RUNS {
            engine = engine.for_few_runs();
        }
        Ok(Classifier {
            session: session::measuring(&engine, path, self.network.has_live_batch_norm())?,
            inputs: self.network.inputs.sampled().map(str::to_owned).collect(),
            constants: self.network.constants_at(batch)?,
            output: &self.network.head.output,
            scores,
            batch,
        })
    }

    /// Samples that are measured at once, no more than there are: on the CPU as many as leave values small enough for a cache
    /// to be of use, which is faster and takes less memory. Where scores depend on the whole batch, it is always of one size.
    fn measured_at_once(&self) -> usize {
        /// Elements of the values.
        const VALUES: usize = 1 << 26;
        /// Elements of the samples.
        const SAMPLES: usize = 1 << 23;
        let (_, data, rows) = self.measured_on();
        if self.network.has_live_batch_norm() {
            return EVAL_BATCH;
        }
        let fits = match self.runtime.engine.device() {
            Device::Cpu => VALUES / self.sample_values.max(1),
            Device::Cuda(_) => SAMPLES / data.sample_len().max(1),
        };
        EVAL_BATCH.min(fits).min(rows.len()).max(1)
    }

    /// Measures a model file.
    pub(super) fn evaluate_file(&self, path: &Path) -> Result<Evaluation> {
        let (_, data, rows) = self.measured_on();
        Ok(self.classifier(path)?.evaluate(data, &rows, || !interrupt::asked())?)
    }

    /// Writes weights into a copy of the source in `folder`.
    pub(super) fn write_weights(&self, folder: &Path, weights: &Weights) -> Result<()> {
        let tensors = self.network.write_back(weights)?;
        let patch = onnx::patch::Patch { tensors: values(&tensors), metadata: Vec::new() };
        let patched = onnx::patch::patch_bytes(&self.original.bytes()?, &patch)?;
        let from = folder_of(&self.args.model);
        for external in &patched.external {
            onnx::patch::write_external(from, folder, external)?;
        }
        output::write(&folder.join(output::MODEL), &patched.model)
    }

    /// Measures weights as they would be in a file: written into a copy of the source.
    pub(super) fn evaluate_weights(&self, folder: &Path, weights: &Weights) -> Result<Evaluation> {
        self.write_weights(folder, weights)?;
        let result = self.evaluate_file(&folder.join(output::MODEL));
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        result
    }

    /// What the second engine is fed, a few samples at a time, and what ONNX Runtime makes of it.
    fn answers(&self, classifier: &mut Classifier<'_>, gates: &GateArgs) -> Result<(Vec<Feeds>, Vec<Tensor>)> {
        let data = self.measured_on().1;
        let n = self.input.batch.unwrap_or(gates.check_samples.min(data.len()));
        // Spread over the data, which is often sorted by class.
        let rows: Vec<usize> = (0..n).map(|i| (i * data.len() / n).min(data.len() - 1)).collect();
        // In equal parts and never one by one: activations of large images take memory. Where scores depend on the whole batch,
        // it stays together.
        let together = self.input.batch.is_some() || self.network.has_live_batch_norm();
        let fits = |part: &usize| n.is_multiple_of(*part);
        let part = if together { n } else { (2..=CHECKED_AT_ONCE).rev().find(fits).unwrap_or(n) };
        let usual = classifier.batch;
        classifier.batch = part;
        classifier.constants = self.network.constants_at(part)?;
        let feeds: Vec<Feeds> = rows.chunks(part).map(|rows| classifier.feeds(data, rows)).collect();
        let ours = feeds.iter().map(|feeds| classifier.run(feeds)).collect::<Result<Vec<_>, _>>()?;
        classifier.batch = usual;
        classifier.constants = self.network.constants_at(usual)?;
        Ok((feeds, ours))
    }

    /// Runs the file in the second engine and compares.
    fn check(&self, path: &Path, feeds: &[Feeds], ours: &[Tensor], gates: &GateArgs) -> CheckRecord {
        let tolerance = Tolerance { absolute: gates.check_atol, relative: gates.check_rtol };
        let data = self.measured_on().1;
        let scores = Scores::of(self.network.head.behind.as_deref(), self.layout.independent);
        let threshold = data.multi_hot().then(|| scores.threshold());
        let threads = self.runtime.engine.threads();
        let compared = check::load(path)
            .and_then(|loaded| loaded.run(feeds, &self.network.head.output, Preparation::Optimized, threads))
            .and_then(|theirs| check::compare(&theirs, ours, threshold, tolerance));
        match compared {
            Ok(comparison) => CheckRecord::Compared { engine: "tract-onnx 0.23.9", comparison },
            Err(e @ (CheckError::Load(_) | CheckError::Run(_) | CheckError::Shape { .. })) => {
                CheckRecord::NotChecked { reason: e.to_string() }
            }
        }
    }

    fn trained(&self, changed: &[String], weights: &Weights) -> Result<Vec<TrainedTensor>> {
        let source = self.network.weights()?;
        Ok(changed.iter().map(|name| self.trained_tensor(name, &source, weights)).collect())
    }

    fn trained_tensor(&self, name: &str, source: &Weights, weights: &Weights) -> TrainedTensor {
        let stored = self.model.graph.constants.get(name);
        let before = source.get(name).or(stored).map(|t| t.f32s()).unwrap_or_default();
        // A bias that was masked, but not trained.
        let after = weights.get(name).map_or_else(|| before.clone(), |t| t.f32s());
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let change = norm(&mut before.iter().zip(after.iter()).map(|(&a, &b)| f64::from(a) - f64::from(b)));
        let size = norm(&mut before.iter().map(|&a| f64::from(a)));
        TrainedTensor {
            name: name.to_owned(),
            shape: stored.map(|t| t.shape().to_vec()).unwrap_or_default(),
            change,
            relative_change: if size > 0.0 { change / size } else { 0.0 },
            statistic: weights.contains_key(name)
                && self.network.stored.iter().any(|s| s.name == name && s.frozen.is_some()),
        }
    }
}
