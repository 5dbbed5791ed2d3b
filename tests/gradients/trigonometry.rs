use crate::harness::{case, uniform};
use onnx_unlearn::tensor::Tensor;

/// An operator, where it is defined (away from poles and ends), and the opsets that spell it.
const FUNCTIONS: &[(&str, f32, f32, &[i64])] = &[
    ("Sin", -3.0, 3.0, &[7, 18, 22, 23]),
    ("Cos", -3.0, 3.0, &[7, 18, 22, 23]),
    ("Tan", -0.9, 0.9, &[7, 18, 22, 23]),
    ("Asin", -0.7, 0.7, &[7, 18, 22, 23]),
    ("Acos", -0.7, 0.7, &[7, 18, 22, 23]),
    ("Atan", -3.0, 3.0, &[7, 18, 22, 23]),
    ("Sinh", -2.0, 2.0, &[9, 18, 22, 23]),
    ("Cosh", -2.0, 2.0, &[9, 18, 22, 23]),
    ("Asinh", -3.0, 3.0, &[9, 18, 22, 23]),
    ("Acosh", 1.5, 4.0, &[9, 18, 22, 23]),
    ("Atanh", -0.7, 0.7, &[9, 18, 22, 23]),
];

#[test]
fn functions() {
    for &(op, low, high, opsets) in FUNCTIONS {
        for &opset in opsets {
            case(op).opset(opset).grad(uniform(&[2, 3], low, high, 3)).check();
        }
        for shape in [&[][..], &[2, 1, 2], &[1, 2, 1, 2, 1]] {
            case(op).grad(uniform(shape, low, high, 5)).check();
        }
    }
}

#[test]
fn far_and_near() {
    // A quotient of large numbers would be lost here, and a difference of equal ones.
    for op in ["Atan", "Asinh"] {
        case(op).grad(uniform(&[4], -200.0, 200.0, 3)).check();
    }
    case("Sinh").grad(uniform(&[4], -9.0, 9.0, 3)).check();
    case("Cosh").grad(uniform(&[4], -9.0, 9.0, 3)).check();
    case("Sinh").grad(Tensor::zeros([2])).check_on_kink(&[1.0; 2]);
    case("Cosh").grad(Tensor::zeros([2])).check_on_kink(&[0.0; 2]);
}
