//! What `audit` takes.

use super::{EngineArgs, PreprocessArgs, ReadArgs};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// The model before classes were taken out
    pub before: PathBuf,
    /// The model after
    pub after: PathBuf,
    /// Held-out labelled samples, those of the forgotten classes included: a folder with a subfolder per class, an .npz with
    /// x and y, or IDX files
    #[arg(long, value_name = "DATA")]
    pub data: PathBuf,
    /// The classes that were taken out: indices or names, separated by commas
    #[arg(long, value_name = "CLASSES")]
    pub forget: String,
    /// Labelled samples that the model before was trained on, those of the forgotten classes included
    #[arg(long, value_name = "DATA")]
    pub train_data: Option<PathBuf>,
    /// A model that was trained without the classes, to compare with
    #[arg(long, value_name = "MODEL")]
    pub retrained: Option<PathBuf>,
    /// Class names, one a line, in the order of the models' scores
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Measure only these, separated by commas
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    pub only: Vec<MeasureArg>,
    /// Samples of each class read from the training data
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub per_class: usize,
    /// Samples in a batch, unless the file fixes another number; also the mini-batch of relearning
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub batch_size: usize,
    /// Most mini-batches of relearning
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub relearn_steps: usize,
    /// Learning rate of relearning
    #[arg(long, value_name = "LR", default_value_t = 0.001)]
    pub relearn_lr: f64,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print the figures as CSV on stdout: a row for each figure
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// No notes and no progress
    #[arg(long)]
    pub quiet: bool,
    #[command(flatten)]
    pub read: ReadArgs,
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// What can be measured, in the order it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MeasureArg {
    /// Membership inference by the loss
    Membership,
    /// Linear probe on the penultimate layer
    Probe,
    /// Prototype attack on the last layer with five samples
    Prototype,
    /// Mini-batches until the classes are relearned
    Relearn,
    /// Accuracy with rounded weights
    Quantisation,
    /// Distance of outputs to those of the retrained model
    Retrained,
    /// Distance of outputs to those of the model before
    Before,
    /// Distance of weights and statistics to those of the model before
    Weights,
    /// Whether the classes are too gone
    Streisand,
}

impl MeasureArg {
    /// The name that `--only` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Membership => "membership",
            Self::Probe => "probe",
            Self::Prototype => "prototype",
            Self::Relearn => "relearn",
            Self::Quantisation => "quantisation",
            Self::Retrained => "retrained",
            Self::Before => "before",
            Self::Weights => "weights",
            Self::Streisand => "streisand",
        }
    }
}
