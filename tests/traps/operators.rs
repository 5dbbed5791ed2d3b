//! Spellings of operators by opset, and what is let pass or warned of.

use crate::harness::*;

/// One network in four spellings trains the same way to the last bit.
#[test]
fn attributes_and_inputs() {
    let bounds = ["max", "min"];
    let reports = [
        trap("spellings-9").trains(USUAL),
        trap("spellings-11").frozen(NO_GRADIENT, &bounds).trains(USUAL),
        trap("spellings-13").frozen(NO_GRADIENT, &bounds).trains(USUAL),
        trap("spellings-18").frozen(NO_GRADIENT, &bounds).trains(USUAL),
    ];
    for report in &reports[1..] {
        assert_eq!((&report["trained"], &report["phases"]), (&reports[0]["trained"], &reports[0]["phases"]));
    }
}

#[test]
fn an_operator_and_the_chain_it_was_before() {
    trap("hardswish-13").trains(USUAL);
    trap("hardswish-14").trains(USUAL);
    let normalised = ["conv.bias", "conv.weight", "fc.bias", "fc.weight", "norm.bias", "norm.weight"];
    trap("layernorm-13").frozen(NUMBER, &["norm.epsilon", "norm.two"]).trains(&normalised);
    trap("layernorm-17").trains(&normalised);
    trap("gelu-13").frozen(NUMBER, &["gelu.half", "gelu.one", "gelu.root"]).trains(USUAL);
    trap("gelu-20").trains(USUAL);
    trap("groupnorm").frozen(NEUTRAL, &["ones", "zeros"]).trains(&normalised);
}

#[test]
fn average_pooling_as_reducemean() {
    trap("pool-reducemean").trains(USUAL);
}

/// The comparison of bytes in `trains` is what this is about: metadata and texts stay where they are.
#[test]
fn metadata_of_ir_10() {
    trap("ir10-metadata").trains(USUAL);
}

#[test]
fn imports_that_no_node_uses() {
    trap("imports-unused").trains(USUAL);
}

#[test]
fn quantizers_around_every_layer() {
    let scales = ["conv.weight.scale", "fc.weight.scale", "scale"];
    // int8 has few steps: a rate that takes them, and a repair that does not take them back.
    let trap = trap("qdq-int8").estimated().set("--impair-lr", "0.02").set("--repair-lr", "0.00025");
    let trap = trap.frozen(NO_GRADIENT, &scales);
    trap.frozen(NOT_USED, &["conv.bias.scale", "fc.bias.scale"]).trains(USUAL);
}

#[test]
fn float16_between_casts() {
    trap("float16-casts").unchecked(HALF_GEMM).trains(USUAL);
}

#[test]
fn signs_of_weights() {
    let report = trap("sign-weights").frozen(ROUNDED, &["conv.weight"]).trains(&["fc.bias", "fc.weight"]);
    let warning = report["warnings"][0].as_str().expect("a warning");
    assert!(warning.contains("\"Sign_0\" (Sign)") && warning.contains("only weights after it learn"), "{warning}");
}

#[test]
fn dropout_left_in_the_graph() {
    trap("dropout-7").trains(USUAL);
    trap("dropout-13").frozen(NOT_USED, &["ratio"]).trains(USUAL);
}
