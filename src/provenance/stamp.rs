//! The stamp: two metadata entries that say what a model is and what it was made from.
//!
//! `docs/stamp-format.md` specifies it. The stamp holds no time and no random number, so equal runs give equal bytes. It
//! protects against accidents (a stale stamp, a flipped bit); anyone can write one, so it says nothing about who did.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::digest::{CONTENT, Digest, DigestError, Digests, digest_shared, model_digest};
use crate::onnx::Bytes;
use crate::onnx::patch::{Patch, PatchError, patch_bytes, with_metadata, write_external};
use crate::onnx::wire::{WireError, layout};
use crate::tensor::Tensor;

/// Metadata key of the model digest.
pub const DIGEST_KEY: &str = "dev.onnx-unlearn.digest";
/// Metadata key of the stamp.
pub const STAMP_KEY: &str = "dev.onnx-unlearn.stamp.v1";
/// File name of a stamped model.
pub const MODEL: &str = "model.onnx";
/// Name of the report beside a stamped model.
pub const REPORT: &str = "unlearn-report.json";

/// Where a stamped model comes from and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Name of the digest, [`CONTENT`].
    pub content: String,
    /// Weights digest of the stamped model.
    pub weights: Digest,
    /// Graph digest of the stamped model.
    pub graph: Digest,
    /// The model it was made from.
    pub source: SourceDigests,
    /// Indices of the classes taken out, as decimal text.
    pub forget: Vec<String>,
    /// Indices of the classes that earlier runs took out of the source, ascending, without those of `forget`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten_before: Vec<String>,
    /// Name of the output whose classes these are, where the model has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The method, `unsir`.
    pub method: String,
    /// Digest of the run's parameters, see [`params_digest`].
    pub params: Digest,
    /// Weights digests of the models before the source, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Digest>,
    /// File name of the report.
    pub report: String,
    /// What the run was asked for under, where it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Name and version of the program.
    pub tool: String,
}

/// Digests of the model a stamped model was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDigests {
    /// Of the file's bytes.
    pub file: Digest,
    /// Of its weights.
    pub weights: Digest,
    /// Of its graph.
    pub graph: Digest,
}

/// What only the caller knows about a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StampInfo {
    /// Indices of the classes taken out, as decimal text.
    pub forget: Vec<String>,
    /// The same of earlier runs, without those of `forget`.
    pub forgotten_before: Vec<String>,
    /// Name of the output whose classes these are, where the model has several.
    pub output: Option<String>,
    /// The method, `unsir`.
    pub method: String,
    /// Digest of the run's parameters, see [`params_digest`].
    pub params: Digest,
    /// What the run was asked for under.
    pub request: Option<String>,
}

/// Why a stamp was not read or written.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum StampError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("metadata entry {STAMP_KEY}: {0}")]
    Malformed(String),
    #[error("metadata entry {STAMP_KEY}: content {0:?} is unknown to this version (it knows {CONTENT})")]
    Unsupported(String),
    #[error("{0}")]
    Inconsistent(String),
    #[error("the patched model: {0}")]
    Digest(#[source] Box<DigestError>),
    #[error(transparent)]
    Patch(Box<PatchError>),
    #[error("the patched model has another graph than its source: {found} instead of {expected}")]
    GraphChanged { expected: Digest, found: Digest },
    #[error("tensor {0:?} changed although it was not among those to write")]
    Undeclared(String),
    #[error("cannot be written as canonical JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<PatchError> for StampError {
    fn from(error: PatchError) -> Self {
        Self::Patch(Box::new(error))
    }
}

impl StampError {
    /// The stable reason code of `verify`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "stamp.unsupported",
            Self::Inconsistent(_) => "stamp.inconsistent",
            Self::Wire(_) => "model.refused",
            Self::Digest(source) => source.code(),
            _ => "stamp.malformed",
        }
    }
}

/// The digest of a run's parameters: of their canonical JSON (RFC 8785).
pub fn params_digest(parameters: &impl Serialize) -> Result<Digest, StampError> {
    Ok(Digest::of(&serde_json_canonicalizer::to_vec(parameters)?))
}

impl Stamp {
    /// The stamp of a model made from `source`; `earlier` is the stamp that the source carries.
    pub fn new(result: &Digests, source: &Digests, info: StampInfo, earlier: Option<&Self>) -> Self {
        let history = earlier.map(|e| e.history.iter().copied().chain([e.source.weights]).collect());
        Self {
            content: CONTENT.into(),
            weights: result.weights,
            graph: result.graph,
            source: SourceDigests { file: source.file, weights: source.weights, graph: source.graph },
            forget: info.forget,
            forgotten_before: info.forgotten_before,
            output: info.output,
            method: info.method,
            params: info.params,
            history: history.unwrap_or_default(),
            report: REPORT.into(),
            request: info.request,
            tool: concat!("onnx-unlearn/", env!("CARGO_PKG_VERSION")).into(),
        }
    }

    /// Indices of all classes that were taken out, by this run and by earlier ones, ascending.
    pub fn forgotten(&self) -> Vec<String> {
        let mut all: Vec<String> = self.forget.iter().chain(&self.forgotten_before).cloned().collect();
        all.sort_by_cached_key(|class| (class.parse::<usize>().ok(), class.clone()));
        all.dedup();
        all
    }

    /// The metadata entries that hold the stamp.
    pub fn to_metadata(&self) -> Result<Vec<(String, String)>, StampError> {
        let mut value = serde_json::to_value(self)?;
        let own = params_digest(&value)?;
        value["self"] = own.to_string().into();
        let stamp = serde_json_canonicalizer::to_string(&value)?;
        let model = model_digest(self.graph, self.weights);
        Ok(vec![(DIGEST_KEY.into(), model.to_string()), (STAMP_KEY.into(), stamp)])
    }

    /// True when the stamp speaks of the model with these digests.
    pub fn is_of(&self, digests: &Digests) -> bool {
        self.weights == digests.weights && self.graph == digests.graph
    }
}

/// Reads the stamp of a model's bytes; `None` when there is none. Whether the model still is what the stamp says is
/// for [`super::verify`] to find out.
pub fn read(model: &[u8]) -> Result<Option<Stamp>, StampError> {
    let metadata = layout(model)?.metadata;
    let find = |key| metadata.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
    let Some(text) = find(STAMP_KEY) else { return Ok(None) };
    let stamp = parse(text)?;
    let expected = model_digest(stamp.graph, stamp.weights).to_string();
    match find(DIGEST_KEY) {
        Some(found) if found == expected => Ok(Some(stamp)),
        Some(found) => Err(StampError::Inconsistent(format!(
            "metadata entry {DIGEST_KEY} is {found:?}, the stamp's weights and graph make {expected}"
        ))),
        None => Err(StampError::Inconsistent(format!("there is a stamp but no metadata entry {DIGEST_KEY}"))),
    }
}

/// Reads the stamp's JSON. Damage (a wrong `self`) is reported before what the damage led to.
fn parse(text: &str) -> Result<Stamp, StampError> {
    let malformed = |error: serde_json::Error| StampError::Malformed(error.to_string());
    let mut value: Value = serde_json::from_str(text).map_err(malformed)?;
    let canonical = serde_json_canonicalizer::to_string(&value)?;
    let Some(object) = value.as_object_mut() else {
        return Err(StampError::Malformed("is not a JSON object".into()));
    };
    let own = object.remove("self");
    let expected = params_digest(&value)?.to_string();
    if own.as_ref().and_then(Value::as_str) != Some(&expected) {
        return Err(StampError::Inconsistent(format!(
            "metadata entry {STAMP_KEY} is damaged: field self is not the digest of the rest, which is {expected}"
        )));
    }
    if canonical != text {
        return Err(StampError::Malformed("is not canonical JSON (RFC 8785)".into()));
    }
    match value.get("content").and_then(Value::as_str) {
        Some(CONTENT) => serde_json::from_value(value).map_err(malformed),
        Some(other) => Err(StampError::Unsupported(other.into())),
        None => Err(StampError::Malformed("field content is missing".into())),
    }
}

/// A finished model.
#[derive(Clone, Debug, PartialEq)]
pub struct Stamped {
    /// The bytes of the model file.
    pub model: Vec<u8>,
    /// Its digests.
    pub digests: Digests,
    /// The stamp in it.
    pub stamp: Stamp,
    /// The weights that differ from the source's: what the report must declare as trained.
    pub changed: Vec<String>,
}

/// The model that the weights were trained from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The bytes of its file.
    pub bytes: &'a [u8],
    /// The folder that its external data lies in.
    pub folder: &'a Path,
    /// Its digests.
    pub digests: &'a Digests,
}

/// Makes the finished bytes of a model with new weights: patched, digested, stamped, and compared with the source.
///
/// External data files are written into `out_dir`, where none of their names may exist yet; the model file is for the
/// caller to write there.
pub fn finish(
    source: &Source<'_>,
    out_dir: &Path,
    tensors: &BTreeMap<&str, &Tensor>,
    info: StampInfo,
) -> Result<Stamped, StampError> {
    let Source { bytes, folder, digests: before } = *source;
    // A stamp that is damaged or of another model says nothing about this one's history.
    let earlier = read(bytes).ok().flatten().filter(|stamp| stamp.is_of(before));
    let patched = patch_bytes(bytes, &Patch { tensors: tensors.clone(), metadata: Vec::new() })?;
    for external in &patched.external {
        write_external(folder, out_dir, external)?;
    }
    let model = Bytes::from(patched.model);
    let after = digest_shared(&model, out_dir).map_err(|e| StampError::Digest(Box::new(e)))?;
    if after.graph != before.graph {
        return Err(StampError::GraphChanged { expected: before.graph, found: after.graph });
    }
    let changed = changed(before, &after);
    if let Some(name) = changed.iter().find(|name| !tensors.contains_key(name.as_str())) {
        return Err(StampError::Undeclared(name.clone()));
    }
    let stamp = Stamp::new(&after, before, info, earlier.as_ref());
    let model = with_metadata(model.into(), stamp.to_metadata()?)?;
    let digests = Digests { file: Digest::of(&model), ..after };
    Ok(Stamped { model, digests, stamp, changed })
}

/// Keys of the weights that differ between two models, those that only one of them has included.
pub fn changed(before: &Digests, after: &Digests) -> Vec<String> {
    let by_key = |digests: &Digests| -> BTreeMap<_, _> {
        digests.tensors.iter().map(|t| (t.id.clone(), (t.key.clone(), t.digest))).collect()
    };
    let (before, after) = (by_key(before), by_key(after));
    let gone = before.iter().filter(|(id, _)| !after.contains_key(*id)).map(|(_, (key, _))| key);
    let new = after.iter().filter(|(id, (_, digest))| before.get(*id).is_none_or(|(_, old)| old != digest));
    let mut keys: Vec<_> = gone.chain(new.map(|(_, (key, _))| key)).cloned().collect();
    keys.sort();
    keys
}
