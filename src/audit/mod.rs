//! Measures what a model still holds of classes that were taken out of it, with samples of these classes given on purpose.
//!
//! One file an attack or a family of figures: the formula with its source, and beside it the text that is printed with the
//! figures. Nothing here writes a model. `docs/method.md` says what the figures mean and what they do not show.

pub mod distance;
mod features;
mod judge;
mod lbfgs;
pub mod membership;
mod outputs;
pub mod probe;
pub mod prototype;
pub mod quantisation;
pub mod relearn;
pub mod streisand;
pub mod weights;

pub use features::Features;
pub use judge::Judge;
pub use outputs::Outputs;

use crate::{
    evaluate::EvaluateError,
    runtime::RuntimeError,
    train::{PenultimateError, TrainError},
};
use serde::Serialize;
use thiserror::Error;

/// Why an audit stopped.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum AuditError {
    #[error("interrupted while {0}")]
    Interrupted(&'static str),
    #[error("the loss became {loss} at mini-batch {step} of relearning; lower --relearn-lr")]
    NotFinite { step: usize, loss: f32 },
    #[error("{samples} samples have values in the penultimate layer that are no finite numbers")]
    Features { samples: usize },
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    #[error(transparent)]
    Penultimate(#[from] PenultimateError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A share of samples, 0 to 1.
    Share,
    /// A plain number.
    Number,
    /// Whole things.
    Count,
    /// 1 where the condition that the definition names holds, 0 where it does not.
    Flag,
}

/// On which side of a figure the true value lies, where the figure is only a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// It is larger.
    Above,
    /// It is smaller.
    Below,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What it is.
    pub figure: String,
    /// The model it is of, or the two models it is between: `before`, `after`, `retrained`, `after, retrained`.
    pub of: String,
    /// The number; `None` where it is not finite or there is nothing to divide by.
    pub value: Option<f64>,
    /// What it counts.
    pub unit: Unit,
    /// Interval of 95 %, where the definition names one.
    pub interval: Option<[f64; 2]>,
    /// Standard deviation over repetitions, where there are some.
    pub deviation: Option<f64>,
    /// Set where `value` is a bound.
    pub bound: Option<Bound>,
    /// True for one of many figures of a kind, which tables leave out.
    #[serde(skip)]
    pub detail: bool,
}

impl Figure {
    /// A plain figure.
    pub fn new(figure: impl Into<String>, of: impl Into<String>, value: Option<f64>, unit: Unit) -> Self {
        let value = value.filter(|v| v.is_finite());
        Self {
            figure: figure.into(),
            of: of.into(),
            value,
            unit,
            interval: None,
            deviation: None,
            bound: None,
            detail: false,
        }
    }

    /// A share from 0 to 1.
    pub fn share(figure: impl Into<String>, of: impl Into<String>, value: Option<f64>) -> Self {
        Self::new(figure, of, value, Unit::Share)
    }

    /// A number.
    pub fn number(figure: impl Into<String>, of: impl Into<String>, value: Option<f64>) -> Self {
        Self::new(figure, of, value, Unit::Number)
    }
}

/// How a measure came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It was measured.
    Assessed {
        /// The numbers.
        figures: Vec<Figure>,
        /// What has to be known beside them.
        notes: Vec<String>,
    },
    /// Something that it needs is missing.
    NotAssessed {
        /// What, and what to do.
        reason: String,
    },
}

/// An attack or a family of figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measure {
    /// Short name, as `--only` takes it.
    pub name: &'static str,
    /// What is measured.
    pub definition: &'static str,
    /// Which values are good.
    pub direction: &'static str,
    /// The result.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The mean; `None` for nothing.
fn mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (n, sum) = values.into_iter().fold((0usize, 0.0), |(n, sum), v| (n + 1, sum + v));
    (n > 0).then(|| sum / n as f64)
}

#[cfg(test)]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-9, "{found} and {expected}");
}
