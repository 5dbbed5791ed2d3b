//! Every way in which new elements do not fit the file.

use onnx_unlearn::onnx::patch::{Patch, PatchError, patch_bytes};
use onnx_unlearn::onnx::schema::TensorProto;
use onnx_unlearn::tensor::{DType, Tensor};

use super::models::{TYPES, empty, external, model_of, raw, tensor, typed};

fn error(t: TensorProto, new: &Tensor) -> PatchError {
    let source = model_of(vec![TensorProto { name: Some("w".into()), ..t }]);
    let patch = Patch { tensors: [("w", new)].into(), metadata: vec![] };
    patch_bytes(&source, &patch).unwrap_err()
}

#[test]
fn another_element_type_is_refused_and_both_are_named() {
    for held in TYPES {
        for given in TYPES.into_iter().filter(|given| *given != held) {
            let error = error(typed(held, "w", &[1]), &tensor(given, &[1]));
            assert!(matches!(error, PatchError::Type { given: named, .. } if named == given), "{error}");
            let expected = format!(
                "tensor \"w\" (graph.initializer[0]) has element type {held}, but the new elements are {given}"
            );
            assert_eq!(error.to_string(), expected);
        }
    }
    // An 8-bit float, which lies in int32_data like uint8 and has its width.
    let float8 = TensorProto { data_type: Some(17), ..typed(DType::U8, "w", &[1]) };
    let error = error(float8, &tensor(DType::U8, &[1]));
    assert!(error.to_string().contains("element type 17 of onnx.proto, but the new elements are uint8"), "{error}");
}

#[test]
fn another_number_of_elements_is_refused_and_both_are_named() {
    let beside = external(DType::F16, "w", 3, &[("location", "w"), ("length", "6")]);
    for held in [raw(DType::F16, "w", &[1, 2, 3]), typed(DType::F16, "w", &[1, 2, 3]), beside] {
        for given in [0, 2, 4] {
            let error = error(held.clone(), &tensor(DType::F16, &vec![7; given]));
            assert!(matches!(error, PatchError::Length { held: 6, .. }), "{error}");
            let expected = format!(
                "tensor \"w\" (graph.initializer[0]) has dims [3] and holds 6 bytes of elements, but {given} new elements \
                 of float16 are given"
            );
            assert_eq!(error.to_string(), expected);
        }
        // Dims and elements that disagree: neither number of new elements is right.
        for given in [2, 3] {
            let wrong = TensorProto { dims: vec![2], ..held.clone() };
            let error = error(wrong, &tensor(DType::F16, &vec![7; given]));
            assert!(matches!(error, PatchError::Length { held: 6, .. }), "{error}");
        }
    }
    let nothing = error(empty(DType::F16, "w", 3), &tensor(DType::F16, &[1, 2, 3]));
    assert!(matches!(nothing, PatchError::Length { held: 0, given: 3, .. }), "{nothing}");
}

#[test]
fn a_field_that_is_not_the_one_for_the_type_is_refused() {
    let field = |dtype, stored_as| {
        let wrong = TensorProto { data_type: empty(dtype, "w", 1).data_type, ..typed(stored_as, "w", &[1]) };
        error(wrong, &tensor(dtype, &[1]))
    };
    let cases = [
        (DType::I64, DType::I32),
        (DType::F16, DType::I64),
        (DType::U32, DType::I32),
        (DType::I32, DType::U32),
        (DType::F32, DType::F64),
        (DType::F64, DType::F32),
        (DType::F16, DType::F32),
    ];
    for (dtype, stored_as) in cases {
        let error = field(dtype, stored_as);
        let PatchError::Storage { name, path } = &error else { panic!("{dtype} stored as {stored_as}: {error}") };
        assert_eq!((name.as_str(), path.as_str()), ("w", "graph.initializer[0]"));
    }
}

#[test]
fn two_storages_are_refused() {
    let in_two = TensorProto { raw_data: Some(vec![1]), ..typed(DType::I8, "w", &[1]) };
    assert!(matches!(error(in_two, &tensor(DType::I8, &[2])), PatchError::Storage { .. }));
    let beside = external(DType::I8, "w", 1, &[("location", "w")]);
    let in_two = TensorProto { int32_data: vec![1], ..beside };
    assert!(matches!(error(in_two, &tensor(DType::I8, &[2])), PatchError::Storage { .. }));
    let in_two = TensorProto { int64_data: vec![1], ..typed(DType::I8, "w", &[1]) };
    assert!(matches!(error(in_two, &tensor(DType::I8, &[2])), PatchError::Storage { .. }));
}

#[test]
#[ignore = "takes 6 GiB of memory"]
fn a_model_that_would_pass_2_gib_is_refused() {
    // Bytes of 127 become two each.
    let n = 1_500_000_000;
    let list = super::protobuf::field(5, &vec![127; n]);
    let t = [prost::Message::encode_to_vec(&empty(DType::U8, "w", n)), list].concat();
    let source = super::protobuf::field(7, &super::protobuf::field(5, &t));
    drop(t);
    let new = Tensor::from_le_bytes(DType::U8, vec![n], &vec![200; n]).unwrap();
    let patch = Patch { tensors: [("w", &new)].into(), metadata: vec![] };
    let error = patch_bytes(&source, &patch).unwrap_err();
    assert!(matches!(error, PatchError::TooLarge(size) if size > 2 * n), "{error}");
}
