use crate::harness::case;
use onnx_unlearn::tensor::{DType, Tensor};

fn int8(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32s(DType::I8, shape, values.to_vec())
}

/// The derivative is zero wherever it exists, so differences say nothing: the straight-through gradient is 1 where nothing
/// is clipped, in units of the real number.
#[test]
fn quantizers_pass_what_they_do_not_clip() {
    let x = || Tensor::f32([6], vec![-70.0, -64.2, -1.3, 0.0, 63.7, 64.0]);
    // Levels from -128 to 127 at a scale of 0.5 reach from -64 to 63.5, and round to the ends a quarter beyond.
    for opset in [10, 13, 19, 21] {
        let quantize = case("QuantizeLinear").opset(opset).grad(x());
        let quantize = quantize.constant(Tensor::scalar(0.5)).constant(int8(&[], &[0.0]));
        quantize.check_on_kink(&[0.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    }
    // Without a zero point the type is uint8.
    let plain = case("QuantizeLinear").grad(Tensor::f32([4], vec![-1.0, 0.0, 127.0, 128.0]));
    plain.constant(Tensor::scalar(0.5)).check_on_kink(&[0.0, 1.0, 1.0, 0.0]);
    // A scale and a zero point for each channel.
    let channels = case("QuantizeLinear").attr("axis", 0i64).grad(Tensor::f32([2, 2], vec![-2.0, 2.0, -2.0, 2.0]));
    let channels = channels.constant(Tensor::f32([2], vec![0.01, 0.1])).constant(int8(&[2], &[0.0, -110.0]));
    channels.check_on_kink(&[0.0, 0.0, 0.0, 1.0]);
}

#[test]
fn dequantizers_pass_everything() {
    for opset in [10, 13, 21] {
        let q = case("DequantizeLinear").opset(opset).grad(int8(&[3], &[-128.0, 5.0, 127.0]));
        q.constant(Tensor::scalar(0.5)).constant(int8(&[], &[3.0])).check_on_kink(&[1.0; 3]);
    }
}
