//! A patched model differs from its source in the payloads that were given and in our metadata keys, in nothing else.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

#[path = "common/protobuf.rs"]
mod protobuf;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use onnx_unlearn::onnx::external::{ExternalError, ExternalRef};
use onnx_unlearn::onnx::patch::{
    ExternalPatch, Patch, PatchError, Patched, patch_bytes, with_metadata, write_external,
};
use onnx_unlearn::onnx::schema::{
    AttributeProto, GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, attribute_type, data_type,
};
use onnx_unlearn::onnx::wire::{self, Holder, Storage};
use onnx_unlearn::tensor::{DType, Tensor};
use prost::Message;
use protobuf::field;

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) }
}

fn entries(pairs: &[(&str, &str)]) -> Vec<StringStringEntryProto> {
    pairs.iter().map(|(key, value)| entry(key, value)).collect()
}

fn floats(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type::FLOAT),
        dims: dims.to_vec(),
        ..TensorProto::default()
    }
}

fn raw(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn constant(output: &str, value: TensorProto) -> NodeProto {
    NodeProto {
        output: vec![output.into()],
        op_type: Some("Constant".into()),
        attribute: vec![AttributeProto {
            name: Some("value".into()),
            r#type: Some(attribute_type::TENSOR),
            t: Some(value),
            ..AttributeProto::default()
        }],
        ..NodeProto::default()
    }
}

/// One tensor per storage kind, each 3 elements: raw, packed and unpacked `float_data`, a mix of both, a Constant node.
fn every_storage() -> Vec<u8> {
    let packed: Vec<u8> = [floats("packed", &[3]).encode_to_vec(), field(4, &raw(&[7.0, 8.0, 9.0]))].concat();
    let mixed =
        [TensorProto { float_data: vec![1.0], ..floats("mixed", &[3]) }.encode_to_vec(), field(4, &raw(&[2.0, 3.0]))]
            .concat();
    let graph = GraphProto {
        name: Some("g".into()),
        node: vec![
            NodeProto { op_type: Some("Relu".into()), ..NodeProto::default() },
            constant("constant", TensorProto { raw_data: Some(raw(&[4.0, 5.0, 6.0]).into()), ..floats("", &[3]) }),
        ],
        initializer: vec![
            TensorProto { raw_data: Some(raw(&[1.0, 2.0, 3.0]).into()), ..floats("raw", &[1, 3]) },
            TensorProto { float_data: vec![0.5, 0.25, 0.125], ..floats("unpacked", &[3, 1]) },
        ],
        ..GraphProto::default()
    };
    let graph = [graph.encode_to_vec(), field(5, &packed), field(5, &mixed)].concat();
    let model = ModelProto { ir_version: Some(8), producer_name: Some("t".into()), ..ModelProto::default() };
    let foreign = field(14, &[entry("names", "cat,dog").encode_to_vec(), field(9, b"odd")].concat());
    let last = field(14, &entry("other", "x").encode_to_vec());
    // Metadata stands before, between and after: each place must survive.
    [
        field(14, &entry("dev.onnx-unlearn.digest", "old").encode_to_vec()),
        model.encode_to_vec(),
        foreign,
        field(7, &graph),
        field(14, &entry("dev.onnx-unlearn.other", "old").encode_to_vec()),
        last,
    ]
    .concat()
}

fn new(values: &[f32]) -> Tensor {
    Tensor::f32([values.len()], values.to_vec())
}

fn patch<'a>(tensors: &[(&'a str, &'a Tensor)], metadata: &[(&str, &str)]) -> Patch<'a> {
    let metadata = metadata.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
    Patch { tensors: tensors.iter().copied().collect(), metadata }
}

const NAMES: [&str; 5] = ["raw", "unpacked", "packed", "mixed", "constant"];

#[test]
fn an_empty_patch_gives_the_source() {
    let source = every_storage();
    assert_eq!(patch_bytes(&source, &Patch::default()).unwrap(), Patched { model: source, external: vec![] });
}

#[test]
fn every_storage_is_patched_in_place_and_nothing_else_changes() {
    let source = every_storage();
    // A signalling NaN with payload, a negative zero and a subnormal: bits must arrive as given.
    let values = [f32::from_bits(0x7fa0_1234), -0.0, f32::from_bits(1)];
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    for name in NAMES {
        let given = new(&values);
        let patched = patch_bytes(&source, &patch(&[(name, &given)], &[])).unwrap();
        let layout = wire::layout(&source).unwrap();
        let span = layout.tensors.iter().find(|t| t.name == name).unwrap();
        let Storage::Inline(ranges) = &span.storage else { panic!("{name} is inline") };
        let mut expected = source.clone();
        for (place, byte) in ranges.iter().flat_map(Clone::clone).zip(&bytes) {
            expected[place] = *byte;
        }
        // Tensors changed: both own entries, at the start and near the end, are stale and go.
        for entry in layout.metadata.iter().rev().filter(|m| m.key.starts_with("dev.onnx-unlearn.")) {
            expected.drain(entry.span.clone());
        }
        assert_eq!(patched.model, expected, "{name}");
        assert_eq!(payload(&patched.model, name), bytes, "{name}");
        for other in NAMES.iter().filter(|other| **other != name) {
            assert_eq!(payload(&patched.model, other), payload(&source, other), "{other} while patching {name}");
        }
    }
}

fn payload(model: &[u8], name: &str) -> Vec<u8> {
    let layout = wire::layout(model).unwrap();
    let span = layout.tensors.iter().find(|t| t.name == name).unwrap();
    let Storage::Inline(ranges) = &span.storage else { panic!("{name} is inline") };
    ranges.iter().flat_map(|r| model[r.clone()].to_vec()).collect()
}

#[test]
fn the_layout_names_places_and_stored_elements() {
    let source = every_storage();
    let layout = wire::layout(&source).unwrap();
    let places: Vec<_> = layout.tensors.iter().map(|t| (t.name.as_str(), t.path.as_str(), t.holder)).collect();
    assert_eq!(
        places,
        [
            ("constant", "graph.node[1].attribute[0].t", Holder::Constant),
            ("raw", "graph.initializer[0]", Holder::Initializer),
            ("unpacked", "graph.initializer[1]", Holder::Initializer),
            ("packed", "graph.initializer[2]", Holder::Initializer),
            ("mixed", "graph.initializer[3]", Holder::Initializer),
        ]
    );
    let expected: [[f32; 3]; 5] =
        [[1.0, 2.0, 3.0], [0.5, 0.25, 0.125], [7.0, 8.0, 9.0], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
    for (name, values) in NAMES.iter().zip(expected) {
        assert_eq!(payload(&source, name), raw(&values), "{name}");
    }
}

#[test]
fn metadata_is_replaced_sorted_at_the_end_and_foreign_entries_stay() {
    let source = every_storage();
    let entries = patch(&[], &[("dev.onnx-unlearn.b", "2"), ("dev.onnx-unlearn.a", "1")]);
    let patched = patch_bytes(&source, &entries).unwrap().model;
    let mut expected = source.clone();
    for entry in wire::layout(&source).unwrap().metadata.iter().rev() {
        if entry.key.starts_with("dev.onnx-unlearn.") {
            expected.drain(entry.span.clone());
        }
    }
    expected.extend(field(14, &entry("dev.onnx-unlearn.a", "1").encode_to_vec()));
    expected.extend(field(14, &entry("dev.onnx-unlearn.b", "2").encode_to_vec()));
    assert_eq!(patched, expected);
    let keys: Vec<_> = wire::layout(&patched).unwrap().metadata.into_iter().map(|m| m.key).collect();
    assert_eq!(keys, ["names", "other", "dev.onnx-unlearn.a", "dev.onnx-unlearn.b"]);
    assert_eq!(patch_bytes(&patched, &entries).unwrap().model, patched, "patching again changes nothing");
    // Whether there are own entries to be dropped or not.
    let mut bare = source.clone();
    for entry in wire::layout(&source).unwrap().metadata.iter().rev().filter(|m| m.key.starts_with("dev.onnx-unlearn."))
    {
        bare.drain(entry.span.clone());
    }
    for model in [source, bare] {
        assert_eq!(with_metadata(model, entries.metadata.clone()).unwrap(), patched);
    }
}

#[test]
fn what_cannot_be_patched_is_refused_by_name() {
    let mut model = ModelProto {
        graph: Some(GraphProto {
            initializer: vec![
                TensorProto { raw_data: Some(raw(&[1.0]).into()), ..floats("twice", &[1]) },
                TensorProto { raw_data: Some(raw(&[1.0]).into()), ..floats("twice", &[1]) },
                TensorProto { data_type: Some(data_type::INT64), int64_data: vec![1], ..floats("ints", &[1]) },
                TensorProto { raw_data: Some(raw(&[1.0]).into()), float_data: vec![1.0], ..floats("both", &[1]) },
                TensorProto { raw_data: Some(raw(&[1.0, 2.0]).into()), ..floats("short", &[3]) },
                TensorProto { raw_data: Some(raw(&[1.0]).into()), ..floats("fine", &[1]) },
            ],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    let source = model.encode_to_vec();
    let error = |name: &str, values: &[f32]| patch_bytes(&source, &patch(&[(name, &new(values))], &[])).unwrap_err();
    assert!(matches!(error("none", &[1.0]), PatchError::NotFound { name } if name == "none"));
    assert!(matches!(error("twice", &[1.0]), PatchError::Ambiguous { second, .. } if second == "graph.initializer[1]"));
    assert!(matches!(error("ints", &[1.0]), PatchError::Type { data_type: 7, given: DType::F32, .. }));
    assert!(matches!(error("both", &[1.0]), PatchError::Storage { path, .. } if path == "graph.initializer[3]"));
    assert!(matches!(error("short", &[1.0, 2.0, 3.0]), PatchError::Length { held: 8, given: 3, .. }));
    assert!(matches!(error("short", &[1.0, 2.0]), PatchError::Length { given: 2, .. }));
    assert!(matches!(error("fine", &[]), PatchError::Length { given: 0, .. }));
    let metadata = |pairs: &[(&str, &str)]| patch_bytes(&source, &patch(&[], pairs)).unwrap_err();
    assert!(matches!(metadata(&[("names", "x")]), PatchError::ForeignKey { key } if key == "names"));
    let twice = metadata(&[("dev.onnx-unlearn.a", "1"), ("dev.onnx-unlearn.a", "2")]);
    assert!(matches!(twice, PatchError::RepeatedKey { .. }));
    model.metadata_props = entries(&[("a", "1"), ("a", "2")]);
    assert!(matches!(patch_bytes(&model.encode_to_vec(), &Patch::default()), Err(PatchError::Source(_))));
}

fn external(name: &str, dims: &[i64], pairs: &[(&str, &str)]) -> TensorProto {
    TensorProto { data_location: Some(1), external_data: entries(pairs), ..floats(name, dims) }
}

fn model_of(initializer: Vec<TensorProto>) -> Vec<u8> {
    let graph = GraphProto { initializer, ..GraphProto::default() };
    ModelProto { graph: Some(graph), ..ModelProto::default() }.encode_to_vec()
}

#[test]
fn external_data_goes_to_a_new_file_and_the_source_stays() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let data: Vec<u8> = (0..40).collect();
    fs::create_dir(from.path().join("sub")).unwrap();
    fs::write(from.path().join("sub/w.data"), &data).unwrap();
    fs::write(from.path().join("rest.data"), [9; 4]).unwrap();
    let source = model_of(vec![
        external("a", &[2], &[("location", "sub/w.data"), ("offset", "8"), ("length", "8")]),
        external("b", &[4], &[("location", "./sub/w.data"), ("offset", "24")]),
        external("c", &[1], &[("location", "rest.data"), ("checksum", "unused")]),
    ]);
    let (a, b) = (new(&[1.5, -0.0]), new(&[1.0, 2.0, 3.0, 4.0]));
    let patched = patch_bytes(&source, &patch(&[("a", &a), ("b", &b)], &[])).unwrap();
    assert_eq!(patched.model, source, "no byte of the model file changes");
    let names: Vec<_> = patched.external.iter().map(|e| e.location.as_str()).collect();
    assert_eq!(names, ["rest.data", "sub/w.data"]);
    for file in &patched.external {
        write_external(from.path(), to.path(), file).unwrap();
    }
    let mut expected = data.clone();
    expected[8..16].copy_from_slice(&raw(&[1.5, -0.0]));
    expected[24..40].copy_from_slice(&raw(&[1.0, 2.0, 3.0, 4.0]));
    assert_eq!(fs::read(to.path().join("sub/w.data")).unwrap(), expected);
    assert_eq!(fs::read(to.path().join("rest.data")).unwrap(), [9; 4]);
    assert_eq!(fs::read(from.path().join("sub/w.data")).unwrap(), data);
    let again = write_external(from.path(), to.path(), &patched.external[0]).unwrap_err();
    assert!(matches!(again, PatchError::Write { .. }), "an existing file is never overwritten: {again}");
    let own = write_external(from.path(), from.path(), &patched.external[1]).unwrap_err();
    assert!(matches!(own, PatchError::Write { .. }), "the source's file is never overwritten: {own}");
    let beyond = ExternalPatch { location: "sub/w.data".into(), writes: vec![(36, &a)] };
    let beyond = write_external(from.path(), tempfile::tempdir().unwrap().path(), &beyond).unwrap_err();
    assert!(matches!(beyond, PatchError::PastEnd { offset: 36, size: 40, .. }), "{beyond}");
}

#[test]
fn external_bytes_of_two_tensors_are_not_changed_through_one() {
    let at = |offset| vec![("location", "w"), ("offset", offset), ("length", "8")];
    let source = model_of(vec![external("a", &[2], &at("0")), external("b", &[2], &at("4"))]);
    let error = patch_bytes(&source, &patch(&[("a", &new(&[1.0, 2.0]))], &[])).unwrap_err();
    assert!(matches!(error, PatchError::Shared { name, .. } if name == "a"));
    let source = model_of(vec![external("a", &[2], &at("0")), external("b", &[2], &at("8"))]);
    assert!(patch_bytes(&source, &patch(&[("a", &new(&[1.0, 2.0]))], &[])).is_ok());
}

fn open(folder: &Path, pairs: &[(&str, &str)]) -> Result<Vec<u8>, ExternalError> {
    let mut data = Vec::new();
    ExternalRef::parse("t", pairs.iter().copied())?.open(folder)?.each(|part| data.extend_from_slice(part))?;
    Ok(data)
}

#[test]
fn external_locations_are_read_inside_the_folder_only() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::write(folder.path().join("secret"), b"secret").unwrap();
    fs::write(model.join("w"), b"0123456789").unwrap();
    assert_eq!(open(&model, &[("location", "w")]).unwrap(), b"0123456789");
    assert_eq!(open(&model, &[("location", "./w"), ("offset", "4"), ("length", "3")]).unwrap(), b"456");
    assert_eq!(open(&model, &[("location", "w"), ("offset", "10")]).unwrap(), b"");
    let absolute = folder.path().join("secret").display().to_string();
    for outside in ["../secret", "sub/../../secret", &absolute, "", ".", "..\\secret", "w\0"] {
        let error = open(&model, &[("location", outside)]).unwrap_err();
        assert!(matches!(error, ExternalError::Outside { .. }), "{outside:?}: {error}");
    }
    let error = |pairs: &[(&str, &str)]| open(&model, pairs).unwrap_err();
    assert!(matches!(error(&[("offset", "1")]), ExternalError::NoLocation { .. }));
    assert!(
        matches!(error(&[("location", "w"), ("size", "1")]), ExternalError::UnknownKey { key, .. } if key == "size")
    );
    assert!(matches!(error(&[("location", "w"), ("location", "w")]), ExternalError::RepeatedKey { .. }));
    for number in ["-1", "+1", "", "0x1", "18446744073709551616"] {
        assert!(matches!(error(&[("location", "w"), ("offset", number)]), ExternalError::Number { .. }), "{number:?}");
    }
    let past = [("11", "0"), ("4", "7"), ("18446744073709551615", "2")];
    for (offset, length) in past {
        let error = error(&[("location", "w"), ("offset", offset), ("length", length)]);
        assert!(matches!(error, ExternalError::PastEnd { size: 10, .. }), "{offset}+{length}: {error}");
        assert!(error.to_string().contains("\"t\""), "names the tensor: {error}");
    }
    assert!(matches!(error(&[("location", "w"), ("offset", "11")]), ExternalError::PastEnd { .. }));
    assert!(matches!(error(&[("location", "none")]), ExternalError::Io { .. }));
    fs::create_dir(model.join("sub")).unwrap();
    assert!(matches!(error(&[("location", "sub")]), ExternalError::NotAFile { .. }));
}

#[cfg(unix)]
#[test]
fn external_links_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    fs::create_dir(folder.path().join("other")).unwrap();
    fs::write(folder.path().join("other/w"), b"secret").unwrap();
    std::os::unix::fs::symlink(folder.path().join("other/w"), model.join("soft")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("other"), model.join("softdir")).unwrap();
    assert!(matches!(open(&model, &[("location", "soft")]), Err(ExternalError::Symlink { .. })));
    assert!(matches!(open(&model, &[("location", "softdir/w")]), Err(ExternalError::Symlink { .. })));
    fs::hard_link(folder.path().join("other/w"), model.join("hard")).unwrap();
    assert!(matches!(open(&model, &[("location", "hard")]), Err(ExternalError::HardLink { links: 2, .. })));
}

#[test]
fn values_go_to_the_right_tensor_when_several_are_patched() {
    let source = every_storage();
    let values: Vec<Tensor> = (0..5u8).map(f32::from).map(|i| new(&[i, 10.0 + i, 20.0 + i])).collect();
    let tensors: BTreeMap<&str, &Tensor> = NAMES.iter().copied().zip(&values).collect();
    let patched = patch_bytes(&source, &Patch { tensors, metadata: vec![] }).unwrap().model;
    for (name, values) in NAMES.iter().zip(&values) {
        assert_eq!(payload(&patched, name), values.to_le_bytes(), "{name}");
    }
}
