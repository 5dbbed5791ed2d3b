//! The numbers of a run as the published notebook counts them, to be put beside what it prints.

use super::Measured;
use crate::{evaluate::Evaluation, unlearn::PhaseRecord};
use serde::Serialize;
use std::fmt::Write;

/// The notebook divides sums over a phase by the size of CIFAR-10's training set, whatever number of samples was seen.
const DIVISOR: f64 = 50_000.0;
/// Its batches when it measures the forgotten classes.
const FORGET_BATCH: usize = 256;
/// Its batches when it measures the retained classes.
const RETAIN_BATCH: usize = 512;

/// What the notebook would print.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Notebook {
    /// Impair and repair: sums over all samples, divided by 50,000.
    pub training: Vec<Training>,
    /// After impair, and after repair: means of the accuracies of batches.
    pub measured: [BatchMeans; 2],
}

/// A phase of training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Training {
    /// `impair` or `repair`.
    pub phase: &'static str,
    /// Sum of the losses, divided by 50,000.
    pub loss: f64,
    /// Samples predicted as labelled, divided by 50,000.
    pub accuracy: f64,
}

/// Means over batches; the last batch counts as much as a full one. `None` without samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BatchMeans {
    /// Forgotten classes, batches of 256.
    pub forget: Option<f64>,
    /// Retained classes, batches of 512.
    pub retain: Option<f64>,
}

impl Notebook {
    /// Counts a run again, the notebook's way.
    pub fn new(phases: &[PhaseRecord], m: &Measured, forget: &[usize], before: &[usize]) -> Self {
        let training = phases.iter().filter_map(|p| {
            let share = p.samples as f64 / DIVISOR;
            Some(Training { phase: p.phase, loss: p.mean_loss * share, accuracy: p.accuracy? * share })
        });
        let means = |e: &Evaluation| BatchMeans {
            forget: e.mean_of_batches(|c| forget.contains(&c), FORGET_BATCH),
            retain: e.mean_of_batches(|c| !forget.contains(&c) && !before.contains(&c), RETAIN_BATCH),
        };
        Self { training: training.collect(), measured: [means(&m.after_impair), means(&m.after_repair)] }
    }

    /// The lines for the user.
    pub fn text(&self) -> String {
        let mut text = String::from("the same run as the notebook counts it:\n");
        let percent = |v: Option<f64>| v.map_or("-".to_owned(), super::percent);
        for t in &self.training {
            let _ = writeln!(
                text,
                "  {:<12} training loss {:.3}, accuracy {} (sums divided by 50,000)",
                t.phase,
                t.loss,
                super::percent(t.accuracy)
            );
        }
        for (when, m) in ["after impair", "after repair"].iter().zip(&self.measured) {
            let _ = writeln!(
                text,
                "  {when:<12} forgotten {}, retained {} (means over batches of 256 and 512)",
                percent(m.forget),
                percent(m.retain)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_divided_by_the_size_of_another_data_set() {
        // What the notebook prints after impair: 0.166 and 11.2 %, where 8,120 samples were seen.
        let phase = |phase, accuracy| PhaseRecord {
            phase,
            steps: 32,
            samples: 8120,
            seconds: 0.0,
            first_loss: 0.0,
            last_loss: 0.0,
            losses: Vec::new(),
            mean_loss: 1.023,
            accuracy,
        };
        let none = Evaluation::new(2, false);
        let m = Measured { on: "eval", before: none.clone(), after_impair: none.clone(), after_repair: none };
        let n = Notebook::new(&[phase("noise", None), phase("impair", Some(0.693))], &m, &[0], &[]);
        assert_eq!(n.training.len(), 1, "noise has no accuracy");
        assert_eq!(
            (format!("{:.3}", n.training[0].loss), super::super::percent(n.training[0].accuracy)),
            ("0.166".into(), "11.25 %".into())
        );
        assert!(n.text().contains("training loss 0.166, accuracy 11.25 %"), "{}", n.text());
        assert_eq!(n.measured[1], BatchMeans { forget: None, retain: None });
    }
}
