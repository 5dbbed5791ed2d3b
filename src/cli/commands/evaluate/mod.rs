//! `evaluate`: how good are these models, class by class, and where do samples go? Trains nothing.

mod csv;
mod table;

use super::{
    session, source,
    subject::{Opened, Subject, read_data, same_classes},
};
use crate::{
    cli::{Status, args::EvaluateArgs, interrupt, plan, printer::Printer, progress::Progress},
    data::{ClassNames, Dataset, LoadSummary, PixelKind},
    evaluate::{Measurement, Predictions, Scores},
    report::{PreprocessRecord, RuntimeRecord, Warning},
};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeSet;

/// A confusion matrix of more classes fits no terminal.
const MOST_COLUMNS: usize = 20;

/// The result.
#[derive(Serialize)]
struct Shown {
    data: Data,
    preprocess: PreprocessRecord,
    classes: ClassNames,
    route: Vec<usize>,
    runtime: RuntimeRecord,
    models: Vec<ModelShown>,
}

#[derive(Serialize)]
struct Data {
    path: String,
    #[serde(flatten)]
    summary: LoadSummary,
    /// Predictions for a sample, each of which is measured.
    predictions: usize,
}

#[derive(Serialize)]
struct ModelShown {
    model: String,
    output: String,
    scores: &'static str,
    /// Classes that the stamp says were forgotten.
    forgotten: Vec<usize>,
    #[serde(flatten)]
    measured: Measurement,
}

pub fn run(args: &EvaluateArgs, printer: Printer) -> Result<Status> {
    let preprocess = plan::preprocess(&args.preprocess)?;
    let choice = plan::reading(&args.read)?;
    plan::device(&args.engine.device)?;
    ensure!(args.batch_size > 0, "--batch-size 0: expected at least 1");
    ensure!(args.engine.threads != Some(0), "--threads 0: expected at least 1");
    interrupt::catch();
    let subjects = args.models.iter().map(|path| Subject::read(path, &choice)).collect::<Result<Vec<_>>>()?;
    let runtime = session::open(&args.engine)?;
    printer.note(runtime.describe());
    runtime.warning.iter().for_each(|w| printer.warning(w));
    let open = |s| Opened::new(s, &runtime.engine, args.batch_size, preprocess.resize);
    let mut models = subjects.iter().map(open).collect::<Result<Vec<_>>>()?;
    let classes = same_classes(&models)?;
    ensure!(
        !args.confusion || classes <= MOST_COLUMNS,
        "--confusion: the matrix is printed for at most {MOST_COLUMNS} classes, and there are {classes}; --csv and --json \
         have it for any number"
    );
    let names = source::names(args.labels.as_deref(), &args.data, classes)?;
    let route = route(args, &subjects, &names)?;
    let (sets, summary) = read_data("--data", &args.data, None, &preprocess, &names, &models)?;
    ensure!(
        !args.confusion || !summary.multi_hot,
        "--confusion: with several classes in a sample there is no matrix of them; leave the flag out"
    );
    warn(args, &summary, &subjects, printer);

    let mut first: Option<Predictions> = None;
    let mut measured = Vec::new();
    let several = models.len() > 1;
    for (model, data) in models.iter_mut().zip(&sets) {
        if several {
            printer.note(format!("measuring {}", model.subject.name()));
        }
        let p = predict(model, data, several && first.is_none(), first.as_ref(), printer)?;
        if p.like_probabilities {
            let (model, output) = (model.subject.name(), model.classifier.output.to_owned());
            printer.warning(Warning::LikeProbabilities { model, output });
        }
        measured.push(Measurement::of(&p, &route, first.as_ref()));
        first = first.or(Some(p));
    }

    let shown = Shown {
        data: Data { path: args.data.display().to_string(), summary, predictions: models[0].layout.predictions },
        preprocess: plan::preprocess_record(&preprocess),
        classes: names,
        route,
        runtime: runtime.record()?,
        models: models.iter().zip(measured).map(|(model, measured)| shown(model, measured)).collect(),
    };
    printer.json(&shown)?;
    printer.result(if args.csv { csv::text(&shown) } else { table::text(&shown, args.confusion) });
    Ok(Status::Yes)
}

/// The classes whose samples are followed.
fn route(args: &EvaluateArgs, subjects: &[Subject], names: &ClassNames) -> Result<Vec<usize>> {
    if let Some(list) = &args.route {
        return names.parse(list).context("--route");
    }
    let stamped: BTreeSet<usize> = subjects.iter().flat_map(|s| s.forgotten.iter().copied()).collect();
    Ok(stamped.into_iter().filter(|&class| class < names.len()).collect())
}

fn warn(args: &EvaluateArgs, summary: &LoadSummary, subjects: &[Subject], printer: Printer) {
    let flags = source::flags(&args.preprocess);
    if summary.pixels == PixelKind::Float32 && !flags.is_empty() {
        printer.warning(Warning::PreprocessingNotApplied { data: "--data", flags });
    }
    if subjects.iter().any(|s| s.reading.live_batch_norm) {
        printer.warning(Warning::LiveBatchNorm);
    }
}

fn predict(
    model: &mut Opened<'_>,
    data: &Dataset,
    keep: bool,
    first: Option<&Predictions>,
    printer: Printer,
) -> Result<Predictions> {
    let mut progress = Progress::new(printer);
    let batches = data.len().div_ceil(model.classifier.batch);
    progress.start("measure", batches);
    let mut done = 0;
    let predictions = Predictions::of(&mut model.classifier, data, keep, first, || {
        // It is asked before a batch, when one less is done.
        if done > 0 {
            progress.advance(done, "");
        }
        done += 1;
        !interrupt::asked()
    })?;
    progress.advance(batches, "");
    progress.finish();
    Ok(predictions)
}

fn shown(model: &Opened<'_>, measured: Measurement) -> ModelShown {
    ModelShown {
        model: model.subject.name(),
        output: model.classifier.output.to_owned(),
        scores: match model.classifier.scores {
            Scores::Logits => "logits",
            Scores::Probabilities => "probabilities",
            Scores::LogProbabilities => "log_probabilities",
            Scores::Independent => "independent_probabilities",
            Scores::IndependentLogits => "independent_logits",
        },
        forgotten: model.subject.forgotten.clone(),
        measured,
    }
}
