//! Every warning the tool can give.

use std::fmt;

/// Something the user should know that does not stop the work.
#[derive(Clone, Debug, PartialEq)]
pub enum Warning {
    /// Float arrays are taken as they are.
    PreprocessingNotApplied {
        /// The flag of the data.
        data: &'static str,
        /// The flags that were given in vain.
        flags: Vec<&'static str>,
    },
    /// The reference variant labels all noise 0.
    ReferenceLabel,
    /// The reference variant is about BatchNormalization, and there is none.
    NoBatchNorm,
    /// BatchNormalization in training mode, in the file.
    LiveBatchNorm,
    /// Scores that are taken for logits although they look like probabilities.
    LikeProbabilities {
        /// The model file.
        model: String,
        /// Its output.
        output: String,
    },
    /// No held-out data.
    NoEval,
    /// Nothing is left to judge trials by.
    NothingJudges,
    /// The held-out data has no samples of a class to forget.
    EvalWithoutForget(Vec<String>),
    /// The held-out data has no samples of a retained class.
    EvalWithoutRetained(Vec<String>),
    /// A retained class has fewer samples than asked for.
    FewSamples {
        /// Classes with fewer samples.
        classes: usize,
        /// The smallest number.
        fewest: usize,
        /// What was asked for.
        per_class: usize,
    },
    /// The model did not know the class before.
    NotKnownBefore {
        /// Share of their samples that were predicted as them, 0 to 1.
        accuracy: f64,
    },
    /// Operators whose derivative is zero keep weights before them from learning.
    DeadEnds {
        /// The operators, as messages name them.
        nodes: Vec<String>,
        /// Number of float tensors that stay as they are for it.
        frozen: usize,
    },
    /// A CUDA device was not used although the device was to be chosen.
    CudaNotUsed(String),
    /// The model's stamp says that these classes were forgotten before.
    UnlearnedBefore(Vec<String>),
    /// The model's stamp is damaged, or of another model; that one names these classes.
    StaleStamp(Vec<String>),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PreprocessingNotApplied { data, flags } => {
                write!(f, "{data} holds float arrays, which are taken as they are: {} not applied", flags.join(", "))
            }
            Self::ReferenceLabel => f.write_str(
                "the reference variant labels all noise as class 0, which is not among the classes to forget; it is not expected to forget them",
            ),
            Self::NoBatchNorm => f.write_str(
                "the model has no BatchNormalization (exporters fold it into convolutions): batch statistics change nothing",
            ),
            Self::LiveBatchNorm => f.write_str(
                "the file has BatchNormalization in training mode: its scores depend on all samples of a batch, and with \
                 graph optimisations ONNX Runtime's CPU provider gives other scores than the operator defines (they are \
                 off here); the CUDA provider does not take it, so that it is measured on the CPU; export the model in \
                 inference mode",
            ),
            Self::LikeProbabilities { model, output } => write!(
                f,
                "{model}: the scores of output {output:?} sum to 1 in every sample, as behind a Softmax, but no final Softmax \
                 was found: loss, calibration error and divergence take them for logits"
            ),
            Self::NoEval => f.write_str("no --eval data: forgetting is not assessed"),
            Self::NothingJudges => f.write_str(
                "nothing judges the trials: no class has 10 retain samples, of which one would be left out for that, and --eval \
                 has none to spare of the classes to forget. The learning rates are the smallest that were tried; give more \
                 samples, or --impair-lr",
            ),
            Self::EvalWithoutForget(classes) => {
                write!(f, "--eval has no samples of {}: forgetting is not assessed", classes.join(", "))
            }
            Self::EvalWithoutRetained(classes) => {
                write!(f, "--eval has no samples of {}: how they are kept is not measured", classes.join(", "))
            }
            Self::FewSamples { classes, fewest, per_class } => {
                write!(f, "{classes} retained class(es) have fewer than {per_class} samples (the fewest: {fewest})")
            }
            Self::NotKnownBefore { accuracy } => write!(
                f,
                "the model predicted the classes to forget in {:.1} % of their samples before; is this the right class, and is the preprocessing right?",
                100.0 * accuracy
            ),
            Self::DeadEnds { nodes, frozen } => write!(
                f,
                "the derivative of {} is zero wherever it exists: only weights after it learn, and {frozen} float \
                 tensor(s) before it stay as they are",
                few(nodes)
            ),
            Self::CudaNotUsed(reason) => write!(f, "--device auto: cpu, because {reason}"),
            Self::UnlearnedBefore(classes) => write!(
                f,
                "the model was unlearned before (classes {}): they count as forgotten, and their samples are left out",
                classes.join(", ")
            ),
            Self::StaleStamp(classes) if classes.is_empty() => f.write_str(
                "the model's stamp is damaged or of another model: classes that were forgotten before are not known; name \
                 them in --forget too",
            ),
            Self::StaleStamp(classes) => write!(
                f,
                "the model's stamp is of another model (its weights or graph changed): classes it says were forgotten before \
                 ({}) are taken for retained ones; name them in --forget if they are to stay forgotten",
                classes.join(", ")
            ),
        }
    }
}

/// A list for a sentence: at most eight names and the number of the others.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    let rest = names.len().saturating_sub(SHOWN);
    if rest == 0 { shown } else { format!("{shown} and {rest} more nodes") }
}
