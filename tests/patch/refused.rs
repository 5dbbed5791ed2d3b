//! Every way in which new elements do not fit the file.

use onnx_unlearn::onnx::patch::{Patch, PatchError, check, patch_bytes};
use onnx_unlearn::onnx::schema::TensorProto;
use onnx_unlearn::tensor::{DType, Tensor};
use prost::Message;

use super::models::{TYPES, empty, external, model_of, raw, tensor, typed};
use super::protobuf::field;

fn error(t: TensorProto, new: &Tensor) -> PatchError {
    let source = model_of(vec![TensorProto { name: Some("w".into()), ..t }]);
    let patch = Patch { tensors: [("w", new)].into(), metadata: vec![] };
    let error = patch_bytes(&source, &patch).unwrap_err();
    assert_eq!(check(&source, [("w", new)].into()).unwrap_err().to_string(), error.to_string());
    error
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
    let stored_as_other = |dtype, stored_as| {
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
        let error = stored_as_other(dtype, stored_as);
        let PatchError::Storage { name, path } = &error else { panic!("{dtype} stored as {stored_as}: {error}") };
        assert_eq!((name.as_str(), path.as_str()), ("w", "graph.initializer[0]"));
    }
}

#[test]
fn two_storages_are_refused() {
    let in_two = TensorProto { raw_data: Some(vec![1].into()), ..typed(DType::I8, "w", &[1]) };
    assert!(matches!(error(in_two, &tensor(DType::I8, &[2])), PatchError::Storage { .. }));
    let beside = external(DType::I8, "w", 1, &[("location", "w")]);
    let in_two = TensorProto { int32_data: vec![1], ..beside };
    assert!(matches!(error(in_two, &tensor(DType::I8, &[2])), PatchError::Storage { .. }));
    let in_two = TensorProto { int64_data: vec![1], ..typed(DType::I8, "w", &[1]) };
    assert!(matches!(error(in_two, &tensor(DType::I8, &[2])), PatchError::Storage { .. }));
}

/// A message field that ends `after` bytes behind its prefix.
fn opened(number: u8, after: usize) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    prost::encoding::encode_varint(after as u64, &mut out);
    out
}

#[test]
#[ignore = "takes 4 GiB of memory"]
fn a_model_that_would_pass_2_gib_is_refused() {
    let small = field(5, &typed(DType::F16, "w", &[1; 20]).encode_to_vec());
    let big = empty(DType::U8, "big", 0).encode_to_vec();
    // Zeros in raw_data up to the very limit. Each of the three lengths on the way takes five bytes, its tag one.
    let n = i32::MAX as usize - 3 * 6 - small.len() - big.len();
    let raw = opened(9, n);
    let around = opened(5, big.len() + raw.len() + n);
    let graph = opened(7, small.len() + around.len() + big.len() + raw.len() + n);
    let mut source = vec![0; i32::MAX as usize];
    let head = [graph, small, around, big, raw].concat();
    assert_eq!(head.len() + n, source.len());
    source[..head.len()].copy_from_slice(&head);
    let with = |element: u64| {
        let new = tensor(DType::F16, &[element; 20]);
        patch_bytes(&source, &Patch { tensors: [("w", &new)].into(), metadata: vec![] }).map(|p| p.model.len())
    };
    assert_eq!(with(2).unwrap(), source.len());
    let error = with(0x3c00).unwrap_err();
    assert!(matches!(error, PatchError::TooLarge(size) if size == source.len() + 20), "{error}");
    // There is no room for a stamp.
    let found = check(&source, [("w", &tensor(DType::F16, &[2; 20]))].into());
    assert!(matches!(found, Err(PatchError::TooLarge(size)) if size > source.len()), "{found:?}");
}
