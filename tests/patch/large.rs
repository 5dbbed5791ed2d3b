//! External files larger than 4 GiB. They are sparse, so they take no room until somebody writes all of them.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use onnx_unlearn::onnx;
use onnx_unlearn::onnx::patch::{Patch, PatchError, patch_bytes, write_external};
use onnx_unlearn::onnx::schema::{GraphProto, ModelProto, OperatorSetIdProto, TensorProto};
use onnx_unlearn::provenance::digest::{digest, tensor_digest};
use onnx_unlearn::tensor::{DType, Tensor};
use prost::Message;

use super::models::{external, raw, tensor};

const GIB: u64 = 1 << 30;
const SIZE: u64 = 5 * GIB;
const DATA: &str = "w.data";

/// Bits of 1.0, -0.0 and a NaN with a payload.
const OLD: [u64; 3] = [0x3c00, 0x8000, 0x7e01];

/// A file of that size, nothing but zeros and `OLD` at its end.
fn sparse(folder: &Path, size: u64) {
    let mut file = File::create_new(folder.join(DATA)).unwrap();
    file.set_len(size).unwrap();
    file.seek(SeekFrom::Start(size - 6)).unwrap();
    file.write_all(&tensor(DType::F16, &OLD).to_le_bytes()).unwrap();
}

fn at(offset: u64, length: u64) -> TensorProto {
    external(
        DType::F16,
        "w",
        3,
        &[("location", DATA), ("offset", &offset.to_string()), ("length", &length.to_string())],
    )
}

fn model(initializer: Vec<TensorProto>) -> Vec<u8> {
    let model = ModelProto {
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(GraphProto { initializer, ..GraphProto::default() }),
        ..ModelProto::default()
    };
    model.encode_to_vec()
}

fn bytes_at(path: &Path, offset: u64) -> Vec<u8> {
    let mut file = OpenOptions::new().read(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    let mut bytes = vec![0; 6];
    file.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn places_beyond_4_gib_are_read_and_named() {
    let folder = tempfile::tempdir().unwrap();
    sparse(folder.path(), SIZE);
    let source = model(vec![at(SIZE - 6, 6)]);
    let path = folder.path().join("model.onnx");
    fs::write(&path, &source).unwrap();
    let read = onnx::read(&path).unwrap();
    assert_eq!(read.graph.constants["w"].to_le_bytes(), tensor(DType::F16, &OLD).to_le_bytes());
    let digests = digest(&source, folder.path()).unwrap();
    assert_eq!(digests.tensors[0].digest, tensor_digest(&raw(DType::F16, "w", &OLD), folder.path()).unwrap());
    let new = tensor(DType::F16, &[1, 2, 3]);
    let patch = Patch { tensors: [("w", &new)].into(), metadata: vec![] };
    let patched = patch_bytes(&source, &patch).unwrap();
    assert_eq!(patched.model, source);
    assert_eq!(patched.external[0].writes, [(SIZE - 6, &new)]);
    // One byte more than there is.
    let beyond = model(vec![at(SIZE - 5, 6)]);
    assert!(digest(&beyond, folder.path()).unwrap_err().to_string().contains("pass the end"));
    let patched = patch_bytes(&beyond, &patch).unwrap();
    let error = write_external(folder.path(), &folder.path().join("out"), &patched.external[0]).unwrap_err();
    assert!(matches!(error, PatchError::PastEnd { size: SIZE, length: 6, .. }), "{error}");
}

#[test]
fn a_length_that_does_not_fit_is_found_before_anything_is_read() {
    // No memory holds this file.
    const TIB: u64 = 1 << 40;
    let folder = tempfile::tempdir().unwrap();
    sparse(folder.path(), TIB);
    let path = folder.path().join("model.onnx");
    let open = external(DType::F16, "w", 3, &[("location", DATA)]);
    let long = external(DType::F16, "w", 3, &[("location", DATA), ("offset", "0"), ("length", &TIB.to_string())]);
    for t in [open, long] {
        let source = model(vec![t]);
        fs::write(&path, &source).unwrap();
        let error = onnx::read(&path).unwrap_err().to_string();
        assert!(error.contains("1099511627776 bytes do not fill shape [3] of float16"), "{error}");
        let error = digest(&source, folder.path()).unwrap_err().to_string();
        assert!(error.contains("1099511627776 bytes are stored, dims and type ask for 6"), "{error}");
    }
}

#[test]
#[ignore = "writes 5 GiB"]
fn a_file_of_5_gib_is_copied_and_changed_in_the_copy() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sparse(from.path(), SIZE);
    let source = model(vec![at(3 * GIB, 6), TensorProto { name: Some("v".into()), ..at(SIZE - 6, 6) }]);
    let new = tensor(DType::F16, &[1, 2, 3]);
    let patch = Patch { tensors: [("w", &new)].into(), metadata: vec![] };
    let patched = patch_bytes(&source, &patch).unwrap();
    write_external(from.path(), to.path(), &patched.external[0]).unwrap();
    let copy = to.path().join(DATA);
    assert_eq!(fs::metadata(&copy).unwrap().len(), SIZE);
    assert_eq!(bytes_at(&copy, 3 * GIB), new.to_le_bytes());
    assert_eq!(bytes_at(&copy, SIZE - 6), tensor(DType::F16, &OLD).to_le_bytes());
    assert_eq!(bytes_at(&from.path().join(DATA), 3 * GIB), [0; 6], "the source stays");
}

#[test]
fn elements_of_every_width_go_to_their_places() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join(DATA), [0; 16]).unwrap();
    let part = |name: &str, dtype, n, offset, length| {
        let pairs = [("location", DATA), ("offset", offset), ("length", length)];
        external(dtype, name, n, &pairs)
    };
    let source = model(vec![part("a", DType::BF16, 2, "2", "4"), part("b", DType::I8, 3, "9", "3")]);
    let (a, b) =
        (tensor(DType::BF16, &[0x3f80, 0xffc1]), Tensor::from_le_bytes(DType::I8, vec![3], &[1, 0x80, 3]).unwrap());
    let patch = Patch { tensors: [("a", &a), ("b", &b)].into(), metadata: vec![] };
    let patched = patch_bytes(&source, &patch).unwrap();
    write_external(from.path(), to.path(), &patched.external[0]).unwrap();
    let expected = [0, 0, 0x80, 0x3f, 0xc1, 0xff, 0, 0, 0, 1, 0x80, 3, 0, 0, 0, 0];
    assert_eq!(fs::read(to.path().join(DATA)).unwrap(), expected);
}
