//! Operators on integers and bits.
//!
//! A quantised operator is a step function of what it reads: its derivative is zero wherever it exists, and its weights
//! are integers. The float parameters beside them (scales, biases) belong to the quantisation and stay as they are.

use super::{
    Flow::{Constant, Zero},
    MICROSOFT, Op,
};
use crate::graph::Node;

pub(super) const BITS: &[Op] = &[
    Op::new("BitShift", &[], &[Constant, Constant]),
    Op::new("BitwiseAnd", &[], &[Constant, Constant]),
    Op::new("BitwiseOr", &[], &[Constant, Constant]),
    Op::new("BitwiseXor", &[], &[Constant, Constant]),
    Op::new("BitwiseNot", &[], &[Constant]),
];

pub(super) const QUANTISED: &[Op] = &[
    Op::new("DynamicQuantizeLinear", &[], &[Zero]),
    Op::variadic("ConvInteger", &[], &[Zero]),
    Op::variadic("MatMulInteger", &[], &[Zero]),
    Op::variadic("QLinearConv", &[], &[Zero]),
    Op::variadic("QLinearMatMul", &[], &[Zero]),
    Op::variadic("QLinearConv", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearAdd", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearMul", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearConcat", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearWhere", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearAveragePool", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearGlobalAveragePool", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearReduceMean", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearLeakyRelu", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearSigmoid", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("QLinearSoftmax", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("NhwcMaxPool", &[], &[Zero]).of(MICROSOFT),
    Op::variadic("MatMulInteger16", &[], &[Zero]).of(MICROSOFT),
    // a, a_scale, a_zero_point, b, b_scale, b_zero_point, c, y_scale, y_zero_point
    Op::new("QGemm", &[], &[Zero, Constant, Constant, Zero, Constant, Constant, Constant, Constant, Constant])
        .of(MICROSOFT),
    // a, b, a_scale, b_scale, a_zero_point, b_zero_point, bias
    Op::new("MatMulIntegerToFloat", &[], &[Zero, Zero, Constant, Constant, Constant, Constant, Constant]).of(MICROSOFT),
    // x, w, bias, x_scale, w_scale, mask_index, x_zero_point, w_zero_point, past
    Op::new("QAttention", &[], &[Zero, Zero, Constant, Constant, Constant, Constant, Constant, Constant, Constant])
        .of(MICROSOFT),
    // a, b, b_scale, b_zero_point, bias
    Op::new("DynamicQuantizeMatMul", &[], &[Zero, Zero, Constant, Constant, Constant]).of(MICROSOFT),
];

/// True for an operator that computes with the integers of a quantised model.
pub fn is_quantised(node: &Node) -> bool {
    QUANTISED.iter().any(|op| op.name == node.op && op.domain == node.domain)
}
