//! Puts other bytes into places of a message, and the new lengths into the length prefixes around them.

use std::collections::BTreeMap;
use std::ops::Range;

use prost::encoding::encode_varint;

use super::RawField;
use crate::tensor::Tensor;

/// A field and the length that stands before its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where the length stands; empty for a number, which has none.
    pub length: Range<usize>,
    /// Where the value stands.
    pub value: Range<usize>,
}

impl Frame {
    pub(super) fn of(field: &RawField) -> Self {
        Self { length: field.length.clone(), value: field.value.clone() }
    }
}

/// What goes into a place.
pub(in crate::onnx) enum Content<'t> {
    Bytes(Vec<u8>),
    /// The elements of a tensor at their full width.
    Elements(&'t Tensor),
}

impl Content<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Elements(tensor) => tensor.len() * tensor.dtype().size(),
        }
    }

    fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Elements(tensor) => tensor.append_le_bytes(out),
        }
    }
}

/// Changes to a message, collected in any order and made all at once. All places are those of the unchanged bytes.
#[derive(Default)]
pub(in crate::onnx) struct Splice<'t> {
    /// Where a changed place begins; where it ends and what goes there.
    edits: BTreeMap<usize, (usize, Content<'t>)>,
    /// The frames around changed places, by where their values begin.
    frames: BTreeMap<usize, Frame>,
}

impl<'t> Splice<'t> {
    /// Replaces the bytes of `place`, which overlaps no other place. The frames around it must be named where the
    /// number of bytes may change.
    pub fn put(&mut self, place: Range<usize>, content: Content<'t>) {
        self.edits.insert(place.start, (place.end, content));
    }

    /// Names a frame around a changed place; naming it again changes nothing.
    pub fn inside(&mut self, frame: &Frame) {
        if !frame.length.is_empty() {
            self.frames.insert(frame.value.start, frame.clone());
        }
    }

    /// Puts new lengths before the frames whose values change theirs: varints of minimal length.
    fn settle(&mut self) {
        // An inner frame begins later than an outer one. So it comes first, and its own length, which lies in the outer
        // one's value, may grow in time to be counted there.
        for frame in std::mem::take(&mut self.frames).into_values().rev() {
            let (gone, new) = self.sizes(frame.value.clone());
            if gone != new {
                let mut length = Vec::new();
                encode_varint((frame.value.len() - gone + new) as u64, &mut length);
                self.put(frame.length, Content::Bytes(length));
            }
        }
    }

    /// Bytes that go from a range, and bytes that come.
    fn sizes(&self, range: Range<usize>) -> (usize, usize) {
        let edits = self.edits.range(range);
        edits.fold((0, 0), |(gone, new), (start, (end, content))| (gone + end - start, new + content.len()))
    }

    /// Number of bytes of the changed message.
    pub fn size(&mut self, source: &[u8]) -> usize {
        self.settle();
        let (gone, new) = self.sizes(0..usize::MAX);
        source.len() - gone + new
    }

    /// The changed bytes, with room for `spare` more. A length that did not change keeps its bytes.
    pub fn apply(mut self, source: &[u8], spare: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size(source) + spare);
        let mut at = 0;
        for (start, (end, content)) in self.edits {
            out.extend_from_slice(&source[at..start]);
            content.append(&mut out);
            at = end;
        }
        out.extend_from_slice(&source[at..]);
        out
    }
}
