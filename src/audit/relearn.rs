//! Relearn time: how many mini-batches bring a class back?

use super::{AuditError, Bound};
use crate::{
    data::{Batch, Seeded},
    train::{Optimizer, WeightStepper, Weights},
    unlearn::Mix,
};

/// What is printed with the figures.
pub const DEFINITION: &str = "The whole model is trained on shuffled mini-batches of the training samples (--train-data, all \
    classes, the forgotten ones included) by Adam (0.9, 0.999, 1e-8), BatchNormalization as in training, with the \
    statistics of the mini-batch, where the file has it; after each mini-batch the accuracy on the forgotten classes is \
    measured on --data, with the stored statistics as they have moved. RT is the number of mini-batches until it \
    is at least 95 % of what the model before had. AIN = RT(after) / RT(retrained). All models are trained on the same \
    mini-batches.";
/// Which values are good.
pub const DIRECTION: &str = "What a model retrained without the class needs is the target, an AIN of 1. Below it, the model \
    still held something of the class; above it, the class was pushed away more than a model that never saw it would be.";

/// The optimizer of the definition.
pub const OPTIMIZER: Optimizer = Optimizer::ADAM;

/// Share of the accuracy before that has to be reached.
pub const TARGET: f64 = 0.95;

/// How relearning is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Accuracy on the forgotten classes to be reached.
    pub target: f64,
    /// Most mini-batches.
    pub cap: usize,
    /// Samples in a mini-batch.
    pub batch: usize,
    /// Learning rate.
    pub lr: f64,
    /// Seed of the order.
    pub seed: u64,
}

/// What relearning came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Relearned {
    /// Mini-batches until the target was reached; `None` where the cap came first.
    pub steps: Option<usize>,
    /// Accuracy after each mini-batch.
    pub accuracy: Vec<f64>,
}

/// Trains from the weights that the stepper holds. `accuracy` measures weights on the forgotten classes, `go_on` hears the
/// number of mini-batches done and the accuracy, and may stop the work.
///
/// The last mini-batch of a pass over the samples is smaller.
pub fn relearn(
    stepper: &mut WeightStepper<'_>,
    samples: &Mix<'_>,
    plan: Plan,
    accuracy: &mut dyn FnMut(&Weights) -> Result<f64, AuditError>,
    go_on: &mut dyn FnMut(usize, f64) -> bool,
) -> Result<Relearned, AuditError> {
    let mut order = Seeded::new(plan.seed, "relearn");
    let mut left: Vec<u32> = Vec::new();
    let mut prepared = Batch::default();
    let mut found = Relearned { steps: None, accuracy: Vec::new() };
    for step in 1..=plan.cap {
        if left.is_empty() {
            left = order.shuffled(samples.len());
        }
        let rest = left.split_off(left.len().min(plan.batch));
        samples.fill(&left, plan.batch, &mut prepared);
        left = rest;
        stepper.feed(&prepared.x, &prepared.targets, &prepared.weights);
        let loss = stepper.step(plan.lr)?.loss;
        if !loss.is_finite() {
            return Err(AuditError::NotFinite { step, loss });
        }
        let reached = accuracy(&stepper.weights()?)?;
        found.accuracy.push(reached);
        if !go_on(step, reached) {
            return Err(AuditError::Interrupted("relearning"));
        }
        if reached >= plan.target {
            found.steps = Some(step);
            break;
        }
    }
    Ok(found)
}

/// AIN, the anamnesis index, with the bound that a cap leaves of it; `None` where both were stopped by the cap.
pub fn index(after: &Relearned, retrained: &Relearned, cap: usize) -> Option<(f64, Option<Bound>)> {
    let cap = cap as f64;
    match (after.steps, retrained.steps) {
        (Some(a), Some(r)) => Some((a as f64 / r as f64, None)),
        (Some(a), None) => Some((a as f64 / cap, Some(Bound::Below))),
        (None, Some(r)) => Some((cap / r as f64, Some(Bound::Above))),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_and_what_a_cap_leaves_of_it() {
        let needed = |steps| Relearned { steps, accuracy: Vec::new() };
        assert_eq!(index(&needed(Some(12)), &needed(Some(16)), 40), Some((0.75, None)));
        assert_eq!(index(&needed(Some(12)), &needed(None), 40), Some((0.3, Some(Bound::Below))));
        assert_eq!(index(&needed(None), &needed(Some(16)), 40), Some((2.5, Some(Bound::Above))));
        assert_eq!(index(&needed(None), &needed(None), 40), None);
    }
}
