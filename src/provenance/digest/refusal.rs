//! Why a model has no digest.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::onnx::external::ExternalError;
use crate::onnx::wire::{Problem, WireError};

/// Why a model has no digest, and where.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum DigestError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{place}: {source}")]
    External { place: String, source: ExternalError },
    #[error("{place}: {problem}")]
    Refused { place: String, problem: Refusal },
}

impl DigestError {
    /// The stable reason code of `verify`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "input.unreadable",
            Self::Wire(WireError { problem: Problem::DuplicateKey(_), .. }) => "model.duplicate_metadata_key",
            Self::Wire(error) if error.problem.is_malformed() => "model.malformed",
            Self::Wire(_) | Self::Refused { .. } => "model.refused",
            Self::External { .. } => "model.external_data",
        }
    }
}

/// The rules a model can break, one variant each.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum Refusal {
    #[error("the model has no graph: is it an ONNX file?")]
    NoGraph,
    #[error("training information is not covered by the digest")]
    TrainingInfo,
    #[error("device configurations are not covered by the digest")]
    DeviceConfiguration,
    #[error("`segment` is set: tensors in segments are not supported")]
    Segment,
    #[error("element type {0} is none of 1 to 28")]
    DataType(i32),
    #[error("dimension {0} is negative")]
    NegativeDim(i64),
    #[error("the dims {0:?} multiply to more elements than can be addressed")]
    SizeOverflow(Vec<i64>),
    #[error("elements are stored in both {0} and {1}")]
    TwoStorages(&'static str, &'static str),
    #[error("no elements are stored, {0} are declared")]
    NoStorage(u64),
    #[error("{field} does not hold elements of type {data_type}")]
    WrongField { field: &'static str, data_type: i32 },
    #[error("{held} bytes are stored, dims and type ask for {expected}")]
    Length { held: u64, expected: u64 },
    #[error("{held} entries are stored, dims and type ask for {expected}")]
    Count { held: u64, expected: u64 },
    #[error("entry {value} does not fit element type {data_type}")]
    EntryRange { value: i128, data_type: i32 },
    #[error("a boolean element is {0}, neither 0 nor 1")]
    Bool(u8),
    #[error("data_location is EXTERNAL but external_data has no entries")]
    NoExternalEntries,
    #[error("external_data has entries but data_location is not EXTERNAL")]
    UnusedExternalEntries,
    #[error("data_location {0} is neither DEFAULT nor EXTERNAL")]
    DataLocation(i32),
    #[error(transparent)]
    External(ExternalError),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("the attribute has no type")]
    NoAttributeType,
    #[error("attribute type {0} is none of 1 to 14")]
    AttributeType(i32),
    #[error("the attribute has type {declared} and also sets `{field}`")]
    AttributeField { declared: i32, field: &'static str },
    #[error("attribute {0:?} stands twice")]
    AttributeTwice(String),
    #[error("value {0:?} is defined twice")]
    DefinedTwice(String),
    #[error("domain {0:?} is used but not imported")]
    NoImport(String),
    #[error("domain {0:?} is imported with two versions")]
    TwoVersions(String),
    #[error("a node with a nested graph has no named output")]
    NoNamedOutput,
    #[error("attribute default {0:?} is a graph")]
    GraphDefault(String),
    #[error("function {0:?} is defined twice")]
    FunctionTwice(String),
}

impl Refusal {
    /// The refusal at its place.
    pub(super) fn at(self, place: impl Into<String>) -> DigestError {
        let place = place.into();
        match self {
            Self::External(source) => DigestError::External { place, source },
            problem => DigestError::Refused { place, problem },
        }
    }
}
