//! What differs between two models: tensors with how far they moved, and every other field of the file by its place.
//!
//! The same comparison proves that nothing else changed: the tensors of the second model, put into the first one's bytes, have
//! to make the second one's, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Serialize;
use thiserror::Error;

use super::digest::{Digest, DigestError, Digests, TensorDigest, digest_shared};
use super::folder_of;
use super::stamp::{DIGEST_KEY, STAMP_KEY};
use crate::onnx::patch::{Patch, PatchError, patch_bytes, write_external};
use crate::onnx::schema::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, ValueInfoProto,
    attribute_type,
};
use crate::onnx::wire::{self, WireError, layout};
use crate::onnx::{self, Bytes, Model};
use crate::tensor::Tensor;

/// Version of [`Difference`] as JSON.
pub const SCHEMA_VERSION: u32 = 1;

/// The metadata that a stamp consists of.
const STAMP_KEYS: [&str; 2] = [DIGEST_KEY, STAMP_KEY];

/// Why two models were not compared.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum DiffError {
    #[error("{path}: {source}")]
    Digest { path: String, source: Box<DigestError> },
    #[error("{path}: {source}")]
    Wire { path: String, source: WireError },
}

/// What differs between two models.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The first model.
    pub before: Identity,
    /// The second one.
    pub after: Identity,
    /// Weights that differ, by key.
    pub tensors: Vec<TensorDifference>,
    /// Every other field that differs, by its place.
    pub fields: Vec<FieldDifference>,
    /// Whether the first file with these tensors and the stamp of the second one is the second file, byte for byte; absent where
    /// that could not be tried.
    pub nothing_else: Option<bool>,
}

/// A model by its digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Of the file's bytes.
    pub file: Digest,
    /// Of its weights.
    pub weights: Digest,
    /// Of its graph.
    pub graph: Digest,
}

/// What became of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Both models have it, with another content.
    Changed,
    /// Only the second one has it.
    Added,
    /// Only the first one has it.
    Removed,
}

/// A weight that differs.
#[derive(Clone, Debug, Serialize)]
pub struct TensorDifference {
    /// Its name; in nested graphs and functions with the way there before it.
    pub key: String,
    /// What became of it.
    pub change: Change,
    /// Length of every axis, in the second model where it is there.
    pub dims: Vec<i64>,
    /// How far the elements moved, where both are tensors of the main graph with equal shapes and numbers as elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance: Option<Distance>,
}

/// How far two tensors are from each other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distance {
    /// Euclidean norm of the difference.
    pub l2: f64,
    /// The same, divided by the norm of the first one; 0 where that is 0.
    pub relative: f64,
    /// Largest absolute difference of an element.
    pub max: f64,
    /// Elements that differ.
    pub elements: usize,
}

/// What a field says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// What is computed: the graph digest covers it.
    Graph,
    /// Metadata of the model.
    Metadata,
    /// Names, documentation and storage, which no digest covers.
    Other,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldDifference {
    /// Where it is: `graph.node[y].attribute[pads]`, a node by its first output.
    pub field: String,
    /// What it says.
    pub part: Part,
    /// In the first model; long values by their SHA-256.
    pub before: Option<String>,
    /// In the second one.
    pub after: Option<String>,
}

impl Difference {
    /// True when the files have no difference that can be named.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty() && self.fields.is_empty()
    }

    /// Fields that differ, apart from the stamp.
    pub fn foreign(&self) -> impl Iterator<Item = &FieldDifference> {
        let own = STAMP_KEYS.map(|key| format!("metadata[{key}]"));
        self.fields.iter().filter(move |difference| !own.contains(&difference.field))
    }
}

struct Side {
    bytes: Bytes,
    digests: Digests,
    proto: ModelProto,
    /// The model as training reads it, which does not read everything.
    model: Option<Model>,
}

impl Side {
    fn read(path: &Path) -> Result<Self, DiffError> {
        let shown = path.display().to_string();
        let of_digest = |source| DiffError::Digest { path: shown.clone(), source: Box::new(source) };
        let bytes = fs::read(path).map_err(|source| of_digest(DigestError::Io { path: path.into(), source }))?;
        let bytes = Bytes::from(bytes);
        let digests = digest_shared(&bytes, folder_of(path)).map_err(of_digest)?;
        let proto = wire::decode(bytes.clone()).map_err(|source| DiffError::Wire { path: shown.clone(), source })?;
        Ok(Self { digests, proto, model: onnx::of_bytes(path, bytes.clone()).ok(), bytes })
    }

    fn identity(&self) -> Identity {
        let Digests { file, weights, graph, .. } = self.digests;
        Identity { file, weights, graph }
    }

    fn tensor(&self, key: &str) -> Option<&Tensor> {
        self.model.as_ref()?.graph.constants.get(key).map(AsRef::as_ref)
    }
}

/// Compares two model files.
pub fn diff(before: &Path, after: &Path) -> Result<Difference, DiffError> {
    let (a, b) = (Side::read(before)?, Side::read(after)?);
    let tensors = tensors(&a, &b);
    let fields = fields(&a.proto, &b.proto);
    let nothing_else = nothing_else(&a, &b, &tensors, folder_of(before), folder_of(after));
    Ok(Difference {
        schema_version: SCHEMA_VERSION,
        before: a.identity(),
        after: b.identity(),
        tensors,
        fields,
        nothing_else,
    })
}

fn tensors(a: &Side, b: &Side) -> Vec<TensorDifference> {
    let by_id = |side: &Side| -> BTreeMap<Vec<u8>, TensorDigest> {
        side.digests.tensors.iter().map(|t| (t.id.clone(), t.clone())).collect()
    };
    let (before, after) = (by_id(a), by_id(b));
    let ids: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let difference = |id: &Vec<u8>| {
        let (change, of) = match (before.get(id), after.get(id)) {
            (Some(old), Some(new)) if old.digest == new.digest => return None,
            (Some(_), Some(new)) => (Change::Changed, new),
            (None, Some(new)) => (Change::Added, new),
            (Some(old), None) => (Change::Removed, old),
            (None, None) => return None,
        };
        let distance = a.tensor(&of.key).zip(b.tensor(&of.key)).and_then(|(a, b)| distance(a, b));
        Some(TensorDifference { key: of.key.clone(), change, dims: of.dims.clone(), distance })
    };
    ids.into_iter().filter_map(difference).collect()
}

/// How far tensors of equal shapes are from each other.
pub fn distance(a: &Tensor, b: &Tensor) -> Option<Distance> {
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return None;
    }
    let (a, b) = (a.to_f32s(), b.to_f32s());
    let (mut squares, mut size, mut max, mut elements) = (0.0, 0.0, 0.0_f64, 0);
    for (&a, &b) in a.iter().zip(&b) {
        let (a, moved) = (f64::from(a), f64::from(b) - f64::from(a));
        squares += moved * moved;
        size += a * a;
        // NaN is not skipped, as the maximum would: no number is farther away.
        max = if moved.is_nan() || max.is_nan() { f64::NAN } else { max.max(moved.abs()) };
        elements += usize::from(moved != 0.0);
    }
    let l2 = f64::sqrt(squares);
    Some(Distance { l2, relative: if size > 0.0 { l2 / f64::sqrt(size) } else { 0.0 }, max, elements })
}

/// Puts the tensors and the stamp of the second model into the first one's bytes and compares.
fn nothing_else(a: &Side, b: &Side, tensors: &[TensorDifference], from: &Path, to: &Path) -> Option<bool> {
    let mut changed = BTreeMap::new();
    for difference in tensors {
        changed.insert(difference.key.as_str(), b.tensor(&difference.key)?);
    }
    let stamp = layout(&b.bytes).ok()?.metadata.into_iter().filter(|entry| STAMP_KEYS.contains(&entry.key.as_str()));
    let metadata: Vec<_> = stamp.map(|entry| (entry.key, entry.value)).collect();
    let patched = match patch_bytes(&a.bytes, &Patch { tensors: changed, metadata }) {
        Ok(patched) => patched,
        // Another type or length is another field than the payload.
        Err(PatchError::NotFound { .. } | PatchError::Type { .. } | PatchError::Length { .. }) => return Some(false),
        Err(_) => return None,
    };
    if patched.model != b.bytes {
        return Some(false);
    }
    let folder = tempfile::tempdir().ok()?;
    for external in &patched.external {
        write_external(from, folder.path(), external).ok()?;
        let same = |a: &Path, b: &Path| {
            Some(fs::read(a.join(&external.location)).ok()? == fs::read(b.join(&external.location)).ok()?)
        };
        if !same(folder.path(), to)? {
            return Some(false);
        }
    }
    Some(true)
}

/// What a field holds and what kind of field it is, by its place.
type Outline = BTreeMap<String, (Part, String)>;

fn fields(a: &ModelProto, b: &ModelProto) -> Vec<FieldDifference> {
    let (before, after) = (outline(a), outline(b));
    let places: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let difference = |place: &String| {
        let (old, new) = (before.get(place), after.get(place));
        let part = new.or(old)?.0;
        let value = |field: Option<&(Part, String)>| field.map(|(_, text)| text.clone());
        (old != new).then(|| FieldDifference { field: place.clone(), part, before: value(old), after: value(new) })
    };
    places.into_iter().filter_map(difference).collect()
}

/// Values beyond this many characters are shown by their digest.
const SHOWN: usize = 60;

fn short(text: String) -> String {
    if text.chars().count() <= SHOWN { text } else { Digest::of(text.as_bytes()).to_string() }
}

fn outline(model: &ModelProto) -> Outline {
    let mut all = Outline::new();
    let mut put = |place: &str, part, text: String| _ = all.insert(place.to_owned(), (part, short(text)));
    put("ir_version", Part::Other, model.ir_version().to_string());
    put("producer_name", Part::Other, model.producer_name().to_owned());
    put("producer_version", Part::Other, model.producer_version().to_owned());
    put("domain", Part::Other, model.domain().to_owned());
    put("model_version", Part::Other, model.model_version().to_string());
    put("doc_string", Part::Other, model.doc_string().to_owned());
    for import in &model.opset_import {
        put(&format!("opset_import[{}]", import.domain()), Part::Graph, import.version().to_string());
    }
    for function in &model.functions {
        put(&function_place(function), Part::Graph, encoded(function));
    }
    for entry in &model.metadata_props {
        put(&format!("metadata[{}]", entry.key()), Part::Metadata, entry.value().to_owned());
    }
    if let Some(graph) = &model.graph {
        of_graph(graph, "graph", &mut all);
    }
    all
}

fn function_place(function: &FunctionProto) -> String {
    format!("function[{}::{}]", function.domain(), function.name())
}

/// A message that is compared as a whole.
fn encoded(message: &impl std::fmt::Debug) -> String {
    Digest::of(format!("{message:?}").as_bytes()).to_string()
}

fn of_graph(graph: &GraphProto, at: &str, all: &mut Outline) {
    let mut put = |place: String, part, text: String| _ = all.insert(format!("{at}.{place}"), (part, short(text)));
    put("name".into(), Part::Other, graph.name().to_owned());
    put("doc_string".into(), Part::Other, graph.doc_string().to_owned());
    put("metadata".into(), Part::Other, entries(&graph.metadata_props));
    for (what, part, values) in [
        ("input", Part::Graph, &graph.input),
        ("output", Part::Graph, &graph.output),
        ("value_info", Part::Other, &graph.value_info),
    ] {
        put(format!("{what}s"), part, values.iter().map(ValueInfoProto::name).collect::<Vec<_>>().join(", "));
        for value in values {
            let kind = value.r#type.as_ref().map_or_else(String::new, encoded);
            put(format!("{what}[{}].type", value.name()), part, kind);
            let rest = format!("{}{}", value.doc_string(), entries(&value.metadata_props));
            put(format!("{what}[{}].text", value.name()), Part::Other, rest);
        }
    }
    for annotation in &graph.quantization_annotation {
        let place = format!("quantization_annotation[{}]", annotation.tensor_name());
        put(place, Part::Graph, entries(&annotation.quant_parameter_tensor_names));
    }
    for tensor in &graph.initializer {
        put(format!("initializer[{}].storage", tensor.name()), Part::Other, storage(tensor));
        let text = format!("{}{}", tensor.doc_string(), entries(&tensor.metadata_props));
        put(format!("initializer[{}].text", tensor.name()), Part::Other, text);
    }
    put("nodes".into(), Part::Graph, graph.node.iter().map(node_name).collect::<Vec<_>>().join(", "));
    for node in &graph.node {
        of_node(node, at, all);
    }
}

fn storage(tensor: &crate::onnx::schema::TensorProto) -> String {
    match tensor {
        t if !t.external_data.is_empty() => {
            let place = t.external_data.iter().find(|entry| entry.key() == "location");
            format!("external data in {}", place.map_or("", StringStringEntryProto::value))
        }
        t if t.raw_data.is_some() => "raw_data".into(),
        _ => "a typed list".into(),
    }
}

/// A node is known by its first output; names of nodes are optional.
fn node_name(node: &NodeProto) -> &str {
    node.output.iter().find(|name| !name.is_empty()).map_or_else(|| node.name(), String::as_str)
}

fn of_node(node: &NodeProto, at: &str, all: &mut Outline) {
    let place = format!("{at}.node[{}]", node_name(node));
    let mut put = |what: String, part, text: String| _ = all.insert(format!("{place}.{what}"), (part, short(text)));
    let operator = [node.domain(), node.op_type(), node.overload()].join(" ").trim().to_owned();
    put("operator".into(), Part::Graph, operator);
    put("inputs".into(), Part::Graph, node.input.join(", "));
    put("outputs".into(), Part::Graph, node.output.join(", "));
    put("name".into(), Part::Other, node.name().to_owned());
    put("text".into(), Part::Other, format!("{}{}", node.doc_string(), entries(&node.metadata_props)));
    // A weight is compared as a tensor, whatever holds it.
    let weight = node.op_type() == "Constant";
    for attribute in node.attribute.iter().filter(|a| !(weight && a.name() == "value")) {
        put(format!("attribute[{}]", attribute.name()), Part::Graph, attribute_text(attribute));
    }
}

fn attribute_text(attribute: &AttributeProto) -> String {
    match attribute.r#type() {
        _ if !attribute.ref_attr_name().is_empty() => format!("the attribute {}", attribute.ref_attr_name()),
        attribute_type::FLOAT => format!("{:?}", attribute.f()),
        attribute_type::INT => attribute.i().to_string(),
        attribute_type::STRING => String::from_utf8_lossy(attribute.s()).into_owned(),
        attribute_type::FLOATS => format!("{:?}", attribute.floats),
        attribute_type::INTS => format!("{:?}", attribute.ints),
        _ => encoded(attribute),
    }
}

fn entries(entries: &[StringStringEntryProto]) -> String {
    entries.iter().map(|entry| format!("{}={}", entry.key(), entry.value())).collect::<Vec<_>>().join(", ")
}
