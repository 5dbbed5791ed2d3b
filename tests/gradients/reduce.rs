use crate::harness::{any, case, distinct, off, uniform};
use onnx_unlearn::tensor::Tensor;

/// An input on which the operator is smooth.
fn input(op: &str, shape: &[usize]) -> Tensor {
    match op {
        "ReduceMax" | "ReduceMin" => distinct(shape),
        "ReduceL1" => off(&[0.0], shape, -2.0, 2.0),
        "ReduceL2" | "ReduceLogSum" | "ReduceProd" => uniform(shape, 0.8, 2.0, 3),
        _ => any(shape),
    }
}

const ALL: &[&str] = &[
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
];

const GRID: &[(&[usize], &[i64])] = &[
    (&[3], &[0]),
    (&[2, 3], &[1]),
    (&[2, 3], &[-2]),
    (&[2, 3, 2], &[0, 2]),
    (&[2, 3, 2], &[-1, 0]),
    (&[2, 3, 2, 2], &[2, 3]),
    (&[2, 3, 2, 2], &[-1, -2]),
    (&[2, 1, 2, 2], &[1]),
    (&[1, 2, 2, 1, 2], &[1, -1]),
    (&[2, 3], &[0, 1]),
];

#[test]
fn axes_as_an_input() {
    for &op in ALL {
        for &(shape, axes) in GRID {
            for keep in [0i64, 1] {
                case(op).attr("keepdims", keep).grad(input(op, shape)).ints(axes).check();
            }
        }
        case(op).opset(21).grad(input(op, &[2, 3])).ints(&[-1]).check();
    }
    case("ReduceSum").opset(13).grad(any(&[2, 3])).ints(&[1]).check();
}

#[test]
fn axes_as_an_attribute() {
    for &op in ALL {
        for opset in [7, 11, 12, 13, 17] {
            if op == "ReduceSum" && opset >= 13 {
                continue;
            }
            for keep in [0i64, 1] {
                for axes in [&[1i64][..], &[0, 2]] {
                    case(op).opset(opset).attr("axes", axes).attr("keepdims", keep).grad(input(op, &[2, 3, 2])).check();
                }
            }
            case(op).opset(opset).grad(input(op, &[2, 3])).check();
        }
        for opset in [11, 12] {
            case(op).opset(opset).attr("axes", [-1i64]).grad(input(op, &[2, 3])).check();
        }
    }
}

#[test]
fn no_axes() {
    for &op in ALL {
        for keep in [0i64, 1] {
            case(op).attr("keepdims", keep).grad(input(op, &[2, 3])).check();
            case(op).attr("keepdims", keep).grad(input(op, &[2, 3])).ints(&[]).check();
            case(op).attr("keepdims", keep).attr("noop_with_empty_axes", 0i64).grad(input(op, &[2, 3])).check();
        }
        // With axes given, the attribute says nothing.
        case(op).attr("noop_with_empty_axes", 1i64).grad(input(op, &[2, 3])).ints(&[0]).check();
        case(op).attr("noop_with_empty_axes", 1i64).grad(input(op, &[2, 3])).ints(&[]).check();
        case(op).attr("noop_with_empty_axes", 1i64).grad(input(op, &[2, 3])).check();
    }
}

#[test]
fn ties_share() {
    // Two equal extremes: central differences see half a slope at each, the rule gives each half.
    let x = |sign: f32| Tensor::f32([2, 3], [1.0, -1.0, 1.0, 0.5, 2.0, 2.0].map(|v| v * sign).to_vec());
    case("ReduceMax").grad(x(1.0)).ints(&[1]).check();
    case("ReduceMin").grad(x(-1.0)).ints(&[1]).check();
    case("GlobalMaxPool").grad(x(1.0).reshaped([1, 2, 3])).check();
}

#[test]
fn products_with_zeros() {
    // No zero, one and two; both signs.
    let x = || Tensor::f32([3, 3], vec![-1.5, 0.5, 2.0, 0.7, 0.0, -1.2, 0.0, 3.0, 0.0]);
    case("ReduceProd").grad(x()).ints(&[1]).check();
    case("ReduceProd").grad(x()).ints(&[0]).check();
    case("ReduceProd").opset(23).grad(x()).check();
    case("ReduceProd").grad(Tensor::f32([2], vec![0.0, 5.0])).check_on_kink(&[5.0, 0.0]);
}

#[test]
fn global_norms() {
    for shape in [&[2, 3, 4][..], &[2, 3, 2, 3], &[1, 2, 2, 3, 2]] {
        // ONNX Runtime has no kernel for the operator of opset 22.
        for opset in [7, 18, 21] {
            for p in [1i64, 2, 3] {
                case("GlobalLpPool").opset(opset).attr("p", p).grad(off(&[0.0], shape, -2.0, 2.0)).check();
            }
        }
        case("GlobalLpPool").grad(off(&[0.0], shape, -2.0, 2.0)).check();
    }
    // An image of zeros has no direction.
    for p in [2i64, 3] {
        case("GlobalLpPool").attr("p", p).grad(Tensor::zeros([1, 2, 2])).check_on_kink(&[0.0; 4]);
    }
}

#[test]
fn on_kinks() {
    case("ReduceL2").grad(Tensor::zeros([2, 2])).ints(&[1]).check_on_kink(&[0.0; 4]);
    case("ReduceL1").grad(Tensor::f32([3], vec![-2.0, 0.0, 2.0])).ints(&[0]).check_on_kink(&[-1.0, 0.0, 1.0]);
    case("ReduceMax").grad(Tensor::f32([4], vec![1.0; 4])).ints(&[0]).check_on_kink(&[0.25; 4]);
}

#[test]
fn global_pools() {
    for shape in [&[2, 3, 4][..], &[2, 3, 2, 3], &[1, 2, 2, 3, 2]] {
        for opset in [7, 18, 21] {
            case("GlobalAveragePool").opset(opset).grad(any(shape)).check();
            case("GlobalMaxPool").opset(opset).grad(distinct(shape)).check();
        }
    }
}
