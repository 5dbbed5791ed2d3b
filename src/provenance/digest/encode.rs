//! The byte notation of the digest: little-endian counts, length-prefixed strings, counted lists.

/// Appends bytes behind their length.
pub(super) fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
}

/// Appends a string behind its length in bytes.
pub(super) fn text(out: &mut Vec<u8>, value: &str) {
    bytes(out, value.as_bytes());
}

/// Appends a count of list items.
pub(super) fn count(out: &mut Vec<u8>, items: usize) {
    // A model has under 2^31 bytes, so no list has more items.
    out.extend((items as u32).to_le_bytes());
}

/// Appends a list of encoded items.
pub(super) fn list<I: AsRef<[u8]>>(out: &mut Vec<u8>, items: &[I]) {
    count(out, items.len());
    for item in items {
        out.extend_from_slice(item.as_ref());
    }
}

/// Appends a list of strings.
pub(super) fn texts(out: &mut Vec<u8>, items: &[String]) {
    count(out, items.len());
    for item in items {
        text(out, item);
    }
}

/// Appends a list of lengths.
pub(super) fn dims(out: &mut Vec<u8>, dims: &[i64]) {
    count(out, dims.len());
    for dim in dims {
        out.extend(dim.to_le_bytes());
    }
}

/// `ai.onnx` is the long name of the default domain.
pub(super) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}
