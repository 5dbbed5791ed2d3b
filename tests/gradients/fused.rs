//! Operators of ONNX Runtime that stand for several of the standard. The harness also compares what they are written out
//! as with the fused kernel.

use crate::harness::{Case, any, case, positive, uniform};
use onnx_unlearn::{
    graph::{Attr, Attrs, Graph, Node, Port},
    onnx,
    tensor::{Data, Tensor},
};

fn fused(op: &'static str) -> Case {
    case(op).microsoft()
}

/// Spread widely, so that the normalised values are smooth on the scale of the differences.
fn wide(shape: &[usize]) -> Tensor {
    uniform(shape, -3.0, 3.0, 11)
}

#[test]
fn activations() {
    for shape in [&[2, 3][..], &[2, 2, 3], &[1, 2, 2, 2], &[1, 2, 1, 2, 2]] {
        let x = || uniform(shape, -3.0, 3.0, 5);
        let b = || any(&shape[shape.len() - 1..]);
        for opset in [7, 13, 18, 23] {
            fused("Gelu").opset(opset).grad(x()).check();
            fused("FastGelu").opset(opset).grad(x()).check();
            fused("FastGelu").opset(opset).grad(x()).grad(b()).check();
            fused("QuickGelu").opset(opset).grad(x()).check();
            fused("QuickGelu").opset(opset).attr("alpha", 1.0f32).grad(x()).check();
            fused("BiasGelu").opset(opset).grad(x()).grad(b()).check();
        }
    }
}

#[test]
fn products() {
    let flags = [0i64, 1];
    for (ta, tb) in flags.iter().flat_map(|a| flags.map(|b| (*a, b))) {
        for (ba, bb) in flags.iter().flat_map(|a| flags.map(|b| (*a, b))) {
            let shape = |batch: i64, swap: i64, rows: usize, columns: usize| {
                let last = if swap == 1 { [columns, rows] } else { [rows, columns] };
                if batch == 1 { vec![last[0], 2, 3, last[1]] } else { vec![2, 3, last[0], last[1]] }
            };
            let node = fused("FusedMatMul").attr("transA", ta).attr("transB", tb).attr("alpha", 0.7f32);
            let node = node.attr("transBatchA", ba).attr("transBatchB", bb);
            node.grad(any(&shape(ba, ta, 2, 4))).grad(any(&shape(bb, tb, 4, 3))).check();
        }
        for op in ["FusedMatMul", "TransposeMatMul"] {
            let side = |swap, rows, columns| if swap == 1 { [columns, rows] } else { [rows, columns] };
            let node = || fused(op).opset(13).attr("transA", ta).attr("transB", tb);
            node().grad(any(&side(ta, 2, 4))).grad(any(&side(tb, 4, 3))).check();
        }
    }
    // One matrix for the whole batch, broadcasting, and vectors, which transposing leaves alone.
    fused("FusedMatMul").attr("transB", 1).grad(any(&[2, 3, 4])).grad(any(&[5, 4])).check();
    fused("FusedMatMul").grad(any(&[2, 1, 3, 4])).grad(any(&[3, 4, 2])).check();
    fused("FusedMatMul").attr("transA", 1).grad(any(&[4])).grad(any(&[2, 4, 3])).check();
    fused("FusedMatMul").grad(any(&[2, 3, 4])).grad(any(&[4])).check();
}

#[test]
fn convolutions() {
    let conv = |rank: usize| match rank {
        3 => (vec![2, 4, 6], vec![3, 2, 3]),
        4 => (vec![1, 4, 5, 4], vec![3, 2, 3, 2]),
        _ => (vec![1, 4, 3, 3, 4], vec![3, 2, 2, 2, 2]),
    };
    let activations: &[(&str, &[f32])] = &[
        ("Tanh", &[]),
        ("Sigmoid", &[]),
        ("Relu", &[]),
        ("LeakyRelu", &[0.2]),
        ("Clip", &[-9.0, 9.0]),
        ("HardSigmoid", &[0.05, 0.4]),
        ("HardSwish", &[]),
    ];
    for rank in [3, 4, 5] {
        let (x, w) = conv(rank);
        // Small weights of one sign on inputs of one sign: the sums stay between the kinks at 0 and 3.
        let groups = Tensor::f32([4], vec![1.0; 4]);
        let w = uniform(&[4, w[1], w[2..].iter().product()], 0.02, 0.08, 3).as_f32().expect("floats").to_vec();
        let mut shape = conv(rank).1;
        shape[0] = 4;
        for opset in [7, 11, 18, 23] {
            for (name, params) in activations {
                let node = || {
                    let node = fused("FusedConv").opset(opset).attr("activation", *name).attr("group", 2i64);
                    let node = if params.is_empty() {
                        node
                    } else {
                        node.attr("activation_params", Attr::Floats(params.to_vec()))
                    };
                    node.grad(positive(&x)).grad(Tensor::f32(shape.clone(), w.clone()))
                };
                node().grad(groups.clone()).check();
                if opset == 18 && rank == 4 {
                    node().check();
                    let z = || uniform(&[1, 4, 3, 3], 0.1, 0.4, 7);
                    node().grad(groups.clone()).grad(z()).check();
                    node().none().grad(z()).check();
                }
            }
        }
    }
    let node = fused("FusedConv").attr("pads", [1, 0, 0, 1]).attr("strides", [2, 1]);
    node.grad(any(&[2, 2, 5, 4])).grad(any(&[3, 2, 3, 2])).grad(any(&[3])).check();
}

#[test]
fn products_with_activations() {
    let activations: &[(&str, Option<f32>)] = &[
        ("Tanh", None),
        ("Sigmoid", None),
        ("Softplus", None),
        ("Relu", None),
        ("Softsign", None),
        ("LeakyRelu", Some(0.3)),
        ("Elu", Some(0.7)),
        ("Celu", Some(0.7)),
        ("ThresholdedRelu", Some(0.2)),
    ];
    for (name, alpha) in activations {
        for opset in [7, 11, 18] {
            let node = || {
                let node = fused("FusedGemm").opset(opset).attr("activation", *name).attr("alpha", 0.5f32);
                let node = node.attr("transB", 1i64).attr("beta", 2.0f32);
                // Optimisers write both parameters, whatever the activation.
                let node = if let Some(a) = alpha { node.attr("activation_alpha", *a) } else { node };
                node.attr("activation_beta", 0.0f32)
            };
            node().grad(positive(&[2, 4])).grad(positive(&[3, 4])).grad(positive(&[3])).check();
        }
    }
    let node = fused("FusedGemm").attr("activation", "HardSigmoid").attr("activation_alpha", 0.05f32);
    node.attr("activation_beta", 0.4f32).grad(any(&[2, 4])).grad(any(&[4, 3])).grad(any(&[3])).check();
    let node = fused("FusedGemm").attr("activation", "Tanh").attr("transA", 1i64);
    node.grad(any(&[4, 2])).grad(any(&[4, 3])).check();
}

/// ONNX Runtime has no kernel for these on the CPU.
#[test]
fn sums_with_a_bias() {
    let x = || uniform(&[2, 3, 8], -3.0, 3.0, 5);
    let axis = |v: i64| -> [(&'static str, Attr); 1] { [("axis", v.into())] };
    for opset in [8, 13, 20] {
        let node = fused("BiasAdd").opset(opset).grad(x()).grad(any(&[8])).grad(any(&[2, 3, 8]));
        node.by_hand(&[("Sum", &["x2", "x1", "x0"], "y0", &[])]).check();
        let node = fused("BiasDropout").opset(opset).grad(x()).grad(any(&[8]));
        node.by_hand(&[("Sum", &["x1", "x0"], "y0", &[])]).check();
        let node = fused("BiasDropout").opset(opset).grad(x()).grad(any(&[8])).grad(any(&[2, 3, 8]));
        node.by_hand(&[("Sum", &["x2", "x1", "x0"], "y0", &[])]).check();
    }
    let node = fused("BiasSplitGelu").opset(20).grad(x()).grad(any(&[8]));
    node.by_hand(&[
        ("Add", &["x1", "x0"], "s", &[]),
        ("Constant", &[], "0", &[("value_ints", [0].into())]),
        ("Constant", &[], "4", &[("value_ints", [4].into())]),
        ("Constant", &[], "8", &[("value_ints", [8].into())]),
        ("Constant", &[], "2", &[("value_ints", [2].into())]),
        ("Slice", &["s", "0", "4", "2"], "u", &[]),
        ("Slice", &["s", "4", "8", "2"], "v", &[]),
        ("Gelu", &["v"], "g", &[]),
        ("Mul", &["g", "u"], "y0", &[]),
    ])
    .check();
    for (given, bias) in [(3i64, [1, 1, 3, 5]), (-1, [2, 1, 1, 5]), (3, [1, 2, 3, 5])] {
        let node = fused("BiasSoftmax").attr("axis", given).attr("is_inner_broadcast", i64::from(bias[0] > 1));
        let node = node.grad(any(&[2, 2, 3, 5])).grad(any(&bias));
        node.by_hand(&[("Add", &["x0", "x1"], "s", &[]), ("Softmax", &["s"], "y0", &axis(-1))]).check();
    }
    // Over several axes at once, as before opset 13.
    let node = fused("BiasSoftmax").opset(11).attr("axis", 2i64).attr("is_inner_broadcast", 0i64);
    let node = node.grad(any(&[2, 2, 3, 5])).grad(any(&[3, 5]));
    node.by_hand(&[("Add", &["x0", "x1"], "s", &[]), ("Softmax", &["s"], "y0", &axis(2))]).check();
}

#[test]
fn images_with_the_channels_last() {
    let (first, last) = ([("perm", Attr::from([0, 3, 1, 2]))], [("perm", Attr::from([0, 2, 3, 1]))]);
    let conv = [("group", Attr::Int(2)), ("pads", [1, 0, 0, 1].into()), ("strides", [2, 1].into())];
    let node = conv.iter().fold(fused("NhwcConv"), |node, (name, v)| node.attr(name, v.clone()));
    let node = node.grad(any(&[2, 5, 4, 4])).grad(any(&[6, 3, 2, 2])).grad(any(&[6]));
    node.by_hand(&[
        ("Transpose", &["x0"], "x", &first),
        ("Transpose", &["x1"], "w", &first),
        ("Conv", &["x", "w", "x2"], "y", &conv),
        ("Transpose", &["y"], "y0", &last),
    ])
    .check();

    // In the standard's own operator, which has a parameter for each channel from opset 21 on.
    let attrs = [("epsilon", Attr::Float(0.1)), ("num_groups", Attr::Int(2))];
    for (activation, opset) in [(0i64, 21), (1, 21), (1, 23)] {
        let norm = |op| {
            let node = fused(op).opset(opset).attr("activation", activation);
            node.attr("groups", 2i64).attr("epsilon", 0.1f32)
        };
        let gate = if activation == 1 { "Sigmoid" } else { "Identity" };
        let by = if activation == 1 { "Mul" } else { "Max" };
        let x = || wide(&[2, 4, 2, 3]);
        let node = norm("GroupNorm").attr("channels_last", 0i64).grad(x()).grad(any(&[4])).grad(any(&[4]));
        node.by_hand(&[
            ("GroupNormalization", &["x0", "x1", "x2"], "n", &attrs),
            (gate, &["n"], "g", &[]),
            (by, &["n", "g"], "y0", &[]),
        ])
        .check();
        let x = || wide(&[2, 2, 3, 4]);
        let node = norm("GroupNorm").grad(x()).grad(any(&[4])).grad(any(&[4]));
        node.by_hand(&[
            ("Transpose", &["x0"], "x", &first),
            ("GroupNormalization", &["x", "x1", "x2"], "n", &attrs),
            (gate, &["n"], "g", &[]),
            (by, &["n", "g"], "y", &[]),
            ("Transpose", &["y"], "y0", &last),
        ])
        .check();
        // A skip for every pixel, for every image, and for every image without the axes of the pixels.
        for skip in [&[2, 2, 3, 4][..], &[2, 1, 1, 4], &[2, 4]] {
            let four: Attr = if skip.len() == 4 { [0, 0, 0, 0].into() } else { [2, 1, 1, 4].into() };
            let node = norm("SkipGroupNorm").attr("channels_last", 1i64).outputs(2);
            let node = node.grad(x()).grad(any(&[4])).grad(any(&[4])).grad(any(skip)).grad(any(&[4]));
            node.by_hand(&[
                ("Constant", &[], "four", &[("value_ints", four.clone())]),
                ("Reshape", &["x3", "four"], "skip", &[]),
                ("Sum", &["x4", "x0", "skip"], "y1", &[]),
                ("Transpose", &["y1"], "x", &first),
                ("GroupNormalization", &["x", "x1", "x2"], "n", &attrs),
                (gate, &["n"], "g", &[]),
                (by, &["n", "g"], "y", &[]),
                ("Transpose", &["y"], "y0", &last),
            ])
            .check();
        }
    }
}

#[test]
fn embeddings() {
    let int32 = |v: &[i32]| Tensor::new(vec![2, 3], Data::I32(v.to_vec()));
    let (ids, segments) = (|| int32(&[1, 2, 0, 3, 3, 1]), || int32(&[0, 0, 1, 1, 0, 0]));
    let tables = |node: Case, with_segments: bool| {
        let node = node.grad(wide(&[4, 6])).grad(any(&[5, 6]));
        let node = if with_segments { node.grad(any(&[2, 6])) } else { node.none() };
        node.grad(any(&[6])).grad(any(&[6]))
    };
    for opset in [7, 13, 18, 23] {
        let node = || fused("EmbedLayerNormalization").opset(opset).attr("epsilon", 0.1f32).outputs(2);
        let mask = || int32(&[1, 1, 0, 1, 2, 1]);
        tables(node().data(ids()).data(segments()), true).check();
        tables(node().outputs(3).data(ids()).data(segments()), true).data(mask()).check();
        tables(node().data(ids()).none(), false).check();
        tables(node().data(ids()).none(), false).none().data(int32(&[0, 2, 4, 1, 0, 3])).check();
        let places = Tensor::new(vec![1, 3], Data::I32(vec![0, 2, 4]));
        tables(node().attr("mask_index_type", 1i64).data(ids()).data(segments()), true)
            .data(mask())
            .constant(places)
            .check();
    }
}

#[test]
fn sums_with_a_normalisation() {
    for opset in [7, 13, 18, 23] {
        let layer = || fused("SkipLayerNormalization").opset(opset).attr("epsilon", 0.1f32);
        let rms = || fused("SkipSimplifiedLayerNormalization").opset(opset).attr("epsilon", 0.1f32);
        let shape = [2, 2, 4];
        layer().grad(wide(&shape)).grad(any(&shape)).grad(any(&[4])).check();
        layer().grad(wide(&shape)).grad(any(&shape)).grad(any(&[4])).grad(any(&[4])).grad(any(&[4])).check();
        layer().grad(wide(&shape)).grad(any(&[1, 2, 4])).grad(any(&[4])).none().grad(any(&[4])).check();
        layer().grad(wide(&[3, 4])).grad(any(&[3, 4])).grad(any(&[4])).grad(any(&[4])).check();
        rms().grad(wide(&shape)).grad(any(&shape)).grad(any(&[4])).check();
        rms().grad(wide(&shape)).grad(any(&[2, 4])).grad(any(&[4])).grad(any(&[4])).check();
        // The sum itself goes on into the next layer.
        let sum = layer().outputs_at(vec![0, 3]).grad(wide(&shape)).grad(any(&shape)).grad(any(&[4])).grad(any(&[4]));
        sum.grad(any(&[4])).check();
        rms().outputs_at(vec![0, 3]).grad(wide(&shape)).grad(any(&shape)).grad(any(&[4])).check();
    }
    fused("SkipLayerNormalization").grad(wide(&[2, 2, 6])).grad(any(&[2, 2, 6])).grad(any(&[6])).check();
    assert!(refused("SkipLayerNormalization", &[], 3, 2).contains("output 1 is used (mean and deviation)"));
}

/// Why a node cannot be written out.
pub fn refused(op: &str, attrs: &[(&str, Attr)], inputs: usize, outputs: usize) -> String {
    let names = |prefix: &str, n: usize| (0..n).map(|i| format!("{prefix}{i}")).collect::<Vec<_>>();
    let node = Node {
        name: "fused1".into(),
        op: op.into(),
        domain: "com.microsoft".into(),
        inputs: names("x", inputs),
        outputs: names("y", outputs),
        attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect::<Attrs>(),
    };
    let graph = Graph {
        opset: 18,
        outputs: node.outputs.iter().map(Port::open).collect(),
        nodes: vec![node],
        ..Graph::default()
    };
    let errors = onnx::lift(graph).expect_err("a refusal");
    assert!(errors[0].to_string().contains(&format!("in node \"fused1\" (com.microsoft.{op})")), "{}", errors[0]);
    errors[0].reason.clone()
}

#[test]
fn what_is_refused() {
    let attr = |name, value: Attr| [(name, value)];
    let why = refused("FusedConv", &attr("activation", "Gelu".into()), 3, 1);
    assert_eq!(why, "the fused activation Gelu is not supported");
    let why = refused("FusedGemm", &attr("activation", "ScaledTanh".into()), 3, 1);
    assert_eq!(why, "the fused activation ScaledTanh is not supported");
    let group = |activation: i64| [("groups", 2i64.into()), ("activation", activation.into())];
    let why = refused("GroupNorm", &group(2), 3, 1);
    assert_eq!(why, "attribute activation: expected 0 (none) or 1 (SiLU), got 2");
    let why = refused("SkipGroupNorm", &[&group(1)[..], &attr("channels_last", 0i64.into())].concat(), 4, 1);
    assert_eq!(why, "attribute channels_last: expected 1, got 0");
    let why = refused("GroupNorm", &attr("activation", 1i64.into()), 3, 1);
    assert_eq!(why, "attribute groups: expected a positive integer");
    let why = refused("BiasDropout", &[], 5, 1);
    assert_eq!(why, "training_mode is computed by the graph; export the model in inference mode");
    assert!(refused("BiasDropout", &[], 3, 2).contains("output 1 is used (the mask of what is dropped)"));
    let why = refused("SkipLayerNormalization", &attr("mode", 1i64.into()), 3, 1);
    assert_eq!(why, "attribute mode is not understood (value 1)");
}
