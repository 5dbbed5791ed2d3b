//! Where the payloads of the main graph's tensors and the model's metadata entries lie in the file.

use std::ops::Range;

use super::table::TENSOR;
use super::{Frame, RawField, WireError, next_field, varint, walk};
use crate::onnx::schema::data_type;

/// What holds a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An initializer, known by its own name.
    Initializer,
    /// The attribute `value` of a Constant node, known by the node's output.
    Constant,
}

/// How a tensor's elements are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Byte ranges of the file that, joined, are the row-major little-endian elements: the whole of `raw_data`, or the
    /// lists and single values of `float_data` or `double_data`.
    Inline(Vec<Range<usize>>),
    /// The lists and single values of `int32_data`, `int64_data` or `uint64_data`: joined, one varint for each entry.
    Varint(Vec<Frame>),
    /// Keys and values of `external_data`, unchecked.
    External(Vec<(String, String)>),
    /// Anything else: strings, a typed field that is not the one for the element type, two storages at once. Not
    /// patchable.
    Other,
}

/// One tensor of the main graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpan {
    /// The value's name in the graph.
    pub name: String,
    /// Initializer or Constant node.
    pub holder: Holder,
    /// The place in the model, for example `graph.initializer[3]`.
    pub path: String,
    /// ONNX element type number.
    pub data_type: i32,
    /// Length of every axis, as stored.
    pub dims: Vec<i64>,
    /// Where the elements are.
    pub storage: Storage,
    /// The messages around the elements, from the graph down to the tensor itself.
    pub enclosing: Vec<Frame>,
}

/// One entry of the model's `metadata_props`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataSpan {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// The whole field in the file, tag and length included.
    pub span: Range<usize>,
}

/// The places of a model file that may be patched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Initializers and Constant tensors of the main graph, in file order.
    pub tensors: Vec<TensorSpan>,
    /// The model's metadata, in file order.
    pub metadata: Vec<MetadataSpan>,
    /// Every tensor with external data, at any depth: its own name and its `external_data` entries.
    pub external: Vec<(String, Vec<(String, String)>)>,
}

/// Validates the bytes and finds the places that may be patched.
pub fn layout(bytes: &[u8]) -> Result<Layout, WireError> {
    let mut found = Layout::default();
    walk(bytes, &mut |message, range| {
        if std::ptr::eq(message, &raw const TENSOR) {
            let tensor = tensor(bytes, range, Vec::new());
            if let Storage::External(entries) = tensor.storage {
                found.external.push((tensor.name, entries));
            }
        }
    })?;
    for field in fields(bytes, 0..bytes.len()) {
        match field.number {
            GRAPH => graph(bytes, &field, &mut found.tensors),
            METADATA_PROPS => {
                let (key, value) = entry(bytes, field.value.clone());
                let span = field.start..field.value.end;
                found.metadata.push(MetadataSpan { key: key.into(), value: value.into(), span });
            }
            _ => {}
        }
    }
    Ok(found)
}

// Field numbers of onnx.proto, as far as this file looks.
const GRAPH: u32 = 7;
const METADATA_PROPS: u32 = 14;
const GRAPH_NODE: u32 = 1;
const GRAPH_INITIALIZER: u32 = 5;

fn graph(bytes: &[u8], graph: &RawField, tensors: &mut Vec<TensorSpan>) {
    let (mut nodes, mut initializers) = (0, 0);
    for field in fields(bytes, graph.value.clone()) {
        match field.number {
            GRAPH_INITIALIZER => {
                let path = format!("graph.initializer[{initializers}]");
                let enclosing = vec![Frame::of(graph), Frame::of(&field)];
                tensors.push(TensorSpan { path, ..tensor(bytes, field.value, enclosing) });
                initializers += 1;
            }
            GRAPH_NODE => {
                tensors.extend(constant(bytes, graph, &field, nodes));
                nodes += 1;
            }
            _ => {}
        }
    }
}

/// The tensor of a Constant node with attribute `value`.
fn constant(bytes: &[u8], graph: &RawField, node: &RawField, index: usize) -> Option<TensorSpan> {
    let (mut output, mut op_type, mut domain, mut found, mut place) = ("", "", "", None, 0);
    for field in fields(bytes, node.value.clone()) {
        match field.number {
            2 if output.is_empty() => output = text(bytes, &field),
            4 => op_type = text(bytes, &field),
            7 => domain = text(bytes, &field),
            5 => {
                let mut inner = fields(bytes, field.value.clone());
                if inner.any(|f| f.number == 1 && text(bytes, &f) == "value") {
                    let value = fields(bytes, field.value.clone()).find(|f| f.number == 5);
                    found = value.map(|value| (place, field, value));
                }
                place += 1;
            }
            _ => {}
        }
    }
    let (place, attribute, value) = found.filter(|_| op_type == "Constant" && matches!(domain, "" | "ai.onnx"))?;
    let enclosing = [graph, node, &attribute, &value].map(Frame::of).to_vec();
    Some(TensorSpan {
        name: output.into(),
        holder: Holder::Constant,
        path: format!("graph.node[{index}].attribute[{place}].t"),
        ..tensor(bytes, value.value, enclosing)
    })
}

/// The number of the typed field that holds elements of a type (onnx.proto, `TensorProto`).
fn typed_field(element_type: i32) -> u32 {
    const COMPLEX64: i32 = 14;
    const COMPLEX128: i32 = 15;
    match element_type {
        data_type::FLOAT | COMPLEX64 => 4,
        data_type::DOUBLE | COMPLEX128 => 10,
        data_type::INT64 => 7,
        data_type::UINT32 | data_type::UINT64 => 11,
        data_type::STRING => 6,
        _ => 5,
    }
}

/// Reads a `TensorProto` without its elements.
fn tensor(bytes: &[u8], range: Range<usize>, enclosing: Vec<Frame>) -> TensorSpan {
    let (mut name, mut data_type, mut dims) = ("", 0, Vec::new());
    let (mut raw, mut typed, mut entries, mut other) = (Vec::new(), Vec::new(), Vec::new(), false);
    for field in fields(bytes, range) {
        match field.number {
            1 => dims.extend(varints(bytes, field.value).map(|v| v as i64)),
            2 => data_type = varints(bytes, field.value).next().unwrap_or(0) as i32,
            4 | 5 | 7 | 10 | 11 if !field.value.is_empty() => typed.push(field),
            8 => name = text(bytes, &field),
            9 if !field.value.is_empty() => raw.push(field.value),
            13 => {
                let (key, value) = entry(bytes, field.value);
                entries.push((key.into(), value.into()));
            }
            3 | 6 => other = true,
            _ => {}
        }
    }
    let own = typed_field(data_type);
    let other = other || typed.iter().any(|field| field.number != own);
    let storage = match (raw.is_empty(), typed.is_empty(), entries.is_empty(), other) {
        (_, true, true, false) => Storage::Inline(raw),
        (true, false, true, false) if matches!(own, 5 | 7 | 11) => {
            Storage::Varint(typed.iter().map(Frame::of).collect())
        }
        (true, false, true, false) => Storage::Inline(typed.into_iter().map(|field| field.value).collect()),
        (true, true, false, false) => Storage::External(entries),
        _ => Storage::Other,
    };
    let (name, path) = (name.into(), String::new());
    TensorSpan { name, holder: Holder::Initializer, path, data_type, dims, storage, enclosing }
}

/// Key and value of a metadata or external data entry.
pub(super) fn entry(bytes: &[u8], range: Range<usize>) -> (&str, &str) {
    let (mut key, mut value) = ("", "");
    for field in fields(bytes, range) {
        match field.number {
            1 => key = text(bytes, &field),
            2 => value = text(bytes, &field),
            _ => {}
        }
    }
    (key, value)
}

/// The fields of a message that the walk has accepted: no error is left to report here.
fn fields(bytes: &[u8], range: Range<usize>) -> impl Iterator<Item = RawField> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let field = (at < range.end).then(|| next_field(bytes, at, range.end).ok()).flatten()?;
        at = field.value.end;
        Some(field)
    })
}

fn text<'a>(bytes: &'a [u8], field: &RawField) -> &'a str {
    std::str::from_utf8(&bytes[field.value.clone()]).unwrap_or_default()
}

/// The varints in a range that the walk has accepted.
pub(in crate::onnx) fn varints(bytes: &[u8], range: Range<usize>) -> impl Iterator<Item = u64> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let (value, next) = (at < range.end).then(|| varint(bytes, at, range.end).ok()).flatten()?;
        at = next;
        Some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::super::table;

    #[test]
    fn field_numbers_agree_with_the_table() {
        let number = |t: &table::Table, name| t.fields.iter().find(|f| f.name == name).map(|f| f.number);
        assert_eq!(number(&table::MODEL, "graph"), Some(super::GRAPH));
        assert_eq!(number(&table::MODEL, "metadata_props"), Some(super::METADATA_PROPS));
        assert_eq!(number(&table::GRAPH, "node"), Some(super::GRAPH_NODE));
        assert_eq!(number(&table::GRAPH, "initializer"), Some(super::GRAPH_INITIALIZER));
        for (name, expected) in [("raw_data", 9), ("name", 8), ("dims", 1), ("data_type", 2), ("external_data", 13)] {
            assert_eq!(number(&table::TENSOR, name), Some(expected), "{name}");
        }
        let typed = ["float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"];
        let of_types = [1, 10, 8, 7, 11, 13].map(super::typed_field);
        for (name, expected) in typed.into_iter().zip(of_types) {
            assert_eq!(number(&table::TENSOR, name), Some(expected), "{name}");
        }
        for (name, expected) in [("output", 2), ("op_type", 4), ("domain", 7), ("attribute", 5)] {
            assert_eq!(number(&table::NODE, name), Some(expected), "{name}");
        }
        for (name, expected) in [("name", 1), ("t", 5)] {
            assert_eq!(number(&table::ATTRIBUTE, name), Some(expected), "{name}");
        }
    }
}
