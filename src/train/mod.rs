//! Builds step graphs and moves weights.
//!
//! [`Reading`] is a classifier as it is fed and read, trainable or not. [`Network`] is one cut at its logits;
//! [`Network::at_batch`] fixes the batch size by running it once; [`BatchedNetwork`] writes the step graphs: forward nodes,
//! their gradients and the optimizer in one graph, whose state (noise, weights, moments) stays on the device between steps.

mod batch_norm;
mod bias;
mod channels;
pub mod gradcheck;
mod gradient;
mod head;
mod in_place;
mod inputs;
mod loss;
mod network;
mod optimizer;
mod penultimate;
mod reading;
mod rebatch;
mod scorer;
mod shapes;
mod shorter;
mod snapshot;
mod stepper;
mod steps;
mod trace;
mod tune;
mod weights;

pub use batch_norm::live as live_batch_norm;
pub use bias::{BiasError, MASKED_SCORE, masked, output_bias};
pub use gradient::Gradient;
pub use head::{Head, HeadError, Layout};
pub use inputs::{Choice, Inputs, Part, Row, Site};
pub use loss::Loss;
pub use network::{BatchNorm, Network, TrainError, Weights};
pub use optimizer::{Optimizer, Schedule};
pub use penultimate::{Penultimate, PenultimateError};
pub use reading::Reading;
pub use scorer::Scorer;
pub use snapshot::Snapshot;
pub use stepper::{NoiseStepper, Step, WeightStepper};
pub use steps::{BatchedNetwork, Goal, NoiseLoss, Range};
pub use trace::{Traced, trace};
pub use tune::fastest;
pub use weights::Stored;
