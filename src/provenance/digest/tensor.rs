//! The digest of one tensor: type, dims and elements, however they are stored.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{Digest, Refusal, encode};
use crate::onnx::external::ExternalRef;
use crate::onnx::schema::{EXTERNAL, SparseTensorProto, TensorProto};

const FLOAT: i32 = 1;
const STRING: i32 = 8;
const BOOL: i32 = 9;

/// Bits an element takes in `raw_data`; `None` for strings and unknown types.
fn bits(data_type: i32) -> Option<u64> {
    Some(match data_type {
        21..=23 => 4,
        25 | 26 => 2,
        27 | 28 => 6,
        2 | 3 | 9 | 17..=20 | 24 => 8,
        4 | 5 | 10 | 16 => 16,
        1 | 6 | 12 => 32,
        7 | 11 | 13 | 14 => 64,
        15 => 128,
        _ => return None,
    })
}

/// The typed field that may hold elements of a type.
fn typed_field(data_type: i32) -> &'static str {
    match data_type {
        1 | 14 => "float_data",
        11 | 15 => "double_data",
        7 => "int64_data",
        12 | 13 => "uint64_data",
        STRING => "string_data",
        _ => "int32_data",
    }
}

/// Starts the hash: everything that stands before the elements.
fn header(data_type: i32, dims: &[i64], data_length: u64) -> Sha256 {
    let mut head = Vec::new();
    encode::text(&mut head, "onnx-tensor-v1");
    head.extend(data_type.to_le_bytes());
    encode::dims(&mut head, dims);
    head.extend(data_length.to_le_bytes());
    Sha256::new_with_prefix(head)
}

/// A tensor that is given as elements, not as a message: the value of a lifted Constant.
pub(super) fn plain(data_type: i32, dims: &[i64], data: &[u8]) -> Digest {
    Digest(header(data_type, dims, data.len() as u64).chain_update(data).finalize().into())
}

/// `H(lp("onnx-tensor-v1") || data_type || rank || dims || lp(data))`.
pub(super) fn tensor(t: &TensorProto, folder: &Path) -> Result<Digest, Refusal> {
    let data_type = t.data_type();
    if !(FLOAT..=28).contains(&data_type) {
        return Err(Refusal::DataType(data_type));
    }
    if t.segment.is_some() {
        return Err(Refusal::Segment);
    }
    let n = elements(&t.dims)?;
    let storage = storage(t)?;
    if let Some(field) = storage {
        let fits = match field {
            "raw_data" | "external_data" => data_type != STRING,
            typed => typed == typed_field(data_type),
        };
        if !fits {
            return Err(Refusal::WrongField { field, data_type });
        }
    }
    let Some(bits) = bits(data_type) else { return strings(t, n) };
    let expected = n.checked_mul(bits).ok_or_else(|| Refusal::SizeOverflow(t.dims.clone()))?.div_ceil(8);
    // Bits of the last byte that no element uses do not count.
    let mask = match n * bits % 8 {
        0 => 0xff,
        used => (1u8 << used) - 1,
    };
    let mut hash = header(data_type, &t.dims, expected);
    match storage {
        Some("external_data") => external(t, folder, expected, mask, &mut hash)?,
        Some("raw_data") => {
            let data = t.raw_data();
            check_length(data.len() as u64, expected)?;
            check_bool(data_type, data)?;
            if let [whole @ .., last] = data {
                hash.update(whole);
                hash.update([last & mask]);
            }
        }
        Some(_) => {
            let mut data = typed(t, n, bits)?;
            check_length(data.len() as u64, expected)?;
            check_bool(data_type, &data)?;
            if let Some(last) = data.last_mut() {
                *last &= mask;
            }
            hash.update(&data);
        }
        None if n > 0 => return Err(Refusal::NoStorage(n)),
        None => {}
    }
    Ok(Digest(hash.finalize().into()))
}

/// `H(lp("onnx-sparse-v1") || rank || dims || tensor(values) || tensor(indices))`.
pub(super) fn sparse(s: &SparseTensorProto, folder: &Path) -> Result<Digest, Refusal> {
    let values = s.values.as_ref().ok_or(Refusal::Missing("values"))?;
    let indices = s.indices.as_ref().ok_or(Refusal::Missing("indices"))?;
    elements(&s.dims)?;
    let mut out = Vec::new();
    encode::text(&mut out, "onnx-sparse-v1");
    encode::dims(&mut out, &s.dims);
    out.extend(tensor(values, folder)?.0);
    out.extend(tensor(indices, folder)?.0);
    Ok(Digest::of(&out))
}

/// Number of elements.
fn elements(dims: &[i64]) -> Result<u64, Refusal> {
    if let Some(&negative) = dims.iter().find(|d| **d < 0) {
        return Err(Refusal::NegativeDim(negative));
    }
    if dims.contains(&0) {
        return Ok(0);
    }
    let product = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
    product.ok_or_else(|| Refusal::SizeOverflow(dims.to_vec()))
}

/// The one field that holds elements, if any.
fn storage(t: &TensorProto) -> Result<Option<&'static str>, Refusal> {
    let is_external = match t.data_location() {
        0 => false,
        EXTERNAL => true,
        other => return Err(Refusal::DataLocation(other)),
    };
    match (is_external, t.external_data.is_empty()) {
        (true, true) => return Err(Refusal::NoExternalEntries),
        (false, false) => return Err(Refusal::UnusedExternalEntries),
        _ => {}
    }
    let filled = [
        ("external_data", is_external),
        ("raw_data", !t.raw_data().is_empty()),
        ("float_data", !t.float_data.is_empty()),
        ("int32_data", !t.int32_data.is_empty()),
        ("string_data", !t.string_data.is_empty()),
        ("int64_data", !t.int64_data.is_empty()),
        ("double_data", !t.double_data.is_empty()),
        ("uint64_data", !t.uint64_data.is_empty()),
    ];
    let mut filled = filled.iter().filter(|(_, is)| *is).map(|(name, _)| *name);
    let first = filled.next();
    match (first, filled.next()) {
        (Some(first), Some(second)) => Err(Refusal::TwoStorages(first, second)),
        _ => Ok(first),
    }
}

fn check_length(held: u64, expected: u64) -> Result<(), Refusal> {
    if held == expected { Ok(()) } else { Err(Refusal::Length { held, expected }) }
}

fn check_bool(data_type: i32, data: &[u8]) -> Result<(), Refusal> {
    if data_type != BOOL {
        return Ok(());
    }
    data.iter().find(|b| **b > 1).map_or(Ok(()), |b| Err(Refusal::Bool(*b)))
}

fn strings(t: &TensorProto, n: u64) -> Result<Digest, Refusal> {
    let held = t.string_data.len() as u64;
    if held != n {
        return Err(Refusal::Count { held, expected: n });
    }
    Ok(plain(STRING, &t.dims, &string_bytes(&t.string_data)))
}

/// Elements of a STRING tensor as they are hashed.
pub(super) fn string_bytes(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut data = Vec::new();
    for element in elements {
        encode::bytes(&mut data, element);
    }
    data
}

fn external(t: &TensorProto, folder: &Path, expected: u64, mask: u8, hash: &mut Sha256) -> Result<(), Refusal> {
    let Some(reference) = ExternalRef::of(t).map_err(Refusal::External)? else { return Ok(()) };
    let bytes = reference.open(folder).map_err(Refusal::External)?;
    check_length(bytes.length(), expected)?;
    let (mut left, mut wrong) = (expected, Ok(()));
    let streamed = bytes.each(|part| {
        left -= part.len() as u64;
        if let (0, Some(last)) = (left, part.last_mut()) {
            *last &= mask;
        }
        if wrong.is_ok() {
            wrong = check_bool(t.data_type(), part);
        }
        hash.update(&*part);
    });
    streamed.map_err(Refusal::External)?;
    wrong
}

/// Elements of a typed field in the layout of `raw_data`.
fn typed(t: &TensorProto, n: u64, bits: u64) -> Result<Vec<u8>, Refusal> {
    let data_type = t.data_type();
    Ok(match typed_field(data_type) {
        "float_data" => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        "double_data" => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        "int64_data" => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        "uint64_data" if bits == 64 => t.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        "uint64_data" => {
            let mut data = Vec::with_capacity(t.uint64_data.len() * 4);
            for &value in &t.uint64_data {
                let value32 = u32::try_from(value);
                let value32 = value32.map_err(|_| Refusal::EntryRange { value: value.into(), data_type })?;
                data.extend(value32.to_le_bytes());
            }
            data
        }
        _ => int32_data(t, n, bits)?,
    })
}

/// Entries of `int32_data`: one element each, but whole bytes of 4-bit and 2-bit elements.
fn int32_data(t: &TensorProto, n: u64, bits: u64) -> Result<Vec<u8>, Refusal> {
    let (per_entry, width) = if bits < 6 { (8 / bits, 8) } else { (1, bits) };
    let (held, expected) = (t.int32_data.len() as u64, n.div_ceil(per_entry));
    if held != expected {
        return Err(Refusal::Count { held, expected });
    }
    let mut data = Vec::with_capacity(t.int32_data.len() * 4);
    // Bits that wait for their byte to fill: only 6-bit elements ever leave some.
    let (mut waiting, mut filled) = (0u64, 0);
    for &entry in &t.int32_data {
        let value = i64::from(entry);
        if value < -(1 << (width - 1)) || value >= 1 << width {
            return Err(Refusal::EntryRange { value: value.into(), data_type: t.data_type() });
        }
        waiting |= (value as u64 & ((1 << width) - 1)) << filled;
        filled += width;
        while filled >= 8 {
            data.push(waiting as u8);
            waiting >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        data.push(waiting as u8);
    }
    Ok(data)
}
