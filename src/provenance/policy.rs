//! A policy: what an output has to be for somebody to use it. A JSON file that its user writes.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::claims::{SLSA, TEST_RESULT};
use super::digest::Digest;
use super::keys::KeyHint;

/// What an output has to be. What is left out is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Version of the format, 1.
    pub schema_version: u32,
    /// Largest accuracy (multi-hot labels: recall) on a forgotten class, 0 to 1.
    pub max_forget_accuracy: Option<f64>,
    /// Largest fall on the retained classes, 0 to 1.
    pub max_retain_drop: Option<f64>,
    /// Bounds of the area under the curve of membership inference, which an audit measures.
    pub membership_auc: Option<Bounds>,
    /// Methods that are allowed.
    pub methods: Option<Vec<String>>,
    /// Keys that may have signed, by the SHA-256 of the public key as PEM.
    pub keys: Option<Vec<KeyHint>>,
    /// Programs that may have written the output, `onnx-unlearn/0.1.0`.
    pub tools: Option<Vec<String>>,
    /// Classes that have to have been forgotten, by index as text, by this run or earlier ones.
    pub forget: Option<Vec<String>>,
    /// What the run has to have been asked for under.
    pub request: Option<String>,
    /// Claims that have to be there.
    #[serde(default)]
    pub require: Vec<Predicate>,
    /// True where an output that nobody signed may be judged: then anyone may have written what it says of itself.
    #[serde(default)]
    pub allow_unsigned: bool,
}

/// An interval, its ends included.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

impl Bounds {
    /// True for a value within.
    pub fn hold(self, value: f64) -> bool {
        (self.min..=self.max).contains(&value)
    }
}

/// The kinds of claims that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Predicate {
    /// How the model was made.
    Slsa,
    /// What was measured.
    TestResult,
}

impl Predicate {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Slsa, Self::TestResult];

    /// Its `predicateType`.
    pub fn uri(self) -> &'static str {
        match self {
            Self::Slsa => SLSA,
            Self::TestResult => TEST_RESULT,
        }
    }

    /// Its short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slsa => "slsa",
            Self::TestResult => "test-result",
        }
    }
}

/// Why a policy was not read.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum PolicyError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is no policy: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{}: schema_version is {found}, this program knows 1", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("{}: membership_auc.min is above membership_auc.max", path.display())]
    Bounds { path: PathBuf },
    #[error("{}: {field} is {value}, expected a number from 0 to 1", path.display())]
    Share { path: PathBuf, field: &'static str, value: f64 },
}

impl Policy {
    /// Reads a policy file; gives its digest as well.
    pub fn read(path: &Path) -> Result<(Self, Digest), PolicyError> {
        let bytes = fs::read(path).map_err(|source| PolicyError::Io { path: path.into(), source })?;
        let policy: Self =
            serde_json::from_slice(&bytes).map_err(|source| PolicyError::Json { path: path.into(), source })?;
        if policy.schema_version != 1 {
            return Err(PolicyError::Version { path: path.into(), found: policy.schema_version });
        }
        let auc = policy.membership_auc;
        let shares = [
            ("max_forget_accuracy", policy.max_forget_accuracy),
            ("max_retain_drop", policy.max_retain_drop),
            ("membership_auc.min", auc.map(|bounds| bounds.min)),
            ("membership_auc.max", auc.map(|bounds| bounds.max)),
        ];
        for (field, value) in shares {
            if let Some(value) = value.filter(|v| !(0.0..=1.0).contains(v)) {
                return Err(PolicyError::Share { path: path.into(), field, value });
            }
        }
        if auc.is_some_and(|bounds| bounds.min > bounds.max) {
            return Err(PolicyError::Bounds { path: path.into() });
        }
        Ok((policy, Digest::of(&bytes)))
    }
}
