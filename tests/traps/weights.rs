//! Where the weights are, and what is no weight. Other forms of storage are in `fixtures/models` (see its list).

use crate::harness::*;

/// The kernel of a Conv reaches it through other nodes: it is trained where it is stored, in the form it is stored in.
#[test]
fn a_kernel_behind_other_nodes() {
    let weights = ["conv.weight", "fc.bias", "fc.weight"];
    for name in ["weight-identity", "weight-reshape", "weight-transpose", "weight-cast", "weight-chain"] {
        trap(name).trains(&weights);
    }
}

#[test]
fn a_kernel_behind_dequantizelinear() {
    // int8 has few steps, and the usual learning rate is below half of one.
    let trap = trap("weight-dequantize").estimated().set("--impair-lr", "0.05");
    trap.frozen(NO_GRADIENT, &["conv.scale"]).trains(&["conv.weight", "fc.bias", "fc.weight"]);
}

/// Nothing is stored that new values could be written to; what is stored is trained.
#[test]
fn a_kernel_of_constantofshape() {
    trap("weight-constant-of-shape").trains(&["fc.bias", "fc.weight"]);
    refused("weights-all-filled", &["no weights to train", "no float tensors", "ConstantOfShape", "with its weights"]);
}

/// One tensor, one gradient: aliases stay tied, because the sum of the gradients moves the tensor that all of them read.
#[test]
fn aliases() {
    trap("aliases-identity").trains(&["conv1.bias", "conv1.weight", "conv2.weight", "fc.weight"]);
    let shared = trap("aliases-shared").frozen(NO_GRADIENT, &["bn1.mean", "bn1.var", "bn2.mean", "bn2.var"]);
    shared.frozen(NO_GRADIENT, &["zero", "six"]).trains(&["fc.bias", "fc.weight", "first", "kernel", "scale", "shift"]);
}

#[test]
fn numbers_of_the_architecture() {
    let numbers = ["norm.epsilon", "norm.two", "gelu.root", "gelu.one", "gelu.half"];
    let trap = trap("numbers").fed(Data::Images(3)).frozen(SCALES, &["mean", "std"]).frozen(NUMBER, &numbers);
    let weights = ["conv.bias", "conv.weight", "fc.bias", "fc.weight", "norm.bias", "norm.weight"];
    trap.frozen(NO_GRADIENT, &["low", "high"]).trains(&weights);
}

#[test]
fn masks_of_attention() {
    let trap = trap("attention-masks").frozen(MASK, &["causal", "forbidden", "windows"]);
    let weights = ["fc.bias", "fc.weight", "k.weight", "q.weight", "v.weight"];
    trap.frozen(NUMBER, &["attention.scale", "never"]).trains(&weights);
}

#[test]
fn whole_numbers_that_are_compared() {
    let regions =
        trap("whole-regions").frozen(REGIONS, &["regions"]).frozen(NUMBER, &["attention.scale", "far", "zero"]);
    regions.trains(&["fc.bias", "fc.weight", "k.weight", "q.weight", "v.weight"]);
    trap("whole-weights").frozen(NUMBER, &["zero"]).trains(&["bias", "fc.bias", "fc.weight", "kernel"]);
}

#[test]
fn names_of_exporters() {
    trap("names").trains(&[
        "onnx::Conv_193",
        "onnx::Conv_194",
        "StatefulPartitionedCall/model/dense/MatMul/ReadVariableOp:0",
        "model.head.0.bias (copy) äöü",
    ]);
}
