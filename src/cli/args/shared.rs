//! What several commands take.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ReadArgs {
    /// The output that holds the class scores, for a model with several
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// Scores are independent of each other, a sigmoid each, although the file does not end in a Sigmoid
    #[arg(long)]
    pub multi_label: bool,
    /// The input that holds the samples, for a model with several
    #[arg(long, value_name = "NAME")]
    pub input: Option<String>,
    /// Value of an input that is the same for every sample: NAME=VALUE; may be given several times
    #[arg(long = "constant", value_name = "NAME=VALUE")]
    pub constants: Vec<String>,
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    #[command(flatten)]
    pub read: ReadArgs,
    /// Leave tensors of this name as they are; * and ? are wildcards. May be given several times
    #[arg(long, value_name = "PATTERN")]
    pub freeze: Vec<String>,
    /// Train tensors of this name although the rules take them for constants of the architecture
    #[arg(long, value_name = "PATTERN")]
    pub train: Vec<String>,
}

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Preprocessing of uint8 images")]
pub struct PreprocessArgs {
    /// Scale images to this height and width: N or HxW
    #[arg(long, value_name = "HxW")]
    pub resize: Option<String>,
    /// Subtract, after scaling: one value or one per channel
    #[arg(long, value_name = "M,..", value_delimiter = ',', allow_negative_numbers = true)]
    pub mean: Vec<f32>,
    /// Then divide by: one value or one per channel
    #[arg(long, value_name = "S,..", value_delimiter = ',')]
    pub std: Vec<f32>,
    /// Factor on the raw value 0..255 [default: 1/255]
    #[arg(long, value_name = "F")]
    pub scale: Option<f32>,
    /// Layout of the model's input
    #[arg(long, value_enum, default_value = "auto")]
    pub layout: Option<LayoutArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LayoutArg {
    Auto,
    Nchw,
    Nhwc,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Runtime")]
pub struct EngineArgs {
    /// Where training runs: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads per operator [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// On a GPU, round the factors of products to TF32: faster, less exact
    #[arg(long)]
    pub tf32: bool,
    /// The ONNX Runtime library to use
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
}
