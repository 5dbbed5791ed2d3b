//! Writes new weights and metadata into a copy of a model's bytes and leaves every other byte as it was.
//!
//! Decoding and encoding again would lose what the schema does not know and reorder what it does; so the payloads are
//! overwritten where they lie, and metadata entries are cut out and appended as bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use prost::Message as _;
use thiserror::Error;

use super::external::{ExternalError, ExternalRef};
use super::schema::{StringStringEntryProto, data_type};
use super::wire::{Layout, Storage, TensorSpan, WireError, layout};

/// What every metadata key of this tool begins with.
pub const NAMESPACE: &str = "dev.onnx-unlearn.";

/// Protobuf readers take no message of 2 GiB or more.
const MAX_MODEL_BYTES: usize = i32::MAX as usize;

/// What to change in a model.
#[derive(Clone, Debug, Default)]
pub struct Patch<'a> {
    /// New elements, row-major, by the name of an initializer or of a Constant node's output in the main graph.
    pub tensors: BTreeMap<&'a str, &'a [f32]>,
    /// New metadata; every key begins with [`NAMESPACE`]. Entries of the source with such keys are dropped.
    pub metadata: Vec<(String, String)>,
}

/// A patched model.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched {
    /// The bytes of the new model file.
    pub model: Vec<u8>,
    /// Every external file that the model refers to, also those without a change, sorted by location.
    pub external: Vec<ExternalPatch>,
}

/// What to change in one external file.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalPatch {
    /// Path relative to the model's folder.
    pub location: String,
    /// Offsets and the bytes to put there.
    pub writes: Vec<(u64, Vec<u8>)>,
}

/// Why a model was not patched.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum PatchError {
    #[error("the source model is refused: {0}")]
    Source(#[from] WireError),
    #[error(transparent)]
    External(#[from] ExternalError),
    #[error(
        "tensor {name:?}: no initializer and no Constant node with attribute `value` of the main graph has this name"
    )]
    NotFound { name: String },
    #[error("tensor {name:?} is defined twice, at {first} and {second}")]
    Ambiguous { name: String, first: String, second: String },
    #[error("tensor {name:?} ({path}) has ONNX element type {data_type}; only float32 (1) can be replaced")]
    Type { name: String, path: String, data_type: i32 },
    #[error("tensor {name:?} ({path}) has dims {dims:?} and holds {held} bytes, but {given} new elements are given")]
    Length { name: String, path: String, dims: Vec<i64>, held: u64, given: usize },
    #[error("tensor {name:?} ({path}) keeps its data in a form that cannot be replaced (two storages, or not floats)")]
    Storage { name: String, path: String },
    #[error(
        "tensor {name:?} shares bytes of external file {location:?} with another tensor: changing one would change both"
    )]
    Shared { name: String, location: String },
    #[error("metadata key {key:?} does not begin with {NAMESPACE:?}: other keys are not this tool's to write")]
    ForeignKey { key: String },
    #[error("metadata key {key:?} is given twice")]
    RepeatedKey { key: String },
    #[error("the patched model would have {0} bytes, more than the 2 GiB that a protobuf message may have")]
    TooLarge(usize),
    #[error("tensor data at {offset} (+{length}) passes the end of external file {} ({size} bytes)", path.display())]
    PastEnd { path: PathBuf, offset: u64, length: usize, size: u64 },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Makes the bytes of a patched model; an empty patch gives the source's bytes.
///
/// Payloads keep their storage kind and place, bit for bit what was given (NaN payloads and signed zeros too). Own
/// metadata of the source goes, the new entries stand once each, sorted by key, at the end of the model.
pub fn patch_bytes(source: &[u8], patch: &Patch) -> Result<Patched, PatchError> {
    let layout = layout(source)?;
    let mut model = source.to_vec();
    let mut external = BTreeMap::new();
    for (_, entries) in &layout.external {
        external.insert(reference("", entries)?.location, Vec::new());
    }
    for (&name, &values) in &patch.tensors {
        let span = find(&layout, name)?;
        match &span.storage {
            Storage::Inline(ranges) => {
                check_length(span, values, ranges.iter().map(|r| r.len() as u64).sum())?;
                overwrite(&mut model, ranges, values);
            }
            Storage::External(entries) => {
                let place = reference(name, entries)?;
                check_length(span, values, place.length.unwrap_or(values.len() as u64 * 4))?;
                check_alone(&layout, &place)?;
                let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                external.entry(place.location).or_default().push((place.offset, bytes));
            }
            Storage::Other => return Err(PatchError::Storage { name: name.into(), path: span.path.clone() }),
        }
    }
    if !patch.tensors.is_empty() || !patch.metadata.is_empty() {
        model = with_metadata(&model, &layout, &patch.metadata)?;
    }
    if model.len() > MAX_MODEL_BYTES {
        return Err(PatchError::TooLarge(model.len()));
    }
    let external = external.into_iter().map(|(location, writes)| ExternalPatch { location, writes }).collect();
    Ok(Patched { model, external })
}

/// Copies one external file from the source's folder into the output folder and makes its changes in the copy.
///
/// The file must not exist in the output folder, which so can never be the source's.
pub fn write_external(source_dir: &Path, out_dir: &Path, patch: &ExternalPatch) -> Result<(), PatchError> {
    let whole = reference("", &[("location".into(), patch.location.clone())])?.open(source_dir)?;
    let path = out_dir.join(&patch.location);
    let fail = |source| PatchError::Write { path: path.clone(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(fail)?;
    }
    for (offset, bytes) in &patch.writes {
        let size = whole.length();
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > size) {
            return Err(PatchError::PastEnd { path, offset: *offset, length: bytes.len(), size });
        }
    }
    let mut file = File::create_new(&path).map_err(fail)?;
    let mut written = Ok(());
    whole.each(|part| {
        if written.is_ok() {
            written = file.write_all(part);
        }
    })?;
    written.map_err(fail)?;
    for (offset, bytes) in &patch.writes {
        file.seek(SeekFrom::Start(*offset)).and_then(|_| file.write_all(bytes)).map_err(fail)?;
    }
    file.sync_all().map_err(fail)
}

fn reference(tensor: &str, entries: &[(String, String)]) -> Result<ExternalRef, ExternalError> {
    ExternalRef::parse(tensor, entries.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

/// The one float32 tensor of that name.
fn find<'l>(layout: &'l Layout, name: &str) -> Result<&'l TensorSpan, PatchError> {
    let mut found = layout.tensors.iter().filter(|t| t.name == name);
    let first = found.next().ok_or_else(|| PatchError::NotFound { name: name.into() })?;
    if let Some(second) = found.next() {
        let (first, second) = (first.path.clone(), second.path.clone());
        return Err(PatchError::Ambiguous { name: name.into(), first, second });
    }
    if first.data_type != data_type::FLOAT {
        return Err(PatchError::Type { name: name.into(), path: first.path.clone(), data_type: first.data_type });
    }
    Ok(first)
}

/// Dims, stored bytes and new elements must all speak of the same number of float32.
fn check_length(span: &TensorSpan, values: &[f32], held: u64) -> Result<(), PatchError> {
    let count = span.dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d));
    let given = values.len();
    if count == i64::try_from(given).ok() && held == given as u64 * 4 {
        return Ok(());
    }
    let (name, path, dims) = (span.name.clone(), span.path.clone(), span.dims.clone());
    Err(PatchError::Length { name, path, dims, held, given })
}

fn check_alone(layout: &Layout, place: &ExternalRef) -> Result<(), PatchError> {
    let range = |r: &ExternalRef| r.offset..r.length.map_or(u64::MAX, |length| r.offset.saturating_add(length));
    let mine = range(place);
    let mut users = 0;
    for (name, entries) in &layout.external {
        let other = reference(name, entries)?;
        let theirs = range(&other);
        users += usize::from(other.location == place.location && theirs.start < mine.end && mine.start < theirs.end);
    }
    if users > 1 {
        return Err(PatchError::Shared { name: place.tensor.clone(), location: place.location.clone() });
    }
    Ok(())
}

/// Puts the elements into the ranges; `check_length` found that they fit.
fn overwrite(model: &mut [u8], ranges: &[Range<usize>], values: &[f32]) {
    let mut left = values.iter();
    for range in ranges {
        for (place, value) in model[range.clone()].chunks_exact_mut(4).zip(&mut left) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// The model without the own entries of the source and with the new ones.
fn with_metadata(model: &[u8], layout: &Layout, new: &[(String, String)]) -> Result<Vec<u8>, PatchError> {
    let mut keys = BTreeSet::new();
    for (key, _) in new {
        if !key.starts_with(NAMESPACE) {
            return Err(PatchError::ForeignKey { key: key.clone() });
        }
        if !keys.insert(key) {
            return Err(PatchError::RepeatedKey { key: key.clone() });
        }
    }
    let mut out = Vec::with_capacity(model.len() + new.iter().map(|(k, v)| k.len() + v.len() + 32).sum::<usize>());
    let mut at = 0;
    for entry in layout.metadata.iter().filter(|m| m.key.starts_with(NAMESPACE)) {
        out.extend_from_slice(&model[at..entry.span.start]);
        at = entry.span.end;
    }
    out.extend_from_slice(&model[at..]);
    let mut sorted: Vec<_> = new.iter().collect();
    sorted.sort();
    for (key, value) in sorted {
        let entry = StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) };
        // ModelProto.metadata_props: field 14, length-delimited.
        out.push(14 << 3 | 2);
        out.extend(entry.encode_length_delimited_to_vec());
    }
    Ok(out)
}
