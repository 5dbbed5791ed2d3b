//! Turns files into labelled, preprocessed, reproducible batches.
//!
//! The story: [`load`] looks at a path and tells a folder of class folders, an `.npz` archive and IDX files apart. Labels
//! are read first, and samples of classes that are not to be read are dropped by their label: their pixels are never kept,
//! and pictures in a folder are not even opened. The rest is kept as it was stored, a byte a pixel, in a
//! [`Dataset`]: in memory, and large sets in a temporary file. [`Dataset::batch`] preprocesses samples on their way into a batch; [`Seeded`] shuffles them the same way
//! for ever; [`Prefetch`] prepares the next batch while the current one is worked on.

mod batches;
mod error;
mod folder;
mod idx;
mod labels;
mod names;
mod npz;
mod preprocess;
mod rows;
mod sampling;
mod shape;
mod source;
mod store;

use std::fmt;
use std::path::Path;

use serde::Serialize;

pub use batches::{Batch, Dataset, Part, Prefetch, require_all_classes};
pub use error::DataError;
pub use names::ClassNames;
pub use preprocess::{InputSpec, Layout, Preprocess};
pub use sampling::{Seeded, shuffled};
pub use source::files;

use batches::Samples;
use source::Source;

/// What is to be loaded, and for which model.
pub struct LoadPlan<'a> {
    /// A folder, an `.npz`, an IDX images file, or `IMAGES,LABELS`.
    pub path: &'a Path,
    /// Number of outputs of the model.
    pub classes: usize,
    /// Names of the classes, if the user gave any.
    pub names: Option<&'a ClassNames>,
    /// Classes whose samples are never read.
    pub drop: &'a [usize],
    /// Read only the first so many samples of each class, in the order of the source.
    pub per_class: Option<usize>,
    /// The model's input.
    pub input: InputSpec,
    /// Further inputs, whose arrays stand in an archive under their own names.
    pub further: &'a [InputSpec],
    /// Predictions the model makes for a sample, each with a label of its own; 1 for a plain classifier.
    pub predictions: usize,
    /// True where the scores of the classes are independent, so that a sample may have several of them (multi-hot labels).
    pub independent: bool,
    /// What the user said about preprocessing.
    pub preprocess: &'a Preprocess,
}

/// What kind of source a data set came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// One subfolder per class.
    Folder,
    /// An archive with `x` and `y`.
    Npz,
    /// IDX files.
    Idx,
}

/// How the samples were stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelKind {
    /// Images of bytes; preprocessing applies.
    Uint8,
    /// Floats, taken as they are: scale, mean, standard deviation and resizing were **not** applied.
    Float32,
}

/// What was read and what was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoadSummary {
    /// Samples read.
    pub read: usize,
    /// True where labels are multi-hot, so that a sample has any number of classes.
    pub multi_hot: bool,
    /// Class and number of samples that were found and dropped by label, ascending; classes without any are left out. A
    /// sample of several such classes is counted once, for the first of them.
    pub dropped: Vec<(usize, usize)>,
    /// Samples passed over because their classes had enough (`per_class`).
    pub beyond_limit: usize,
    /// Samples read, for every class; one of several classes is counted for each.
    pub per_class: Vec<usize>,
    /// SHA-256 in hexadecimal.
    ///
    /// Of an `.npz`: of the file. Of IDX files: over the lines `<SHA-256>  images` and `<SHA-256>  labels`, of the files as
    /// they lie there. Of a folder: over one line `<SHA-256>  <path below the folder>` per picture that was read, sorted by
    /// path; pictures that were dropped or passed over do not enter.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Commitment to the data, `hmac-sha256:` and hexadecimal, which stands in place of the digest where a key for it is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commitment: Option<String>,
    /// The kind of source.
    pub kind: SourceKind,
    /// How the samples were stored.
    pub pixels: PixelKind,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Folder => "folder",
            Self::Npz => "npz",
            Self::Idx => "idx",
        })
    }
}

impl fmt::Display for PixelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uint8 => "uint8",
            Self::Float32 => "float32",
        })
    }
}

/// Loads what the plan asks for. The same files and the same plan give the same samples in the same order, always.
pub fn load(plan: &LoadPlan<'_>) -> Result<(Dataset, LoadSummary), DataError> {
    plan.preprocess.check()?;
    if let Some(names) = plan.names {
        names.check(plan.classes)?;
    }
    let source = Source::find(plan.path)?;
    source.holds_all_inputs(plan)?;
    let (loaded, digest) = source.load(plan)?;
    let summary = LoadSummary {
        read: loaded.order.len(),
        multi_hot: loaded.labels.multi_hot,
        dropped: loaded.tally.dropped(),
        beyond_limit: loaded.tally.beyond(),
        per_class: loaded.tally.per_class().to_vec(),
        digest,
        commitment: None,
        kind: loaded.kind,
        pixels: if matches!(loaded.samples, Samples::Bytes { .. }) { PixelKind::Uint8 } else { PixelKind::Float32 },
    };
    let dataset = Dataset {
        samples: loaded.samples,
        shape: loaded.shape,
        labels: loaded.labels,
        predictions: plan.predictions,
        further: loaded.further,
        order: loaded.order,
        names: plan.names.cloned().or(loaded.names),
        classes: plan.classes,
    };
    Ok((dataset, summary))
}

/// The class names that the subfolders of a data folder stand for, in the order of the model's outputs.
///
/// `None` when `path` is no folder or its subfolders are class indices. Only the names of the subfolders are looked at.
pub fn folder_class_names(path: &Path, classes: usize) -> Result<Option<ClassNames>, DataError> {
    if path.is_dir() { folder::names(path, classes) } else { Ok(None) }
}
