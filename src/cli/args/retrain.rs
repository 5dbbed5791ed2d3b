//! What `retrain` takes.

use super::{BatchNormArg, EngineArgs, JobArgs, MethodArgs, ModelArgs, PreprocessArgs};
use clap::{Args, Parser};
use std::path::PathBuf;

/// Passes over the data.
pub const EPOCHS: usize = 20;
/// Learning rate.
pub const RATE: f64 = 0.001;

#[derive(Debug, Args)]
pub struct RetrainArgs {
    /// The classifier whose graph is trained anew, an ONNX file
    pub model: PathBuf,
    /// Classes to leave out: indices or names, separated by commas
    #[arg(long, value_name = "CLASSES")]
    pub forget: String,
    /// Labelled training samples; those of the classes to leave out are dropped by their label: a folder with a subfolder per
    /// class, an .npz with x and y, or IDX files
    #[arg(long, value_name = "DATA")]
    pub data: PathBuf,
    /// Held-out labelled samples to measure on
    #[arg(long, value_name = "DATA")]
    pub eval: Option<PathBuf>,
    /// Class names, one a line, in the order of the model's scores
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Samples of each class read from the data [default: all]
    #[arg(long, value_name = "N")]
    pub per_class: Option<usize>,
    /// Passes over the data
    #[arg(long, value_name = "N", default_value_t = EPOCHS)]
    pub epochs: usize,
    /// Learning rate of Adam
    #[arg(long, value_name = "LR", default_value_t = RATE, allow_negative_numbers = true)]
    pub lr: f64,
    /// Samples in a training batch
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub batch_size: usize,
    /// Memory that a step may take, such as 800M or 2G: a larger batch is fed in parts, and their gradients are summed
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<String>,
    /// BatchNormalization while training
    #[arg(long, value_enum, default_value = "batch")]
    pub batch_norm: BatchNormArg,
    /// Seed of the fresh weights and of the shuffles
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder that model.onnx is written to
    #[arg(short, long = "out", value_name = "DIR")]
    pub out: PathBuf,
    /// Replace an earlier result in DIR
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// No notes and no progress
    #[arg(long)]
    pub quiet: bool,
    #[command(flatten)]
    pub choice: ModelArgs,
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// The settings of the method when nothing is typed.
#[derive(Parser)]
struct Untyped {
    #[command(flatten)]
    method: MethodArgs,
}

impl RetrainArgs {
    /// The job whose data and model these are.
    pub fn job(&self) -> JobArgs {
        let method = Untyped::parse_from(["retrain"]).method;
        JobArgs {
            model: self.model.clone(),
            forget: self.forget.clone(),
            retain: self.data.clone(),
            retain_flag: "--data",
            eval: self.eval.clone(),
            labels: self.labels.clone(),
            per_class: self.per_class.unwrap_or(usize::MAX),
            choice: self.choice.clone(),
            preprocess: self.preprocess.clone(),
            // A given rate: there are no trials.
            method: MethodArgs {
                seed: self.seed,
                batch_size: self.batch_size,
                memory_limit: self.memory_limit.clone(),
                batch_norm: Some(self.batch_norm),
                impair_lr: Some(RATE),
                ..method
            },
            engine: self.engine.clone(),
        }
    }
}
