//! Attention in its fused forms, and the turning of features by position.

use crate::{
    fused::refused,
    harness::{Case, any, case},
};
use onnx_unlearn::{
    graph::Attr,
    tensor::{Data, Tensor},
};

fn bools(shape: &[usize], v: &[bool]) -> Tensor {
    Tensor::new(shape.to_vec(), Data::Bool(v.to_vec()))
}

/// Sees itself and what came before, and one place more.
fn seen(rows: usize, columns: usize) -> Tensor {
    let v: Vec<bool> = (0..rows * columns).map(|i| i % columns <= i / columns + 1).collect();
    bools(&[rows, columns], &v)
}

#[test]
fn multi_head_attention() {
    let node = || case("MultiHeadAttention").microsoft().attr("num_heads", 2i64);
    let qkv = |node: Case| node.grad(any(&[2, 3, 4])).grad(any(&[2, 5, 4])).grad(any(&[2, 5, 6]));
    for opset in [7, 13, 18, 23] {
        qkv(node().opset(opset)).check();
    }
    qkv(node().attr("scale", 0.3f32)).check();
    qkv(node().attr("mask_filter_value", -1e4f32)).check();
    qkv(node()).grad(any(&[14])).check();
    for bias in [[1, 1, 3, 5], [1, 2, 3, 5], [2, 1, 3, 5], [2, 2, 3, 5]] {
        qkv(node()).none().none().grad(any(&bias)).check();
    }
    qkv(node()).grad(any(&[14])).none().grad(any(&[2, 2, 3, 5])).check();
    case("MultiHeadAttention")
        .microsoft()
        .attr("num_heads", 1i64)
        .grad(any(&[1, 2, 3]))
        .grad(any(&[1, 2, 3]))
        .grad(any(&[1, 2, 3]))
        .check();
}

fn int32(shape: &[usize], v: &[i32]) -> Tensor {
    Tensor::new(shape.to_vec(), Data::I32(v.to_vec()))
}

/// One input for keys and values, or for all three: ONNX Runtime computes that on GPUs only.
#[test]
fn packed_inputs() {
    const ROW: [i64; 3] = [0, 0, -1];
    let ints = |v: &[i64]| -> [(&'static str, Attr); 1] { [("value_ints", v.into())] };
    let part = |i: i64| -> [(&'static str, Attr); 1] { [("value_int", i.into())] };
    let (row, axis) = (ints(&ROW), [("axis", Attr::Int(3))]);
    let heads = [("q_num_heads", Attr::Int(2)), ("kv_num_heads", Attr::Int(2))];
    let node = || case("MultiHeadAttention").microsoft().opset(23).attr("num_heads", 2i64);
    let qkv = node().grad(any(&[2, 3, 2, 3, 4]));
    qkv.by_hand(&[
        ("Constant", &[], "row", &row),
        ("Constant", &[], "0", &part(0)),
        ("Constant", &[], "1", &part(1)),
        ("Constant", &[], "2", &part(2)),
        ("Gather", &["x0", "0"], "q4", &axis),
        ("Gather", &["x0", "1"], "k4", &axis),
        ("Gather", &["x0", "2"], "v4", &axis),
        ("Reshape", &["q4", "row"], "q", &[]),
        ("Reshape", &["k4", "row"], "k", &[]),
        ("Reshape", &["v4", "row"], "v", &[]),
        ("Attention", &["q", "k", "v"], "y0", &heads),
    ])
    .check();
    let kv = node().grad(any(&[2, 3, 8])).grad(any(&[2, 5, 2, 2, 4]));
    kv.by_hand(&[
        ("Constant", &[], "row", &row),
        ("Constant", &[], "0", &part(0)),
        ("Constant", &[], "1", &part(1)),
        ("Gather", &["x1", "0"], "k4", &axis),
        ("Gather", &["x1", "1"], "v4", &axis),
        ("Reshape", &["k4", "row"], "k", &[]),
        ("Reshape", &["v4", "row"], "v", &[]),
        ("Attention", &["x0", "k", "v"], "y0", &heads),
    ])
    .check();
}

/// Keys that a mask leaves out. At the default filter, which lies far below every score, the runtime and what is written
/// out agree as well.
#[test]
fn masked_keys() {
    let filter = |node: Case, v: Option<f32>| if let Some(v) = v { node.attr("mask_filter_value", v) } else { node };
    let ends = || int32(&[2], &[3, 5]);
    let which = || int32(&[2, 5], &[1, 0, 1, 0, 0, 0, 1, 2, -1, 1]);
    for opset in [13, 18, 23] {
        for value in [None, Some(-3.0)] {
            let node = || {
                let node = case("MultiHeadAttention").microsoft().opset(opset).attr("num_heads", 2i64);
                filter(node, value).grad(any(&[2, 3, 4])).grad(any(&[2, 5, 4])).grad(any(&[2, 5, 6])).none()
            };
            node().data(ends()).check();
            node().data(which()).check();
            node().constant(which()).grad(any(&[1, 2, 3, 5])).check();
            let marks = [1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 1, 0, 0];
            node().data(int32(&[2, 3, 5], &marks)).check();

            let node = || {
                let node = case("Attention").microsoft().opset(opset).attr("num_heads", 2i64);
                filter(node, value).grad(any(&[2, 5, 3])).grad(any(&[3, 12])).grad(any(&[12]))
            };
            node().data(ends()).check();
            node().data(which()).check();
            node().data(ends()).none().grad(any(&[2, 2, 5, 5])).check();
            node().attr("unidirectional", 1i64).data(ends()).check();
            let marks: Vec<i32> = (0..50).map(|i| i32::from(i % 7 != 3 && i % 11 != 5)).collect();
            node().data(int32(&[2, 5, 5], &marks)).check();
        }
    }
}

#[test]
fn packed_attention() {
    let node = || case("Attention").microsoft().attr("num_heads", 2i64).grad(any(&[2, 3, 5]));
    for opset in [7, 13, 18, 23] {
        node().opset(opset).grad(any(&[5, 12])).grad(any(&[12])).check();
    }
    node().attr("scale", 0.4f32).grad(any(&[5, 12])).grad(any(&[12])).check();
    node().attr("unidirectional", 1i64).grad(any(&[5, 12])).grad(any(&[12])).check();
    node().attr("qkv_hidden_sizes", [4, 4, 6]).grad(any(&[5, 14])).grad(any(&[14])).check();
    node().grad(any(&[5, 12])).grad(any(&[12])).none().none().grad(any(&[2, 2, 3, 3])).check();
}

#[test]
fn standard_attention() {
    for opset in [23, 24] {
        let node = || case("Attention").opset(opset);
        // By head, and with the heads side by side.
        let four = |node: Case| node.grad(any(&[2, 2, 3, 4])).grad(any(&[2, 2, 5, 4])).grad(any(&[2, 2, 5, 3]));
        let three = |node: Case| {
            let node = node.attr("q_num_heads", 2i64).attr("kv_num_heads", 2i64);
            node.grad(any(&[2, 3, 8])).grad(any(&[2, 5, 8])).grad(any(&[2, 5, 6]))
        };
        four(node()).check();
        three(node()).check();
        four(node().attr("scale", 0.3f32)).check();
        four(node().attr("softcap", 0.7f32)).check();
        four(node().attr("is_causal", 1i64)).check();
        three(node().attr("is_causal", 1i64)).check();
        for mask in [&[3, 5][..], &[2, 1, 3, 5], &[1, 2, 3, 5], &[2, 3, 5]] {
            four(node()).grad(any(mask)).check();
        }
        four(node()).constant(any(&[3, 5])).check();
        four(node()).constant(seen(3, 5)).check();
        four(node()).data(seen(3, 5)).check();
        three(node()).constant(seen(3, 5)).check();
        // A query that sees no key, by the mask or by mask and order together.
        let blind = [&[false; 5][..], &[false, true, true, true, false], &[true; 5]].concat();
        let late = [&[true; 5][..], &[false, false, true, true, false], &[true; 5]].concat();
        four(node()).constant(bools(&[3, 5], &blind)).check();
        four(node()).data(bools(&[1, 1, 3, 5], &blind)).check();
        four(node().attr("is_causal", 1i64)).constant(bools(&[3, 5], &late)).check();
        three(node().attr("is_causal", 1i64)).constant(bools(&[3, 5], &late)).check();
        four(node().attr("softcap", 0.7f32)).grad(any(&[3, 5])).check();
        four(node().attr("softcap", 0.7f32)).constant(seen(3, 5)).check();
        four(node().attr("softcap", 0.7f32).attr("is_causal", 1i64)).check();
        // Only the first keys of each sample count.
        if opset == 24 {
            // Fewer than there are queries, and none at all.
            for counts in [[5, 5], [3, 5], [4, 3], [2, 0]] {
                let counts = || Tensor::i64([2], counts.to_vec());
                let node = |causal: i64| four(node().attr("is_causal", causal));
                node(0).none().none().none().data(counts()).check();
                node(1).none().none().none().data(counts()).check();
                node(0).grad(any(&[3, 5])).none().none().constant(counts()).check();
                three(case("Attention").opset(24)).none().none().none().data(counts()).check();
            }
        }
        // Several heads of queries for one of keys.
        case("Attention")
            .opset(opset)
            .grad(any(&[2, 4, 3, 2]))
            .grad(any(&[2, 2, 5, 2]))
            .grad(any(&[2, 2, 5, 3]))
            .check();
        let node = case("Attention").opset(opset).attr("q_num_heads", 4i64).attr("kv_num_heads", 2i64);
        node.grad(any(&[2, 3, 8])).grad(any(&[2, 5, 4])).grad(any(&[2, 5, 6])).check();
    }
}

#[test]
fn rotary_embedding() {
    let table = |shape: &[usize]| any(shape);
    for opset in [23, 24] {
        for interleaved in [0i64, 1] {
            let node = || case("RotaryEmbedding").opset(opset).attr("interleaved", interleaved);
            node().grad(any(&[2, 3, 4, 6])).constant(table(&[2, 4, 3])).constant(table(&[2, 4, 3])).check();
            let positions = Tensor::i64([2, 4], vec![0, 1, 2, 3, 4, 2, 0, 1]);
            let all = node().grad(any(&[2, 3, 4, 6])).constant(table(&[5, 3])).constant(table(&[5, 3]));
            all.constant(positions.clone()).check();
            let part = node().attr("rotary_embedding_dim", 4i64).attr("num_heads", 2i64).grad(any(&[2, 4, 12]));
            part.constant(table(&[5, 2])).constant(table(&[5, 2])).constant(positions).check();
        }
    }
    for interleaved in [0i64, 1] {
        let node = || case("RotaryEmbedding").microsoft().opset(17).attr("interleaved", interleaved);
        let positions = || Tensor::i64([2, 3], vec![0, 1, 2, 3, 4, 2]);
        let node4 = node().grad(any(&[2, 2, 3, 4])).constant(positions());
        node4.constant(table(&[5, 2])).constant(table(&[5, 2])).check();
        let node3 = node().attr("num_heads", 2i64).grad(any(&[2, 3, 8])).constant(positions());
        node3.constant(table(&[5, 2])).constant(table(&[5, 2])).check();
        let first = Tensor::ints(&[1]);
        let node3 = node().grad(any(&[2, 3, 8])).constant(first);
        node3.constant(table(&[5, 4])).constant(table(&[5, 4])).check();
    }
}

#[test]
fn what_is_refused() {
    let heads = || vec![("num_heads", 2i64.into())];
    let why = refused("MultiHeadAttention", &heads(), 7, 1);
    assert_eq!(why, "input 6 (past_key) is not supported; export the model without it");
    let why = refused("MultiHeadAttention", &heads(), 5, 1);
    assert!(why.contains("the rank of the mask \"x4\" is not known"), "{why}");
    let why = refused("MultiHeadAttention", &heads(), 3, 3);
    assert_eq!(why, "output 1 is used (present keys and values), which is not supported");
    let causal = [heads(), vec![("unidirectional", 1i64.into())]].concat();
    assert_eq!(refused("MultiHeadAttention", &causal, 3, 1), "attribute unidirectional: expected 0, got 1");
    let why = refused("Attention", &heads(), 5, 1);
    assert_eq!(why, "input 4 (past) is not supported; export the model without it");
    assert_eq!(refused("Attention", &[], 3, 1), "attribute num_heads: expected a positive integer");
}
