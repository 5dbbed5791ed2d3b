//! Both byte streams, side by side: payloads and the lengths around them may differ, nothing else.

use std::collections::BTreeSet;

use onnx_unlearn::onnx::schema::{ModelProto, NodeProto};
use onnx_unlearn::onnx::wire::{self, Storage};
use onnx_unlearn::tensor::{DType, Tensor};
use prost::Message;
use prost::encoding::{decode_varint, encode_varint};

use super::models::{constant, draw, empty, entry, tensor, typed};
use super::patched;
use super::protobuf::field;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// One field of a message: bytes of its tag, of its length (none for numbers) and of its value.
struct Piece<'a> {
    number: u64,
    tag: &'a [u8],
    length: &'a [u8],
    value: &'a [u8],
}

/// Cuts a message into its fields. Knows nothing of the code that is tested.
fn pieces(mut rest: &[u8]) -> Vec<Piece<'_>> {
    fn varint<'a>(rest: &mut &'a [u8]) -> (u64, &'a [u8]) {
        let before = *rest;
        let value = decode_varint(rest).unwrap();
        (value, &before[..before.len() - rest.len()])
    }
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (key, tag) = varint(&mut rest);
        let (length, value) = match key & 7 {
            0 => (&rest[..0], varint(&mut rest).1),
            wire => {
                let (n, length) = match wire {
                    1 => (8, &rest[..0]),
                    5 => (4, &rest[..0]),
                    2 => varint(&mut rest),
                    other => panic!("wire type {other}"),
                };
                (length, rest.split_off(..n as usize).unwrap())
            }
        };
        found.push(Piece { number: key >> 3, tag, length, value });
    }
    found
}

fn minimal(length: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode_varint(length as u64, &mut out);
    out
}

/// Walks two messages field by field and notes the values (by name) whose payloads differ.
///
/// # Panics
/// When anything else differs, or a length has other bytes than it must.
fn walk(message: &str, name: &str, before: &[u8], after: &[u8], changed: &mut BTreeSet<String>) {
    let (before, after) = (pieces(before), pieces(after));
    assert_eq!(before.len(), after.len(), "fields of {message} {name}");
    let named =
        |number| before.iter().find(|p| p.number == number).map(|p| String::from_utf8(p.value.to_vec()).unwrap());
    for (a, b) in before.iter().zip(&after) {
        let place = format!("field {} of {message} {name}", a.number);
        assert_eq!(a.tag, b.tag, "tag of {place}");
        if a.value.len() == b.value.len() {
            assert_eq!(a.length, b.length, "length of {place}, which did not change");
        } else if !a.length.is_empty() {
            assert_eq!(b.length, minimal(b.value.len()), "length of {place}");
        }
        if a.value == b.value {
            continue;
        }
        let mut descend = |inner: &str, name: &str| walk(inner, name, a.value, b.value, changed);
        match (message, a.number) {
            ("model", 7) => descend("graph", ""),
            ("graph", 1) => descend("node", ""),
            ("graph", 5) => descend("tensor", ""),
            ("node", 5) => descend("attribute", &named(2).unwrap()),
            ("attribute", 5) => descend("tensor", name),
            ("tensor", 4 | 5 | 7 | 9 | 10 | 11) => {
                let own = if name.is_empty() { named(8).unwrap() } else { name.to_owned() };
                changed.insert(own);
            }
            _ => panic!("{place} changed"),
        }
    }
}

/// Names of the values whose payloads differ, where nothing else does.
fn changed(before: &[u8], after: &[u8]) -> Vec<String> {
    let mut changed = BTreeSet::new();
    walk("model", "", before, after, &mut changed);
    changed.into_iter().collect()
}

/// A field whose length takes two bytes more than it must.
fn padded(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut length = minimal(payload.len());
    *length.last_mut().unwrap() |= 0x80;
    length.extend([0x80, 0x00]);
    [minimal((number << 3 | 2) as usize), length, payload.to_vec()].concat()
}

/// An unpacked entry of a typed field, its tag in one byte more than it must.
fn single(number: u8, value: u64) -> Vec<u8> {
    let mut out = vec![number << 3 | 0x80, 0x00];
    encode_varint(value, &mut out);
    out
}

const BITS: [u64; 6] = [1, 200, 3, 0x3c00, 5, 6];

/// What readers accept and few writers write: unpacked entries, several lists, an empty list, lengths and tags longer
/// than they must be, an attribute list before the name, metadata with unknown fields, fields in any order.
fn unusual() -> Vec<u8> {
    let list = |values: &[u64]| {
        let mut out = Vec::new();
        for &value in values {
            encode_varint(value, &mut out);
        }
        out
    };
    let mixed = [
        single(5, 1),
        padded(5, &list(&[200, 3])),
        empty(DType::F16, "mixed", 6).encode_to_vec(),
        field(5, &[]),
        single(5, 0x3c00),
        field(5, &list(&[5, 6])),
        padded(16, &[entry("k", "v").encode_to_vec(), field(9, b"odd")].concat()),
    ]
    .concat();
    let inside = [padded(7, &list(&BITS)), empty(DType::I64, "", 6).encode_to_vec(), field(12, b"doc")].concat();
    let attribute = [padded(5, &inside), padded(1, b"value"), vec![0xa0, 0x01, 4]].concat();
    let node = [padded(5, &attribute), field(4, b"Constant"), padded(2, b"deep"), field(6, b"doc")].concat();
    let relu = NodeProto { op_type: Some("Relu".into()), ..NodeProto::default() }.encode_to_vec();
    let plain = typed(DType::U64, "plain", &BITS);
    let graph = [
        padded(5, &mixed),
        field(1, &relu),
        padded(1, &node),
        field(2, b"g"),
        field(1, &constant("flat", typed(DType::I8, "own name", &[1, 2, 3])).encode_to_vec()),
        field(5, &plain.encode_to_vec()),
        field(5, &typed(DType::F64, "fixed", &BITS).encode_to_vec()),
    ]
    .concat();
    let foreign = padded(14, &[entry("names", "cat,dog").encode_to_vec(), field(9, b"odd")].concat());
    [foreign, vec![0x08, 9], padded(7, &graph), field(2, b"producer")].concat()
}

/// The elements of a value, whichever holder it has, as the file stores them.
fn stored(model: &[u8], name: &str) -> Vec<u64> {
    let graph = ModelProto::decode(model).unwrap().graph.unwrap();
    let constants = graph.node.into_iter().filter(|n| n.output == [name]).map(|mut n| n.attribute.remove(0).t.unwrap());
    let t = graph.initializer.into_iter().filter(|t| t.name() == name).chain(constants).next().unwrap();
    let ints = t.int32_data.iter().map(|&v| v as u64).chain(t.int64_data.iter().map(|&v| v as u64));
    ints.chain(t.uint64_data).chain(t.double_data.iter().map(|v| v.to_bits())).collect()
}

const VALUES: [(&str, DType, usize); 5] = [
    ("mixed", DType::F16, 6),
    ("deep", DType::I64, 6),
    ("flat", DType::I8, 3),
    ("plain", DType::U64, 6),
    ("fixed", DType::F64, 6),
];

#[test]
fn payloads_and_lengths_around_them_differ_and_nothing_else() {
    let source = unusual();
    wire::validate(&source).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(9);
    for case in 0..2000u32 {
        let drawn: Vec<Vec<u64>> =
            VALUES.iter().map(|(_, dtype, n)| (0..*n).map(|_| draw(&mut random, *dtype)).collect()).collect();
        let tensors: Vec<Tensor> =
            VALUES.iter().zip(&drawn).map(|((_, dtype, _), bits)| tensor(*dtype, bits)).collect();
        // Every subset of the five, again and again.
        let chosen: Vec<usize> = (0..VALUES.len()).filter(|i| case >> i & 1 == 1).collect();
        let given: Vec<_> = chosen.iter().map(|&i| (VALUES[i].0, &tensors[i])).collect();
        let result = patched(&source, &given);
        wire::validate(&result).unwrap();
        let mut names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(changed(&source, &result), names, "case {case}");
        for (i, (name, dtype, _)) in VALUES.iter().enumerate() {
            let signed = |bits: &u64| if *dtype == DType::I8 { *bits as i8 as u64 } else { *bits };
            let expected =
                if chosen.contains(&i) { drawn[i].iter().map(signed).collect() } else { stored(&source, name) };
            assert_eq!(stored(&result, name), expected, "{name} in case {case}");
        }
    }
}

#[test]
fn a_length_that_does_not_change_keeps_its_bytes() {
    let source = unusual();
    // As many bytes as before: nothing but the payload differs.
    let same = patched(&source, &[("plain", &tensor(DType::U64, &[6, 201, 1, 0x3c01, 4, 2]))]);
    assert_eq!(same.len(), source.len());
    assert_eq!(changed(&source, &same), ["plain"]);
    assert_eq!(source.iter().zip(&same).filter(|(a, b)| a != b).count(), 6);
    // One list longer by a byte, another shorter by one: the graph has the same length, in the same padded bytes.
    let graph = |a: &[u64], b: &[u64]| {
        let tensors = [("a", a), ("b", b)].map(|(name, bits)| typed(DType::U64, name, bits).encode_to_vec());
        padded(7, &tensors.map(|t| field(5, &t)).concat())
    };
    let (a, b) = (tensor(DType::U64, &[200, 200]), tensor(DType::U64, &[1, 1]));
    let traded = patched(&graph(&[1, 200], &[1, 200]), &[("a", &a), ("b", &b)]);
    assert_eq!(traded, graph(&[200, 200], &[1, 1]));
}

#[test]
fn the_layout_shows_lists_and_what_is_around_them() {
    let source = unusual();
    let layout = wire::layout(&source).unwrap();
    for (name, lists, around) in [("mixed", 4, 2), ("deep", 1, 4), ("flat", 1, 4), ("plain", 1, 2)] {
        let span = layout.tensors.iter().find(|t| t.name == name).unwrap();
        let Storage::Varint(found) = &span.storage else { panic!("{name}: {:?}", span.storage) };
        assert_eq!((found.len(), span.enclosing.len()), (lists, around), "{name}");
        for pair in span.enclosing.windows(2) {
            assert!(pair[0].value.start <= pair[1].length.start && pair[1].value.end <= pair[0].value.end, "{name}");
        }
        let tensor = &span.enclosing.last().unwrap().value;
        assert!(found.iter().all(|list| tensor.start < list.value.start && list.value.end <= tensor.end), "{name}");
    }
}
