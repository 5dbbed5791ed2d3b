//! The trials of a calibration as they go: train, measure, judge, and keep the one that would be taken.

use super::{
    Calibrator, Depth, Material, Outcome, PhaseRecord, PhaseSettings, Row, Trial, Trials, UnlearnError, Watch,
    ladder::{self, Search},
};
use crate::train::Snapshot;
use std::time::Instant;

/// Times that a gentler repair is tried without telling which is better.
const MOST_ASKED: usize = 2;

/// Trials so far, and what the next one needs.
pub(super) struct Course<'a, 't, 'n> {
    pub calibrator: &'a Calibrator<'a>,
    pub trials: &'a mut Trials<'n>,
    pub material: &'a Material<'a>,
    /// Retained samples that validate.
    pub held: &'a [usize],
    pub watch: &'a mut dyn Watch,
    pub tell: &'t mut dyn FnMut(&Row),
    pub source: Row,
    pub rows: Vec<Row>,
    /// The trial that would be taken, and its number, where trials train on all that a run would.
    pub result: Option<(usize, Trial)>,
    /// When the present trial began.
    pub started: Instant,
}

impl Course<'_, '_, '_> {
    /// The first phase of a trial; none where it diverges.
    pub fn impair(&mut self, lr: f64) -> Result<Option<(Snapshot, PhaseRecord)>, UnlearnError> {
        self.started = Instant::now();
        let settings = PhaseSettings { lr, ..self.calibrator.recipe.impair };
        borne(self.trials.impair(self.material, settings, self.watch))
    }

    /// The second phase, and what the trial came to. True where the others have suffered from it, but are not destroyed, and
    /// where it diverged.
    pub fn repair(
        &mut self,
        impaired: Option<&(Snapshot, PhaseRecord)>,
        impair_lr: f64,
        repair_lr: f64,
    ) -> Result<bool, UnlearnError> {
        let settings = PhaseSettings { lr: repair_lr, ..self.calibrator.recipe.repair };
        let trial = match impaired {
            Some(impaired) => borne(self.trials.repair(self.material, impaired, settings, self.watch))?,
            None => None,
        };
        let row = match &trial {
            Some(Trial { weights: [_, weights], phases: [first, second] }) => Row {
                steps: first.steps + second.steps,
                loss: Some([first.last_loss, second.last_loss]),
                ..self.calibrator.judged(self.trials, &weights.weights()?, self.held)?
            },
            // The rate is beyond what the model bears, which is an answer.
            None => Row { retain: None, ..self.source.clone() },
        };
        let seconds = self.started.elapsed().as_secs_f64();
        self.started = Instant::now();
        self.rows.push(Row { impair_lr, repair_lr, seconds, ..row });
        self.calibrator.judge(&self.source, &mut self.rows);
        let last = self.rows.len() - 1;
        // Beside the source model alone, outcomes stay what they are, so that either this one is taken or the one before.
        if self.calibrator.validation.is_some() && taken(&self.rows, self.calibrator.search()) == Some(last) {
            self.result = trial.map(|trial| (last, trial));
        }
        let row = &self.rows[last];
        (self.tell)(row);
        let destroyed = row.outcome == Outcome::Destroys && row.loss.is_some();
        Ok(!destroyed && !self.calibrator.spares(&self.source, row))
    }
}

/// What was trained; none where the loss was no number.
fn borne<T>(trained: Result<T, UnlearnError>) -> Result<Option<T>, UnlearnError> {
    match trained {
        Ok(trained) => Ok(Some(trained)),
        Err(UnlearnError::NotFinite { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The rate of repair as a part of that of impair, and whether a gentler one is to be tried.
pub(super) struct Repairs {
    /// What trials take.
    pub part: f64,
    /// What is to be tried once the others suffer.
    pub gentler: Option<f64>,
    asked: usize,
}

impl Repairs {
    pub fn new(depth: Depth) -> Self {
        Self { part: depth.repair(), gentler: depth.gentler_repair(), asked: 0 }
    }

    /// Most gentler repairs that trials try beside the usual one.
    pub fn most(depth: Depth) -> usize {
        depth.gentler_repair().map_or(0, |_| MOST_ASKED)
    }

    /// Looks at a trial with the usual repair and the same with the gentler one. Where either fits, the better one is taken
    /// from now on; where none does, chance would decide.
    pub fn settle(&mut self, pair: &[Row]) {
        self.asked += 1;
        let fits = pair.iter().any(Row::fits);
        if fits && best(pair) == [1] {
            self.part = self.gentler.unwrap_or(self.part);
        }
        if fits || self.asked == MOST_ASKED {
            self.gentler = None;
        }
    }
}

/// Impair rates that were tried, and what came of them with the better repair.
pub(super) fn tried(rows: &[Row]) -> Vec<(f64, Outcome)> {
    best(rows).iter().map(|&i| (rows[i].impair_lr, rows[i].outcome)).collect()
}

/// Number of the trial that decides ([`ladder::chosen`]).
pub(super) fn chosen(rows: &[Row], search: Search) -> Option<usize> {
    ladder::chosen(&tried(rows), search).map(|i| best(rows)[i])
}

/// Number of the trial whose rates are taken: the one that decides, else the mildest.
pub(super) fn taken(rows: &[Row], search: Search) -> Option<usize> {
    chosen(rows, search).or_else(|| mildest(rows))
}

/// Number of the trial with the smallest rate of impair.
pub(super) fn mildest(rows: &[Row]) -> Option<usize> {
    best(rows).into_iter().min_by(|&a, &b| rows[a].impair_lr.total_cmp(&rows[b].impair_lr))
}

/// Numbers of the rows, but for each impair rate only the one with the better repair: the one that forgets and keeps the
/// others, then the one that keeps more of them. Rows of the same rate follow each other.
fn best(rows: &[Row]) -> Vec<usize> {
    let worth = |row: &Row| (row.fits(), row.quality());
    let mut best: Vec<usize> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        match best.last_mut().filter(|last| rows[**last].impair_lr.total_cmp(&row.impair_lr).is_eq()) {
            Some(last) if worth(row) > worth(&rows[*last]) => *last = i,
            Some(_) => (),
            None => best.push(i),
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(impair_lr: f64, retain: Option<f64>, outcome: Outcome) -> Row {
        Row {
            impair_lr,
            repair_lr: 0.0,
            steps: 1,
            seconds: 0.0,
            loss: retain.map(|_| [0.0; 2]),
            turned: Vec::new(),
            forget: Vec::new(),
            retain,
            hits: Vec::new(),
            outcome,
        }
    }

    #[test]
    fn the_better_repair_stands_for_its_rate() {
        use Outcome::{Destroys, Fits, Harms, TooStrong, TooWeak};
        let best_of = |a, b| best(&[row(1.0, Some(0.8), TooWeak), a, b]);
        // What fits is better than what keeps more, then more is better, and a tie keeps the first.
        assert_eq!(best_of(row(2.0, Some(0.7), Fits), row(2.0, Some(0.8), TooWeak)), [0, 1]);
        assert_eq!(best_of(row(2.0, Some(0.8), TooStrong), row(2.0, Some(0.7), Fits)), [0, 2]);
        assert_eq!(best_of(row(2.0, Some(0.7), Harms), row(2.0, Some(0.8), Harms)), [0, 2]);
        assert_eq!(best_of(row(2.0, Some(0.7), Fits), row(2.0, Some(0.7), Fits)), [0, 1]);
        // A loss that was no number never wins.
        assert_eq!(best_of(row(2.0, Some(0.1), Harms), row(2.0, None, Destroys)), [0, 1]);
        assert_eq!(best_of(row(2.0, None, Destroys), row(2.0, Some(0.1), Harms)), [0, 2]);
    }

    #[test]
    fn where_none_keeps_the_others_the_better_of_the_mildest_is_taken() {
        let rows = [
            row(1.0, Some(0.5), Outcome::Harms),
            row(1.0, Some(0.6), Outcome::Harms),
            row(2.0, Some(0.4), Outcome::Harms),
        ];
        assert_eq!((chosen(&rows, Search::Mildest), taken(&rows, Search::Mildest)), (None, Some(1)));
    }

    #[test]
    fn the_repair_is_settled_by_a_trial_that_fits_or_given_up() {
        use Outcome::{Fits, Spares, TooStrong};
        let fits = row(1.0, Some(0.7), Fits);
        let mut repairs = Repairs::new(Depth::Standard);
        let is = |repairs: &Repairs, part: f64| (repairs.part - part).abs() < 1e-12;
        repairs.settle(&[fits.clone(), row(1.0, Some(0.8), Spares)]);
        assert!(is(&repairs, 0.1) && repairs.gentler.is_none());

        let mut repairs = Repairs::new(Depth::Standard);
        repairs.settle(&[row(1.0, Some(0.6), TooStrong), row(1.0, Some(0.7), TooStrong)]);
        assert!(is(&repairs, 0.5) && repairs.gentler.is_some(), "undecided");
        repairs.settle(&[fits.clone(), row(1.0, Some(0.6), TooStrong)]);
        assert!(is(&repairs, 0.5) && repairs.gentler.is_none());
        assert!(Repairs::new(Depth::Deep).gentler.is_none());
    }
}
