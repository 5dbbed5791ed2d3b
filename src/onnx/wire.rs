//! Reads the protobuf bytes of a model strictly, without decoding them.
//!
//! prost steps over fields it does not know and lets the last of two values win: a change could hide in either. The
//! walker here refuses such bytes, naming the place, and finds where payloads lie so that `patch` can replace them.

mod layout;
mod splice;
mod table;

use std::collections::BTreeSet;
use std::ops::Range;

use prost::{Message as _, bytes::Buf};
use thiserror::Error;

use self::table::{Kind, Label, MAX_FIELDS, MODEL, Table};
use super::schema::ModelProto;

pub(super) use self::layout::varints;
pub use self::layout::{Holder, Layout, MetadataSpan, Storage, TensorSpan, layout};
pub use self::splice::Frame;
pub(super) use self::splice::{Content, Splice};

/// Messages may lie this deep inside the model, the limit protobuf readers share.
pub const MAX_DEPTH: usize = 100;

/// Why bytes are not accepted as a model, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path} (byte {offset}): {problem}")]
pub struct WireError {
    /// The place, for example `graph.node[3].attribute[1].t`; `model` for the top.
    pub path: String,
    /// Offset of the field in the file.
    pub offset: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// The ways in which bytes are refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// A length or a number reaches past the end of its message.
    #[error("the data ends early: the file is cut off or is not an ONNX model")]
    Truncated,
    /// A varint of more than 64 bits.
    #[error("a varint is longer than 64 bits: the file is damaged or is not an ONNX model")]
    Varint,
    /// Field number 0, a field number over 2^29, or wire type 6 or 7.
    #[error("{0} is no protobuf tag: the file is damaged or is not an ONNX model")]
    Tag(u64),
    /// The deprecated group wire types.
    #[error("field {0} is a protobuf group, which no ONNX field is")]
    Group(u32),
    /// A field that `onnx.proto` (IR 14) does not have.
    #[error("field {number} is unknown in {message}: no digest could cover it")]
    UnknownField {
        /// The message.
        message: &'static str,
        /// The field number.
        number: u32,
    },
    /// A known field with another wire type.
    #[error("wire type {0} does not fit the field")]
    WireType(u8),
    /// A field that may stand once stands twice.
    #[error("the field stands twice: readers disagree on which counts")]
    Twice,
    /// Two members of one oneof.
    #[error("{0} and {1} are both set, only one may be")]
    OneOf(&'static str, &'static str),
    /// A string that is not UTF-8.
    #[error("the string is not UTF-8")]
    Utf8,
    /// An int32 whose varint does not fit.
    #[error("{0} does not fit an int32")]
    Int32(i64),
    /// A packed list of fixed-size numbers with a remainder.
    #[error("{0} bytes are no whole number of elements")]
    Packed(usize),
    /// More than [`MAX_DEPTH`] messages inside each other.
    #[error("messages are nested more than {MAX_DEPTH} deep")]
    Depth,
    /// One key twice in one metadata list.
    #[error("metadata key {0:?} stands twice: readers disagree on which counts")]
    DuplicateKey(String),
    /// The strict walk passed and prost still refused.
    #[error("not decodable: {0}")]
    Decode(String),
}

impl Problem {
    /// True when the bytes are no protobuf of this schema at all, false when they are and a rule refuses them.
    pub fn is_malformed(&self) -> bool {
        matches!(self, Self::Truncated | Self::Varint | Self::Tag(_) | Self::Packed(_) | Self::Decode(_))
    }
}

/// Checks a model file's bytes against the wire rules.
pub fn validate(bytes: &[u8]) -> Result<(), WireError> {
    walk(bytes, &mut |_, _| {})
}

/// Checks a model file's bytes against the wire rules, then decodes them. Elements of weights are copied from a slice; they
/// share the memory of [`Bytes`](super::Bytes).
pub fn decode(bytes: impl Buf + AsRef<[u8]>) -> Result<ModelProto, WireError> {
    validate(bytes.as_ref())?;
    ModelProto::decode(bytes).map_err(|error| WireError {
        path: "model".into(),
        offset: 0,
        problem: Problem::Decode(error.to_string()),
    })
}

/// [`validate`], showing every message to `visit`.
fn walk(bytes: &[u8], visit: &mut dyn FnMut(&'static Table, Range<usize>)) -> Result<(), WireError> {
    Walker { bytes, path: Vec::new(), visit }.message(&MODEL, 0..bytes.len())
}

/// A field as it lies in the file.
#[derive(Clone, Debug)]
struct RawField {
    number: u32,
    wire: u8,
    /// Offset of the tag.
    start: usize,
    /// Bytes of the length that stands before the value; empty for numbers, which have none.
    length: Range<usize>,
    /// The value: payload of a length-delimited field, else the number's bytes.
    value: Range<usize>,
}

/// Reads the field at `at` in a message that ends at `end`.
fn next_field(bytes: &[u8], at: usize, end: usize) -> Result<RawField, (usize, Problem)> {
    let fail = |problem| (at, problem);
    let (tag, after) = varint(bytes, at, end).map_err(fail)?;
    let (number, wire) = ((tag >> 3) as u32, (tag & 7) as u8);
    if number == 0 || tag >> 3 >= 1 << 29 {
        return Err(fail(Problem::Tag(tag)));
    }
    let fixed = |length: usize| {
        if end - after < length { Err(fail(Problem::Truncated)) } else { Ok(after..after + length) }
    };
    let value = match wire {
        0 => after..varint(bytes, after, end).map_err(fail)?.1,
        1 => fixed(8)?,
        2 => {
            let (length, start) = varint(bytes, after, end).map_err(fail)?;
            let length = usize::try_from(length).ok().filter(|&l| l <= end - start);
            let length = length.ok_or_else(|| fail(Problem::Truncated))?;
            start..start + length
        }
        5 => fixed(4)?,
        3 | 4 => return Err(fail(Problem::Group(number))),
        _ => return Err(fail(Problem::Tag(tag))),
    };
    Ok(RawField { number, wire, start: at, length: after..value.start, value })
}

/// Reads a varint at `at`; gives the value and the offset behind it.
fn varint(bytes: &[u8], at: usize, end: usize) -> Result<(u64, usize), Problem> {
    let mut value = 0u64;
    for (i, &byte) in bytes[at..end].iter().take(10).enumerate() {
        // The tenth byte has room for one bit.
        if i == 9 && byte > 1 {
            return Err(Problem::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok((value, at + i + 1));
        }
    }
    Err(if end - at >= 10 { Problem::Varint } else { Problem::Truncated })
}

struct Walker<'a, 'v> {
    bytes: &'a [u8],
    path: Vec<(&'static str, Option<usize>)>,
    visit: &'v mut dyn FnMut(&'static Table, Range<usize>),
}

impl Walker<'_, '_> {
    fn fail(&self, offset: usize, problem: Problem) -> WireError {
        let mut path = String::new();
        for (name, index) in &self.path {
            let dot = if path.is_empty() { "" } else { "." };
            path += &index.map_or_else(|| format!("{dot}{name}"), |i| format!("{dot}{name}[{i}]"));
        }
        WireError { path: if path.is_empty() { "model".into() } else { path }, offset, problem }
    }

    fn message(&mut self, table: &'static Table, range: Range<usize>) -> Result<(), WireError> {
        if self.path.len() > MAX_DEPTH {
            return Err(self.fail(range.start, Problem::Depth));
        }
        (self.visit)(table, range.clone());
        let mut seen = [0usize; MAX_FIELDS];
        let mut chosen = None;
        let mut keys = BTreeSet::new();
        let mut at = range.start;
        while at < range.end {
            let raw = next_field(self.bytes, at, range.end).map_err(|(offset, p)| self.fail(offset, p))?;
            at = raw.value.end;
            let Some(index) = table.fields.iter().position(|f| f.number == raw.number) else {
                if table.metadata {
                    continue;
                }
                return Err(self.fail(raw.start, Problem::UnknownField { message: table.name, number: raw.number }));
            };
            let field = &table.fields[index];
            self.path.push((field.name, (field.label == Label::Many).then_some(seen[index])));
            seen[index] += 1;
            if field.label != Label::Many && seen[index] > 1 {
                return Err(self.fail(raw.start, Problem::Twice));
            }
            if field.label == Label::OneOf
                && let Some(other) = chosen.replace(field.name)
            {
                return Err(self.fail(raw.start, Problem::OneOf(other, field.name)));
            }
            self.value(field.kind, field.label, &raw)?;
            if matches!(field.kind, Kind::Message(entry) if entry.metadata) {
                let key = layout::entry(self.bytes, raw.value.clone()).0;
                if !keys.insert(key) {
                    return Err(self.fail(raw.start, Problem::DuplicateKey(key.into())));
                }
            }
            self.path.pop();
        }
        Ok(())
    }

    fn value(&mut self, kind: Kind, label: Label, raw: &RawField) -> Result<(), WireError> {
        let wire = match kind {
            Kind::Int32 | Kind::Int64 | Kind::Uint64 => 0,
            Kind::Double => 1,
            Kind::Float => 5,
            Kind::Text | Kind::Bytes | Kind::Message(_) => 2,
        };
        let packed = raw.wire == 2 && wire != 2 && label == Label::Many;
        if raw.wire != wire && !packed {
            return Err(self.fail(raw.start, Problem::WireType(raw.wire)));
        }
        match kind {
            Kind::Message(table) => return self.message(table, raw.value.clone()),
            Kind::Text if std::str::from_utf8(&self.bytes[raw.value.clone()]).is_err() => {
                return Err(self.fail(raw.start, Problem::Utf8));
            }
            Kind::Float | Kind::Double => {
                let size = if matches!(kind, Kind::Float) { 4 } else { 8 };
                if !raw.value.len().is_multiple_of(size) {
                    return Err(self.fail(raw.start, Problem::Packed(raw.value.len())));
                }
            }
            Kind::Int32 | Kind::Int64 | Kind::Uint64 => {
                let mut at = raw.value.start;
                while at < raw.value.end {
                    let (value, next) = varint(self.bytes, at, raw.value.end).map_err(|p| self.fail(at, p))?;
                    // A reader keeps the low 32 bits: the others would be free to change.
                    if matches!(kind, Kind::Int32) && i32::try_from(value as i64).is_err() {
                        return Err(self.fail(at, Problem::Int32(value as i64)));
                    }
                    at = next;
                }
            }
            Kind::Text | Kind::Bytes => {}
        }
        Ok(())
    }
}
