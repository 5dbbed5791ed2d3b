//! What needs the weights: relearning, rounding, and how far they moved.

use super::{Job, Side, assessed, not_assessed, or_not_assessed};
use crate::{
    audit::{
        AuditError, Bound, Figure, Judge, Outcome, Unit,
        quantisation::Form,
        relearn::{self, OPTIMIZER, Plan, Relearned, TARGET},
        weights::{self, Moved},
    },
    cli::{interrupt, progress::Progress},
    train::{BatchNorm, BatchedNetwork, Network, TrainError},
    unlearn::Mix,
};
use anyhow::Result;

/// Tensors that a table lists, those that moved most; the others, and those that did not move, are in the JSON.
const MOST_TENSORS: usize = 10;

impl Job<'_> {
    pub(super) fn relearn(&mut self) -> Result<Outcome> {
        if let Some(missing) = self.without_train().or_else(|| self.without_held()) {
            return Ok(missing);
        }
        or_not_assessed(self.relearned())
    }

    fn relearned(&self) -> Result<Outcome, AuditError> {
        let cap = self.args.relearn_steps;
        let [forgotten, _] = self.groups();
        let before = self.sides[0].outputs.accuracy(&forgotten).unwrap_or(0.0);
        let target = TARGET * before;
        let (mut found, mut frozen): (Vec<Relearned>, Vec<&str>) = (Vec::new(), Vec::new());
        for side in &self.sides {
            let (relearned, usual) = self.relearn_one(side, target, &forgotten)?;
            found.push(relearned);
            if !usual {
                frozen.push(side.role);
            }
        }
        let mut figures = Vec::new();
        for (side, r) in self.sides.iter().zip(&found) {
            let bound = r.steps.is_none().then_some(Bound::Above);
            let steps = Some(r.steps.unwrap_or(cap) as f64);
            figures.push(Figure { bound, ..Figure::new("RT (mini-batches)", side.role, steps, Unit::Count) });
            figures.push(Figure::share("accuracy then, forgotten classes", side.role, r.accuracy.last().copied()));
        }
        for (side, r) in self.sides.iter().zip(&found) {
            for (i, &accuracy) in r.accuracy.iter().enumerate() {
                let name = format!("accuracy after mini-batch {}", i + 1);
                figures.push(Figure { detail: true, ..Figure::share(name, side.role, Some(accuracy)) });
            }
        }
        let mut notes = vec![format!(
            "target: {:.2} % on the forgotten classes; mini-batches of {} samples, learning rate {}, at most {cap}, seed {}",
            100.0 * target,
            self.args.batch_size,
            self.args.relearn_lr,
            self.args.seed
        )];
        if found[0].steps != Some(1) {
            notes.push(
                "The model before needs more than one mini-batch itself: at this learning rate training disturbs what it knew \
                 (as it tends to where BatchNormalization is folded into the layers before it), and RT counts the way back from \
                 that. Lower --relearn-lr until before needs 1, or audit files that have kept it."
                    .into(),
            );
        }
        if !frozen.is_empty() {
            notes.push(format!("BatchNormalization with its stored statistics: {}", frozen.join(", ")));
        }
        match found.get(2).map(|retrained| relearn::index(&found[1], retrained, cap)) {
            Some(Some((value, bound))) => {
                figures.push(Figure { bound, ..Figure::number("AIN", "after, retrained", Some(value)) });
            }
            Some(None) => {
                notes.push("AIN is not known: neither model reached the target; raise --relearn-steps".into());
            }
            None => notes.push("AIN is not assessed: it needs --retrained".into()),
        }
        Ok(Outcome::Assessed { figures, notes })
    }

    /// Relearns a model; false where its BatchNormalization cannot compute with the statistics of a batch.
    fn relearn_one(&self, side: &Side<'_>, target: f64, forgotten: &[usize]) -> Result<(Relearned, bool), AuditError> {
        let Some(train) = &side.train else { return Ok((Relearned { steps: None, accuracy: Vec::new() }, true)) };
        let network = Network::with(side.model, &self.choice)?;
        let batch = self.args.batch_size;
        let (batched, usual) = match self.at_batch(side, &network, BatchNorm::Batch) {
            Err(TrainError::BatchNorm { .. }) => (self.at_batch(side, &network, BatchNorm::Frozen)?, false),
            found => (found?, true),
        };
        // It learns with the statistics of the batch, and is measured with the stored ones.
        let judge = self.at_batch(side, &network, BatchNorm::Frozen)?;
        let weights = batched.with_statistics(&network.weights()?);
        let mut judge = Judge::new(judge.scorer(&weights)?);
        let mut stepper = batched.weight_stepper(&weights, OPTIMIZER, None, batch)?;
        let plan = Plan { target, cap: self.args.relearn_steps, batch, lr: self.args.relearn_lr, seed: self.args.seed };
        let mix = Mix::retain_only(train, batched.row.clone());
        self.printer.note(format!("relearning {}", side.opened.subject.name()));
        let mut progress = Progress::new(self.printer);
        progress.start("relearn", plan.cap);
        let mut accuracy = |weights: &_| {
            let hits = judge.hits(weights, &side.held, forgotten, &mut || !interrupt::asked())?;
            Ok(hits.iter().filter(|hit| **hit).count() as f64 / hits.len() as f64)
        };
        let mut go_on = |step: usize, accuracy: f64| {
            progress.advance(step, &format!("forgotten {:.2} %", 100.0 * accuracy));
            !interrupt::asked()
        };
        let found = relearn::relearn(&mut stepper, &mix, plan, &mut accuracy, &mut go_on)?;
        progress.finish();
        Ok((found, usual))
    }

    /// The network at the batch of the audit.
    fn at_batch<'n>(
        &self,
        side: &Side<'_>,
        network: &'n Network,
        batch_norm: BatchNorm,
    ) -> Result<BatchedNetwork<'n>, TrainError> {
        let n = self.args.batch_size;
        let rows: Vec<usize> = (0..side.held.len().min(n)).collect();
        let samples = side.opened.classifier.samples(&side.held, &rows, n);
        network.at_batch_of(&self.engine, samples, batch_norm)
    }

    pub(super) fn quantisation(&mut self) -> Result<Outcome> {
        or_not_assessed(self.rounded())
    }

    fn rounded(&self) -> Result<Outcome, AuditError> {
        let groups = self.groups();
        let named = ["accuracy on the forgotten classes", "accuracy on the others"];
        let mut figures = Vec::new();
        for side in &self.sides[..2] {
            for (name, rows) in named.iter().zip(&groups) {
                figures.push(Figure::share(format!("as it is: {name}"), side.role, side.outputs.accuracy(rows)));
            }
            let network = Network::with(side.model, &self.choice)?;
            let batched = self.at_batch(side, &network, BatchNorm::Frozen)?;
            let weights = network.weights()?;
            let mut judge = Judge::new(batched.scorer(&weights)?);
            for form in Form::ALL {
                self.printer.note(format!("{} with weights rounded to {}", side.opened.subject.name(), form.name()));
                let rounded = form.round_all(&weights, |name| network.output_axis(name));
                for (name, rows) in named.iter().zip(&groups) {
                    let hits = judge.hits(&rounded, &side.held, rows, &mut || !interrupt::asked())?;
                    let right = hits.iter().filter(|hit| **hit).count() as f64;
                    let share = (!hits.is_empty()).then(|| right / hits.len() as f64);
                    figures.push(Figure::share(format!("{}: {name}", form.name()), side.role, share));
                }
            }
        }
        Ok(assessed(figures))
    }

    pub(super) fn weights(&mut self) -> Result<Outcome> {
        or_not_assessed(self.moved())
    }

    fn moved(&self) -> Result<Outcome, AuditError> {
        let before = Network::with(self.sides[0].model, &self.choice)?;
        let after = Network::with(self.sides[1].model, &self.choice)?;
        let found = weights::moved(&before.weights()?, &after.weights()?);
        let statistics = weights::moved(&before.running_statistics(), &after.running_statistics());
        let Some(together) = found.together else {
            return Ok(not_assessed("the models have no weight tensor of the same name and shape in common"));
        };
        let of = "after, before";
        let mut figures = vec![Figure::number("all weights together", of, Some(together))];
        let mut notes = Vec::new();
        match statistics.together {
            Some(drift) => figures.push(Figure::number("BatchNormalization statistics together", of, Some(drift))),
            None => notes.push("there is no BatchNormalization with stored statistics in both models".to_owned()),
        }
        each(&found, "", &mut figures);
        each(&statistics, "statistic ", &mut figures);
        if !found.unmatched.is_empty() {
            notes.push(format!(
                "{} weight tensors stand in one model only or have another shape",
                found.unmatched.len()
            ));
        }
        Ok(Outcome::Assessed { figures, notes })
    }
}

/// Every tensor by itself, the largest changes first.
fn each(moved: &Moved, kind: &str, figures: &mut Vec<Figure>) {
    let mut tensors = moved.tensors.clone();
    tensors.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    for (i, (name, value)) in tensors.into_iter().enumerate() {
        let figure = Figure::number(format!("{kind}{name}"), "after, before", Some(value));
        figures.push(Figure { detail: i >= MOST_TENSORS || value <= 0.0, ..figure });
    }
}
