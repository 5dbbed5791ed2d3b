//! The figures of a model on a data set, alone and beside another model's.

use super::{
    Evaluation, Predictions,
    distribution::{calibration_error, entropy},
    share,
    statistics::{Discordant, mcnemar, wilson},
};
use serde::Serialize;

/// Which classes a figure is about.
type Pick<'a> = &'a dyn Fn(usize) -> bool;

/// How a class, or several taken together, fared. Shares are from 0 to 1, and `None` where there is nothing to divide by.
///
/// Of several classes everything is micro-averaged: counts are added, then divided. With multi-hot labels a sample counts
/// once for each of its classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// Samples that have the class.
    pub samples: usize,
    /// Those of them that are predicted as it (true positives).
    pub correct: usize,
    /// Samples that are predicted as the class, rightly or not.
    pub predicted: usize,
    /// correct / samples: of all classes the accuracy, of one its recall.
    pub accuracy: Option<f64>,
    /// Wilson's interval of 95 % for the accuracy.
    pub interval: Option<[f64; 2]>,
    /// correct / predicted.
    pub precision: Option<f64>,
    /// 2 correct / (samples + predicted).
    pub f1: Option<f64>,
    /// Mean cross-entropy of the samples in nats; not finite (JSON: null) where scores are not. For independent scores it is
    /// the sum of the binary cross-entropies of all classes.
    pub loss: Option<f64>,
}

/// The same classes measured on a model and on the first one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Versus {
    /// Accuracy minus that of the first model.
    pub difference: Option<f64>,
    /// Labels that only one of the two predicts.
    #[serde(flatten)]
    pub discordant: Discordant,
    /// McNemar's exact test; `None` without samples.
    pub p_value: Option<f64>,
}

/// Where the samples of a class are predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// The class of the labels.
    pub class: usize,
    /// Its samples with finite scores, of which the shares are shares.
    pub samples: usize,
    /// Its samples whose scores are not finite.
    pub not_finite: usize,
    /// The classes they are predicted as, the most frequent one first.
    pub predicted: Vec<Share>,
    /// Entropy of these shares in bits.
    pub entropy: Option<f64>,
    /// The same divided by log2 of the number of classes: 1 where all classes are equally frequent.
    pub normalised_entropy: Option<f64>,
    /// The largest of the shares.
    pub top1_share: Option<f64>,
}

/// A class among those that samples are predicted as.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The predicted class.
    pub class: usize,
    /// Samples.
    pub samples: usize,
    /// Their share.
    pub share: f64,
}

/// The figures of a model beside those of the first one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// All classes.
    pub overall: Versus,
    /// The routed classes; `None` where there are none.
    pub routed: Option<Versus>,
    /// The other classes; `None` where none are routed.
    pub others: Option<Versus>,
    /// Each class.
    pub classes: Vec<Versus>,
    /// Share of the predictions that are the same.
    pub agreement: f64,
    /// Mean Jensen-Shannon divergence in bits, see [`Predictions::of`]; `None` unless both models end in a softmax.
    pub js_divergence: Option<f64>,
}

/// The figures of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// All classes.
    pub overall: Group,
    /// The routed classes; `None` where there are none.
    pub routed: Option<Group>,
    /// The other classes; `None` where none are routed.
    pub others: Option<Group>,
    /// Expected calibration error over the predictions with finite scores; `None` with multi-hot labels, which have no
    /// predicted class to be sure of.
    pub calibration_error: Option<f64>,
    /// Predictions whose scores are not finite. They count as wrong.
    pub not_finite: usize,
    /// Their share.
    pub not_finite_share: f64,
    /// Each class.
    pub classes: Vec<Group>,
    /// Where the routed classes go.
    pub routing: Vec<Route>,
    /// Predictions by class (row) and predicted class (column), those with finite scores; `None` with multi-hot labels.
    pub confusion: Option<Vec<Vec<usize>>>,
    /// Beside the first model; `None` for itself.
    pub versus_first: Option<Comparison>,
}

impl Measurement {
    /// The figures of these predictions. `route` are classes whose samples are followed (none with multi-hot labels);
    /// `first` are the predictions of the first model on the same data, where this is another one.
    pub fn of(p: &Predictions, route: &[usize], first: Option<&Predictions>) -> Self {
        let e = &p.evaluation;
        let confusion = (!e.multi_hot()).then(|| confusion(p));
        let predicted: Vec<usize> = match &confusion {
            Some(rows) => (0..rows.len()).map(|c| rows.iter().map(|row| row[c]).sum()).collect(),
            None => e.classes.iter().map(|c| c.correct + c.negatives.unwrap_or_default().false_positives).collect(),
        };
        let group = |pick: Pick<'_>| group(e, &predicted, pick);
        let is_routed = |c: usize| route.contains(&c);
        let some = |pick: Pick<'_>| (!route.is_empty()).then(|| group(pick));
        let pairs = p.top.iter().zip(&p.confidence).zip(&e.hits).filter(|((top, _), _)| top.is_some());
        let pairs = pairs.map(|((_, &confidence), &(_, hit))| (f64::from(confidence), hit));
        Self {
            overall: group(&|_| true),
            routed: some(&is_routed),
            others: some(&|c| !is_routed(c)),
            calibration_error: if e.multi_hot() { None } else { calibration_error(pairs) },
            not_finite: e.not_finite,
            not_finite_share: share(e.not_finite, p.top.len()).unwrap_or(0.0),
            classes: (0..e.classes.len()).map(|c| group(&|other| other == c)).collect(),
            routing: confusion.iter().flat_map(|rows| route.iter().map(|&c| routing(e, c, &rows[c]))).collect(),
            confusion,
            versus_first: first.map(|first| comparison(p, route, first)),
        }
    }
}

fn group(e: &Evaluation, predicted: &[usize], pick: Pick<'_>) -> Group {
    let picked = || (0..e.classes.len()).filter(|&c| pick(c));
    let samples = picked().map(|c| e.classes[c].total).sum();
    let correct = picked().map(|c| e.classes[c].correct).sum();
    let predicted = picked().map(|c| predicted[c]).sum();
    Group {
        samples,
        correct,
        predicted,
        accuracy: share(correct, samples),
        interval: wilson(correct, samples),
        precision: share(correct, predicted),
        f1: share(2 * correct, samples + predicted),
        loss: e.loss(pick),
    }
}

/// Every label has one prediction here, so that both stand in the same order.
fn confusion(p: &Predictions) -> Vec<Vec<usize>> {
    let classes = p.evaluation.classes.len();
    let mut rows = vec![vec![0; classes]; classes];
    for (&(label, _), top) in p.evaluation.hits.iter().zip(&p.top) {
        if let Some(top) = top {
            rows[label][*top as usize] += 1;
        }
    }
    rows
}

impl Evaluation {
    /// Where the samples of a class are predicted; `None` where there are none of it, and with multi-hot labels, where a
    /// sample may be predicted as many classes.
    pub fn route(&self, class: usize) -> Option<Route> {
        let mut row = vec![0; self.classes.len()];
        let tops = self.hits.iter().zip(&self.top).filter(|((label, _), _)| *label == class);
        tops.filter_map(|(_, top)| *top).for_each(|top| row[top] += 1);
        (!self.multi_hot() && self.classes[class].total > 0).then(|| routing(self, class, &row))
    }
}

fn routing(e: &Evaluation, class: usize, row: &[usize]) -> Route {
    let samples: usize = row.iter().sum();
    let bits = entropy(row);
    let shares = row.iter().enumerate().filter(|(_, n)| **n > 0);
    let mut predicted: Vec<Share> =
        shares.map(|(class, &n)| Share { class, samples: n, share: n as f64 / samples as f64 }).collect();
    predicted.sort_by_key(|s| (std::cmp::Reverse(s.samples), s.class));
    Route {
        class,
        samples,
        not_finite: e.classes[class].total - samples,
        entropy: bits,
        normalised_entropy: bits.map(|bits| bits / (row.len() as f64).log2()),
        top1_share: predicted.first().map(|s| s.share),
        predicted,
    }
}

fn comparison(p: &Predictions, route: &[usize], first: &Predictions) -> Comparison {
    let versus = |pick: Pick<'_>| {
        let mut discordant = Discordant::default();
        let pairs = first.evaluation.hits.iter().zip(&p.evaluation.hits);
        for ((_, a), (_, b)) in pairs.filter(|((class, _), _)| pick(*class)) {
            discordant.only_first += usize::from(*a && !b);
            discordant.only_second += usize::from(!a && *b);
        }
        let accuracies = p.evaluation.accuracy(pick).zip(first.evaluation.accuracy(pick));
        let difference = accuracies.map(|(this, first)| this - first);
        Versus { difference, discordant, p_value: difference.map(|_| mcnemar(discordant)) }
    };
    let is_routed = |c: usize| route.contains(&c);
    let some = |pick: Pick<'_>| (!route.is_empty()).then(|| versus(pick));
    Comparison {
        overall: versus(&|_| true),
        routed: some(&is_routed),
        others: some(&|c| !is_routed(c)),
        classes: (0..p.evaluation.classes.len()).map(|c| versus(&|other| other == c)).collect(),
        agreement: p.agreement(first),
        js_divergence: p.divergence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Scores;
    use ndarray::ArrayView1;

    /// Predictions of probabilities 0.8 for the class named and 0.1 for the other two.
    fn predicted(rows: &[(u32, Option<usize>)]) -> Predictions {
        let mut p = Predictions { evaluation: Evaluation::new(3, false), ..Predictions::default() };
        for &(label, top) in rows {
            let mut row = [0.1f32; 3];
            row[top.unwrap_or(0)] = if top.is_some() { 0.8 } else { f32::NAN };
            p.evaluation.add(&ArrayView1::from(&row), &[label], Scores::Probabilities);
            p.top.push(top.map(|c| c as u32));
            p.confidence.push(if top.is_some() { 0.8 } else { 0.0 });
        }
        p
    }

    #[test]
    fn figures_by_hand() {
        let p = predicted(&[(0, Some(0)), (0, Some(0)), (0, Some(1)), (0, None), (1, Some(1)), (2, Some(0))]);
        let m = Measurement::of(&p, &[0], None);
        assert_eq!(m.confusion, Some(vec![vec![2, 1, 0], vec![0, 1, 0], vec![1, 0, 0]]));
        let zero = &m.classes[0];
        assert_eq!((zero.samples, zero.correct, zero.predicted), (4, 2, 3));
        assert_eq!((zero.accuracy, zero.precision, zero.f1), (Some(0.5), Some(2.0 / 3.0), Some(4.0 / 7.0)));
        assert_eq!(m.classes[2].precision, None);
        assert_eq!((m.overall.accuracy, m.not_finite), (Some(0.5), 1));
        assert_eq!(m.routed.map(|g| g.accuracy), Some(Some(0.5)));
        assert_eq!(m.others.map(|g| (g.samples, g.correct)), Some((2, 1)));
        // A class that is never wrong costs -ln 0.8.
        assert!((m.classes[1].loss.expect("a loss") + 0.8f64.ln()).abs() < 1e-6);
        assert_eq!(zero.loss, Some(f64::INFINITY));
        // Five finite ones at 0.8, of which three are right: |3/5 - 0.8|.
        assert!((m.calibration_error.expect("samples") - 0.2).abs() < 1e-6);
        let route = &m.routing[0];
        assert_eq!((route.samples, route.not_finite), (3, 1));
        let shares: Vec<_> = route.predicted.iter().map(|s| (s.class, s.samples)).collect();
        assert_eq!((shares, route.top1_share), (vec![(0, 2), (1, 1)], Some(2.0 / 3.0)));
        assert_eq!(p.evaluation.route(0).as_ref(), Some(route), "told without the confusion of all classes");
        assert_eq!(Evaluation::new(3, false).route(0), None);
        // 2/3 log2(3/2) + 1/3 log2 3 = log2 3 - 2/3.
        let bits = 3f64.log2() - 2.0 / 3.0;
        assert!((route.entropy.expect("samples") - bits).abs() < 1e-12);
        assert!((route.normalised_entropy.expect("samples") - bits / 3f64.log2()).abs() < 1e-12);
    }

    #[test]
    fn two_models_by_hand() {
        let first = predicted(&[(0, Some(0)), (0, Some(0)), (0, Some(1)), (1, Some(1))]);
        let second = predicted(&[(0, Some(1)), (0, Some(2)), (0, Some(1)), (1, Some(1))]);
        let m = Measurement::of(&second, &[], Some(&first));
        let versus = m.versus_first.expect("a comparison");
        assert_eq!(versus.overall.difference, Some(-0.5));
        assert_eq!(versus.overall.discordant, Discordant { only_first: 2, only_second: 0 });
        // 2 * 1/4.
        assert_eq!(versus.overall.p_value, Some(0.5));
        assert_eq!(versus.classes[1].p_value, Some(1.0));
        assert_eq!((versus.classes[2].difference, versus.classes[2].p_value), (None, None));
        assert_eq!((versus.agreement, versus.js_divergence, versus.routed), (0.5, None, None));
    }
}
