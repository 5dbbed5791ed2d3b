//! The trials that find the learning rates.

use super::Job;
use crate::{
    cli::{printer::Printer, progress::Progress},
    report::percent,
    train::{BatchNorm, Range, Weights},
    unlearn::{
        self, Calibration, Calibrator, GONE, GONE_BESIDE, HELD, Limits, Material, Outcome, Row, Sign, Trial, Trials,
        Turned, Validation,
    },
};
use anyhow::Result;

impl Job<'_> {
    /// Finds the learning rates. `material` gives what trials learn from, made of these retain samples. Where held-out data
    /// judges, the trial that was taken has learned from all of them, and is the result.
    pub(super) fn calibrate<'m>(
        &self,
        trials: &mut Trials<'_>,
        source: &Weights,
        range: Range,
        material: impl Fn(Vec<usize>) -> Material<'m>,
        progress: &mut Progress,
        printer: Printer,
    ) -> Result<(Calibration, Option<Trial>)> {
        let validation = self.validation();
        let (trained, held) = match validation {
            Some(_) => ((0..self.retain.len()).collect(), Vec::new()),
            None => unlearn::split(&self.retain, HELD),
        };
        let turned = self.turned(trials, source, range)?;
        let gates = &self.gates;
        let calibrator = Calibrator {
            recipe: &self.recipe,
            retain: &self.retain,
            validation,
            turned,
            limits: Limits {
                turned: GONE,
                turned_beside: GONE_BESIDE,
                // A quarter of what the verdict allows, which measures on other samples: of 333 that judge none may be left.
                forget: gates.max_forget_accuracy / 4.0,
                drop: gates.max_retain_drop,
            },
        };
        let on = match &calibrator.validation {
            Some(v) => format!("{} of the held-out samples, which the verdict leaves out", v.rows.len()),
            None => format!("{} of the retain samples, which the trials leave out", held.len()),
        };
        printer.note(format!("learning rates are found by trials, judged on {on}"));
        let material = material(trained);
        let (found, trial) = calibrator.run(trials, &material, &held, progress, |row| printer.note(line(row)))?;
        progress.finish();
        let (impair, repair) = found.rates();
        printer.note(format!(
            "learning rates: {impair:.3e} and {repair:.3e}{}",
            match found.chosen.map(|i| found.trials[i].outcome) {
                Some(Outcome::Fits | Outcome::Spares) => "",
                Some(_) => ", the strongest that keep the other classes; nothing that forgets was seen to keep them",
                None => ", the mildest tried; no trial kept the other classes",
            }
        ));
        Ok((found, trial))
    }

    /// Held-out samples that judge, if there are some.
    fn validation(&self) -> Option<Validation<'_>> {
        let rows = self.eval_rows.1.clone();
        self.eval.as_ref().filter(|_| !rows.is_empty()).map(|data| Validation { data, rows })
    }

    /// The retained samples nearest to each class, turned into it.
    fn turned(&self, trials: &mut Trials<'_>, source: &Weights, range: Range) -> Result<Vec<Turned>> {
        let rows = self.rows(self.at_once(self.recipe.noise.images, BatchNorm::Frozen)?);
        let network = self.network.at_batch_of(&self.runtime.engine, self.samples(&rows), BatchNorm::Frozen)?;
        let candidates = unlearn::candidates(&self.retain);
        let start = trials.start().clone();
        let scores = trials.scores_of_data(&start, &self.retain, &candidates)?;
        let independent = trials.independent();
        let turn = |&class: &usize| {
            let classes = self.retain.classes();
            let near = unlearn::nearest(&candidates, &scores, classes, class, independent, network.batch);
            Turned::new(&network, source, range, &self.retain, &near, class)
        };
        Ok(self.recipe.forget.iter().map(turn).collect::<Result<_, _>>()?)
    }
}

/// A trial as it is shown.
fn line(row: &Row) -> String {
    let shares = |signs: &[Sign]| signs.iter().map(|s| percent(s.known)).collect::<Vec<_>>().join(", ");
    let rates = || format!("{:.2e}, {:.2e}", row.impair_lr, row.repair_lr);
    let name = if row.impair_lr > 0.0 { rates() } else { "source".to_owned() };
    let real = if row.forget.is_empty() { String::new() } else { format!(", forgotten {}", shares(&row.forget)) };
    let outcome = match (row.impair_lr > 0.0, row.outcome) {
        (false, _) => String::new(),
        (_, Outcome::TooWeak) => format!(": too weak ({:.1} s)", row.seconds),
        (_, Outcome::Fits) => format!(": fits ({:.1} s)", row.seconds),
        (_, Outcome::Spares) => format!(": fits and spares the others ({:.1} s)", row.seconds),
        (_, Outcome::TooStrong) => format!(": too strong ({:.1} s)", row.seconds),
        (_, Outcome::Harms) => format!(": harms ({:.1} s)", row.seconds),
        (_, Outcome::Destroys) => format!(": destroys ({:.1} s)", row.seconds),
    };
    let retain = row.retain.map_or("-".to_owned(), percent);
    format!("{:>7} {name:>16}: turned {}{real}, retained {retain}{outcome}", "trial", shares(&row.turned))
}
