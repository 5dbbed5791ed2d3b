//! `retrain`: the same graph trained from fresh weights without some classes, the yardstick of audits.

use super::{Job, folder_of};
use crate::{
    cli::{
        Status,
        args::RetrainArgs,
        commands::output::{self, Output},
        interrupt, plan,
        printer::Printer,
        progress::Progress,
    },
    evaluate::Evaluation,
    report::{Gates, Warning, percent},
    train::{BatchNorm, Weights},
    unlearn::{self, Mix, PhaseRecord, PhaseSettings, Recipe, UnlearnError},
};
use anyhow::{Result, ensure};
use serde::Serialize;
use std::{fmt::Write, path::PathBuf};

/// Nothing is judged here.
const GATES: Gates = Gates { max_forget_accuracy: 1.0, max_retain_drop: 1.0 };

/// The result.
#[derive(Serialize)]
struct Shown {
    /// Classes that were left out.
    forget: Vec<usize>,
    classes: Vec<String>,
    lr: f64,
    epochs: usize,
    steps: usize,
    samples: usize,
    last_loss: f32,
    training_accuracy: Option<f64>,
    /// What accuracies are measured on: `eval`, or `retain` where there are no held-out samples.
    on: &'static str,
    before: Evaluation,
    after: Evaluation,
    written: Vec<PathBuf>,
}

pub fn run(args: &RetrainArgs, printer: Printer) -> Result<Status> {
    let asked = args.job();
    plan::early(&asked)?;
    let settings = plan::retraining(["--epochs", "--lr"], args.epochs, args.lr)?;
    let output = Output::prepare(&args.out, args.force, &asked.files())?;
    interrupt::catch();
    // What is said of forgetting does not hold here.
    let job = Job::read(&asked, GATES, None, Printer::new(true, false))?;
    printer.note(job.runtime.describe());
    for warning in job.warnings.iter().filter(|w| !matches!(w, Warning::NoEval | Warning::EvalWithoutForget(_))) {
        printer.warning(warning);
    }
    output.claim(&job.model.external, folder_of(&args.model), args.force)?;

    let mut progress = Progress::new(printer);
    let before = job.evaluate_file(&args.model)?;
    let (weights, record) = job.retrain(&job.recipe, job.recipe.batch_norm, settings, &mut progress)?;
    progress.finish();
    let finished = output.scratch("finished")?;
    job.write_weights(&finished, &weights)?;
    let after = job.evaluate_file(&finished.join(output::MODEL))?;
    ensure!(!interrupt::asked(), "interrupted; nothing was written");
    let written = output.publish(&finished)?;
    let shown = Shown {
        forget: job.recipe.forgotten(),
        classes: job.names.all().to_vec(),
        lr: args.lr,
        epochs: args.epochs,
        steps: record.steps,
        samples: job.retain.len(),
        last_loss: record.last_loss,
        training_accuracy: record.accuracy,
        on: job.measured_on().0,
        before,
        after,
        written,
    };
    printer.json(&shown)?;
    printer.result(text(&shown, &record));
    Ok(Status::Yes)
}

impl Job<'_> {
    /// Trains the graph from fresh weights on the labels of the retain sample.
    pub(super) fn retrain(
        &self,
        recipe: &Recipe,
        batch_norm: BatchNorm,
        settings: PhaseSettings,
        progress: &mut Progress,
    ) -> Result<(Weights, PhaseRecord), UnlearnError> {
        let rows = self.rows(self.at_once(recipe.batch_size, batch_norm)?);
        let network = self.network.at_batch_of(&self.runtime.engine, self.samples(&rows), batch_norm)?;
        let start = unlearn::fresh(&network.with_statistics(&self.network.weights()?), recipe.seed);
        let mut stepper = recipe.stepper(&network, &start)?;
        let mix = Mix::retain_only(&self.retain, network.row.clone());
        let record = unlearn::train(&mut stepper, &mix, settings, recipe.batch_size, recipe.seed, "retrain", progress)?;
        Ok((stepper.weights()?, record))
    }
}

fn text(shown: &Shown, record: &PhaseRecord) -> String {
    let share = |v: Option<f64>| v.map_or("-".to_owned(), percent);
    let kept = |c: usize| !shown.forget.contains(&c);
    let on = if shown.on == "eval" { "held-out data" } else { "the samples it was trained on" };
    let mut text = format!(
        "trained from fresh weights: {} steps on {} samples in {:.0} s, last loss {:.4}\n",
        record.steps, shown.samples, record.seconds, shown.last_loss
    );
    for (name, e) in [("source", &shown.before), ("retrained", &shown.after)] {
        let _ = writeln!(
            text,
            "{name:<9}  retained classes {}, classes left out {} (on {on})",
            share(e.quality(kept)),
            share(e.accuracy(|c| !kept(c)))
        );
    }
    for path in &shown.written {
        let _ = writeln!(text, "written    {}", path.display());
    }
    text.trim_end().to_owned()
}
