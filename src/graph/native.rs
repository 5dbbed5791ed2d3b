//! Names of the operators that the tool brings itself, for those who write them and those who run them.

/// y = `x` convolved with `w`, plus `bias` where it is given.
pub const FORWARD: &str = "Convolution";
/// The gradient of x from `dy` and `w`.
pub const INPUT_GRADIENT: &str = "ConvolutionInputGradient";
/// The gradient of w from `x` and `dy`.
pub const WEIGHT_GRADIENT: &str = "ConvolutionWeightGradient";
/// The gradient of a maximum over windows from its `x` and `dy`.
pub const MAX_POOL_GRADIENT: &str = "MaxPoolGradient";
/// Sums over images and positions: one number for each channel of `v`.
pub const CHANNEL_SUMS: &str = "ChannelSums";
/// The gradients of x, scale and bias of a layer normalization from `x`, `scale` and `dy`.
pub const LAYER_NORM_GRADIENT: &str = "LayerNormalizationGradient";
/// Attribute of layer normalization: added to the variance.
pub const EPSILON: &str = "epsilon";
/// y = alpha `a`' `b`' + `bias` for matrices, which may be transposed; the bias is one number for each column.
pub const PRODUCT: &str = "Product";
/// The next w, M and V from `w`, `g`, `M`, `V`, `rate`, `floor` and `go`, which is 0 where all is to stay as it is. They may lie
/// where the old ones lie. Further inputs are not read: the operator comes after them.
pub const ADAM: &str = "Adam";
/// Elementwise operators in one pass, `kernel::Chain`.
pub const CHAIN: &str = "Chain";
/// Attribute of a chain: its operators, as `kernel::Chain::to_numbers` writes them.
pub const STEPS: &str = "steps";
/// Attribute of a chain: its constants.
pub const NUMBERS: &str = "numbers";
/// Attribute of a chain: the shape of its results.
pub const SHAPE: &str = "shape";
/// Attribute of what has windows: the numbers of each spatial axis, as `kernel::Axis::to_numbers` writes them.
pub const AXES: &str = "axes";
/// Attribute of convolutions: 1, or the number of channels where each has a window of its own.
pub const GROUP: &str = "group";
/// Attribute of convolutions: 0 where they are to be plain sums; absent elsewhere.
pub const TILES: &str = "tiles";
/// Attribute of a product: 1 where a stands transposed.
pub const TRANS_A: &str = "transA";
/// Attribute of a product: 1 where b stands transposed.
pub const TRANS_B: &str = "transB";
/// Attribute of a product: its factor.
pub const ALPHA: &str = "alpha";
/// Attribute of Adam: decay of the first moment.
pub const BETA1: &str = "beta1";
/// Attribute of Adam: decay of the second moment.
pub const BETA2: &str = "beta2";
