//! What was typed. What it means is in `plan`.

mod audit;
mod evaluate;
mod provenance;
mod retrain;
mod shared;

pub use audit::{AuditArgs, MeasureArg};
pub use evaluate::EvaluateArgs;
pub use provenance::{
    AttestArgs, CommitArgs, DiffArgs, ExportArgs, ExportFormat, KeygenArgs, ProvenanceArgs, SignArgs, VerifyArgs,
};
pub use retrain::{EPOCHS, RATE, RetrainArgs};
pub use shared::{EngineArgs, LayoutArg, ModelArgs, PreprocessArgs, ReadArgs};

use crate::{graph::Forms, unlearn::Rival};
use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValue};
use std::path::{Path, PathBuf};

/// Takes classes out of a trained ONNX classifier: the same model file with other weights, stamped, checked, measured.
///
/// Exit codes of every command: 0 yes, 1 it ran and the answer is no, 2 it could not tell.
#[derive(Debug, Parser)]
#[command(name = "onnx-unlearn", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Takes classes out of a model
    Forget(Box<ForgetArgs>),
    /// Runs UNSIR beside its controls and other methods, with the same number of steps; writes nothing
    Compare(Box<CompareArgs>),
    /// Trains the same graph from fresh weights without some classes: the yardstick of `audit`
    Retrain(Box<RetrainArgs>),
    /// Measures models class by class, alone or side by side; trains nothing
    Evaluate(Box<EvaluateArgs>),
    /// Measures what a model still holds of classes that were taken out, with samples of them; writes no model
    Audit(Box<AuditArgs>),
    /// Checks that a model is what its stamp says: who signed it, where it comes from, what is claimed of it
    Verify(Box<VerifyArgs>),
    /// Makes a key: to sign with, or to commit to data with
    Keygen(KeygenArgs),
    /// Signs a folder (OpenSSF Model Signing)
    Sign(SignArgs),
    /// Claims how a result was made and what was measured, or what an audit found (in-toto statements)
    Attest(AttestArgs),
    /// Commits to data, or tells whether a result is about it
    Commit(CommitArgs),
    /// Says what differs between two models, and whether it is only what it may be
    Diff(DiffArgs),
    /// Writes what is known of a result in another format
    Export(ExportArgs),
    /// Shows what a model is and what of it would be trained
    Inspect(InspectArgs),
    /// Compares the gradient graph of a model with central differences
    Gradcheck(GradcheckArgs),
    /// Prints the digests of a model
    Digest(DigestArgs),
    /// Shows or installs ONNX Runtime
    Runtime(RuntimeArgs),
    /// Says what this machine can train on, what is missing for it, and how to get that
    Doctor(DoctorArgs),
    /// Runs `forget` on a model and images that come with the program
    Demo(DemoArgs),
}

impl Command {
    pub fn quiet(&self) -> bool {
        match self {
            Self::Forget(a) => a.quiet,
            Self::Compare(a) => a.quiet,
            Self::Retrain(a) => a.quiet,
            Self::Evaluate(a) => a.quiet,
            Self::Audit(a) => a.quiet,
            Self::Gradcheck(a) => a.quiet,
            Self::Demo(a) => a.quiet,
            Self::Verify(a) => a.quiet,
            Self::Keygen(a) => a.quiet,
            Self::Sign(a) => a.quiet,
            Self::Attest(a) => a.quiet,
            Self::Commit(a) => a.quiet,
            Self::Diff(a) => a.quiet,
            Self::Inspect(_) | Self::Digest(_) | Self::Runtime(_) | Self::Doctor(_) | Self::Export(_) => false,
        }
    }

    pub fn json(&self) -> bool {
        match self {
            Self::Forget(a) => a.json,
            Self::Compare(a) => a.json,
            Self::Retrain(a) => a.json,
            Self::Evaluate(a) => a.json,
            Self::Audit(a) => a.json,
            Self::Verify(a) => a.json,
            Self::Inspect(a) => a.json,
            Self::Gradcheck(a) => a.json,
            Self::Digest(a) => a.json,
            Self::Runtime(a) => a.json,
            Self::Doctor(a) => a.json,
            Self::Keygen(a) => a.json,
            Self::Sign(a) => a.json,
            Self::Attest(a) => a.json,
            Self::Commit(a) => a.json,
            Self::Diff(a) => a.json,
            Self::Export(_) => true,
            Self::Demo(a) => a.json,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum VariantArg {
    /// The intended algorithm
    Corrected,
    /// Step for step the published notebook, learning rates included
    Reference,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DepthArg {
    /// Stop predicting the class, with as little training as that takes
    Shallow,
    /// Stop predicting the class
    Standard,
    /// Impair as strongly as --max-retain-drop allows, and repair gently
    Deep,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TargetsArg {
    /// Their labels
    Labels,
    /// What the source model answers, less the classes to forget
    Source,
}

impl ValueEnum for Rival {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.about()))
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OptimizerArg {
    Adam,
    Sgd,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum BatchNormArg {
    /// Stored statistics, which never move
    Frozen,
    /// Statistics of the batch; the stored ones move and are written back
    Batch,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum DropOutputArg {
    /// Move their scores far down, by the bias of the final layer
    Mask,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PenaltyArg {
    /// Sum of squares of a sample
    Sum,
    /// Mean of squares of a sample, the same at every resolution
    Mean,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AutotuneArg {
    /// Forms follow from shapes alone, so that equal runs give equal bytes on all machines of a kind
    Off,
    /// For about 10 seconds at most, those with most to do first
    Fast,
    /// For as long as it takes
    Full,
}

/// What unlearning is done to, and how.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The trained classifier, an ONNX file
    pub model: PathBuf,
    /// Classes to forget: indices or names, separated by commas
    #[arg(long, value_name = "CLASSES")]
    pub forget: String,
    /// Labelled samples of the classes to keep: a folder with a subfolder per class, an .npz with x and y, or IDX files
    #[arg(long, value_name = "DATA")]
    pub retain: PathBuf,
    /// Held-out labelled samples, those of the forgotten classes included; never trained on. Where learning rates are found by
    /// trials, a third of them judges these, and the verdict is measured on the others
    #[arg(long, value_name = "DATA")]
    pub eval: Option<PathBuf>,
    /// The flag that `retain` comes from
    #[arg(skip = "--retain")]
    pub retain_flag: &'static str,
    /// Class names, one a line, in the order of the model's scores
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Samples of each class read from the retain data
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub per_class: usize,
    #[command(flatten)]
    pub choice: ModelArgs,
    #[command(flatten)]
    pub preprocess: PreprocessArgs,
    #[command(flatten)]
    pub method: MethodArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

impl JobArgs {
    /// What is read, and must not be overwritten.
    pub fn files(&self) -> Vec<&Path> {
        [Some(&self.model), Some(&self.retain), self.eval.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect()
    }
}

#[derive(Debug, Args)]
pub struct ForgetArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Let forms of convolutions and pools compete before training, and keep what is found for the next run
    #[arg(long, value_enum, value_name = "EFFORT", default_value = "off", help_heading = "Runtime")]
    pub autotune: AutotuneArg,
    /// The forms that a report names, for the same run again
    #[arg(skip)]
    pub forms: Option<Forms>,
    /// Folder that the result is written to
    #[arg(short, long = "out", value_name = "DIR", help_heading = None)]
    pub out: PathBuf,
    /// Hide the forgotten classes at the output of the result, after everything was measured and judged: this hides, it
    /// does not forget
    #[arg(long, value_enum, value_name = "HOW", help_heading = None)]
    pub drop_output: Option<DropOutputArg>,
    /// Replace an earlier result in DIR
    #[arg(long, help_heading = None)]
    pub force: bool,
    /// Print the result as JSON on stdout
    #[arg(long, help_heading = None)]
    pub json: bool,
    /// No notes and no progress
    #[arg(long, help_heading = None)]
    pub quiet: bool,
    #[command(flatten)]
    pub gates: GateArgs,
    #[command(flatten)]
    pub provenance: ProvenanceArgs,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    #[command(flatten)]
    pub job: JobArgs,
    /// Samples of the classes to forget, for the methods that learn from them; those of other classes are dropped
    #[arg(long, value_name = "DATA", help_heading = None)]
    pub forget_data: Option<PathBuf>,
    /// Methods, separated by commas; retrain only beside others [default: all that the data allows but retrain]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "METHODS", help_heading = None)]
    pub methods: Vec<Rival>,
    /// Passes of the method retrain over the retain sample [default: 20]
    #[arg(long, value_name = "N", help_heading = None)]
    pub retrain_epochs: Option<usize>,
    /// Learning rate of the method retrain [default: 0.001]
    #[arg(long, value_name = "LR", allow_negative_numbers = true, help_heading = None)]
    pub retrain_lr: Option<f64>,
    /// Runs of each method, with seeds that follow --seed
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = None)]
    pub runs: usize,
    /// Print the result as JSON on stdout
    #[arg(long, help_heading = None)]
    pub json: bool,
    /// No notes and no progress
    #[arg(long, help_heading = None)]
    pub quiet: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Method (UNSIR)")]
pub struct MethodArgs {
    /// Which UNSIR is run
    #[arg(long, value_enum, default_value = "corrected")]
    pub variant: VariantArg,
    /// How deep to forget
    #[arg(long, value_enum, default_value = "standard")]
    pub depth: DepthArg,
    /// What the retain samples teach [default: source; reference: labels]
    #[arg(long, value_enum)]
    pub targets: Option<TargetsArg>,
    /// Seed of noise and shuffles
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Samples in a training batch
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub batch_size: usize,
    /// Memory that a step may take, such as 800M or 2G: a larger batch is fed in parts, and their gradients are summed
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<String>,
    /// Noise images learned for each class
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub noise_images: usize,
    /// Noise samples in the impair set, for all classes to forget together, the same number of each, images repeated; 0 is the
    /// control without noise [default: 5120; with --depth shallow: 256; reference: 20 per channel for each class]
    #[arg(long, value_name = "N")]
    pub noise_samples: Option<usize>,
    /// Steps of noise learning
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub noise_steps: usize,
    /// Learning rate of the noise
    #[arg(long, value_name = "LR", default_value_t = 0.1)]
    pub noise_lr: f64,
    /// Weight (lambda) of the penalty on the size of the noise
    #[arg(long, value_name = "L", default_value_t = 0.1)]
    pub noise_penalty: f64,
    /// Mean and standard deviation of the values that noise takes the place of: M,S, or auto to let the retain sample tell
    #[arg(long, value_name = "M,S", allow_negative_numbers = true)]
    pub noise_range: Option<String>,
    /// What the penalty counts
    #[arg(long, value_enum, default_value = "sum")]
    pub noise_penalty_form: PenaltyArg,
    /// Learning rate of the impair phase [default: found by trials; with --repair-lr alone: twice that, with --depth deep
    /// ten times; reference: 0.02]
    #[arg(long, value_name = "LR")]
    pub impair_lr: Option<f64>,
    /// Passes of the impair phase
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub impair_epochs: usize,
    /// Learning rate of the repair phase [default: found by trials; with --impair-lr alone: half of that, with --depth deep
    /// a tenth; reference: 0.01]
    #[arg(long, value_name = "LR")]
    pub repair_lr: Option<f64>,
    /// Passes of the repair phase
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub repair_epochs: usize,
    /// Optimizer of impair and repair
    #[arg(long, value_enum, default_value = "adam")]
    pub optimizer: OptimizerArg,
    /// Momentum of sgd
    #[arg(long, value_name = "M", default_value_t = 0.9)]
    pub momentum: f64,
    /// Decay of the first moment of adam
    #[arg(long, value_name = "B", default_value_t = 0.9)]
    pub beta1: f64,
    /// Decay of the second moment of adam
    #[arg(long, value_name = "B", default_value_t = 0.999)]
    pub beta2: f64,
    /// Epsilon of adam
    #[arg(long, value_name = "E", default_value_t = 1e-8)]
    pub epsilon: f64,
    /// Bound the joint norm of all gradients [default: unbounded]
    #[arg(long, value_name = "NORM")]
    pub clip_norm: Option<f64>,
    /// BatchNormalization while training [default: frozen; reference: batch]
    #[arg(long, value_enum)]
    pub batch_norm: Option<BatchNormArg>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Verdict")]
pub struct GateArgs {
    /// Largest accuracy on a forgotten class (multi-hot labels: recall), 0 to 1
    #[arg(long, value_name = "A", default_value_t = 0.01)]
    pub max_forget_accuracy: f64,
    /// Largest fall of the accuracy on the retained classes (multi-hot labels: micro-F1), 0 to 1
    #[arg(long, value_name = "D", default_value_t = 0.02)]
    pub max_retain_drop: f64,
    /// Answer no (exit 1) also when something was not assessed
    #[arg(long)]
    pub require_pass: bool,
    /// Write the model even when a gate failed
    #[arg(long)]
    pub keep_failed: bool,
    /// Write the model even when tract could not check it
    #[arg(long)]
    pub allow_unchecked: bool,
    /// Samples run in both engines
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub check_samples: usize,
    /// Absolute tolerance between the engines
    #[arg(long, value_name = "T", default_value_t = 1e-3)]
    pub check_atol: f64,
    /// Relative tolerance between the engines
    #[arg(long, value_name = "T", default_value_t = 1e-3)]
    pub check_rtol: f64,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The model to show
    pub model: PathBuf,
    /// Also say what memory a training step of so many samples takes; needs the runtime
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Height and width of images, where the model leaves them open: N or HxW
    #[arg(long, value_name = "HxW")]
    pub resize: Option<String>,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub choice: ModelArgs,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct GradcheckArgs {
    /// The model to check
    pub model: PathBuf,
    #[command(flatten)]
    pub choice: ModelArgs,
    /// Height and width of images, where the model leaves them open: N or HxW
    #[arg(long, value_name = "HxW")]
    pub resize: Option<String>,
    /// Samples in the batch of random data [default: 4, or the batch that the file declares]
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Seed of the data and of the directions
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Largest error, relative to the usual size of the derivative
    #[arg(long, value_name = "T", default_value_t = 1e-3)]
    pub tolerance: f64,
    /// Threads per operator [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// The ONNX Runtime library to use
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// No notes and no progress
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct DigestArgs {
    /// The model
    pub model: PathBuf,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RuntimeArgs {
    #[command(subcommand)]
    pub action: RuntimeAction,
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum RuntimeAction {
    /// Shows where ONNX Runtime was looked for and which library would be used
    Show {
        /// The ONNX Runtime library to use
        #[arg(long, value_name = "FILE")]
        ort_lib: Option<PathBuf>,
    },
    /// Installs the pinned ONNX Runtime into the tool's cache
    Install {
        /// The build for NVIDIA GPUs
        #[arg(long)]
        cuda: bool,
    },
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Folder for the demonstration
    #[arg(short, long = "out", value_name = "DIR", default_value = "onnx-unlearn-demo")]
    pub out: PathBuf,
    /// The class to forget
    #[arg(long, value_name = "CLASSES", default_value = "Trouser")]
    pub forget: String,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub json: bool,
    /// No notes and no progress
    #[arg(long)]
    pub quiet: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}
