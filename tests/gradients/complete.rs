//! No rule without a case.

use crate::common::model;
use onnx_unlearn::{
    graph::{Attr, Graph, Node, Port},
    onnx,
    ops::{self, Flow},
    tensor::Tensor,
};
use std::{collections::BTreeSet, fs, path::Path};

/// What the gradient builder of ONNX Runtime 1.19.2 covers.
const COVERED_ELSEWHERE: &str = "
    Abs Neg Exp Log Sqrt Sin Cos Tanh Sigmoid Relu LeakyRelu Erf Reciprocal Identity Gelu FastGelu QuickGelu Add Sub Mul
    Div Pow Min Max Clip Cast Where Softmax LogSoftmax GlobalAveragePool Flatten Conv ConvTranspose MaxPool AveragePool
    Gemm MatMul ReduceMean ReduceSum ReduceL2 ReduceLogSumExp Reshape Transpose Squeeze Unsqueeze Concat Split Slice Pad
    Gather GatherND GatherElements ScatterND ScatterElements Expand Tile TopK Resize Trilu LayerNormalization
    SimplifiedLayerNormalization Dropout BatchNormalization LSTM GRU";

/// What it lacks, of the operators that classifiers hold.
const LACKING_ELSEWHERE: &str = "
    Tan Elu Selu Celu HardSigmoid HardSwish Softplus Softsign ThresholdedRelu PRelu Hardmax Floor Ceil Round Sign Atan
    Asin Acos Sinh Cosh GlobalMaxPool LpPool InstanceNormalization GroupNormalization LRN LpNormalization Einsum Sum Mean
    ReduceMax ReduceMin ReduceProd ReduceL1 ReduceSumSquare CumSum DepthToSpace SpaceToDepth Upsample MultiHeadAttention
    FusedConv NhwcConv GroupNorm";

/// Every operator of 122 classifiers, by how many hold it.
const FREQUENT: &str = "
    Conv Gemm Add Mul Relu GlobalAveragePool Reshape Flatten Transpose MaxPool Concat ReduceMean MatMul Softmax Squeeze
    Shape Slice Div Constant Gather Sigmoid Erf LayerNormalization Unsqueeze Clip Pad Expand BatchNormalization
    ConstantOfShape Cast Sub HardSigmoid AveragePool Sqrt Split Equal Pow Where Not Range Identity HardSwish ConvTranspose
    Gelu InstanceNormalization Mod PRelu ScatterND LSTM GRU LogSoftmax Cos Sin CumSum ReduceL2 Sign Dropout ReduceSum
    ArgMax Exp GlobalMaxPool LeakyRelu Less Max OneHot Reciprocal ReduceMax Tanh";

/// Their derivative is zero wherever it exists.
const STEPS: &str = "Floor Ceil Round Sign Hardmax";
/// They give integers and conditions.
const NOT_DIFFERENTIABLE: &str = "Shape ConstantOfShape Range Equal Less Not ArgMax";
/// They are gone when a graph is differentiated.
const WRITTEN_OUT: &str = "Dropout Upsample MultiHeadAttention FusedConv NhwcConv GroupNorm";
/// The import takes them for the constants they are.
const READ_AS_CONSTANTS: &str = "Constant";

fn among(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|other| other == name)
}

#[test]
fn every_operator_of_a_classifier_is_known() {
    let names = [COVERED_ELSEWHERE, LACKING_ELSEWHERE, FREQUENT].into_iter().flat_map(str::split_whitespace);
    let flows = |name: &str| ops::records().find(|op| op.name == name).map(|op| op.inputs);
    let fits = |name: &&str| match flows(name) {
        None => among(WRITTEN_OUT, name) || among(READ_AS_CONSTANTS, name),
        Some(flows) if among(STEPS, name) => flows.iter().all(|f| matches!(f, Flow::Zero)),
        Some(flows) if among(NOT_DIFFERENTIABLE, name) => flows.iter().all(|f| matches!(f, Flow::Constant)),
        Some(flows) => flows.iter().any(|f| matches!(f, Flow::Vjp(_))),
    };
    let unknown: BTreeSet<&str> = names.filter(|name| !fits(name)).collect();
    assert!(unknown.is_empty(), "no record, or another than expected: {unknown:?}");
}

/// What an operator that is written out becomes, has records in its place.
#[test]
fn what_is_written_out_is_known() {
    for name in WRITTEN_OUT.split_whitespace() {
        let attrs: &[(&str, Attr)] = match name {
            "MultiHeadAttention" => &[("num_heads", Attr::Int(2))],
            "GroupNorm" => &[("groups", Attr::Int(2)), ("activation", Attr::Int(1))],
            "FusedConv" => &[("activation", Attr::Str("Relu".into()))],
            _ => &[],
        };
        let inputs = match name {
            "Dropout" => 1,
            "Upsample" => 2,
            _ => 3,
        };
        let node = Node {
            name: "node1".into(),
            op: name.into(),
            domain: if among("Dropout Upsample", name) { String::new() } else { ops::MICROSOFT.into() },
            inputs: (0..inputs).map(|i| format!("x{i}")).collect(),
            outputs: vec!["y".into()],
            attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        };
        let mut graph = Graph { opset: 9, nodes: vec![node], outputs: vec![Port::open("y")], ..Graph::default() };
        if name == "Upsample" {
            graph.constants.insert("x1".into(), Tensor::f32([4], vec![1.0, 1.0, 2.0, 2.0]).into());
        }
        let lifted = onnx::lift(graph).unwrap_or_else(|e| panic!("{}", e[0]));
        assert!(
            !lifted.nodes.is_empty() && lifted.nodes.iter().all(|n| n.op != name),
            "{name} is still there\n{lifted}"
        );
        let unknown = lifted.nodes.iter().find(|n| ops::find(n).is_none());
        assert!(unknown.is_none(), "{name} becomes {}", unknown.map_or_else(String::new, Node::label));
    }
    let read = onnx::read(&model("fashion-mnist-constants")).expect("a model");
    assert!(!read.graph.constants.is_empty() && read.graph.nodes.iter().all(|n| !among(READ_AS_CONSTANTS, &n.op)));
}

#[test]
fn every_rule_is_compared_with_differences() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gradients");
    let mut sources = String::new();
    for entry in fs::read_dir(folder).expect("the folder of the gradient tests") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "rs") {
            sources.push_str(&fs::read_to_string(path).expect("a test source"));
        }
    }
    let missing: Vec<&str> = ops::records()
        .filter(|op| op.inputs.iter().any(|flow| matches!(flow, Flow::Vjp(_))))
        .map(|op| op.name)
        .filter(|name| !sources.contains(&format!("\"{name}\"")))
        .collect();
    assert!(missing.is_empty(), "operators with a rule but without a case in tests/gradients: {}", missing.join(", "));
}

#[test]
fn every_operator_has_one_record() {
    let mut seen = BTreeSet::new();
    let twice: Vec<&str> = ops::records().filter(|op| !seen.insert((op.domain, op.name))).map(|op| op.name).collect();
    assert!(twice.is_empty(), "operators with two records: {}", twice.join(", "));
}

#[test]
fn the_documented_example_is_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let page = read("docs/adding-an-operator.md");
    let code = read("src/ops/softmax.rs") + &read("tests/gradients/softmax.rs");
    let blocks: Vec<&str> =
        page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default().trim()).collect();
    assert_eq!(blocks.len(), 3, "a record, a rule and a test line");
    for block in blocks {
        assert!(code.contains(block), "docs/adding-an-operator.md shows code that is not there:\n{block}");
    }
}
