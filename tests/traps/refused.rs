//! Files that nothing can be trained in: each is refused before any work, by the name of what is in the way.

use crate::harness::refused;

#[test]
fn operators_of_other_learning_methods() {
    let why = "ai.onnx.ml (trees, linear and other classic models) has no weights that a gradient could train";
    refused("ml-tree-ensemble", &["node \"TreeEnsembleClassifier_0\" (ai.onnx.ml.TreeEnsembleClassifier)", why]);
    refused("ml-linear-classifier", &["node \"LinearClassifier_0\" (ai.onnx.ml.LinearClassifier)", why]);
}

#[test]
fn operators_that_onnx_runtime_does_not_have() {
    let node = "node \"Quant_0\" (qonnx.custom_op.general.Quant)";
    let why = "ONNX Runtime has no operators of domain \"qonnx.custom_op.general\"";
    refused("custom-domain", &[node, why, "export the model in standard operators"]);
}

#[test]
fn weights_in_integers() {
    let way_out = "unlearn the float model it was made from and quantise the result, or use the QDQ form";
    refused("qoperator", &["is quantised (QGemm, QLinearConv, QLinearGlobalAveragePool)", way_out]);
    refused("dynamic-matmul", &["is quantised (DynamicQuantizeLinear, MatMulInteger)", way_out]);
    refused("dynamic-conv", &["is quantised (ConvInteger, DynamicQuantizeLinear)", way_out]);
}

#[test]
fn values_of_signs() {
    let why = "noise cannot be learned: every path from input \"input\" to the class scores passes \"Sign_0\" (Sign)";
    refused("sign-activations", &[why, "derivative is zero"]);
}

#[test]
fn inputs_that_no_node_reads() {
    let why = "inputs \"normalization/mean:0\", \"normalization/sqrt:0\" are read by no node";
    refused("idle-inputs", &[why, "ONNX Runtime wants them fed", "export the model without them"]);
}
