//! The operator node tests of the onnx package, for every operator with a gradient rule and every version of it.
//!
//! Each case is one node with inputs and the outputs they must give. It is read and rewritten as a model is for training;
//! that graph has to give the outputs, and the gradients of its inputs have to agree with its differences.
//! `fixtures/node-tests` says where the cases come from, `left_out.rs` which of them cannot be compared, and why.

mod archive;
mod case;
#[path = "../common/mod.rs"]
mod common;
mod complete;
mod gradient;
mod left_out;
mod slope;

use archive::{archive, index};
use case::{Outcome, examine};
use left_out::{CASES, NO_RULE, VERSIONS};
use onnx_unlearn::runtime::Device;
use std::collections::{BTreeMap, BTreeSet};

/// One test a family of operators: a name, how many gradients it compares at least, and the operators.
macro_rules! families {
    ($($name:ident: $least:literal, $operators:expr;)*) => {
        const FAMILIES: &[&[&str]] = &[$(&$operators),*];
        $(#[test] fn $name() { check(&$operators, $least); })*
    };
}

families! {
    arithmetic: 244, ["Add", "Sub", "Mul", "Div", "Pow", "Mod", "Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Erf",
        "Where", "Min", "Max", "Sum", "Mean", "Clip"];
    types: 109, ["Cast", "CastLike", "Identity", "Dropout", "QuantizeLinear", "DequantizeLinear"];
    trigonometry: 44, ["Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"];
    activations: 100, ["Relu", "LeakyRelu", "ThresholdedRelu", "PRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu",
        "Selu", "Celu", "Softplus", "Softsign", "Gelu", "Swish", "Mish", "Shrink", "Softmax", "LogSoftmax"];
    normalisation: 149, ["BatchNormalization", "LayerNormalization", "RMSNormalization", "InstanceNormalization",
        "GroupNormalization", "MeanVarianceNormalization", "LpNormalization", "LRN"];
    reduction: 224, ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
        "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"];
    convolution: 97, ["Conv", "ConvTranspose", "DeformConv", "Col2Im"];
    pooling: 132, ["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MaxUnpool"];
    products: 287, ["MatMul", "Gemm", "Einsum", "Attention", "RotaryEmbedding"];
    recurrence: 126, ["RNN", "GRU", "LSTM"];
    layout: 381, ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Pad", "Expand",
        "Tile", "DepthToSpace", "SpaceToDepth", "CenterCropPad"];
    indices: 93, ["Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND", "TopK", "OneHot",
        "Trilu", "ReverseSequence", "Compress", "CumSum", "CumProd"];
    transforms: 0, ["DFT", "STFT"];
    resampling: 193, ["Resize", "Upsample", "GridSample", "AffineGrid"];
}

/// Examines every case of some operators. All that is wrong is said at once.
fn check(operators: &[&str], least: usize) {
    let engine = common::engine(Device::Cpu);
    let mut archive = archive();
    let (mut wrong, mut gradients) = (Vec::new(), 0);
    // Versions of each operator with a case that has a derivative to compare.
    let mut shown: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for case in index().cases.iter().filter(|case| operators.contains(&case.operator.as_str())) {
        if NO_RULE.contains(&case.operator.as_str()) {
            continue;
        }
        let exception = CASES.iter().find(|left| left.covers(case));
        match (examine(&engine, case, &mut archive), exception) {
            (Ok(Outcome { compared, sloped }), None) => {
                gradients += compared;
                if sloped > 0 {
                    shown.entry(&case.operator).or_default().insert(case.since);
                }
            }
            (Err(reason), None) => wrong.push(format!("{}: {reason}", case.name)),
            (Err(reason), Some(left)) if reason.contains(left.says) => {}
            (Err(reason), Some(left)) => {
                wrong.push(format!("{}: fails otherwise than listed ({}): {reason}", case.name, left.says));
            }
            (Ok(_), Some(left)) => wrong.push(format!("{}: passes now; listed as {:?}", case.name, left.cases)),
        }
    }
    for operator in operators.iter().filter(|operator| !NO_RULE.contains(operator)) {
        let listed = VERSIONS.iter().filter(|v| v.operator == *operator).flat_map(|v| v.since).collect::<BTreeSet<_>>();
        for since in &index().versions[*operator] {
            let has = shown.get(operator).is_some_and(|s| s.contains(since));
            match (has, listed.contains(since)) {
                (false, false) => wrong.push(format!("{operator} of opset {since}: no gradient was compared")),
                (true, true) => wrong.push(format!("{operator} of opset {since}: compared now, and listed as not")),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the node tests:\n{}", wrong.len(), wrong.join("\n"));
    assert!(gradients >= least, "{gradients} gradients were compared, there were {least} when this was written");
}
