//! BatchNormalization, heads, outputs, inputs and shapes.

use crate::harness::*;

const NORMALISED: &[&str] = &["bn.bias", "bn.scale", "conv.weight", "fc.bias", "fc.weight"];
const HEAD: &[&str] = &["conv.bias", "conv.weight", "head.bias", "head.weight"];
const ATTENTION: &[&str] = &["fc.bias", "fc.weight", "k.weight", "q.weight", "v.weight"];

// BatchNormalization

#[test]
fn batch_normalization_before_relu_and_conv() {
    let weights = ["bn.bias", "bn.scale", "conv1.weight", "conv2.bias", "conv2.weight", "fc.bias", "fc.weight"];
    trap("bn-preactivation").frozen(NO_GRADIENT, &["bn.mean", "bn.var"]).trains(&weights);
}

#[test]
fn batch_normalization_as_factor_and_offset() {
    trap("bn-mul-add").trains(&["bn.factor", "bn.offset", "conv.weight", "fc.bias", "fc.weight"]);
}

/// Computed with the statistics of the batch, as the file says by mistake; a warning says so.
#[test]
fn batch_normalization_in_training_mode() {
    // tract knows the operator in inference mode only.
    for (name, tract) in
        [("bn-training-7", "node says 5"), ("bn-training-9", "node says 5"), ("bn-training-14", "node says 3")]
    {
        let report = trap(name).unchecked(tract).frozen(NO_GRADIENT, &["bn.mean", "bn.var"]).trains(NORMALISED);
        assert!(report["warnings"].to_string().contains("BatchNormalization in training mode"), "{report:#}");
    }
}

// Heads, outputs

#[test]
fn heads() {
    trap("head-matmul-add").trains(USUAL);
    trap("head-matmul").trains(&["conv.bias", "conv.weight", "fc.weight"]);
    trap("head-conv-reshape").trains(HEAD);
    trap("head-conv-relu-pool").trains(HEAD);
    let two = ["conv.bias", "conv.weight", "head.bias", "head.weight", "head_dist.bias", "head_dist.weight"];
    trap("head-two-gemms").frozen(NUMBER, &["two"]).trains(&two);
}

/// The loss is computed before a Softmax, whatever its default axis; the same network trains the same way.
#[test]
fn softmax_inside() {
    for (old, new, op) in [("softmax-11", "softmax-13", "Softmax"), ("logsoftmax-11", "logsoftmax-13", "LogSoftmax")] {
        let (old, new) = (trap(old).trains(USUAL), trap(new).trains(USUAL));
        assert_eq!((&old["head"]["behind"], &old["head"]["logits"]), (&op.into(), &"logits".into()));
        assert_eq!((&old["phases"], &old["measured"]), (&new["phases"], &new["measured"]));
    }
}

/// A Softmax is found behind nodes that change nothing but shape or type; else the loss would apply a second one.
#[test]
fn softmax_behind_moves() {
    let report = trap("softmax-reshape").trains(HEAD);
    assert_eq!(report["head"]["behind"], "Softmax");
    let report = trap("softmax-cast").unchecked(HALF_GEMM).trains(&["fc.bias", "fc.weight"]);
    assert_eq!(report["head"]["behind"], "Softmax");
}

#[test]
fn scores_with_four_axes() {
    let report = trap("logits-4d").trains(HEAD);
    assert_eq!(report["classes"].as_array().map(Vec::len), Some(4));
    let report = trap("logits-4d-softmax-11").trains(HEAD);
    assert_eq!(report["head"]["behind"], "Softmax");
}

#[test]
fn several_outputs() {
    let ask = "say which one holds the class scores with --output NAME";
    refused("outputs-logits-probabilities", &["several outputs (logits, probabilities)", ask]);
    let [logits, probabilities] =
        ["logits", "probabilities"].map(|name| trap("outputs-logits-probabilities").output(name).trains(USUAL));
    assert_eq!(probabilities["head"]["behind"], "Softmax");
    assert_eq!(logits["result"]["weights"], probabilities["result"]["weights"], "the same loss");

    refused("outputs-two-tasks", &["several outputs (shapes, colours)", ask]);
    let trunk = ["conv.bias", "conv.weight"];
    for (output, mine, other) in [
        ("shapes", ["shape.bias", "shape.weight"], ["colour.bias", "colour.weight"]),
        ("colours", ["colour.bias", "colour.weight"], ["shape.bias", "shape.weight"]),
    ] {
        trap("outputs-two-tasks").output(output).frozen(NOT_USED, &other).trains(&[trunk, mine].concat());
    }
}

#[test]
fn a_prediction_a_step() {
    let report = trap("outputs-steps").trains(&["fc.bias", "fc.weight"]);
    let total = &report["measured"]["before"]["classes"][0]["total"];
    assert_eq!(total, 6 * 8, "six samples a class, eight steps each");
}

// Inputs and shapes

#[test]
fn channels_last() {
    trap("nhwc").fed(Data::ChannelsLast).trains(USUAL);
}

#[test]
fn integers() {
    for name in ["tokens-int32", "tokens-int64"] {
        let report = trap(name).fed(Data::Tokens).trains(&["embedding.weight", "fc.bias", "fc.weight"]);
        assert_eq!(report["noise"]["site"]["name"], "Gather_0_out");
    }
    let report = trap("bytes-uint8").fed(Data::Bytes).frozen(NUMBER, &["scale"]).trains(USUAL);
    assert_eq!(report["noise"]["site"]["name"], "Cast_0_out");
}

/// The file does not say that its input goes from 0 to 255; the samples do, and noise lives where they are.
#[test]
fn scaling_in_the_graph() {
    for (name, constants) in [("scaling-mul-add", ["factor", "offset"]), ("scaling-sub-div", ["mean", "deviation"])] {
        let report = trap(name).fed(Data::Wide(3)).frozen(SCALES, &constants).trains(USUAL);
        let range = &report["noise"]["range"];
        let near = |field: &str, value: f64| range[field].as_f64().is_some_and(|v| (v - value).abs() < 5.0);
        assert!(near("center", 127.5) && near("spread", 73.6), "{range}");
    }
}

#[test]
fn declared_batches() {
    let weights = ["batch-unnamed", "batch-minus-one", "batch-names-differ", "batch-one"].map(|name| {
        let report = trap(name).trains(USUAL);
        report["result"]["weights"].clone()
    });
    assert!(weights.iter().all(|w| *w == weights[0]), "{weights:?}");
}

#[test]
fn a_batch_of_one_frozen_into_the_graph() {
    let weights = [&["patch.weight", "position", "token"], ATTENTION].concat();
    let report = trap("batch-one-in-reshape").frozen(NUMBER, &["attention.scale"]).trains(&weights);
    assert_eq!(report["phases"][2]["steps"], 3, "18 samples in batches of 8, not of 1");
}

/// tract's optimizer fails on it (0.23.9: it takes a stride past a Reshape); it is checked as it is written.
#[test]
fn strides_behind_a_reshape() {
    trap("strided-tokens").trains(&["fc.bias", "fc.weight", "linear.weight", "patch.weight"]);
}

#[test]
fn shapes_computed_in_the_graph() {
    let trap = trap("shape-plumbing").frozen(NUMBER, &["attention.scale", "far", "none"]);
    trap.frozen(NO_GRADIENT, &["ones"]).trains(ATTENTION);
}
