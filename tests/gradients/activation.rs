use crate::harness::{any, case, off, uniform};
use onnx_unlearn::tensor::Tensor;

const SHAPES: &[&[usize]] = &[&[2, 3], &[], &[2, 3, 2, 2], &[1, 2, 2, 1, 3]];

#[test]
fn smooth() {
    for &shape in SHAPES {
        for op in ["Sigmoid", "Tanh", "Softplus"] {
            case(op).grad(uniform(shape, -3.0, 3.0, 5)).check();
        }
        case("Mish").grad(uniform(shape, -3.0, 3.0, 5)).check();
        case("Swish").opset(24).grad(uniform(shape, -3.0, 3.0, 5)).check();
        case("Swish").opset(24).attr("alpha", 0.6f32).grad(uniform(shape, -3.0, 3.0, 5)).check();
        // Twice differentiable nowhere near 0 only.
        case("Softsign").grad(off(&[0.0], shape, -3.0, 3.0)).check();
    }
    for opset in [7, 13, 21] {
        for op in ["Sigmoid", "Tanh", "Softplus"] {
            case(op).opset(opset).grad(any(&[2, 3])).check();
        }
        case("Softsign").opset(opset).grad(off(&[0.0], &[2, 3], -1.0, 1.0)).check();
    }
    case("Mish").opset(21).grad(any(&[2, 3])).check();
}

#[test]
fn kinked_at_zero() {
    for &shape in SHAPES {
        let x = || off(&[0.0], shape, -2.0, 2.0);
        case("Relu").grad(x()).check();
        for alpha in [0.0f32, 0.01, 0.3, 1.0, 1.5, -0.2] {
            case("LeakyRelu").attr("alpha", alpha).grad(x()).check();
        }
        case("LeakyRelu").grad(x()).check();
        for alpha in [0.5f32, 1.0, 1.5] {
            case("Elu").attr("alpha", alpha).grad(x()).check();
            case("Celu").attr("alpha", alpha).grad(x()).check();
        }
        for op in ["Elu", "Celu", "Selu"] {
            case(op).grad(x()).check();
        }
        case("Selu").attr("alpha", 1.2f32).attr("gamma", 0.7f32).grad(x()).check();
        case("Selu").attr("alpha", 1.0f32).attr("gamma", 1.3f32).grad(x()).check();
    }
    let x = || off(&[0.0], &[2, 3], -2.0, 2.0);
    for opset in [7, 13, 14, 16, 21] {
        for op in ["Relu", "LeakyRelu", "Elu", "Selu"] {
            case(op).opset(opset).grad(x()).check();
        }
    }
    for opset in [12, 21] {
        case("Celu").opset(opset).attr("alpha", 0.8f32).grad(x()).check();
    }
}

#[test]
fn large_arguments_stay_finite() {
    let x = || Tensor::f32([4], vec![-200.0, 200.0, -95.0, 95.0]);
    for op in ["Sigmoid", "Tanh", "Softplus", "Softsign", "Relu", "Elu", "Celu", "Selu", "Mish", "HardSwish"] {
        // The sums of outputs reach 500, so float32 differences leave 1e-4 of it; inputs farther out would drown them.
        case(op).grad(x()).check();
    }
    case("Gelu").opset(20).grad(x()).check();
    case("Gelu").opset(20).attr("approximate", "tanh").grad(x()).check();
}

#[test]
fn pieces() {
    for &shape in SHAPES {
        case("HardSigmoid").grad(off(&[-2.5, 2.5], shape, -4.0, 4.0)).check();
        case("HardSigmoid")
            .attr("alpha", 0.5f32)
            .attr("beta", 0.25f32)
            .grad(off(&[-0.5, 1.5], shape, -2.0, 3.0))
            .check();
        case("HardSigmoid").attr("alpha", -0.5f32).grad(off(&[-1.0, 1.0], shape, -2.0, 2.0)).check();
        case("HardSwish").grad(off(&[-3.0, 3.0], shape, -5.0, 5.0)).check();
        case("ThresholdedRelu").grad(off(&[1.0], shape, -1.0, 3.0)).check();
        case("ThresholdedRelu").attr("alpha", -0.5f32).grad(off(&[-0.5], shape, -2.0, 2.0)).check();
        case("Shrink").grad(off(&[-0.5, 0.5], shape, -2.0, 2.0)).check();
    }
    for opset in [7, 21] {
        case("HardSigmoid").opset(opset).grad(off(&[-2.5, 2.5], &[2, 3], -4.0, 4.0)).check();
    }
    for opset in [9, 13, 18, 23] {
        let node = case("Shrink").opset(opset).attr("lambd", 1.0f32).attr("bias", 0.7f32);
        node.grad(off(&[-1.0, 1.0], &[3, 4], -2.0, 2.0)).check();
    }
    for opset in [14, 21] {
        case("HardSwish").opset(opset).grad(off(&[-3.0, 3.0], &[3, 4], -5.0, 5.0)).check();
    }
    for opset in [10, 21] {
        case("ThresholdedRelu").opset(opset).grad(off(&[1.0], &[2, 3], -1.0, 3.0)).check();
    }
}

#[test]
fn prelu() {
    let x = |shape: &[usize]| off(&[0.0], shape, -2.0, 2.0);
    for opset in [7, 9, 16, 18, 21] {
        // One slope a channel, one for all, one an element.
        case("PRelu").opset(opset).grad(x(&[2, 3, 2, 2])).grad(any(&[3, 1, 1])).check();
        case("PRelu").opset(opset).grad(x(&[2, 3])).grad(any(&[1])).check();
    }
    case("PRelu").grad(x(&[2, 3])).grad(any(&[])).check();
    case("PRelu").grad(x(&[2, 3])).grad(any(&[2, 3])).check();
    case("PRelu").grad(x(&[2, 3, 4])).grad(any(&[4])).check();
    case("PRelu").grad(x(&[1, 3, 2, 1, 2])).grad(any(&[3, 1, 1, 1])).check();
    case("PRelu").grad(x(&[2, 3])).constant(uniform(&[3], 1.2, 2.0, 3)).check();
}

#[test]
fn gelu() {
    for &shape in SHAPES {
        let x = || uniform(shape, -3.0, 3.0, 5);
        case("Gelu").opset(20).grad(x()).check();
        case("Gelu").opset(20).attr("approximate", "none").grad(x()).check();
        case("Gelu").opset(21).attr("approximate", "tanh").grad(x()).check();
    }
}

#[test]
fn on_kinks() {
    let x = || Tensor::f32([5], vec![-1e-30, 0.0, -0.0, 1e-30, 1e30]);
    case("Relu").grad(x()).check_on_kink(&[0.0, 0.0, 0.0, 1.0, 1.0]);
    case("LeakyRelu").attr("alpha", 0.25f32).grad(x()).check_on_kink(&[0.25, 0.25, 0.25, 1.0, 1.0]);
    case("PRelu").grad(x()).constant(Tensor::scalar(0.25)).check_on_kink(&[0.25, 0.25, 0.25, 1.0, 1.0]);
    let ends = Tensor::f32([4], vec![-4.0, -2.0, 2.0, 4.0]);
    case("HardSigmoid").attr("alpha", 0.25f32).attr("beta", 0.5f32).grad(ends).check_on_kink(&[0.0, 0.0, 0.0, 0.0]);
}
