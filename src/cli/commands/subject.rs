//! Models that are measured: read, opened, their scores understood, and the data as each of them takes it.

use super::{samples, session, source};
use crate::{
    data::{self, ClassNames, Dataset, InputSpec, LoadPlan, LoadSummary, Preprocess},
    evaluate::{Classifier, EvaluateError, Scores},
    onnx::{self, Model},
    provenance::stamp,
    runtime::Engine,
    train::{Choice, Layout, Reading, TrainError},
};
use anyhow::{Context, Result, bail, ensure};
use std::{path::Path, rc::Rc};

/// Samples in the run that tells the shape of the scores: two, so that a graph with a batch of one inside is found out.
const TRIAL: usize = 2;

/// A model file, read.
pub struct Subject {
    pub reading: Reading,
    /// Classes that its stamp says were forgotten, in earlier runs too; none without a stamp, or with one that is damaged.
    pub forgotten: Vec<usize>,
}

impl Subject {
    pub fn read(path: &Path, choice: &Choice) -> Result<Self> {
        Self::of(&onnx::read(path)?, choice)
    }

    pub fn of(model: &Model, choice: &Choice) -> Result<Self> {
        let reading = Reading::of(model, choice)?;
        let stamp = stamp::read(&model.bytes).ok().flatten();
        let classes = stamp.iter().flat_map(stamp::Stamp::forgotten).filter_map(|class| class.parse().ok());
        Ok(Self { forgotten: classes.collect(), reading })
    }

    pub fn name(&self) -> String {
        self.reading.path.display().to_string()
    }

    /// What the data has to look like, for the input of the samples and the further ones. The batch does not matter to it.
    pub fn specs(&self) -> Vec<InputSpec> {
        self.reading.inputs.ports().map(|port| InputSpec { batch: None, ..source::spec(port) }).collect()
    }
}

/// A model, ready to be measured.
pub struct Opened<'a> {
    pub subject: &'a Subject,
    pub layout: Layout,
    pub classifier: Classifier<'a>,
}

impl<'a> Opened<'a> {
    /// Opens the file, and runs it once on zeros to see how its scores are laid out.
    pub fn new(
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
}

/// The number of classes of all models.
pub fn same_classes(models: &[Opened<'_>]) -> Result<usize> {
    let first = &models[0];
    for other in models {
        let (a, b) = (first.layout, other.layout);
        if a.classes != b.classes || a.predictions != b.predictions {
            bail!(
                "{} has {} classes and {} prediction(s) a sample, but {} has {} and {}; models are measured side by side on \
                 the same classes and predictions",
                other.subject.name(),
                b.classes,
                b.predictions,
                first.subject.name(),
                a.classes,
                a.predictions
            );
        }
    }
    Ok(first.layout.classes)
}

/// The data as each model takes it. Models that take it alike share one set.
///
/// `flag` and `path` say where it is; `per_class` is the most samples of a class that are read, the first ones.
pub fn read_data(
    flag: &str,
    path: &Path,
    per_class: Option<usize>,
    preprocess: &Preprocess,
    names: &ClassNames,
    models: &[Opened<'_>],
) -> Result<(Vec<Rc<Dataset>>, LoadSummary)> {
    let mut loaded: Vec<(Vec<InputSpec>, bool, Rc<Dataset>, LoadSummary)> = Vec::new();
    let mut sets = Vec::new();
    for model in models {
        let (layout, specs) = (model.layout, model.subject.specs());
        if let Some((.., set, _)) = loaded.iter().find(|(s, i, ..)| *s == specs && *i == layout.independent) {
            sets.push(Rc::clone(set));
            continue;
        }
        let input = specs[0].clone();
        let preprocess =
            if input.integers { source::raw(preprocess.clone(), &input.name)? } else { preprocess.clone() };
        let plan = LoadPlan {
            path,
            classes: layout.classes,
            names: (!names.are_indices()).then_some(names),
            drop: &[],
            per_class,
            input,
            further: &specs[1..],
            predictions: layout.predictions,
            independent: layout.independent,
            preprocess: &preprocess,
        };
        let (set, summary) =
            data::load(&plan).with_context(|| format!("{}: {flag} {}", model.subject.name(), path.display()))?;
        let set = Rc::new(set);
        sets.push(Rc::clone(&set));
        loaded.push((specs, layout.independent, set, summary));
    }
    let summary = loaded.swap_remove(0).3;
    ensure!(
        sets.iter().all(|set| set.multi_hot() == summary.multi_hot && set.labels() == sets[0].labels()),
        "{flag} {}: the labels mean one thing for one of the models and another for another one; measure them one by one",
        path.display()
    );
    Ok((sets, summary))
}
