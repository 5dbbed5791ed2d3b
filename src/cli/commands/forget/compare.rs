//! `compare`: UNSIR beside its controls and other methods, with the same number of steps and the same rates.

use super::{Job, train::Lab, tune::Tuner};
use crate::{
    cli::{
        Status,
        args::{CompareArgs, EPOCHS, RATE},
        commands::output::MODEL,
        interrupt, plan,
        printer::Printer,
        progress::Progress,
    },
    data::Dataset,
    evaluate::Evaluation,
    report::{Gates, percent},
    train::BatchNorm,
    unlearn::{Calibration, PhaseRecord, PhaseSettings, Rival, Rivals, UnlearnError},
};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::fmt::Write;

/// Limits of the trials that find the rates; those of `forget` by default.
const GATES: Gates = Gates { max_forget_accuracy: 0.01, max_retain_drop: 0.02 };

/// The result.
#[derive(Serialize)]
struct Shown {
    forget: Vec<usize>,
    classes: Vec<String>,
    /// Learning rates of impair and repair.
    rates: [f64; 2],
    calibration: Option<Calibration>,
    runs: usize,
    before: Figures,
    methods: Vec<Method>,
}

/// Accuracies on the held-out samples (recall and micro-F1 where labels are multi-hot).
#[derive(Clone, Copy, Serialize)]
struct Figures {
    /// The highest of a forgotten class.
    forget: Option<f64>,
    /// That of all retained classes together.
    retain: Option<f64>,
}

#[derive(Serialize)]
struct Method {
    #[serde(rename = "method")]
    rival: Rival,
    /// Steps of both phases.
    steps: usize,
    /// One entry a run; a run whose loss became no number has none.
    runs: Vec<Option<Figures>>,
    /// Mean wall time of a run in seconds, noise not counted.
    seconds: f64,
}

pub fn run(args: &CompareArgs, printer: Printer) -> Result<Status> {
    plan::early(&args.job)?;
    ensure!(args.runs > 0, "--runs 0: expected at least 1");
    ensure!(args.job.eval.is_some(), "compare measures forgotten classes: give held-out samples with --eval");
    let retraining = retraining(args)?;
    interrupt::catch();
    let mut job = Job::read(&args.job, GATES, None, printer)?;
    let forgotten = args.forget_data.as_deref().map(|path| job.load_forgotten(path)).transpose()?;
    let methods = methods(args, forgotten.is_some())?;
    let shown = job.compare(args, &methods, retraining, forgotten.as_ref(), printer)?;
    printer.json(&shown)?;
    printer.result(text(&shown));
    Ok(Status::Yes)
}

/// How the method retrain trains.
fn retraining(args: &CompareArgs) -> Result<PhaseSettings> {
    ensure!(
        args.methods != [Rival::Retrain],
        "--methods retrain: it needs another method beside it; the command retrain does it alone"
    );
    for (flag, given) in
        [("--retrain-epochs", args.retrain_epochs.is_some()), ("--retrain-lr", args.retrain_lr.is_some())]
    {
        ensure!(!given || args.methods.contains(&Rival::Retrain), "{flag}: name the method retrain in --methods");
    }
    let (epochs, lr) = (args.retrain_epochs.unwrap_or(EPOCHS), args.retrain_lr.unwrap_or(RATE));
    plan::retraining(["--retrain-epochs", "--retrain-lr"], epochs, lr)
}

/// What was asked for, or all that the data allows.
fn methods(args: &CompareArgs, forget_data: bool) -> Result<Vec<Rival>> {
    if args.methods.is_empty() {
        let runs = |m: &Rival| *m != Rival::Retrain && (forget_data || !m.needs_forget_data());
        return Ok(Rival::ALL.into_iter().filter(runs).collect());
    }
    for method in &args.methods {
        ensure!(
            forget_data || !method.needs_forget_data(),
            "--methods {}: it learns from samples of the classes to forget; give them with --forget-data",
            method.name()
        );
    }
    Ok(args.methods.clone())
}

impl Job<'_> {
    fn compare(
        &mut self,
        args: &CompareArgs,
        methods: &[Rival],
        retraining: PhaseSettings,
        forgotten: Option<&Dataset>,
        printer: Printer,
    ) -> Result<Shown> {
        let mut progress = Progress::new(printer);
        let source = self.network.weights()?;
        let mut shown: Vec<Method> =
            methods.iter().map(|&rival| Method { rival, steps: 0, runs: Vec::new(), seconds: 0.0 }).collect();
        let (mut rates, mut calibration, mut before) = (None, None, None);
        for run in 0..args.runs {
            self.recipe.seed = args.job.method.seed.wrapping_add(run as u64);
            let job = &*self;
            let recipe = &job.recipe;
            let Lab { noise, range, network, mut trials, answers } =
                job.lab(recipe, &source, &mut Tuner::off(printer), &mut progress, printer)?;
            let (impair, repair) = if let Some(found) = rates {
                found
            } else if plan::calibrates(&args.job.method) {
                let material = |rows| job.material(&noise, &network, answers.as_deref(), rows);
                let (found, _) = job.calibrate(&mut trials, &source, range, material, &mut progress, printer)?;
                *rates.insert(calibration.insert(found).rates())
            } else {
                *rates.insert((recipe.impair.lr, recipe.repair.lr))
            };
            let (eval, rows) = (job.eval.as_ref().context("--eval")?, &job.eval_rows.0);
            if before.is_none() {
                let start = trials.start().clone();
                before = Some(job.figures(&trials.evaluate(&start, eval, rows)?));
            }
            let rivals = Rivals {
                recipe,
                retain: &job.retain,
                answers: answers.as_deref(),
                forgotten,
                noise: &noise,
                row: network.row.clone(),
                range,
            };
            let samples_fit = network.row.noise == (0..network.row.len());
            for method in &mut shown {
                ensure!(
                    samples_fit || !method.rival.needs_forget_data(),
                    "--methods {}: it takes models with one input of floats",
                    method.rival.name()
                );
                let mut work = || -> Result<(Evaluation, Vec<PhaseRecord>)> {
                    let phase = |settings: PhaseSettings, lr| PhaseSettings { lr, ..settings };
                    // Methods without their data are refused before, so that what has no material is retraining.
                    if let Some(material) = rivals.material(method.rival) {
                        let impair = phase(recipe.impair, impair * method.rival.direction());
                        let trial = trials.run(&material, impair, phase(recipe.repair, repair), &mut progress)?;
                        return Ok((trials.evaluate(&trial.weights[1].weights()?, eval, rows)?, trial.phases.to_vec()));
                    }
                    // The stored statistics are those of the source model.
                    let batch_norm = plan::batch_norm(&args.job.method, BatchNorm::Batch);
                    let (weights, record) = job.retrain(recipe, batch_norm, retraining, &mut progress)?;
                    // In a file, because statistics of BatchNormalization have moved as well.
                    let folder = tempfile::tempdir().context("no temporary folder")?;
                    job.write_weights(folder.path(), &weights)?;
                    Ok((job.evaluate_file(&folder.path().join(MODEL))?, vec![record]))
                };
                let done = work();
                progress.finish();
                let found = match done {
                    Ok((measured, phases)) => {
                        method.steps = phases.iter().map(|p| p.steps).sum();
                        method.seconds += phases.iter().map(|p| p.seconds).sum::<f64>() / args.runs as f64;
                        Some(job.figures(&measured))
                    }
                    Err(e) if matches!(e.downcast_ref(), Some(UnlearnError::NotFinite { .. })) => None,
                    Err(e) => return Err(e),
                };
                let said = found.map_or("the loss became no number".to_owned(), |f| {
                    format!("forgotten {}, retained {}", shown_share(f.forget), shown_share(f.retain))
                });
                printer.note(format!("run {}: {}: {said}", run + 1, method.rival.name()));
                method.runs.push(found);
            }
        }
        let (impair, repair) = rates.context("--runs 0")?;
        Ok(Shown {
            forget: self.recipe.forget.clone(),
            classes: self.names.all().to_vec(),
            rates: [impair, repair],
            calibration,
            runs: args.runs,
            before: before.context("--runs 0")?,
            methods: shown,
        })
    }

    fn figures(&self, e: &Evaluation) -> Figures {
        let forgotten = self.recipe.forgotten();
        let highest = forgotten.iter().filter_map(|&class| e.accuracy(|c| c == class)).reduce(f64::max);
        Figures { forget: highest, retain: e.quality(|c| self.recipe.keeps(c)) }
    }
}

fn shown_share(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), percent)
}

/// Mean and standard deviation (n - 1) of what there is.
fn mean_and_deviation(values: impl Iterator<Item = Option<f64>>) -> Option<(f64, Option<f64>)> {
    let values: Vec<f64> = values.flatten().collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (!values.is_empty()).then_some((mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt())))
}

fn text(shown: &Shown) -> String {
    let cell = |values: Option<(f64, Option<f64>)>| match values {
        None => "-".to_owned(),
        Some((mean, None)) => percent(mean),
        Some((mean, Some(deviation))) => format!("{:.2} +- {:.2} %", 100.0 * mean, 100.0 * deviation),
    };
    let mut text = format!(
        "learning rates {:.3e} and {:.3e}, {} run(s) of each method\n{:<16} {:>18} {:>18} {:>6} {:>8}\n",
        shown.rates[0], shown.rates[1], shown.runs, "method", "forgotten", "retained", "steps", "seconds"
    );
    let before = shown.before;
    let _ = writeln!(
        text,
        "{:<16} {:>18} {:>18} {:>6} {:>8}",
        "source",
        shown_share(before.forget),
        shown_share(before.retain),
        "-",
        "-"
    );
    for method in &shown.methods {
        let of = |pick: fn(&Figures) -> Option<f64>| {
            cell(mean_and_deviation(method.runs.iter().map(|run| run.as_ref().and_then(pick))))
        };
        let failed = method.runs.iter().filter(|run| run.is_none()).count();
        let _ = writeln!(
            text,
            "{:<16} {:>18} {:>18} {:>6} {:>8.1}{}",
            method.rival.name(),
            of(|f| f.forget),
            of(|f| f.retain),
            method.steps,
            method.seconds,
            if failed > 0 { format!("  ({failed} run(s): the loss became no number)") } else { String::new() }
        );
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::mean_and_deviation;

    #[test]
    fn mean_and_deviation_leave_out_what_is_missing() {
        let found = mean_and_deviation([Some(1.0), None, Some(2.0), Some(3.0)].into_iter());
        assert_eq!(found, Some((2.0, Some(1.0))));
        assert_eq!(mean_and_deviation([Some(0.5)].into_iter()), Some((0.5, None)));
        assert_eq!(mean_and_deviation([None].into_iter()), None);
    }
}
