//! Weights of every element type and storage form are replaced, and no other byte of the file.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

#[path = "../common/mod.rs"]
mod common;
mod large;
mod models;
#[path = "../common/protobuf.rs"]
mod protobuf;
mod refused;
mod runtime;
mod stream;

use models::{TYPES, constant, draw, entry, model_of, raw, tensor, typed};
use onnx_unlearn::onnx::patch::{Patch, Patched, check, patch_bytes};
use onnx_unlearn::onnx::schema::{GraphProto, ModelProto, TensorProto};
use onnx_unlearn::onnx::wire;
use onnx_unlearn::tensor::{DType, Tensor};
use prost::Message;
use protobuf::field;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The patched bytes of a model without external data.
fn patched(source: &[u8], tensors: &[(&str, &Tensor)]) -> Vec<u8> {
    let patch = Patch { tensors: tensors.iter().copied().collect(), metadata: vec![] };
    let Patched { model, external } = patch_bytes(source, &patch).unwrap();
    assert!(external.is_empty());
    check(source, patch.tensors).unwrap();
    model
}

#[test]
fn a_list_that_grows_lengthens_what_is_around_it() {
    #[rustfmt::skip]
    let before = [
        0x08, 9,                                          // ir_version
        0x3a, 17,                                         // graph
            0x2a, 12,                                     // initializer
                0x08, 2, 0x10, 10,                        // dims [2], FLOAT16
                0x2a, 3, 0x80, 0x78, 0x01,                // int32_data: 0x3c00 (1.0), 0x0001 (the smallest number)
                0x42, 1, b'w',                            // name
            0x12, 1, b'g',                                // name
    ];
    #[rustfmt::skip]
    let after = [
        0x08, 9,
        0x3a, 20,
            0x2a, 15,
                0x08, 2, 0x10, 10,
                0x2a, 6, 0x80, 0x80, 0x02, 0xff, 0xff, 3, // 0x8000 (-0.0), 0xffff (a NaN)
                0x42, 1, b'w',
            0x12, 1, b'g',
    ];
    assert_eq!(patched(&before, &[("w", &tensor(DType::F16, &[0x8000, 0xffff]))]), after);
    assert_eq!(patched(&after, &[("w", &tensor(DType::F16, &[0x3c00, 1]))]), before, "and back");
}

/// Elements of one tensor before and after, and where and how it is stored.
struct Weight {
    name: String,
    dtype: DType,
    old: Vec<u64>,
    new: Vec<u64>,
    raw: bool,
    constant: bool,
}

impl Weight {
    fn draw(random: &mut ChaCha8Rng, name: String) -> Self {
        let dtype = TYPES[random.random_range(0..TYPES.len())];
        // Lengths around 127 and 16383, where a prefix takes one byte more, for the list and for what is around it.
        let n = match random.random_range(0..8) {
            0 => 0,
            1 => random.random_range(1600..6000),
            _ => random.random_range(1..60),
        };
        let mut bits = || (0..n).map(|_| draw(random, dtype)).collect();
        let (old, new) = (bits(), bits());
        Self { name, dtype, old, new, raw: random.random_range(0..4) == 0, constant: random.random() }
    }

    fn proto(&self, bits: &[u64]) -> TensorProto {
        if self.raw { raw(self.dtype, &self.name, bits) } else { typed(self.dtype, &self.name, bits) }
    }
}

fn model(weights: &[Weight], bits: impl Fn(&Weight) -> &[u64]) -> Vec<u8> {
    let protos = |constant| weights.iter().filter(move |w| w.constant == constant).map(|w| w.proto(bits(w)));
    let graph = GraphProto {
        name: Some("g".into()),
        node: protos(true).map(|t| constant(&t.name.clone().unwrap_or_default(), t)).collect(),
        initializer: protos(false).collect(),
        ..GraphProto::default()
    };
    ModelProto { graph: Some(graph), metadata_props: vec![entry("names", "cat,dog")], ..ModelProto::default() }
        .encode_to_vec()
}

#[test]
fn patching_gives_what_encoding_the_new_elements_gives() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let (mut longer, mut shorter) = (0, 0);
    for case in 0..400 {
        let mut weights: Vec<Weight> =
            (0..random.random_range(1..12)).map(|i| Weight::draw(&mut random, format!("w{i}"))).collect();
        let source = model(&weights, |w| &w.old);
        let new: Vec<Tensor> = weights.iter().map(|w| tensor(w.dtype, &w.new)).collect();
        let mut given = Vec::new();
        for (weight, new) in weights.iter_mut().zip(&new) {
            if random.random_range(0..4) > 0 {
                given.push((weight.name.clone(), new));
            } else {
                weight.new.clone_from(&weight.old);
            }
        }
        let given: Vec<_> = given.iter().map(|(name, new)| (name.as_str(), *new)).collect();
        let expected = model(&weights, |w| &w.new);
        assert!(patched(&source, &given) == expected, "case {case}");
        longer += usize::from(expected.len() > source.len());
        shorter += usize::from(expected.len() < source.len());
    }
    assert!(longer > 50 && shorter > 50, "{longer} longer, {shorter} shorter");
}

#[test]
fn every_type_is_replaced_in_every_form() {
    let mut random = ChaCha8Rng::seed_from_u64(6);
    for dtype in TYPES {
        let mut bits = || (0..40).map(|_| draw(&mut random, dtype)).collect::<Vec<_>>();
        let (old, new) = (bits(), bits());
        for form in [raw, typed] {
            let [before, after] = [&old, &new].map(|bits| model_of(vec![form(dtype, "w", bits)]));
            assert_ne!(before, after);
            assert_eq!(patched(&before, &[("w", &tensor(dtype, &new))]), after, "{dtype}");
        }
    }
}

#[test]
fn the_shape_is_not_looked_at() {
    let source = model_of(vec![typed(DType::I8, "w", &[1, 2, 3, 4])]);
    let square = Tensor::from_le_bytes(DType::I8, vec![2, 2], &[5, 6, 7, 0xf8]).unwrap();
    assert_eq!(patched(&source, &[("w", &square)]), model_of(vec![typed(DType::I8, "w", &[5, 6, 7, 0xf8])]));
}

/// An int8 -56 as 200, which readers accept too, and a 1 in two bytes.
fn unusual_entries() -> Vec<u8> {
    let list = field(5, &[0xc8, 0x01, 0x81, 0x00]);
    let empty = models::empty(DType::I8, "w", 2).encode_to_vec();
    field(7, &field(5, &[empty, list].concat()))
}

#[test]
fn a_tensor_that_holds_the_elements_already_is_left_as_it_lies() {
    let source = unusual_entries();
    assert_eq!(patched(&source, &[("w", &tensor(DType::I8, &[200, 1]))]), source);
    let decoded = ModelProto::decode(&patched(&source, &[("w", &tensor(DType::I8, &[200, 2]))])[..]).unwrap();
    assert_eq!(decoded.graph.unwrap().initializer[0].int32_data, [-56, 2], "signed, where anything changes");
}

#[test]
fn damaged_models_are_answered_with_an_error_or_a_sound_file() {
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let old: Vec<u64> = (0..20).map(|i| i * 77).collect();
    let source = [
        model_of(vec![typed(DType::F16, "w", &old), typed(DType::I8, "v", &[200; 20])]),
        field(14, &entry("dev.onnx-unlearn.digest", "old").encode_to_vec()),
    ]
    .concat();
    let (w, v) = (tensor(DType::F16, &[0xffff; 20]), tensor(DType::I8, &[1; 20]));
    let patch = Patch { tensors: [("w", &w), ("v", &v)].into(), metadata: vec![] };
    let (mut sound, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let mut damaged = source.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..damaged.len());
            damaged[at] = if random.random() { random.random() } else { damaged[at] ^ 1 };
        }
        match patch_bytes(&damaged, &patch) {
            Ok(Patched { model, .. }) => {
                wire::decode(&*model).unwrap_or_else(|e| panic!("{e} in {model:x?} made from {damaged:x?}"));
                sound += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(sound > 500 && refused > 5000, "{sound} sound, {refused} refused");
}
