//! Resampling. Central differences run ONNX Runtime's own kernel in every mode, so the matrix of each mode is compared with
//! it element by element.

use crate::harness::{Case, any, case};
use onnx_unlearn::tensor::Tensor;

const COORDINATES: &[&str] =
    &["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"];
const NEAREST: &[&str] = &["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];

/// Rank 3, 4 and 5: a shape, factors that enlarge and shrink, and lengths.
const CASES: &[(&[usize], &[f32], &[i64])] = &[
    (&[2, 2, 5], &[1.0, 1.0, 1.6], &[2, 2, 3]),
    (&[1, 2, 3, 4], &[1.0, 1.0, 2.0, 0.6], &[1, 2, 5, 3]),
    (&[1, 2, 2, 3, 2], &[1.0, 1.0, 1.5, 0.7, 2.0], &[1, 2, 3, 2, 3]),
];

fn floats(v: &[f32]) -> Tensor {
    Tensor::f32([v.len()], v.to_vec())
}

fn scaled(node: Case, shape: &[usize], scales: &[f32]) -> Case {
    node.grad(any(shape)).none().constant(floats(scales))
}

fn sized(node: Case, shape: &[usize], sizes: &[i64]) -> Case {
    node.grad(any(shape)).none().none().ints(sizes)
}

#[test]
fn nearest() {
    for &(shape, scales, sizes) in CASES {
        for coordinates in COORDINATES {
            for rounding in NEAREST {
                let opset = if *coordinates == "half_pixel_symmetric" { 19 } else { 18 };
                let node = || {
                    let node = case("Resize").opset(opset).attr("mode", "nearest").attr("nearest_mode", *rounding);
                    node.attr("coordinate_transformation_mode", *coordinates)
                };
                scaled(node(), shape, scales).check();
                sized(node(), shape, sizes).check();
            }
        }
    }
    // Batch, channels and vectors too, and lengths that stay although the factor is not 1.
    scaled(case("Resize"), &[2, 3], &[1.5, 2.0]).check();
    scaled(case("Resize"), &[2, 2, 3], &[2.0, 0.5, 1.0]).check();
    scaled(case("Resize"), &[4], &[1.6]).check();
    scaled(case("Resize"), &[1, 1, 4], &[1.0, 1.0, 1.2]).check();
}

#[test]
fn linear() {
    for &(shape, scales, sizes) in CASES {
        for coordinates in COORDINATES {
            let opset = if *coordinates == "half_pixel_symmetric" { 19 } else { 18 };
            let node = || {
                let node = case("Resize").opset(opset).attr("mode", "linear");
                node.attr("coordinate_transformation_mode", *coordinates)
            };
            scaled(node(), shape, scales).check();
            sized(node(), shape, sizes).check();
        }
    }
    scaled(case("Resize").attr("mode", "linear"), &[3, 2], &[1.5, 2.0]).check();
    // Channels last.
    scaled(case("Resize").attr("mode", "linear"), &[1, 3, 2, 2], &[1.0, 2.0, 1.5, 1.0]).check();
    // One output element: the modes differ in where it lies.
    for coordinates in COORDINATES {
        let node = case("Resize").opset(19).attr("mode", "linear").attr("coordinate_transformation_mode", *coordinates);
        sized(node, &[1, 1, 3, 4], &[1, 1, 1, 1]).check();
    }
}

#[test]
fn cubic() {
    let (shape, scales, sizes) = CASES[1];
    for coordinates in COORDINATES {
        let opset = if *coordinates == "half_pixel_symmetric" { 19 } else { 18 };
        for exclude in [0, 1] {
            let node = || {
                let node = case("Resize").opset(opset).attr("mode", "cubic").attr("exclude_outside", exclude);
                node.attr("coordinate_transformation_mode", *coordinates).attr("cubic_coeff_a", -0.5f32)
            };
            scaled(node(), shape, scales).check();
            sized(node(), shape, sizes).check();
        }
    }
    scaled(case("Resize").attr("mode", "cubic"), shape, scales).check();
}

#[test]
fn antialiased() {
    for (mode, exclude) in [("linear", 0), ("linear", 1), ("cubic", 0), ("cubic", 1)] {
        for coordinates in ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"] {
            let node = || {
                let node = case("Resize").attr("mode", mode).attr("antialias", 1).attr("exclude_outside", exclude);
                node.attr("coordinate_transformation_mode", coordinates)
            };
            scaled(node(), &[1, 2, 6, 5], &[1.0, 1.0, 0.5, 0.6]).check();
            sized(node(), &[1, 1, 7, 4], &[1, 1, 3, 6]).check();
        }
    }
}

#[test]
fn a_part_of_the_image() {
    let roi = || floats(&[0.0, 0.0, 0.2, -0.3, 1.0, 1.0, 0.8, 1.4]);
    for mode in ["nearest", "linear", "cubic"] {
        for opset in [11, 18] {
            let node = case("Resize").opset(opset).attr("mode", mode).attr("extrapolation_value", 3.0f32);
            let node = node.attr("coordinate_transformation_mode", "tf_crop_and_resize");
            node.grad(any(&[1, 2, 5, 4])).constant(roi()).constant(floats(&[])).ints(&[1, 2, 3, 6]).check();
        }
    }
}

#[test]
fn every_spelling() {
    for opset in [11, 12, 13, 18, 19, 21, 23] {
        for mode in ["nearest", "linear", "cubic"] {
            let node = || case("Resize").opset(opset).attr("mode", mode);
            let roi = || node().grad(any(&[1, 1, 3, 4])).constant(floats(&[]));
            roi().constant(floats(&[1.0, 1.0, 2.0, 1.5])).check();
            roi().constant(floats(&[])).ints(&[1, 1, 5, 2]).check();
        }
    }
    for opset in [11, 12] {
        let node = case("Resize").opset(opset).attr("coordinate_transformation_mode", "tf_half_pixel_for_nn");
        node.grad(any(&[1, 1, 3, 4])).constant(floats(&[])).constant(floats(&[1.0, 1.0, 2.0, 0.5])).check();
    }
    // From opset 18 on, only the axes that are named.
    for opset in [18, 19, 21, 23] {
        let node = || case("Resize").opset(opset).attr("mode", "linear").attr("axes", [3, 2]);
        scaled(node(), &[1, 2, 3, 4], &[0.5, 2.0]).check();
        sized(node(), &[1, 2, 3, 4], &[2, 5]).check();
        sized(case("Resize").opset(opset).attr("axes", [-1]), &[2, 3], &[5]).check();
    }
}

#[test]
fn before_opset_eleven() {
    let x = || any(&[1, 2, 3, 4]);
    for (mode, scales) in [
        ("nearest", &[1.0, 1.0, 2.0, 1.5][..]),
        ("nearest", &[1.0, 1.0, 0.5, 0.7]),
        ("linear", &[1.0, 1.0, 2.0, 1.5]),
        ("linear", &[1.0, 1.0, 0.5, 1.5]),
    ] {
        case("Resize").opset(10).attr("mode", mode).grad(x()).constant(floats(scales)).check();
    }
    for mode in ["nearest", "linear"] {
        let scales = [1.0, 1.0, 2.0, 2.3];
        for opset in [7, 8] {
            case("Upsample").opset(opset).attr("mode", mode).attr("scales", scales).grad(x()).check();
        }
        case("Upsample").opset(9).attr("mode", mode).grad(x()).constant(floats(&scales)).check();
    }
    case("Upsample").opset(9).grad(any(&[1, 2, 3])).constant(floats(&[1.0, 1.0, 2.0])).check();
    case("Upsample").opset(9).grad(any(&[1, 1, 2, 2, 2])).constant(floats(&[1.0, 1.0, 2.0, 3.0, 1.0])).check();
}
