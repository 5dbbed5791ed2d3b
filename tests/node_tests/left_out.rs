//! What cannot be compared, each with its reason. A case that is listed here and passes fails the test.

use crate::archive::Case;
use wildmatch::WildMatch;

/// Cases that fail.
pub struct LeftOut {
    /// Their names, with `*` for anything.
    pub cases: &'static str,
    /// How many there are.
    pub count: usize,
    /// What the failure says.
    pub says: &'static str,
    /// Why that is so.
    #[allow(dead_code)] // For the reader.
    pub why: &'static str,
}

impl LeftOut {
    pub fn covers(&self, case: &Case) -> bool {
        WildMatch::new(self.cases).matches(&case.name)
    }
}

/// Versions of an operator of which no case shows a derivative.
pub struct Unshown {
    pub operator: &'static str,
    pub since: &'static [i64],
    #[allow(dead_code)] // For the reader.
    pub why: &'static str,
}

/// Operators in the archive that have no gradient rule yet.
pub const NO_RULE: &[&str] = &["DeformConv"];

pub const CASES: &[LeftOut] = &[
    LeftOut {
        cases: "attention_*_with_past_and_present* v*",
        count: 20,
        says: "input 4 (past_key) is not supported",
        why: "Earlier keys and values come from a run before; a classifier has none.",
    },
    LeftOut {
        cases: "attention_4d_with_qk_matmul* v23",
        count: 4,
        says: "output 3 is used",
        why: "The scores as an output are for looking at them.",
    },
    LeftOut { cases: "attention_2?_*qk_matmul_output* v*", count: 3, says: "output 3 is used", why: "As above." },
    LeftOut {
        cases: "attention_4d_*padded_kv* v24",
        count: 3,
        says: "Incompatible dimensions",
        why: "The mask is shorter than the keys, which ONNX Runtime refuses.",
    },
    LeftOut {
        cases: "attention_*window* v25",
        count: 11,
        says: "attribute left_window_size is not understood",
        why: "Windows are new in opset 25; ONNX Runtime 1.31 does not know them either.",
    },
    LeftOut {
        cases: "batchnorm_*_training_mode v*",
        count: 4,
        says: "training_mode is 1",
        why: "Statistics of the batch are a training mode of its own, `--batch-norm batch`.",
    },
    LeftOut {
        cases: "dft* v*",
        count: 13,
        says: "output 0 differs",
        why: "Exact zeros are expected between sums of thousands, which ONNX Runtime rounds to float32.",
    },
    LeftOut { cases: "stft* v*", count: 2, says: "output 0 differs", why: "As above." },
    LeftOut {
        cases: "maxunpool_export_with_output_shape v*",
        count: 3,
        says: "output 0 differs",
        why: "ONNX Runtime counts the places through the given output, the package through that without its margin.",
    },
    LeftOut {
        cases: "dropout_default_mask* v*",
        count: 6,
        says: "the mask output is used",
        why: "The mask has no meaning outside training.",
    },
    LeftOut {
        cases: "training_dropout* v*",
        count: 18,
        says: "training_mode is true",
        why: "A random mask has no expected output that could be compared.",
    },
    LeftOut {
        cases: "*_batchwise v*",
        count: 6,
        says: "layout=1 (batch first)",
        why: "Batch first is not written out yet, and ONNX Runtime does not run it.",
    },
    LeftOut {
        cases: "mod_float_mixed_sign_example v10",
        count: 1,
        says: "running Mod node",
        why: "The standard wants fmod for floats, and later releases have dropped this case without it.",
    },
    LeftOut {
        cases: "pow_types_float32_uint* v*",
        count: 4,
        says: "Could not find an implementation for Pow",
        why: "ONNX Runtime has no kernel for unsigned exponents.",
    },
    LeftOut {
        cases: "resize_downsample_scales_*_align_corners v*",
        count: 8,
        says: "output 0 differs",
        why: "ONNX Runtime places the last sample by the rounded length, the package by the exact one.",
    },
    LeftOut {
        cases: "resize_*_not_* v*",
        count: 7,
        says: "attribute keep_aspect_ratio_policy: expected",
        why: "No rule for a factor that is chosen from several lengths; exporters write none.",
    },
    LeftOut {
        cases: "scatter_elements_with_reduction_m* v18",
        count: 3,
        says: "attribute reduction: expected none or add",
        why: "No rule for products and extrema of what is scattered.",
    },
    LeftOut { cases: "scatternd_m* v*", count: 6, says: "attribute reduction: expected none or add", why: "As above." },
];

/// Releases made the files of an operator again only when its test changed.
const NOT_MADE: &str = "No release carries a case of this version.";

/// Their outputs are left out above.
const ROUNDED: &str = "tests/gradients compares them.";

pub const VERSIONS: &[Unshown] = &[
    Unshown { operator: "Add", since: &[13], why: NOT_MADE },
    Unshown { operator: "Div", since: &[13], why: NOT_MADE },
    Unshown { operator: "Mul", since: &[13], why: NOT_MADE },
    Unshown { operator: "Sub", since: &[13], why: NOT_MADE },
    Unshown { operator: "Pow", since: &[13], why: NOT_MADE },
    Unshown { operator: "Relu", since: &[13], why: NOT_MADE },
    Unshown { operator: "Reshape", since: &[13], why: NOT_MADE },
    Unshown { operator: "ScatterElements", since: &[13], why: NOT_MADE },
    Unshown { operator: "ScatterND", since: &[13], why: NOT_MADE },
    Unshown { operator: "Identity", since: &[13, 14], why: NOT_MADE },
    Unshown { operator: "GatherND", since: &[12], why: NOT_MADE },
    Unshown { operator: "MaxPool", since: &[11], why: NOT_MADE },
    Unshown { operator: "LpPool", since: &[2, 11], why: NOT_MADE },
    Unshown { operator: "LpNormalization", since: &[1], why: NOT_MADE },
    Unshown { operator: "GlobalLpPool", since: &[2, 22], why: "The package has no test of this operator." },
    Unshown { operator: "ReduceMax", since: &[12], why: NOT_MADE },
    Unshown { operator: "ReduceMin", since: &[12], why: NOT_MADE },
    Unshown { operator: "ReduceMax", since: &[20], why: "Its cases are of truth values or of nothing." },
    Unshown { operator: "ReduceMin", since: &[20], why: "Its cases are of truth values or of nothing." },
    Unshown { operator: "Split", since: &[11], why: "Its case splits nothing into nothing." },
    Unshown { operator: "Trilu", since: &[14], why: "Its cases are of integers." },
    Unshown { operator: "DFT", since: &[17, 20], why: ROUNDED },
    Unshown { operator: "STFT", since: &[17], why: ROUNDED },
    Unshown { operator: "Attention", since: &[25], why: "Its cases all have windows." },
    Unshown {
        operator: "QuantizeLinear",
        since: &[10, 13, 19, 21, 23, 24, 25],
        why: "It gives integers: what the rule passes stands for no derivative.",
    },
    Unshown { operator: "DequantizeLinear", since: &[10, 13, 19, 21, 23, 24, 25], why: "It reads integers." },
];
