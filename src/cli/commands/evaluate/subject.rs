//! A model that is measured: read, opened, and its scores understood.

use super::ModelShown;
use crate::{
    cli::commands::{samples, session, source},
    data::InputSpec,
    evaluate::{Classifier, EvaluateError, Measurement, Scores},
    onnx,
    provenance::stamp,
    runtime::Engine,
    train::{Choice, Layout, Reading, TrainError},
};
use anyhow::{Context, Result};
use std::path::Path;

/// Samples in the run that tells the shape of the scores: two, so that a graph with a batch of one inside is found out.
const TRIAL: usize = 2;

/// A model file, read.
pub(super) struct Subject {
    pub reading: Reading,
    /// Classes that its stamp says were forgotten; none without a stamp, or with one that is damaged.
    pub forgotten: Vec<usize>,
}

impl Subject {
    pub(super) fn read(path: &Path, choice: &Choice) -> Result<Self> {
        let model = onnx::read(path)?;
        let reading = Reading::of(&model, choice)?;
        let stamp = stamp::read(&model.bytes).ok().flatten();
        let classes = stamp.iter().flat_map(|s| &s.forget).filter_map(|class| class.parse().ok());
        Ok(Self { forgotten: classes.collect(), reading })
    }

    pub(super) fn name(&self) -> String {
        self.reading.path.display().to_string()
    }

    /// What the data has to look like, for the input of the samples and the further ones. The batch does not matter to it.
    pub(super) fn specs(&self) -> Vec<InputSpec> {
        self.reading.inputs.ports().map(|port| InputSpec { batch: None, ..source::spec(port) }).collect()
    }
}

/// A model, ready to be measured.
pub(super) struct Opened<'a> {
    pub subject: &'a Subject,
    pub layout: Layout,
    pub classifier: Classifier<'a>,
}

impl<'a> Opened<'a> {
    /// Opens the file, and runs it once on zeros to see how its scores are laid out.
    pub(super) fn new(
        subject: &'a Subject,
        engine: &Engine,
        batch_size: usize,
        resize: Option<(usize, usize)>,
    ) -> Result<Self> {
        let reading = &subject.reading;
        let trial = reading.inputs.frozen_batch().unwrap_or(TRIAL);
        let mut classifier = Classifier {
            session: session::measuring(engine, &reading.path, reading.live_batch_norm)?,
            inputs: reading.inputs.sampled().map(str::to_owned).collect(),
            constants: reading.inputs.constants_at(&reading.path, trial)?,
            output: &reading.head.output,
            scores: Scores::Logits,
            batch: trial,
        };
        let mut feeds = samples::zeros(&reading.inputs, trial, resize).with_context(|| subject.name())?;
        feeds.extend(classifier.constants.iter().cloned());
        let scores = classifier.run(&feeds).map_err(|e| match e {
            EvaluateError::Runtime(source) => {
                anyhow::Error::new(TrainError::Batch { path: reading.path.clone(), batch: trial, source })
            }
            other => anyhow::Error::new(other).context(subject.name()),
        })?;
        let layout = reading.layout(&scores, trial)?;
        classifier.scores = Scores::of(reading.head.behind.as_deref(), layout.independent);
        classifier.batch = reading.inputs.frozen_batch().unwrap_or(batch_size);
        classifier.constants = reading.inputs.constants_at(&reading.path, classifier.batch)?;
        Ok(Self { subject, layout, classifier })
    }

    pub(super) fn shown(&self, measured: Measurement) -> ModelShown {
        ModelShown {
            model: self.subject.name(),
            output: self.classifier.output.to_owned(),
            scores: match self.classifier.scores {
                Scores::Logits => "logits",
                Scores::Probabilities => "probabilities",
                Scores::LogProbabilities => "log_probabilities",
                Scores::Independent => "independent_probabilities",
                Scores::IndependentLogits => "independent_logits",
            },
            forgotten: self.subject.forgotten.clone(),
            measured,
        }
    }
}
