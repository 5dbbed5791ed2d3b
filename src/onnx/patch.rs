//! Writes new weights and metadata into a copy of a model's bytes and leaves every other byte as it was.
//!
//! Decoding and encoding again would lose what the schema does not know and reorder what it does; so the payloads are
//! replaced where they lie, and metadata entries are cut out and appended as bytes. Elements of a fixed width keep every
//! length. Varints do not: there the lengths of the list and of the messages around it follow.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost::encoding::encode_varint;
use thiserror::Error;

use super::dtype_of;
use super::external::{ExternalError, ExternalRef};
use super::schema::StringStringEntryProto;
use super::wire::{Content, Frame, Layout, Splice, Storage, TensorSpan, WireError, layout, varints};
use crate::tensor::{DType, Tensor};

/// What every metadata key of this tool begins with.
pub const NAMESPACE: &str = "dev.onnx-unlearn.";

/// Protobuf readers take no message of 2 GiB or more.
const MAX_MODEL_BYTES: usize = i32::MAX as usize;

/// Bytes that the metadata of a run seldom passes, for which there is room behind a patched model.
const METADATA: usize = 1 << 14;

/// What to change in a model.
#[derive(Clone, Debug, Default)]
pub struct Patch<'a> {
    /// New elements by the name of an initializer or of a Constant node's output in the main graph. Element type and
    /// number of elements are those of the file; the shape is not looked at.
    pub tensors: BTreeMap<&'a str, &'a Tensor>,
    /// New metadata; every key begins with [`NAMESPACE`]. Entries of the source with such keys are dropped.
    pub metadata: Vec<(String, String)>,
}

/// A patched model.
#[derive(Clone, Debug, PartialEq)]
pub struct Patched<'a> {
    /// The bytes of the new model file.
    pub model: Vec<u8>,
    /// Every external file that the model refers to, also those without a change, sorted by location.
    pub external: Vec<ExternalPatch<'a>>,
}

/// What to change in one external file.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalPatch<'a> {
    /// Path relative to the model's folder.
    pub location: String,
    /// Offsets and the elements to put there, as little-endian bytes.
    pub writes: Vec<(u64, &'a Tensor)>,
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
    #[error("tensor {name:?} ({path}) has element type {}, but the new elements are {given}", type_name(*data_type))]
    Type { name: String, path: String, data_type: i32, given: DType },
    #[error(
        "tensor {name:?} ({path}) has dims {dims:?} and holds {held} bytes of elements, but {given} new elements of \
         {dtype} are given"
    )]
    Length { name: String, path: String, dims: Vec<i64>, held: u64, given: usize, dtype: DType },
    #[error(
        "tensor {name:?} ({path}) keeps its data in a form that cannot be replaced (two storages, or a field that is not \
         the one for its type)"
    )]
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
    PastEnd { path: PathBuf, offset: u64, length: u64, size: u64 },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// An element type of the file format, for messages.
fn type_name(data_type: i32) -> String {
    dtype_of(data_type).map_or_else(|| format!("{data_type} of onnx.proto"), |dtype| dtype.to_string())
}

/// Makes the bytes of a patched model; an empty patch gives the source's bytes.
///
/// Payloads keep their storage form and place, bit for bit what was given (NaN payloads and signed zeros too); a tensor
/// that holds the given elements already is left as it lies. Own metadata of the source goes, the new entries stand once
/// each, sorted by key, at the end of the model.
pub fn patch_bytes<'a>(source: &[u8], patch: &Patch<'a>) -> Result<Patched<'a>, PatchError> {
    let (splice, external) = changes(source, patch)?;
    let mut model = splice.apply(source, METADATA);
    append_metadata(&mut model, &patch.metadata)?;
    fitting(model.len())?;
    Ok(Patched { model, external })
}

/// Finds out what [`patch_bytes`] would refuse of these tensors, with the metadata of a run, without making the new bytes.
pub fn check(source: &[u8], tensors: BTreeMap<&str, &Tensor>) -> Result<(), PatchError> {
    let (mut splice, _) = changes(source, &Patch { tensors, metadata: Vec::new() })?;
    fitting(splice.size(source) + METADATA)
}

/// Puts metadata into a model, as [`patch_bytes`] does; the bytes stay where they are if there is none to be dropped.
pub fn with_metadata(mut model: Vec<u8>, metadata: Vec<(String, String)>) -> Result<Vec<u8>, PatchError> {
    if layout(&model)?.metadata.iter().any(|m| m.key.starts_with(NAMESPACE)) {
        return Ok(patch_bytes(&model, &Patch { tensors: BTreeMap::new(), metadata })?.model);
    }
    append_metadata(&mut model, &metadata)?;
    fitting(model.len())?;
    Ok(model)
}

fn fitting(bytes: usize) -> Result<(), PatchError> {
    if bytes > MAX_MODEL_BYTES { Err(PatchError::TooLarge(bytes)) } else { Ok(()) }
}

/// What a patch changes in the model file, and in every external file.
fn changes<'a>(source: &[u8], patch: &Patch<'a>) -> Result<(Splice<'a>, Vec<ExternalPatch<'a>>), PatchError> {
    let layout = layout(source)?;
    let claims = layout.external.iter().map(|(name, entries)| reference(name, entries));
    let claims = claims.collect::<Result<Vec<_>, _>>()?;
    let mut external: BTreeMap<_, _> = claims.iter().map(|c| (c.location.clone(), Vec::new())).collect();
    let mut splice = Splice::default();
    for (&name, &tensor) in &patch.tensors {
        let span = find(&layout, name, tensor.dtype())?;
        match &span.storage {
            Storage::Inline(ranges) => {
                check_length(span, tensor, ranges.iter().map(|r| r.len() as u64).sum())?;
                if let [range] = &ranges[..] {
                    splice.put(range.clone(), Content::Elements(tensor));
                    continue;
                }
                let mut bytes = tensor.to_le_bytes();
                for range in ranges.iter().rev() {
                    splice.put(range.clone(), Content::Bytes(bytes.split_off(bytes.len() - range.len())));
                }
            }
            Storage::Varint(lists) => put_varints(&mut splice, source, span, lists, tensor)?,
            Storage::External(entries) => {
                let place = reference(name, entries)?;
                check_length(span, tensor, place.length.unwrap_or_else(|| size_of(tensor)))?;
                check_alone(&claims, &place)?;
                external.entry(place.location).or_default().push((place.offset, tensor));
            }
            Storage::Other => return Err(PatchError::Storage { name: name.into(), path: span.path.clone() }),
        }
    }
    let changed = !patch.tensors.is_empty() || !patch.metadata.is_empty();
    for entry in layout.metadata.iter().filter(|m| changed && m.key.starts_with(NAMESPACE)) {
        splice.put(entry.span.clone(), Content::Bytes(Vec::new()));
    }
    let external = external.into_iter().map(|(location, writes)| ExternalPatch { location, writes }).collect();
    Ok((splice, external))
}

/// Copies one external file from the source's folder into the output folder and makes its changes in the copy.
///
/// The file must not exist in the output folder, which so can never be the source's.
pub fn write_external(source_dir: &Path, out_dir: &Path, patch: &ExternalPatch<'_>) -> Result<(), PatchError> {
    let whole = reference("", &[("location".into(), patch.location.clone())])?.open(source_dir)?;
    let path = out_dir.join(&patch.location);
    let fail = |source| PatchError::Write { path: path.clone(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(fail)?;
    }
    for (offset, tensor) in &patch.writes {
        let (size, length) = (whole.length(), size_of(tensor));
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(PatchError::PastEnd { path, offset: *offset, length, size });
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
    for (offset, tensor) in &patch.writes {
        file.seek(SeekFrom::Start(*offset)).and_then(|_| file.write_all(&tensor.to_le_bytes())).map_err(fail)?;
    }
    file.sync_all().map_err(fail)
}

fn reference(tensor: &str, entries: &[(String, String)]) -> Result<ExternalRef, ExternalError> {
    ExternalRef::parse(tensor, entries.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

/// The one tensor of that name, if its elements have that type.
fn find<'l>(layout: &'l Layout, name: &str, given: DType) -> Result<&'l TensorSpan, PatchError> {
    let mut found = layout.tensors.iter().filter(|t| t.name == name);
    let first = found.next().ok_or_else(|| PatchError::NotFound { name: name.into() })?;
    if let Some(second) = found.next() {
        let (first, second) = (first.path.clone(), second.path.clone());
        return Err(PatchError::Ambiguous { name: name.into(), first, second });
    }
    if dtype_of(first.data_type) != Some(given) {
        let (path, data_type) = (first.path.clone(), first.data_type);
        return Err(PatchError::Type { name: name.into(), path, data_type, given });
    }
    Ok(first)
}

/// Bytes that the elements take at their full width.
fn size_of(tensor: &Tensor) -> u64 {
    tensor.len() as u64 * tensor.dtype().size() as u64
}

/// Dims, stored elements and new elements must all speak of the same number; `held` counts bytes at full width.
fn check_length(span: &TensorSpan, tensor: &Tensor, held: u64) -> Result<(), PatchError> {
    let count = span.dims.iter().try_fold(1i64, |n, &d| n.checked_mul(d));
    let (given, dtype) = (tensor.len(), tensor.dtype());
    if count == i64::try_from(given).ok() && held == size_of(tensor) {
        return Ok(());
    }
    let (name, path, dims) = (span.name.clone(), span.path.clone(), span.dims.clone());
    Err(PatchError::Length { name, path, dims, held, given, dtype })
}

/// Puts the elements into the lists and single values of a typed field; each list keeps its number of entries.
fn put_varints(
    splice: &mut Splice<'_>,
    source: &[u8],
    span: &TensorSpan,
    lists: &[Frame],
    tensor: &Tensor,
) -> Result<(), PatchError> {
    let (dtype, width) = (tensor.dtype(), tensor.dtype().size());
    // What an entry has above the element's width is the sign, or nothing.
    let entries = lists.iter().flat_map(|list| varints(source, list.value.clone()));
    let held: Vec<u8> = entries.flat_map(|entry| entry.to_le_bytes().into_iter().take(width)).collect();
    check_length(span, tensor, held.len() as u64)?;
    let new = tensor.to_le_bytes();
    if held == new {
        return Ok(());
    }
    let mut elements = new.chunks_exact(width);
    for list in lists {
        let count = varints(source, list.value.clone()).count();
        let mut value = Vec::new();
        for element in elements.by_ref().take(count) {
            encode_varint(entry(dtype, element), &mut value);
        }
        splice.put(list.value.clone(), Content::Bytes(value));
        splice.inside(list);
    }
    span.enclosing.iter().for_each(|frame| splice.inside(frame));
    Ok(())
}

/// The varint of one element: unsigned numbers, truth values and the bits of 16-bit floats as they are, signed numbers
/// with their sign spread over 64 bits, as protobuf writes them.
fn entry(dtype: DType, element: &[u8]) -> u64 {
    let signed = matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64);
    let negative = signed && element.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut bytes = [if negative { 0xff } else { 0 }; 8];
    bytes[..element.len()].copy_from_slice(element);
    u64::from_le_bytes(bytes)
}

fn check_alone(claims: &[ExternalRef], place: &ExternalRef) -> Result<(), PatchError> {
    let range = |r: &ExternalRef| r.offset..r.length.map_or(u64::MAX, |length| r.offset.saturating_add(length));
    let mine = range(place);
    let touches = |other: &&ExternalRef| {
        let theirs = range(other);
        other.location == place.location && theirs.start < mine.end && mine.start < theirs.end
    };
    // One of them is the tensor itself.
    if claims.iter().filter(touches).count() > 1 {
        return Err(PatchError::Shared { name: place.tensor.clone(), location: place.location.clone() });
    }
    Ok(())
}

/// Puts the entries at the end of the model, sorted by key.
fn append_metadata(model: &mut Vec<u8>, new: &[(String, String)]) -> Result<(), PatchError> {
    let mut sorted = BTreeMap::new();
    for (key, value) in new {
        if !key.starts_with(NAMESPACE) {
            return Err(PatchError::ForeignKey { key: key.clone() });
        }
        if sorted.insert(key, value).is_some() {
            return Err(PatchError::RepeatedKey { key: key.clone() });
        }
    }
    for (key, value) in sorted {
        let entry = StringStringEntryProto { key: Some(key.clone()), value: Some(value.clone()) };
        // ModelProto.metadata_props: field 14, length-delimited.
        model.push(14 << 3 | 2);
        model.extend(entry.encode_length_delimited_to_vec());
    }
    Ok(())
}
