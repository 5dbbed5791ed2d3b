//! Writes down what happened: the report file, and every warning the tool can give.

mod html;
mod notebook;
mod verdict;
mod warning;

pub use html::page;
pub use notebook::Notebook;
pub use verdict::{Gate, GateOutcome, Gates, Measured, Verdict, percent};
pub use warning::Warning;

use crate::{
    check::Comparison,
    data::LoadSummary,
    evaluate::{Evaluation, Route},
    provenance::digest::Digests,
    train::Stored,
    unlearn::{Calibration, PhaseRecord, Recipe},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of [`Report`] as JSON; new fields do not change it.
pub const SCHEMA_VERSION: u32 = 1;

/// The report that lies beside a finished model. It holds no time and no path of the machine, so equal runs write equal
/// reports.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Name and version of the program.
    pub tool: String,
    /// What the run was asked for under, where it was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Types of the claims that belong to the result, so that one that was taken away is missed; none where it is not signed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<&'static str>,
    /// What was done, in words that claim no more than was measured.
    pub statement: String,
    /// Everything that decides the result; the stamp holds the digest of this object.
    pub parameters: Parameters,
    /// The trials that the learning rates were found by; absent where they were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The model that was read.
    pub source: Identity,
    /// The model that was written.
    pub result: Identity,
    /// Name of every class.
    pub classes: Vec<String>,
    /// What ran the training.
    pub runtime: RuntimeRecord,
    /// Where the logits were found.
    pub head: crate::train::Head,
    /// Tensors that were trained, with how far they moved.
    pub trained: Vec<TrainedTensor>,
    /// Float tensors that were not trained, with the reason.
    pub frozen: Vec<Stored>,
    /// The data that was read.
    pub data: DataRecord,
    /// What each phase did.
    pub phases: Vec<PhaseRecord>,
    /// Where noise was learned, and in which range.
    pub noise: NoiseRecord,
    /// J at every noise step, one list a forgotten class.
    pub noise_objective: Vec<Vec<f32>>,
    /// The measurements.
    pub measured: Measured,
    /// Where the samples of each forgotten class are predicted; those without samples are left out, and with multi-hot
    /// labels there are none.
    pub routing: Vec<Routing>,
    /// Reference variant: the numbers as the published notebook counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notebook: Option<Notebook>,
    /// The masking of the output, where it was asked for. It is no part of what is measured and judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masking: Option<Masking>,
    /// Comparison of two inference engines on the finished bytes.
    pub check: CheckRecord,
    /// The gates and what they came to.
    pub verdict: Verdict,
    /// Warnings given during the run.
    pub warnings: Vec<String>,
    /// What this does not show.
    pub limitations: Vec<&'static str>,
}

/// Everything that decides the result of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Parameters {
    /// `unsir`.
    pub method: &'static str,
    /// The settings of the method.
    pub recipe: Recipe,
    /// Preprocessing of uint8 images.
    pub preprocess: PreprocessRecord,
    /// Samples of each class that are read from the retain data.
    pub per_class: usize,
    /// The model output that was asked for.
    pub output: String,
    /// True where `--multi-label` says that scores are independent.
    pub multi_label: bool,
    /// The model input that holds the samples.
    pub input: String,
    /// Inputs that are the same for every sample.
    pub constants: BTreeMap<String, Number>,
    /// Patterns of tensors that stay as they are.
    pub freeze: Vec<String>,
    /// Patterns of tensors that are trained although the rules take them for constants.
    pub train: Vec<String>,
    /// `mask` where the output of the forgotten classes is masked in the finished file; absent elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_output: Option<&'static str>,
}

/// Preprocessing as it was applied.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PreprocessRecord {
    /// Height and width images were scaled to.
    pub resize: Option<(usize, usize)>,
    /// Subtracted after scaling.
    pub mean: Vec<Number>,
    /// Divided by.
    pub std: Vec<Number>,
    /// Factor on the raw value; `None` is 1/255.
    pub scale: Option<Number>,
    /// Layout of the model's input, as it was asked for.
    pub layout: &'static str,
}

/// A float32 that is written with the digits it was given in: 0.4914, not the float64 nearest to the float32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(pub f32);

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The shortest text that reads back as this float32.
        let shortest = self.0.to_string().parse().unwrap_or(f64::from(self.0));
        serializer.serialize_f64(shortest)
    }
}

/// Where noise was learned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NoiseRecord {
    /// The input itself, or a value behind it.
    pub site: crate::train::Site,
    /// Mean and standard deviation of the values there.
    pub range: crate::train::Range,
    /// True when the retain sample told the range, false when it was given.
    pub measured: bool,
}

/// A model by its digests.
#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    /// File name, without a folder.
    pub name: String,
    /// Digest of the file's bytes; absent where the file carries the report's own digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Digest of the weights.
    pub weights: String,
    /// Digest of the graph.
    pub graph: String,
}

impl Identity {
    /// From computed digests.
    pub fn new(name: String, d: &Digests) -> Self {
        Self { name, file: Some(d.file.to_string()), weights: d.weights.to_string(), graph: d.graph.to_string() }
    }
}

/// What ran the training.
#[derive(Clone, Debug, Serialize)]
pub struct RuntimeRecord {
    /// `onnxruntime` and its version.
    pub backend: String,
    /// SHA-256 of the runtime library.
    pub library: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Threads per operator.
    pub threads: usize,
    /// Whether a GPU rounded the factors of products to TF32; not written where it did not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tf32: bool,
    /// What convolutions computed in another form than the usual one, and in which, as `--autotune` has found; not written where
    /// there was none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub forms: BTreeMap<String, String>,
    /// Operating system and processor family.
    pub target: String,
    /// Instruction sets of the processor that decide which kernels run.
    pub cpu: Vec<&'static str>,
}

/// How far a tensor moved.
#[derive(Clone, Debug, Serialize)]
pub struct TrainedTensor {
    /// Name in the file.
    pub name: String,
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// Euclidean norm of the difference.
    pub change: f64,
    /// The same, divided by the norm before.
    pub relative_change: f64,
    /// True for running statistics of BatchNormalization, which follow the data and are no weights.
    pub statistic: bool,
}

/// Where the samples of a forgotten class are predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Routing {
    /// The class.
    pub class: usize,
    /// By the source model.
    pub before: Route,
    /// By the finished one.
    pub after: Route,
}

impl Routing {
    /// Of each class that has samples.
    pub fn new(forget: &[usize], before: &Evaluation, after: &Evaluation) -> Vec<Self> {
        let of = |&class: &usize| Some(Self { class, before: before.route(class)?, after: after.route(class)? });
        forget.iter().filter_map(of).collect()
    }
}

/// The output of classes, masked in the finished file: this hides, it does not forget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Masking {
    /// The bias of the final layer.
    pub tensor: String,
    /// What its entries of the masked classes were set to.
    pub score: f32,
    /// The masked classes.
    pub classes: Vec<usize>,
    /// The finished file, masking included, on the data of [`Measured`]: for information, no gate looks at it.
    pub published: Evaluation,
}

/// The data that was read.
#[derive(Clone, Debug, Serialize)]
pub struct DataRecord {
    /// The retain sample.
    pub retain: LoadSummary,
    /// The held-out data, if any.
    pub eval: Option<LoadSummary>,
}

/// The check by the second engine.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum CheckRecord {
    /// Both engines ran the model.
    Compared {
        /// The second engine.
        engine: &'static str,
        /// How they compare.
        #[serde(flatten)]
        comparison: Comparison,
    },
    /// The second engine could not.
    NotChecked {
        /// Why.
        reason: String,
    },
}

impl CheckRecord {
    /// True when the engines agree.
    pub fn passed(&self) -> bool {
        matches!(self, Self::Compared { comparison, .. } if comparison.agrees())
    }
}

/// What no run of this tool shows, printed in every report.
pub const LIMITATIONS: &[&str] = &[
    "What was measured is how the model's predictions changed; that features of the class are gone from the inner layers was not measured.",
    "No membership inference, relearning or probing was done; nothing is claimed about privacy.",
    "Copies of the source model made earlier still know the class.",
];
