//! `audit`: what does a model still hold of classes that were taken out? Needs samples of them, which are measured and, on
//! copies in memory, trained on. Writes no model.

mod csv;
mod features;
mod outputs;
mod table;
mod training;

use super::{
    session, source,
    subject::{Opened, Subject, read_data, same_classes},
};
use crate::{
    audit::{
        AuditError, Features, Figure, Measure, Outcome, Outputs, distance, membership, probe, prototype, quantisation,
    },
    audit::{relearn, streisand, weights},
    cli::{
        Status,
        args::{AuditArgs, MeasureArg},
        interrupt, plan,
        printer::Printer,
        progress::Progress,
    },
    data::{ClassNames, Dataset, LoadSummary, PixelKind},
    onnx::{self, Model},
    provenance::digest::Digest,
    report::{PreprocessRecord, RuntimeRecord, Warning},
    runtime::Engine,
    train::{Choice, Penultimate},
};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
    rc::Rc,
};

/// The models, in their order.
const ROLES: [&str; 3] = ["before", "after", "retrained"];

/// The result.
#[derive(Serialize)]
struct Shown {
    models: Vec<ModelShown>,
    forget: Vec<usize>,
    classes: ClassNames,
    data: DataShown,
    train_data: Option<DataShown>,
    preprocess: PreprocessRecord,
    settings: Settings,
    runtime: RuntimeRecord,
    measures: Vec<Measure>,
}

#[derive(Serialize)]
struct ModelShown {
    role: &'static str,
    model: String,
    /// Digest of the file, by which `attest --audit` knows the model.
    file: Digest,
    /// Accuracy on the held-out samples of the forgotten classes, and of the others.
    forgotten_accuracy: Option<f64>,
    retained_accuracy: Option<f64>,
}

#[derive(Serialize)]
struct DataShown {
    path: String,
    #[serde(flatten)]
    summary: LoadSummary,
}

#[derive(Serialize)]
struct Settings {
    seed: u64,
    per_class: usize,
    batch_size: usize,
    relearn_steps: usize,
    relearn_lr: f64,
}

/// One of the models, with the data as it takes it.
struct Side<'a> {
    role: &'static str,
    model: &'a Model,
    opened: Opened<'a>,
    held: Rc<Dataset>,
    train: Option<Rc<Dataset>>,
    /// What it says about the held-out data.
    outputs: Outputs,
    /// Its penultimate layer, with the features of training and of held-out samples, once they were asked for.
    features: OnceCell<(Penultimate, [Features; 2])>,
}

/// Everything that measures need.
struct Job<'a> {
    args: &'a AuditArgs,
    engine: Engine,
    choice: Choice,
    names: ClassNames,
    forget: Vec<usize>,
    /// Before, after and, where it is given, retrained.
    sides: Vec<Side<'a>>,
    printer: Printer,
}

pub fn run(args: &AuditArgs, printer: Printer) -> Result<Status> {
    let preprocess = plan::preprocess(&args.preprocess)?;
    let choice = plan::reading(&args.read)?;
    check(args)?;
    interrupt::catch();
    let paths: Vec<&Path> =
        [&args.before, &args.after].into_iter().chain(&args.retrained).map(PathBuf::as_path).collect();
    let files = paths.iter().map(|path| Ok(onnx::read(path)?)).collect::<Result<Vec<Model>>>()?;
    let subjects = files.iter().map(|model| Subject::of(model, &choice)).collect::<Result<Vec<_>>>()?;
    let runtime = session::open(&args.engine)?;
    printer.note(runtime.describe());
    runtime.warning.iter().for_each(|w| printer.warning(w));
    let open = |s| Opened::new(s, &runtime.engine, args.batch_size, preprocess.resize);
    let opened = subjects.iter().map(open).collect::<Result<Vec<_>>>()?;
    let classes = same_classes(&opened)?;
    suited(&opened)?;
    let names = source::names(args.labels.as_deref(), &args.data, classes)?;
    let forget = names.parse(&args.forget).context("--forget")?;
    ensure!(forget.len() < classes, "--forget {}: these are all classes of the model", args.forget);
    let (held, summary) = read_data("--data", &args.data, None, &preprocess, &names, &opened)?;
    let train = args
        .train_data
        .as_ref()
        .map(|path| read_data("--train-data", path, Some(args.per_class), &preprocess, &names, &opened));
    let (train, train_summary) = train.transpose()?.unzip();
    ensure!(
        train_summary.as_ref().is_none_or(|t| t.digest != summary.digest),
        "--train-data and --data are the same samples; what a model was trained on tells nothing about what it was not"
    );
    warn(args, &summary, train_summary.as_ref(), &subjects, printer);

    let mut sides = Vec::new();
    for (i, mut opened) in opened.into_iter().enumerate() {
        let held = Rc::clone(&held[i]);
        let train = train.as_ref().map(|t| Rc::clone(&t[i]));
        let mut progress = Progress::new(printer);
        let all: Vec<usize> = (0..held.len()).collect();
        printer.note(format!("measuring {}", opened.subject.name()));
        let batches = held.len().div_ceil(opened.classifier.batch);
        let outputs = Outputs::of(&mut opened.classifier, &held, &all, ticking(&mut progress, "measure", batches))?;
        progress.finish();
        sides.push(Side { role: ROLES[i], model: &files[i], opened, held, train, outputs, features: OnceCell::new() });
    }
    let engine = runtime.engine.clone();
    let mut job = Job { args, engine, choice, names, forget, sides, printer };
    let measures = job.measures()?;
    let shown = Shown {
        models: job.sides.iter().map(|side| job.shown(side)).collect(),
        data: DataShown { path: args.data.display().to_string(), summary },
        train_data: args
            .train_data
            .as_ref()
            .zip(train_summary)
            .map(|(path, summary)| DataShown { path: path.display().to_string(), summary }),
        preprocess: plan::preprocess_record(&preprocess),
        settings: Settings {
            seed: args.seed,
            per_class: args.per_class,
            batch_size: args.batch_size,
            relearn_steps: args.relearn_steps,
            relearn_lr: args.relearn_lr,
        },
        runtime: runtime.record()?,
        classes: job.names,
        forget: job.forget,
        measures,
    };
    printer.json(&shown)?;
    printer.result(if args.csv { csv::text(&shown) } else { table::text(&shown) });
    Ok(Status::Yes)
}

/// What can be told from the flags alone.
fn check(args: &AuditArgs) -> Result<()> {
    plan::device(&args.engine.device)?;
    for (flag, value) in
        [("--batch-size", args.batch_size), ("--per-class", args.per_class), ("--relearn-steps", args.relearn_steps)]
    {
        ensure!(value > 0, "{flag} 0: expected at least 1");
    }
    ensure!(args.engine.threads != Some(0), "--threads 0: expected at least 1");
    ensure!(
        args.relearn_lr.is_finite() && args.relearn_lr > 0.0,
        "--relearn-lr {}: expected a number above 0",
        args.relearn_lr
    );
    Ok(())
}

/// The measures are about one distribution over the classes for each sample.
fn suited(models: &[Opened<'_>]) -> Result<()> {
    for model in models {
        let (layout, name) = (model.layout, model.subject.name());
        if layout.predictions > 1 {
            bail!("{name}: makes {} predictions a sample; audit is for models that make one", layout.predictions);
        }
        if layout.independent {
            bail!(
                "{name}: its scores are independent of each other; audit is for models whose classes exclude each other"
            );
        }
    }
    Ok(())
}

fn warn(args: &AuditArgs, held: &LoadSummary, train: Option<&LoadSummary>, subjects: &[Subject], printer: Printer) {
    let flags = source::flags(&args.preprocess);
    for (data, summary) in [("--data", Some(held)), ("--train-data", train)] {
        if summary.is_some_and(|s| s.pixels == PixelKind::Float32) && !flags.is_empty() {
            printer.warning(Warning::PreprocessingNotApplied { data, flags: flags.clone() });
        }
    }
    if subjects.iter().any(|s| s.reading.live_batch_norm) {
        printer.warning(Warning::LiveBatchNorm);
    }
}

/// Advances the progress by a batch every time it is asked, and says no after Ctrl-C.
fn ticking<'p>(progress: &'p mut Progress, phase: &'static str, batches: usize) -> impl FnMut() -> bool + 'p {
    progress.start(phase, batches);
    let mut done = 0;
    move || {
        // It is asked before a batch, when one less is done.
        if done > 0 {
            progress.advance(done, "");
        }
        done += 1;
        !interrupt::asked()
    }
}

impl Job<'_> {
    fn measures(&mut self) -> Result<Vec<Measure>> {
        let only = &self.args.only;
        let wanted = MeasureArg::value_variants().iter().filter(|m| only.is_empty() || only.contains(m));
        wanted.map(|&measure| self.measure(measure)).collect()
    }

    fn measure(&mut self, measure: MeasureArg) -> Result<Measure> {
        let (definition, direction, outcome) = match measure {
            MeasureArg::Membership => (membership::DEFINITION, membership::DIRECTION, self.membership()),
            MeasureArg::Probe => (probe::DEFINITION, probe::DIRECTION, self.probe()),
            MeasureArg::Prototype => (prototype::DEFINITION, prototype::DIRECTION, self.prototype()),
            MeasureArg::Relearn => (relearn::DEFINITION, relearn::DIRECTION, self.relearn()),
            MeasureArg::Quantisation => (quantisation::DEFINITION, quantisation::DIRECTION, self.quantisation()),
            MeasureArg::Retrained => (distance::DEFINITION, distance::TO_RETRAINED, Ok(self.to_retrained())),
            MeasureArg::Before => (distance::DEFINITION, distance::TO_BEFORE, Ok(self.to_before())),
            MeasureArg::Weights => (weights::DEFINITION, weights::DIRECTION, self.weights()),
            MeasureArg::Streisand => (streisand::DEFINITION, streisand::DIRECTION, Ok(self.streisand())),
        };
        Ok(Measure { name: measure.name(), definition, direction, outcome: outcome? })
    }

    fn shown(&self, side: &Side<'_>) -> ModelShown {
        let [forgotten, retained] = self.groups().map(|rows| side.outputs.accuracy(&rows));
        let model = side.opened.subject.name();
        let file = Digest::of(&side.model.bytes);
        ModelShown { role: side.role, model, file, forgotten_accuracy: forgotten, retained_accuracy: retained }
    }

    /// The held-out samples of the forgotten classes, and the others.
    fn groups(&self) -> [Vec<usize>; 2] {
        let outputs = &self.sides[0].outputs;
        [true, false].map(|forgotten| outputs.samples(|class| self.forget.contains(&class) == forgotten))
    }

    fn is_forgotten(&self, class: usize) -> bool {
        self.forget.contains(&class)
    }

    /// A class as figures name it.
    fn class(&self, class: usize) -> String {
        super::table::label(&self.names, class, &[])
    }

    /// Why a measure cannot do without held-out samples of every forgotten class, where some are missing.
    fn without_held(&self) -> Option<Outcome> {
        self.missing("--data", &self.sides[0].held)
    }

    /// The same for training samples.
    fn without_train(&self) -> Option<Outcome> {
        match &self.sides[0].train {
            None => Some(not_assessed(
                "needs --train-data: samples that the model before was trained on, those of the forgotten classes included",
            )),
            Some(train) => self.missing("--train-data", train),
        }
    }

    fn missing(&self, flag: &str, data: &Dataset) -> Option<Outcome> {
        let counts = data.per_class();
        let missing: Vec<String> = self.forget.iter().filter(|&&c| counts[c] == 0).map(|&c| self.class(c)).collect();
        (!missing.is_empty()).then(|| not_assessed(format!("{flag} has no samples of {}", missing.join(", "))))
    }
}

fn not_assessed(reason: impl Into<String>) -> Outcome {
    Outcome::NotAssessed { reason: reason.into() }
}

fn assessed(figures: Vec<Figure>) -> Outcome {
    Outcome::Assessed { figures, notes: Vec::new() }
}

/// What was found; a model that a measure cannot be applied to is no failure of the audit.
fn or_not_assessed(found: Result<Outcome, AuditError>) -> Result<Outcome> {
    match found {
        Ok(outcome) => Ok(outcome),
        Err(e @ (AuditError::Penultimate(_) | AuditError::Features { .. } | AuditError::Train(_))) => {
            Ok(not_assessed(e.to_string()))
        }
        Err(e) => Err(e.into()),
    }
}
