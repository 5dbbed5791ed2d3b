use crate::harness::{any, case, distinct, off, positive, uniform};
use onnx_unlearn::{
    autodiff,
    graph::{Attr, Attrs, Node},
    tensor::{Data, Tensor},
};
use std::collections::BTreeSet;

/// Broadcasting in every direction: equal shapes, missing axes, axes of length 1 on either side or both, a scalar.
const PAIRS: &[(&[usize], &[usize])] = &[
    (&[2, 3], &[2, 3]),
    (&[2, 3], &[3]),
    (&[3], &[2, 3]),
    (&[2, 1, 3], &[4, 1]),
    (&[2, 3], &[]),
    (&[], &[2, 2]),
    (&[1, 3], &[1]),
    (&[2, 3, 2, 2], &[3, 1, 1]),
    (&[1, 2, 1, 2, 1], &[2, 1, 2, 1, 2]),
];

fn bools(shape: &[usize], v: &[bool]) -> Tensor {
    Tensor::new(shape.to_vec(), Data::Bool(v.to_vec()))
}

#[test]
fn arithmetic() {
    for &(a, b) in PAIRS {
        for op in ["Add", "Sub", "Mul"] {
            case(op).grad(any(a)).grad(any(b)).check();
        }
        case("Div").grad(any(a)).grad(uniform(b, 0.8, 2.0, 3)).check();
        case("Pow").grad(uniform(a, 0.8, 2.0, 3)).grad(any(b)).check();
    }
    for op in ["Add", "Sub", "Mul", "Div"] {
        for opset in [7, 13, 14, 19, 21] {
            case(op).opset(opset).grad(any(&[2, 3])).grad(uniform(&[3], 0.8, 2.0, 3)).check();
        }
        // One value on both sides is two contributions; divisors below zero are no different.
        case(op).grad(any(&[2, 3])).grad(uniform(&[2, 1], -2.0, -0.8, 5)).check();
    }
}

#[test]
fn pow() {
    for exponent in [-1.0, 0.0, 0.5, 1.0, 1.7, 2.0, 3.0, 4.0] {
        case("Pow").grad(uniform(&[2, 3], 0.8, 2.0, 3)).constant(Tensor::scalar(exponent)).check();
    }
    // Integer powers of bases on both sides of zero, as one number, as a list, as another type, as data.
    for opset in [7, 12, 13, 15, 18, 21] {
        case("Pow").opset(opset).grad(any(&[2, 3])).constant(Tensor::scalar(3.0)).check();
        case("Pow").opset(opset).grad(any(&[2, 3])).constant(Tensor::f32([3], vec![1.0, 2.0, 3.0])).check();
    }
    case("Pow").opset(12).grad(any(&[2, 3])).ints(&[2]).check();
    case("Pow").grad(any(&[2, 3])).ints(&[3, 2, 1]).check();
    case("Pow").grad(any(&[2, 3])).data(Tensor::f32([3], vec![1.0, 2.0, 3.0])).check();
    // The exponent 0 makes a constant, at the base 0 too.
    case("Pow").grad(Tensor::f32([3], vec![0.0, -0.5, 0.5])).constant(Tensor::f32([3], vec![0.0, 0.0, 2.0])).check();
    case("Pow").grad(Tensor::f32([2], vec![0.0, 0.5])).constant(Tensor::scalar(0.0)).check();
    // 0^b does not change with b > 0.
    case("Pow").data(Tensor::f32([3], vec![0.0, 0.5, 1.5])).grad(positive(&[3])).check();
}

#[test]
fn functions() {
    for shape in [&[2, 3][..], &[], &[1, 2, 3, 2, 1]] {
        for op in ["Neg", "Exp", "Erf", "Sin", "Cos", "Identity"] {
            case(op).grad(any(shape)).check();
        }
        for op in ["Log", "Sqrt", "Reciprocal"] {
            case(op).grad(uniform(shape, 0.8, 2.0, 3)).check();
        }
        case("Abs").grad(off(&[0.0], shape, -1.0, 1.0)).check();
    }
    case("Reciprocal").grad(uniform(&[2, 3], -2.0, -0.8, 3)).check();
    for op in ["Neg", "Exp", "Identity", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Abs"] {
        for opset in [7, 13, 21] {
            case(op).opset(opset).grad(uniform(&[2, 3], 0.8, 2.0, 3)).check();
        }
    }
    for opset in [9, 13, 21] {
        case("Erf").opset(opset).grad(any(&[2, 3])).check();
    }
}

#[test]
fn selection() {
    let mask = || bools(&[2, 3], &[true, false, true, false, false, true]);
    for opset in [9, 16, 21] {
        case("Where").opset(opset).data(mask()).grad(any(&[2, 3])).grad(any(&[3])).check();
    }
    case("Where").constant(mask()).grad(any(&[])).grad(any(&[4, 1, 3])).check();
    case("Where").data(bools(&[2, 1], &[true, false])).grad(any(&[3])).grad(any(&[2, 3])).check();
    case("Where").data(bools(&[], &[true])).grad(any(&[2])).grad(any(&[2])).check();
}

#[test]
fn extremes() {
    for op in ["Min", "Max"] {
        for opset in [8, 12, 13, 18, 21] {
            let (a, b) = (distinct(&[2, 3]), uniform(&[2, 1], 0.09, 0.11, 3));
            case(op).opset(opset).grad(a).grad(b).check();
        }
        case(op).opset(7).grad(distinct(&[3])).grad(Tensor::f32([3], vec![0.1; 3])).check();
        case(op).grad(distinct(&[2, 3])).check();
        case(op)
            .grad(distinct(&[2, 3]))
            .grad(Tensor::f32([3], vec![-0.3, 0.1, 0.3]))
            .grad(Tensor::scalar(-0.1))
            .check();
        // Two inputs that tie share the gradient, which is what central differences see as well.
        case(op).grad(Tensor::f32([2], vec![0.5, 1.0])).grad(Tensor::f32([2], vec![0.5, -1.0])).check();
        case(op).grad(off(&[0.0], &[2, 3], -1.0, 1.0)).constant(Tensor::scalar(0.0)).check();
    }
}

#[test]
fn sums() {
    for op in ["Sum", "Mean"] {
        for opset in [8, 13, 21] {
            case(op).opset(opset).grad(any(&[2, 3])).grad(any(&[3])).grad(any(&[2, 1])).check();
        }
        case(op).opset(7).grad(any(&[2, 3])).grad(any(&[2, 3])).check();
        case(op).grad(any(&[2, 3])).check();
        case(op).grad(any(&[])).grad(any(&[2, 2])).data(any(&[2])).grad(any(&[1, 3, 1, 1])).check();
    }
}

#[test]
fn clip() {
    let x = || off(&[-0.5, 0.0, 0.7, 6.0], &[4, 6], -1.5, 7.0);
    for opset in [7, 10] {
        case("Clip").opset(opset).attr("min", 0.0f32).attr("max", 6.0f32).grad(x()).check();
        case("Clip").opset(opset).attr("min", -0.5f32).grad(x()).check();
        case("Clip").opset(opset).attr("max", 0.7f32).grad(x()).check();
        case("Clip").opset(opset).grad(x()).check();
    }
    for opset in [11, 12, 13, 18, 21] {
        let bound = |v| Tensor::scalar(v);
        case("Clip").opset(opset).grad(x()).constant(bound(0.0)).constant(bound(6.0)).check();
        case("Clip").opset(opset).grad(x()).constant(bound(-0.5)).check();
        case("Clip").opset(opset).grad(x()).none().constant(bound(0.7)).check();
        case("Clip").opset(opset).grad(x()).check();
        case("Clip").opset(opset).grad(x()).constant(bound(f32::MIN)).constant(bound(f32::MAX)).check();
        case("Clip").opset(opset).grad(x()).constant(bound(f32::NEG_INFINITY)).constant(bound(0.7)).check();
        // Bounds too large for the steep ramp, one of which holds everything back.
        case("Clip").opset(opset).grad(x()).constant(bound(-2e6)).constant(bound(3e7)).check();
        case("Clip").opset(opset).grad(x()).constant(bound(2e6)).check();
    }
}

#[test]
fn on_kinks() {
    let x = || Tensor::f32([4], vec![-1.0, 0.0, 3.0, 7.0]);
    // A dead Relu6 input of exactly 0 does not learn.
    case("Clip")
        .grad(x())
        .constant(Tensor::scalar(0.0))
        .constant(Tensor::scalar(6.0))
        .check_on_kink(&[0.0, 0.0, 1.0, 0.0]);
    case("Abs").grad(x()).check_on_kink(&[-1.0, 0.0, 1.0, 1.0]);
    // Three that tie get a third each.
    let one = || Tensor::f32([1], vec![1.0]);
    case("Max").grad(one()).grad(one()).grad(one()).check_on_kink(&[1.0 / 3.0]);
}

#[test]
fn casts() {
    for opset in [9, 13, 18, 19, 21] {
        for to in [1i64, 11] {
            case("Cast").opset(opset).attr("to", to).grad(any(&[2, 3])).check();
        }
    }
}

#[test]
fn casts_to_the_type_of_another_value() {
    let double = || Tensor::new(vec![1], Data::F64(vec![0.0]));
    for opset in [15, 18, 19, 21, 23] {
        case("CastLike").opset(opset).grad(any(&[2, 3])).constant(Tensor::scalar(0.0)).check();
        case("CastLike").opset(opset).grad(any(&[2, 3])).data(any(&[2])).check();
        case("CastLike").opset(opset).grad(any(&[2, 3])).constant(double()).check();
    }
}

#[test]
fn modulo() {
    // Quotients of -2.6, -1.4, 0.4, 1.75 and so on: far from where the multiple changes.
    let a = || Tensor::f32([4], vec![-2.6, -1.4, 0.4, 3.5]);
    for opset in [10, 13, 18, 23] {
        let node = || case("Mod").opset(opset).attr("fmod", 1);
        node().grad(a()).grad(Tensor::f32([4], vec![1.0, -1.0, 1.0, 2.0])).check();
        node().grad(a()).constant(Tensor::scalar(1.0)).check();
        node().data(a()).grad(Tensor::f32([2, 1], vec![1.0, 1.6])).check();
    }
}

#[test]
fn dropout_is_the_identity() {
    for opset in [7, 10] {
        case("Dropout").opset(opset).attr("ratio", 0.3f32).grad(any(&[2, 3])).check();
    }
    for opset in [12, 13, 18, 21] {
        case("Dropout").opset(opset).grad(any(&[2, 3])).constant(Tensor::scalar(0.3)).check();
        case("Dropout").opset(opset).grad(any(&[2, 3])).none().constant(bools(&[], &[false])).check();
    }
}

fn node(op: &str, inputs: &[&str], output: &str, to: Option<i64>) -> Node {
    Node {
        name: output.into(),
        op: op.into(),
        domain: String::new(),
        inputs: inputs.iter().map(|s| (*s).to_owned()).collect(),
        outputs: vec![output.into()],
        attrs: to.map_or_else(Attrs::new, |to| Attrs::from([("to".to_owned(), Attr::Int(to))])),
    }
}

/// Operators of two inputs that give a mask or an integer.
const COMPARISONS: &[&str] = &[
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "And",
    "Or",
    "Xor",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
];

#[test]
fn masks_and_indices_are_constant() {
    let wanted = BTreeSet::from(["x".to_owned()]);
    for op in COMPARISONS {
        let (active, obstacles) = autodiff::reach(&[node(op, &["x", "x"], "y", None)], &["y"], &wanted);
        assert!(obstacles.is_empty() && !active.contains("y"), "{op}");
    }
    for op in ["Not", "IsNaN", "IsInf", "ArgMax", "ArgMin", "BitwiseNot", "EyeLike"] {
        let (active, obstacles) = autodiff::reach(&[node(op, &["x"], "y", None)], &["y"], &wanted);
        assert!(obstacles.is_empty() && !active.contains("y"), "{op}");
    }
    // FLOAT16, DOUBLE and BFLOAT16 carry a gradient; INT8, INT64 and BOOL do not.
    for (to, flows) in [(1, true), (10, true), (11, true), (16, true), (3, false), (7, false), (9, false)] {
        let (active, obstacles) = autodiff::reach(&[node("Cast", &["x"], "y", Some(to))], &["y"], &wanted);
        assert!(obstacles.is_empty(), "Cast to {to}");
        assert_eq!(active.contains("y"), flows, "Cast to {to}");
    }
}
