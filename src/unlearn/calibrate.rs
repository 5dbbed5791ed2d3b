//! Finds the learning rates of impair and repair by trials.
//!
//! Every trial trains from the source weights and is judged on samples that it did not learn from: whether the classes are
//! gone, and what the others lost. `course` runs them, `ladder` says which rate comes next; `docs/method.md` has the rule
//! and the measurements behind it.

use super::{
    Depth, Material, Outcome, Recipe, Sign, Trial, Trials, Turned, UnlearnError, Watch,
    course::{Course, Repairs, chosen, mildest, taken, tried},
    ladder::{self, Search},
};
use crate::{
    data::Dataset,
    train::{Optimizer, Weights},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Instant};

/// Of every so many retained samples one validates.
pub const HELD: usize = 10;

/// Of every so many samples of held-out data one judges trials. Of 1,000 samples of a class, 333: if none of them is known,
/// the class is known by less than 1 % with 95 % confidence (the rule of three), and 667 are left for the verdict.
pub const JUDGING: usize = 3;

/// Share of turned samples up to which a class counts as gone where nothing else tells.
pub const GONE: f64 = 0.02;

/// The same beside real samples of the class, of which there may be few.
pub const GONE_BESIDE: f64 = 0.05;

/// Up to this part of the largest fall, the others are spared: a milder rate would gain little more than chance.
const SPARED: f64 = 0.25;

/// A model that has lost this part of its accuracy is destroyed: what it knows says nothing about milder rates.
const DESTROYED: f64 = 0.25;

/// A sign is of use where the source model takes at least this share of the turned samples for the class.
const USABLE: f64 = 0.8;

/// What a trial is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Largest share of turned samples that may be taken for their class.
    pub turned: f64,
    /// The same for a class of which there are held-out samples.
    pub turned_beside: f64,
    /// Largest accuracy on held-out samples of a forgotten class, where there are any.
    pub forget: f64,
    /// Largest fall of the accuracy (micro-F1, where labels are multi-hot) on validation samples, with what its
    /// standard error adds or takes away (`keeps`).
    pub drop: f64,
}

/// Held-out samples that judge trials; the verdict does not measure on them.
pub struct Validation<'d> {
    /// The data.
    pub data: &'d Dataset,
    /// Numbers of the samples.
    pub rows: Vec<usize>,
}

/// One trial.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Learning rate of impair.
    pub impair_lr: f64,
    /// Learning rate of repair.
    pub repair_lr: f64,
    /// Steps of both phases.
    pub steps: usize,
    /// Wall time in seconds, measuring included.
    #[serde(skip)]
    pub seconds: f64,
    /// Loss at the end of impair and of repair.
    pub loss: Option<[f32; 2]>,
    /// Share of turned samples that are still taken for their class, for each class.
    pub turned: Vec<Sign>,
    /// Accuracy on held-out samples of each class forgotten now or before that has some.
    pub forget: Vec<Sign>,
    /// Quality (accuracy, or micro-F1 where labels are multi-hot) on validation samples of the retained classes.
    pub retain: Option<f64>,
    /// Whether the label of each validation sample of a retained class was predicted.
    #[serde(skip)]
    pub hits: Vec<bool>,
    /// How the trial was judged.
    pub outcome: Outcome,
}

impl Row {
    /// True where the classes are gone and the others are kept.
    pub(super) fn fits(&self) -> bool {
        matches!(self.outcome, Outcome::Fits | Outcome::Spares)
    }

    pub(super) fn quality(&self) -> f64 {
        self.retain.unwrap_or(f64::NEG_INFINITY)
    }
}

/// Most phases that a calibration trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Budget {
    /// Runs of impair, each at a rate of its own.
    pub impair: usize,
    /// Runs of repair.
    pub repair: usize,
}

/// What a calibration did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// What it could have done at most.
    pub budget: Budget,
    /// What trials were judged by.
    pub limits: Limits,
    /// `retain` or `eval`: where the validation samples come from.
    pub judged_on: &'static str,
    /// Validation samples.
    pub samples: usize,
    /// What the source model is: rate 0.
    pub source: Row,
    /// The trials, in the order they were done.
    pub trials: Vec<Row>,
    /// Number of the trial whose settings were taken; none where no trial kept the other classes.
    pub chosen: Option<usize>,
}

impl Calibration {
    /// True where the strongest rate that keeps the others was looked for, at this depth.
    pub fn strongest(&self, depth: Depth) -> bool {
        Search::of(depth, self.judged_on == "eval") == Search::Strongest
    }

    /// The learning rates of impair and repair that were found; the mildest that were tried where none kept the others.
    pub fn rates(&self) -> (f64, f64) {
        let row = self.chosen.or_else(|| mildest(&self.trials)).map(|i| &self.trials[i]);
        row.map_or((0.0, 0.0), |r| (r.impair_lr, r.repair_lr))
    }
}

/// What trials are judged with.
pub struct Calibrator<'a> {
    /// Settings that stay the same.
    pub recipe: &'a Recipe,
    /// The retain sample.
    pub retain: &'a Dataset,
    /// Held-out samples, if there are any.
    pub validation: Option<Validation<'a>>,
    /// Turned samples of each class.
    pub turned: Vec<Turned>,
    /// What trials are judged by.
    pub limits: Limits,
}

/// Parts the samples of a data set: of every `every` samples of a class (their first one, where they have several) the
/// last one comes into the second part.
pub fn split(data: &Dataset, every: usize) -> (Vec<usize>, Vec<usize>) {
    let first = |i| data.labels_of(i).next().and_then(|labels| labels.first().copied());
    split_by(data.len(), first, every)
}

fn split_by(n: usize, class: impl Fn(usize) -> Option<u32>, every: usize) -> (Vec<usize>, Vec<usize>) {
    let mut seen: BTreeMap<Option<u32>, usize> = BTreeMap::new();
    (0..n).partition(|&i| {
        let seen = seen.entry(class(i)).or_default();
        *seen += 1;
        !seen.is_multiple_of(every)
    })
}

impl Calibrator<'_> {
    /// Runs trials until the rate is known well enough. `material` leaves out the validation samples `held`. Where held-out
    /// data validates, the trial whose rates are taken is what a run with them would be, and comes along.
    pub fn run(
        &self,
        trials: &mut Trials<'_>,
        material: &Material<'_>,
        held: &[usize],
        watch: &mut dyn Watch,
        mut tell: impl FnMut(&Row),
    ) -> Result<(Calibration, Option<Trial>), UnlearnError> {
        let start = match self.recipe.optimizer {
            Optimizer::Adam { .. } => 4e-4,
            Optimizer::Sgd { .. } => 1e-2,
        };
        let source = self.judged(trials, &trials.start().clone(), held)?;
        tell(&source);
        let mut course = Course {
            calibrator: self,
            trials,
            material,
            held,
            watch,
            tell: &mut tell,
            source,
            rows: Vec::new(),
            result: None,
            started: Instant::now(),
        };
        let mut repairs = Repairs::new(self.recipe.depth);
        while let Some(rate) = ladder::next(&tried(&course.rows), self.search(), start) {
            let impaired = course.impair(rate)?;
            let suffered = course.repair(impaired.as_ref(), rate, repairs.part * rate)?;
            if let (Some(part), Some(impaired)) = (repairs.gentler.filter(|_| suffered), &impaired) {
                course.repair(Some(impaired), rate, part * rate)?;
                repairs.settle(&course.rows[course.rows.len() - 2..]);
            }
        }
        let (judged_on, samples) = match &self.validation {
            Some(v) => ("eval", v.rows.len()),
            None => ("retain", held.len()),
        };
        let Course { source, rows, result, .. } = course;
        let (chosen, taken) = (chosen(&rows, self.search()), taken(&rows, self.search()));
        let result = result.filter(|(number, _)| Some(*number) == taken).map(|(_, trial)| trial);
        let budget = Budget { impair: ladder::TRIALS, repair: ladder::TRIALS + Repairs::most(self.recipe.depth) };
        Ok((Calibration { budget, limits: self.limits, judged_on, samples, source, chosen, trials: rows }, result))
    }

    pub(super) fn search(&self) -> Search {
        Search::of(self.recipe.depth, self.validation.is_some())
    }

    /// Measures weights; the outcome is still open.
    pub(super) fn judged(
        &self,
        trials: &mut Trials<'_>,
        weights: &Weights,
        held: &[usize],
    ) -> Result<Row, UnlearnError> {
        let kept = |c: usize| self.recipe.keeps(c);
        let found = match &self.validation {
            Some(v) => trials.evaluate(weights, v.data, &v.rows)?,
            None => trials.evaluate(weights, self.retain, held)?,
        };
        let of = |&class: &usize| Some(Sign { class, known: found.accuracy(|c| c == class)? });
        let mut signs = Vec::new();
        for turned in &self.turned {
            let scores = trials.scores_of_full_rows(weights, &turned.rows)?;
            signs.push(turned.sign(&scores, self.retain.classes(), trials.independent()));
        }
        Ok(Row {
            impair_lr: 0.0,
            repair_lr: 0.0,
            steps: 0,
            seconds: 0.0,
            loss: None,
            turned: signs,
            forget: self.recipe.forgotten().iter().filter_map(of).collect(),
            retain: found.quality(kept),
            hits: found.hits.iter().filter(|(class, _)| kept(*class)).map(|&(_, hit)| hit).collect(),
            outcome: Outcome::TooWeak,
        })
    }

    /// Judges all trials so far, beside the source model or, where it was trained on the validation samples, beside the best
    /// trial: training without them costs accuracy on them that no learning rate can keep. That takes two impair rates;
    /// until then a fall is a reason to look at a milder one.
    pub(super) fn judge(&self, source: &Row, rows: &mut [Row]) {
        let best = rows.iter().max_by(|a, b| a.quality().total_cmp(&b.quality())).cloned();
        let held_out = self.validation.is_some();
        let compared = rows.iter().any(|row| row.impair_lr.total_cmp(&rows[0].impair_lr).is_ne());
        let memorised = |best: &Row| !held_out && compared && best.quality() < source.quality();
        let beside = best.filter(memorised).unwrap_or_else(|| source.clone());
        for row in rows {
            let drop = beside.quality() - row.quality();
            let error = standard_error(&beside.hits, &row.hits);
            let kept = keeps(self.search(), drop, error, self.limits.drop);
            let gone = self.recipe.forget.iter().all(|&class| self.gone(source, row, class))
                && self.recipe.forgotten_before.iter().all(|&class| self.still_gone(source, row, class));
            let spared = self.spares(source, row);
            let destroyed = row.loss.is_none() || drop > DESTROYED * beside.quality();
            row.outcome = match (gone, kept) {
                _ if destroyed => Outcome::Destroys,
                (true, true) if spared => Outcome::Spares,
                (true, true) => Outcome::Fits,
                (true, false) => Outcome::TooStrong,
                (false, true) => Outcome::TooWeak,
                (false, false) => Outcome::Harms,
            };
        }
    }

    /// True where the others have lost next to nothing.
    pub(super) fn spares(&self, source: &Row, row: &Row) -> bool {
        source.quality() - row.quality() <= SPARED * self.limits.drop
    }

    /// True when everything that tells says that a class is gone. Where nothing tells, it counts as known.
    fn gone(&self, source: &Row, row: &Row, class: usize) -> bool {
        let turned = known(&row.turned, class).filter(|_| known(&source.turned, class).is_some_and(|k| k >= USABLE));
        match (known(&row.forget, class), turned) {
            (Some(real), Some(turned)) => real <= self.limits.forget && turned <= self.limits.turned_beside,
            (Some(real), None) => real <= self.limits.forget,
            (None, Some(turned)) => turned <= self.limits.turned,
            (None, None) => false,
        }
    }

    /// True unless held-out samples of a class that was forgotten before show more of it than the source model knew.
    fn still_gone(&self, source: &Row, row: &Row, class: usize) -> bool {
        let before = known(&source.forget, class).unwrap_or(0.0);
        known(&row.forget, class).is_none_or(|now| now <= self.limits.forget.max(before))
    }
}

/// What a list of signs says of a class.
fn known(signs: &[Sign], class: usize) -> Option<f64> {
    signs.iter().find(|s| s.class == class).map(|s| s.known)
}

/// Whether a fall with this standard error keeps the others. The strongest rate is on the edge, and has to stay an error away
/// from it, or as far as the limit lets it. The mildest is not, and where an error is more than half of the limit, because
/// few samples judge, what is beyond that half may be chance.
fn keeps(search: Search, drop: f64, error: f64, limit: f64) -> bool {
    let margin = match search {
        Search::Strongest => error.min((limit - error).max(0.0)),
        Search::Mildest => -(error - limit / 2.0).max(0.0),
    };
    drop + margin <= limit
}

/// Standard error of the difference of two accuracies on the same samples, from those that only one of them gets right.
fn standard_error(a: &[bool], b: &[bool]) -> f64 {
    let n = a.len().min(b.len());
    let differ = a.iter().zip(b).filter(|(a, b)| a != b).count();
    let gained = a.iter().zip(b).filter(|(a, b)| !**a && **b).count() as f64;
    let (n, differ) = (n.max(1) as f64, differ as f64);
    let mean = (differ - 2.0 * gained) / n;
    ((differ / n - mean * mean).max(0.0) / n).sqrt()
}

#[cfg(test)]
mod tests {
    use super::{Search, keeps, split_by, standard_error};

    #[test]
    fn what_few_samples_show_may_be_chance() {
        // Largest fall that is kept, in tenths of a point, with a limit of 2 points.
        let most =
            |search, error: f64| (0..100).rev().find(|&tenths| keeps(search, f64::from(tenths) / 1e3, error, 0.02));
        let of = |search| {
            [0.0, 0.0051, 0.0099, 0.0101, 0.0151, 0.0301].map(|error| most(search, error).expect("none is kept"))
        };
        assert_eq!(of(Search::Mildest), [20, 20, 20, 20, 25, 40]);
        assert_eq!(of(Search::Strongest), [20, 14, 10, 10, 15, 20]);
    }

    #[test]
    fn a_part_of_each_class_is_split_off() {
        let class = |i: usize| Some(u32::from(i.is_multiple_of(3)));
        let (train, held) = split_by(60, class, 10);
        assert_eq!((train.len(), held.len()), (54, 6));
        assert_eq!(held.iter().filter(|&&i| class(i) == Some(1)).count(), 2);
        // Too few samples of a class to spare one.
        assert_eq!(split_by(9, |_| Some(0), 10), ((0..9).collect(), Vec::new()));
    }

    #[test]
    fn the_error_of_a_difference_comes_from_what_differs() {
        assert!(standard_error(&[true; 100], &[true; 100]) < 1e-12);
        // Eight lost and two gained of 100: variance of values -1, 0, 1 around 0.06.
        let a: Vec<bool> = (0..100).map(|i| !(8..10).contains(&i)).collect();
        let b: Vec<bool> = (0..100).map(|i| i >= 8).collect();
        assert!((standard_error(&a, &b) - ((0.1 - 0.0036) / 100.0f64).sqrt()).abs() < 1e-12);
    }
}
