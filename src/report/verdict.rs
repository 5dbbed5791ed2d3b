//! Gates: what was asked, what was measured, and what it comes to.

use crate::evaluate::{Evaluation, wilson};
use serde::Serialize;
use std::fmt::Write;

/// Thresholds, fixed before the run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gates {
    /// Largest accuracy on the forgotten classes (multi-hot labels: recall), 0 to 1.
    pub max_forget_accuracy: f64,
    /// Largest fall of the accuracy on the retained classes (multi-hot labels: micro-F1), 0 to 1.
    pub max_retain_drop: f64,
}

/// What became of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GateOutcome {
    /// Measured, and within the threshold.
    Pass,
    /// Measured, and beyond it.
    Fail,
    /// Could not be measured.
    NotAssessed,
}

impl GateOutcome {
    /// How it is printed.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::NotAssessed => "not assessed",
        }
    }
}

/// One gate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// `forget` or `retain`.
    pub name: &'static str,
    /// What became of it.
    pub outcome: GateOutcome,
    /// What is measured: `accuracy`, `recall` or `micro-F1`.
    pub measure: &'static str,
    /// The threshold.
    pub threshold: f64,
    /// What was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// What was measured on what, in words.
    pub detail: String,
}

/// The overall verdict: fail if any gate failed, else pass if every gate passed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Overall.
    pub outcome: GateOutcome,
    /// Gate by gate.
    pub gates: Vec<Gate>,
}

/// The three measurements of a run on the same data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// `eval` (held out) or `retain` (the sample that was trained on).
    pub on: &'static str,
    /// The source model.
    pub before: Evaluation,
    /// After the impair phase.
    pub after_impair: Evaluation,
    /// The finished bytes.
    pub after_repair: Evaluation,
}

impl Gates {
    /// What a detail adds about classes that were forgotten before; `worst` is the class that decides, and its accuracy.
    fn of_earlier(&self, after: &Evaluation, before: &[usize], worst: Option<(usize, f64)>) -> String {
        let mut text = String::new();
        if let Some((class, accuracy)) = worst
            && before.contains(&class)
            && accuracy > self.max_forget_accuracy
        {
            let _ = write!(text, "; class {class} was forgotten before: name it in --forget to forget it again");
        }
        let unseen = before.iter().filter(|&&c| after.classes[c].total == 0).map(ToString::to_string);
        let unseen: Vec<String> = unseen.collect();
        if !unseen.is_empty() {
            let _ = write!(text, "; not looked at, for want of samples: class {}, forgotten before", unseen.join(", "));
        }
        text
    }

    /// Judges the measurements. Without samples of a forgotten class forgetting is not assessed; with `on` other than
    /// held-out data the retain gate can fail but not pass, because the sample was trained on. The classes `before` were
    /// forgotten by earlier runs, and have to stay so.
    pub fn judge(&self, m: &Measured, forget: &[usize], before: &[usize]) -> Verdict {
        let kept = |c: usize| !forget.contains(&c) && !before.contains(&c);
        let held_out = m.on == "eval";
        let (recall, quality) = if m.before.multi_hot() { ("recall", "micro-F1") } else { ("accuracy", "accuracy") };
        let complete = forget.iter().all(|&c| m.after_repair.classes[c].total > 0);
        // The worst class decides: an average would let one class hide behind another.
        let of = |&c: &usize| Some((c, m.after_repair.accuracy(|k| k == c)?));
        let worst = forget.iter().chain(before).filter_map(of).max_by(|a, b| a.1.total_cmp(&b.1));
        let earlier = self.of_earlier(&m.after_repair, before, worst);
        let worst = worst.map(|(_, accuracy)| accuracy);
        let unknown: Vec<usize> = forget.iter().copied().filter(|&c| !known(&m.before, |k| k == c)).collect();
        let forget_gate = match worst {
            Some(worst) if held_out && complete && worst <= self.max_forget_accuracy && !unknown.is_empty() => Gate {
                name: "forget",
                outcome: GateOutcome::NotAssessed,
                measure: recall,
                threshold: self.max_forget_accuracy,
                measured: Some(worst),
                detail: format!(
                    "the source model knows class {} no better than chance, so nothing shows that it was forgotten",
                    unknown.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            },
            // One class beyond the threshold is enough to fail.
            Some(worst) if held_out && (complete || worst > self.max_forget_accuracy) => Gate {
                name: "forget",
                outcome: if worst <= self.max_forget_accuracy { GateOutcome::Pass } else { GateOutcome::Fail },
                measure: recall,
                threshold: self.max_forget_accuracy,
                measured: Some(worst),
                detail: format!(
                    "{recall} on forgotten classes {} (highest of any), at most {}{earlier}",
                    percent(worst),
                    percent(self.max_forget_accuracy)
                ),
            },
            _ => Gate {
                name: "forget",
                outcome: GateOutcome::NotAssessed,
                measure: recall,
                threshold: self.max_forget_accuracy,
                measured: None,
                detail: "no held-out samples of every forgotten class (--eval)".into(),
            },
        };
        let retained = |e: &Evaluation| e.quality(kept);
        let retain_gate = match (retained(&m.before), retained(&m.after_repair)) {
            (Some(before), Some(after)) => {
                let drop = before - after;
                let known = known(&m.before, kept);
                let outcome = match (drop <= self.max_retain_drop, held_out && known) {
                    (false, _) => GateOutcome::Fail,
                    (true, true) => GateOutcome::Pass,
                    (true, false) => GateOutcome::NotAssessed,
                };
                let on = match (held_out, known) {
                    (true, true) => "held-out data",
                    (true, false) => "held-out data; the source model knows them no better than chance",
                    (false, _) => "the retain sample, which was trained on",
                };
                Gate {
                    name: "retain",
                    outcome,
                    measure: quality,
                    threshold: self.max_retain_drop,
                    measured: Some(drop),
                    detail: format!(
                        "{quality} on retained classes {} -> {} ({on}), a fall of at most {}",
                        percent(before),
                        percent(after),
                        points(self.max_retain_drop)
                    ),
                }
            }
            _ => Gate {
                name: "retain",
                outcome: GateOutcome::NotAssessed,
                measure: quality,
                threshold: self.max_retain_drop,
                measured: None,
                detail: "no samples of retained classes to measure".into(),
            },
        };
        let gates = vec![forget_gate, retain_gate];
        let any = |o| gates.iter().any(|g| g.outcome == o);
        let outcome = if any(GateOutcome::Fail) {
            GateOutcome::Fail
        } else if any(GateOutcome::NotAssessed) {
            GateOutcome::NotAssessed
        } else {
            GateOutcome::Pass
        };
        Verdict { outcome, gates }
    }
}

/// True where the classes are told better than by chance: the lower end of the 95 % interval of the recall is above one share
/// in all classes (with multi-hot labels, where chance is not that, above 0).
fn known(e: &Evaluation, pick: impl Fn(usize) -> bool) -> bool {
    let picked = || e.classes.iter().enumerate().filter(|(c, _)| pick(*c)).map(|(_, s)| s);
    let (correct, total) = picked().fold((0, 0), |(c, t), s| (c + s.correct, t + s.total));
    let chance = if e.multi_hot() { 0.0 } else { 1.0 / e.classes.len().max(1) as f64 };
    wilson(correct, total).is_some_and(|[low, _]| low > chance)
}

/// A share as a percentage.
pub fn percent(v: f64) -> String {
    format!("{:.2} %", 100.0 * v)
}

fn points(v: f64) -> String {
    format!("{:.2} points", 100.0 * v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::{ClassScore, Negatives};

    const GATES: Gates = Gates { max_forget_accuracy: 0.01, max_retain_drop: 0.02 };

    /// Accuracies in percent, 100 samples a class; negative for no samples.
    fn scores(accuracies: &[i32]) -> Evaluation {
        let class = |&a: &i32| match usize::try_from(a) {
            Ok(correct) => ClassScore { total: 100, correct, ..ClassScore::default() },
            Err(_) => ClassScore::default(),
        };
        Evaluation { classes: accuracies.iter().map(class).collect(), ..Evaluation::default() }
    }

    fn outcome(on: &'static str, before: &[i32], after: &[i32], forget: &[usize]) -> GateOutcome {
        let m = Measured { on, before: scores(before), after_impair: scores(after), after_repair: scores(after) };
        GATES.judge(&m, forget, &[]).outcome
    }

    #[test]
    fn both_gates_have_to_pass() {
        assert_eq!(outcome("eval", &[90, 80, 70], &[1, 79, 69], &[0]), GateOutcome::Pass);
        assert_eq!(outcome("eval", &[90, 80, 70], &[2, 80, 70], &[0]), GateOutcome::Fail);
        assert_eq!(outcome("eval", &[90, 80, 70], &[0, 76, 69], &[0]), GateOutcome::Fail);
        // Nothing changed, or everything was destroyed.
        assert_eq!(outcome("eval", &[90, 80, 70], &[90, 80, 70], &[0]), GateOutcome::Fail);
        assert_eq!(outcome("eval", &[90, 80, 70], &[0, 50, 0], &[0]), GateOutcome::Fail);
    }

    #[test]
    fn what_was_not_known_cannot_be_forgotten() {
        // One in three of 100 samples is chance; 50 are more than that.
        assert_eq!(outcome("eval", &[36, 80, 70], &[0, 80, 70], &[0]), GateOutcome::NotAssessed);
        assert_eq!(outcome("eval", &[50, 80, 70], &[0, 80, 70], &[0]), GateOutcome::Pass);
        assert_eq!(outcome("eval", &[36, 80, 70], &[20, 80, 70], &[0]), GateOutcome::Fail);
        assert_eq!(outcome("eval", &[90, 30, 30], &[0, 30, 30], &[0]), GateOutcome::NotAssessed);
    }

    #[test]
    fn a_class_forgotten_before_has_to_stay_forgotten_and_is_not_retained() {
        let judged = |after: &[i32]| {
            let (before, after) = (scores(&[90, 0, 80, 70]), scores(after));
            let m = Measured { on: "eval", before, after_impair: after.clone(), after_repair: after };
            GATES.judge(&m, &[0], &[1])
        };
        let kept = judged(&[0, 0, 79, 69]);
        assert_eq!(kept.outcome, GateOutcome::Pass);
        assert!(kept.gates[1].detail.contains("75.00 % -> 74.00 %"), "{}", kept.gates[1].detail);
        let back = judged(&[0, 5, 79, 69]);
        assert_eq!(back.gates[0].outcome, GateOutcome::Fail);
        assert!(back.gates[0].detail.ends_with("class 1 was forgotten before: name it in --forget to forget it again"));
        let unseen = judged(&[0, -1, 79, 69]);
        assert_eq!(unseen.gates[0].outcome, GateOutcome::Pass);
        assert!(unseen.gates[0].detail.contains("not looked at, for want of samples: class 1"));
    }

    #[test]
    fn one_forgotten_class_cannot_hide_behind_another() {
        assert_eq!(outcome("eval", &[90, 80, 70], &[0, 2, 70], &[0, 1]), GateOutcome::Fail);
        assert_eq!(outcome("eval", &[90, 80, 70], &[0, 1, 70], &[0, 1]), GateOutcome::Pass);
        // Nor behind one of which there are no samples.
        assert_eq!(outcome("eval", &[-1, 80, 70], &[-1, 2, 70], &[0, 1]), GateOutcome::Fail);
        assert_eq!(outcome("eval", &[-1, 80, 70], &[-1, 1, 70], &[0, 1]), GateOutcome::NotAssessed);
    }

    /// Per class, of 100 samples that have it and 900 that lack it: predicted as it.
    fn multi_hot(counts: &[[usize; 2]]) -> Evaluation {
        let class = |&[correct, false_positives]: &[usize; 2]| ClassScore {
            total: 100,
            correct,
            negatives: Some(Negatives { total: 900, false_positives }),
            loss: 0.0,
        };
        Evaluation { classes: counts.iter().map(class).collect(), ..Evaluation::default() }
    }

    #[test]
    fn false_positives_of_retained_classes_fail_the_gate() {
        let judged = |after: &[[usize; 2]]| {
            let (before, after) = (multi_hot(&[[90, 9], [80, 8], [80, 9]]), multi_hot(after));
            GATES.judge(&Measured { on: "eval", before, after_impair: after.clone(), after_repair: after }, &[0], &[])
        };
        let kept = judged(&[[1, 0], [79, 8], [80, 9]]);
        assert_eq!(kept.outcome, GateOutcome::Pass);
        assert_eq!([kept.gates[0].measure, kept.gates[1].measure], ["recall", "micro-F1"]);
        // 2 * 160 / (160 + 200 + 17), and one label less.
        assert_eq!(
            kept.gates[1].detail,
            "micro-F1 on retained classes 84.88 % -> 84.57 % (held-out data), a fall of at most 2.00 points"
        );
        assert_eq!(judged(&[[2, 0], [80, 8], [80, 9]]).gates[0].outcome, GateOutcome::Fail);
        // 4 % of the samples without the class: a fall of its specificity by 3 points, of the micro-F1 by 6.
        assert_eq!(judged(&[[0, 0], [80, 36], [80, 9]]).gates[1].outcome, GateOutcome::Fail);
        // Nothing is predicted any more: 90 % of all decisions would still be right.
        assert_eq!(judged(&[[0, 0], [0, 0], [0, 0]]).gates[1].outcome, GateOutcome::Fail);
    }

    #[test]
    fn without_held_out_samples_nothing_passes_but_damage_still_fails() {
        assert_eq!(outcome("eval", &[-1, 80, 70], &[-1, 80, 70], &[0]), GateOutcome::NotAssessed);
        assert_eq!(outcome("retain", &[-1, 80, 70], &[-1, 80, 70], &[0]), GateOutcome::NotAssessed);
        assert_eq!(outcome("retain", &[-1, 80, 70], &[-1, 40, 70], &[0]), GateOutcome::Fail);
    }
}
