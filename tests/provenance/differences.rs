//! What differs between two models, and the proof that nothing else does.

use crate::{
    common::fixture,
    harness::{Output, source},
};
use onnx_unlearn::{
    onnx::patch::{Patch, patch_bytes},
    provenance::diff::{Change, Difference, Part, diff},
    tensor::Tensor,
};
use std::{collections::BTreeMap, fs, path::Path};

fn of(a: &Path, b: &Path) -> Difference {
    diff(a, b).expect("compared")
}

#[test]
fn a_model_does_not_differ_from_itself() {
    for name in ["models/fashion-mnist.onnx", "models/fashion-mnist-external.onnx", "stamps/nested.onnx"] {
        let path = fixture(name);
        let difference = of(&path, &path);
        assert!(difference.is_empty(), "{name}: {difference:?}");
    }
}

#[test]
fn a_tensor_is_named_with_its_distance() {
    // W = 0, 1, 2, 3, 4, 5 becomes 7 everywhere: differences 7, 6, 5, 4, 3, 2.
    let output = Output::unsigned(7.0);
    let difference = of(&source(), &output.model());
    let [tensor] = difference.tensors.as_slice() else { panic!("{difference:?}") };
    assert_eq!((tensor.key.as_str(), tensor.change), ("W", Change::Changed));
    let distance = tensor.distance.expect("numbers");
    assert!((distance.l2 - 139_f64.sqrt()).abs() < 1e-12);
    assert!((distance.relative - (139_f64 / 55.0).sqrt()).abs() < 1e-12);
    assert_eq!((distance.max, distance.elements), (7.0, 6));
    assert!(difference.fields.iter().all(|field| field.part == Part::Metadata));
    assert_eq!(difference.foreign().count(), 0);
    assert_eq!(difference.nothing_else, Some(true));
}

#[test]
fn a_byte_that_no_digest_covers_is_something_else() {
    let output = Output::unsigned(7.0);
    let mut bytes = fs::read(output.model()).expect("read");
    // Field 2 of ModelProto, producer_name, once more would be refused; doc_string, field 6, is not there yet.
    bytes.extend([6 << 3 | 2, 1, b'x']);
    fs::write(output.model(), bytes).expect("written");
    let difference = of(&source(), &output.model());
    assert_eq!(difference.nothing_else, Some(false));
    let foreign: Vec<_> = difference.foreign().map(|field| field.field.as_str()).collect();
    assert_eq!(foreign, ["doc_string"]);
    // Nor is an entry of our namespace that is no stamp.
    let output = Output::unsigned(7.0);
    let bytes = fs::read(output.model()).expect("read");
    let stamp = onnx_unlearn::onnx::wire::layout(&bytes).expect("a model").metadata;
    let metadata = stamp.into_iter().map(|entry| (entry.key, entry.value));
    let metadata = metadata.chain([("dev.onnx-unlearn.more".to_owned(), "x".to_owned())]).collect();
    let patch = Patch { metadata, ..Patch::default() };
    fs::write(output.model(), patch_bytes(&bytes, &patch).expect("patched").model).expect("written");
    let difference = of(&source(), &output.model());
    assert_eq!((difference.nothing_else, difference.foreign().count()), (Some(false), 1));
}

#[test]
fn nodes_and_attributes_are_named() {
    let (a, b) = (fixture("models/fashion-mnist.onnx"), fixture("models/fashion-mnist-softmax.onnx"));
    let difference = of(&a, &b);
    assert_eq!(difference.nothing_else, Some(false));
    assert!(
        difference.fields.iter().any(|field| field.part == Part::Graph && field.field.contains("node[")),
        "{difference:?}"
    );
}

#[test]
fn external_data_counts() {
    let folder = crate::common::temporary();
    let path = fixture("models/fashion-mnist-external.onnx");
    let (model, data) = (folder.path().join("m.onnx"), folder.path().join("fashion-mnist-external.data"));
    fs::copy(&path, &model).expect("copied");
    fs::copy(fixture("models/fashion-mnist-external.data"), &data).expect("copied");
    assert!(of(&path, &model).is_empty());
    let mut bytes = fs::read(&data).expect("read");
    bytes[0] ^= 1;
    fs::write(&data, &bytes).expect("written");
    let difference = of(&path, &model);
    assert_eq!((difference.tensors.len(), difference.nothing_else), (1, Some(true)), "{difference:?}");
}

#[test]
fn the_proof_is_the_writer_the_other_way_round() {
    let path = source();
    let bytes = fs::read(&path).expect("read");
    let weights = Tensor::f32([2, 3], vec![1.0; 6]);
    let patch = Patch { tensors: BTreeMap::from([("W", &weights)]), metadata: Vec::new() };
    let folder = crate::common::temporary();
    let model = folder.path().join("m.onnx");
    fs::write(&model, patch_bytes(&bytes, &patch).expect("patched").model).expect("written");
    assert_eq!(of(&path, &model).nothing_else, Some(true));
}
