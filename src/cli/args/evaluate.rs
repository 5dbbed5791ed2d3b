//! What `evaluate` takes.

use super::{EngineArgs, PreprocessArgs, ReadArgs};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // Each one is a flag.
pub struct EvaluateArgs {
    /// The models: ONNX classifiers of the same classes. All are compared with the first
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<PathBuf>,
    /// Labelled samples: a folder with a subfolder per class, an .npz with x and y, or IDX files
    #[arg(long, value_name = "DATA")]
    pub data: PathBuf,
    /// Class names, one a line, in the order of the models' scores
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Classes whose samples are followed to where they are predicted: indices or names, separated by commas [default:
    /// those that a stamp says were forgotten]
    #[arg(long, value_name = "CLASSES")]
    pub route: Option<String>,
    /// Samples in a batch, unless the file fixes another number
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub batch_size: usize,
    /// Also print the confusion matrix, for at most 20 classes
    #[arg(long)]
    pub confusion: bool,
    /// Print the result as CSV on stdout: a row for each model and class
    #[arg(long, conflicts_with_all = ["json", "confusion"])]
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
