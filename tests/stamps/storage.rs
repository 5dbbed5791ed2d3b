//! One digest for the same elements in every form of storage, and stamps over weights of every type.

use super::*;
use onnx_unlearn::onnx::{dtype_of, wire_type};

/// The forms that a tensor may have.
const FORMS: [&str; 4] = ["raw", "packed", "unpacked", "external"];

/// Bits of elements that test the ends of a type: signs, the largest number, NaNs with payloads.
fn cases() -> Vec<(DType, Vec<u64>)> {
    vec![
        (DType::F16, vec![0x3c00, 0x8000, 0xffff, 0x7e01, 0]),
        (DType::BF16, vec![0x3f80, 0x8000, 0xffc1, 0x0001, 0x7f80]),
        (DType::F32, vec![0x3f80_0000, 0x8000_0000, 0x7fa0_1234, 1, 0xff80_0000]),
        (DType::F64, vec![0x3ff0_0000_0000_0000, 1 << 63, 0x7ff4_0000_0000_1234, 1, 0]),
        (DType::I8, vec![0, 1, 0x7f, 0x80, 0xff]),
        (DType::I16, vec![0, 1, 0x7fff, 0x8000, 0xffff]),
        (DType::I32, vec![0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]),
        (DType::I64, vec![0, 1, (1 << 63) - 1, 1 << 63, u64::MAX]),
        (DType::U8, vec![0, 1, 0x7f, 0x80, 0xff]),
        (DType::U16, vec![0, 1, 0x7fff, 0x8000, 0xffff]),
        (DType::U32, vec![0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]),
        (DType::U64, vec![0, 1, (1 << 63) - 1, 1 << 63, u64::MAX]),
        (DType::Bool, vec![0, 1, 1, 0, 1]),
    ]
}

fn bytes(dtype: DType, bits: &[u64]) -> Vec<u8> {
    bits.iter().flat_map(|b| b.to_le_bytes().into_iter().take(dtype.size())).collect()
}

fn tensor(dtype: DType, bits: &[u64]) -> Tensor {
    Tensor::from_le_bytes(dtype, vec![bits.len()], &bytes(dtype, bits)).unwrap()
}

/// The field of `TensorProto` for a type, and what one element is there.
fn typed_entry(dtype: DType, bits: u64) -> (u32, u32, Vec<u8>) {
    let varint = |value: u64| {
        let mut out = Vec::new();
        prost::encoding::encode_varint(value, &mut out);
        out
    };
    match dtype {
        DType::F32 => (4, 5, bytes(dtype, &[bits])),
        DType::F64 => (10, 1, bytes(dtype, &[bits])),
        DType::I64 => (7, 0, varint(bits)),
        DType::U32 | DType::U64 => (11, 0, varint(bits)),
        DType::I8 => (5, 0, varint(i64::from(bits as i8) as u64)),
        DType::I16 => (5, 0, varint(i64::from(bits as i16) as u64)),
        DType::I32 => (5, 0, varint(i64::from(bits as i32) as u64)),
        _ => (5, 0, varint(bits)),
    }
}

/// The message of a tensor; an external one's bytes go to `folder`.
fn stored(form: &str, dtype: DType, bits: &[u64], folder: &Path) -> Vec<u8> {
    let mut head = TensorProto {
        name: text("w"),
        data_type: Some(wire_type(dtype)),
        dims: vec![bits.len() as i64],
        ..TensorProto::default()
    };
    let elements = bits.iter().map(|&b| typed_entry(dtype, b));
    match form {
        "raw" => head.raw_data = Some(bytes(dtype, bits).into()),
        "external" => {
            fs::write(folder.join("w.data"), [&[7; 3][..], &bytes(dtype, bits)].concat()).unwrap();
            head.data_location = Some(1);
            head.external_data = vec![entry("location", "w.data"), entry("offset", "3")];
        }
        "packed" => {
            let number = typed_entry(dtype, 0).0;
            return [head.encode_to_vec(), field(number, &elements.flat_map(|(_, _, e)| e).collect::<Vec<_>>())]
                .concat();
        }
        _ => {
            let one = |(number, wire, e): (u32, u32, Vec<u8>)| [vec![(number << 3 | wire) as u8], e].concat();
            return [head.encode_to_vec(), elements.flat_map(one).collect()].concat();
        }
    }
    head.encode_to_vec()
}

#[test]
fn every_form_of_storage_has_the_same_digest() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for (dtype, bits) in cases() {
        let of = |form| {
            let proto = TensorProto::decode(&stored(form, dtype, &bits, folder.path())[..]).unwrap();
            tensor_digest(&proto, folder.path()).unwrap()
        };
        let expected = of("raw");
        for form in FORMS {
            assert_eq!(of(form), expected, "{dtype}, {form}");
        }
        all.push(expected);
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "types with the same bytes have different digests");
}

#[test]
fn a_digest_of_typed_float16_is_what_the_specification_spells() {
    let t = TensorProto { int32_data: vec![0x3c00, 0x8000], ..half() };
    let mut spelled = Vec::new();
    spelled.extend(14u64.to_le_bytes());
    spelled.extend(b"onnx-tensor-v1");
    spelled.extend(10i32.to_le_bytes());
    spelled.extend(1u32.to_le_bytes());
    spelled.extend(2i64.to_le_bytes());
    spelled.extend(4u64.to_le_bytes());
    spelled.extend([0x00, 0x3c, 0x00, 0x80]);
    assert_eq!(tensor_digest(&t, Path::new("")).unwrap(), Digest::of(&spelled));
    // Entries below zero hold the same 16 bits, where a writer took them for int16.
    let signed = TensorProto { int32_data: vec![0x3c00, -0x8000], ..half() };
    assert_eq!(tensor_digest(&signed, Path::new("")).unwrap(), Digest::of(&spelled));
}

fn half() -> TensorProto {
    TensorProto { data_type: Some(data_type::FLOAT16), dims: vec![2], ..TensorProto::default() }
}

#[test]
fn signed_bytes_may_be_written_without_sign() {
    let with = |values: &[i32]| {
        let t = TensorProto { data_type: Some(data_type::INT8), dims: vec![2], ..TensorProto::default() };
        tensor_digest(&TensorProto { int32_data: values.to_vec(), ..t }, Path::new("")).unwrap()
    };
    assert_eq!(with(&[-56, -1]), with(&[200, 255]));
    assert_ne!(with(&[-56, -1]), with(&[56, 1]));
}

/// A weight in one form, as an initializer or in a Constant node, beside one that stays.
fn source(dir: &Path, form: &str, dtype: DType, bits: &[u64], constant: bool) -> PathBuf {
    let tensor = stored(form, dtype, bits, dir);
    let held = if constant {
        let attribute = [field(1, b"value"), field(5, &tensor), vec![0xa0, 0x01, 4]].concat();
        field(1, &[field(2, b"w"), field(4, b"Constant"), field(5, &attribute)].concat())
    } else {
        field(5, &tensor)
    };
    let graph = [held, field(5, &floats("stays", &[2], &[1.0, 2.0]).encode_to_vec())].concat();
    let path = dir.join("source.onnx");
    fs::write(&path, [vec![0x08, 9], field(7, &graph)].concat()).unwrap();
    path
}

#[test]
fn new_weights_of_every_type_and_form_are_stamped_and_verified() {
    for (dtype, bits) in cases() {
        // As many elements, none where it was.
        let new = tensor(dtype, &bits.iter().map(|b| b ^ 1).collect::<Vec<_>>());
        for (form, constant) in FORMS.into_iter().flat_map(|form| [(form, false), (form, true)]) {
            let case = format!("{dtype}, {form}, {}", if constant { "Constant" } else { "initializer" });
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("out");
            fs::create_dir(&out).unwrap();
            let source = source(folder.path(), form, dtype, &bits, constant);
            let stamped = finish(&source, &out, "w", &new).unwrap();
            assert_eq!(stamped.changed, ["w"], "{case}");
            let path = out.join("model.onnx");
            fs::write(&path, &stamped.model).unwrap();
            assert_eq!(digest_file(&path).unwrap(), stamped.digests, "{case}");
            let w = stamped.digests.tensors.iter().find(|t| t.key == "w").unwrap();
            assert_eq!(dtype_of(w.data_type), Some(dtype), "{case}");
            let raw =
                TensorProto::decode(&stored("raw", dtype, &bits.iter().map(|b| b ^ 1).collect::<Vec<_>>(), &out)[..]);
            assert_eq!(w.digest, tensor_digest(&raw.unwrap(), &out).unwrap(), "{case}");
            let declare = |names: &[&str]| {
                let trained: Vec<_> = names.iter().map(|n| serde_json::json!({"name": n})).collect();
                let report = serde_json::json!({"trained": trained}).to_string();
                fs::write(out.join("unlearn-report.json"), report).unwrap();
                verify(&path, Some(&source))
            };
            let verdict = declare(&["w"]);
            assert_eq!((verdict.answer, verdict.reason), (Answer::Yes, "ok"), "{case}: {verdict:#?}");
            let listed = detail(&verdict, "lineage.changes");
            assert_eq!(listed, "1 of 2 tensors differ from the source: \"w\"", "{case}");
            let verdict = declare(&[]);
            assert_eq!((verdict.answer, verdict.reason), (Answer::No, "lineage.undeclared_change"), "{case}");
            let verdict = declare(&["w", "stays"]);
            assert_eq!((verdict.answer, verdict.reason), (Answer::No, "lineage.declared_unchanged"), "{case}");
        }
    }
}

#[test]
fn no_flipped_bit_of_a_list_of_varints_is_answered_with_yes() {
    for (dtype, bits) in cases() {
        let folder = tempfile::tempdir().unwrap();
        let source = source(folder.path(), "packed", dtype, &bits, true);
        let new = tensor(dtype, &bits.iter().map(|b| b ^ 1).collect::<Vec<_>>());
        let model = finish(&source, folder.path(), "w", &new).unwrap().model;
        let layout = wire::layout(&model).unwrap();
        let Storage::Varint(lists) = &layout.tensors[0].storage else { continue };
        let own = layout.tensors[0].enclosing.iter().chain(lists);
        let (mut no, mut undecided) = (0, 0);
        for at in lists[0].value.clone().chain(own.flat_map(|frame| frame.length.clone())) {
            for bit in 0..8 {
                let mut damaged = model.clone();
                damaged[at] ^= 1 << bit;
                let verdict = verify_bytes(&damaged, &folder.path().join("m.onnx"), None);
                match verdict.answer {
                    Answer::Yes => panic!("{dtype}: bit {bit} of byte {at}"),
                    Answer::No => no += 1,
                    Answer::Undecided => undecided += 1,
                }
            }
        }
        assert!(no > 0 && undecided > 20, "{dtype}: {no} no, {undecided} undecided");
    }
}
