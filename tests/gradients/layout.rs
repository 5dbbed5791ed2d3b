use crate::harness::{any, case};
use onnx_unlearn::tensor::{Data, Tensor};

fn int32(v: &[i32]) -> Tensor {
    Tensor::new(vec![v.len()], Data::I32(v.to_vec()))
}

#[test]
fn reshape() {
    for (opset, to) in [(7, &[4, 6][..]), (13, &[0, -1]), (14, &[2, 2, -1]), (18, &[24]), (21, &[-1, 1])] {
        case("Reshape").opset(opset).grad(any(&[4, 2, 3])).ints(to).check();
    }
    case("Reshape").attr("allowzero", 1).grad(any(&[2, 3])).ints(&[3, 2]).check();
    for (opset, axis) in [(7, 1), (9, 0), (11, -1), (13, 2), (21, 3)] {
        case("Flatten").opset(opset).attr("axis", axis).grad(any(&[2, 3, 2])).check();
    }
    for opset in [7, 11] {
        case("Squeeze").opset(opset).attr("axes", [0, 2]).grad(any(&[1, 3, 1])).check();
        case("Squeeze").opset(opset).grad(any(&[1, 3, 1])).check();
        case("Unsqueeze").opset(opset).attr("axes", [0, 2]).grad(any(&[3, 2])).check();
    }
    for opset in [13, 18, 21] {
        case("Squeeze").opset(opset).grad(any(&[1, 3, 1])).ints(&[-1]).check();
        case("Squeeze").opset(opset).grad(any(&[1, 3, 1])).check();
        case("Unsqueeze").opset(opset).grad(any(&[3, 2])).ints(&[0, -1]).check();
    }
}

#[test]
fn transpose() {
    for opset in [7, 13, 21] {
        case("Transpose").opset(opset).grad(any(&[2, 3, 4])).check();
        case("Transpose").opset(opset).attr("perm", [1, 2, 0]).grad(any(&[2, 3, 4])).check();
        case("Transpose").opset(opset).attr("perm", [0, 3, 1, 2]).grad(any(&[2, 3, 2, 2])).check();
    }
}

#[test]
fn concat_and_split() {
    for (opset, axis) in [(7, 1), (11, -2), (13, 1), (21, 1)] {
        let node = case("Concat").opset(opset).attr("axis", axis);
        node.grad(any(&[2, 1, 2])).grad(any(&[2, 3, 2])).grad(any(&[2, 2, 2])).check();
    }
    case("Concat").attr("axis", 0).grad(any(&[2])).check();
    for (opset, axis) in [(7, 1), (11, -1)] {
        case("Split").opset(opset).outputs(2).attr("axis", axis).grad(any(&[2, 4])).check();
        case("Split").opset(opset).outputs(2).attr("axis", axis).attr("split", [1, 3]).grad(any(&[2, 4])).check();
    }
    for opset in [13, 18, 21] {
        case("Split").opset(opset).outputs(3).attr("axis", 1).grad(any(&[2, 6])).ints(&[1, 3, 2]).check();
    }
    case("Split").opset(13).outputs(2).grad(any(&[4, 2])).check();
    // The last part is smaller.
    case("Split").outputs(3).attr("axis", -1).attr("num_outputs", 3).grad(any(&[2, 7])).check();
}

#[test]
fn slice() {
    for opset in [7, 9] {
        let node = case("Slice").opset(opset).attr("starts", [1, -3]).attr("ends", [3, 100]);
        node.attr("axes", [2, 0]).grad(any(&[4, 2, 5])).check();
        case("Slice").opset(opset).attr("starts", [1]).attr("ends", [-1]).grad(any(&[4, 2])).check();
    }
    for opset in [10, 11, 13, 18, 21] {
        case("Slice").opset(opset).grad(any(&[4, 5])).ints(&[1, 0]).ints(&[100, -1]).check();
        let node = case("Slice").opset(opset).grad(any(&[4, 7])).ints(&[-1, 5]).ints(&[i64::MIN + 1, 0]);
        node.ints(&[0, 1]).ints(&[-1, -2]).check();
    }
    case("Slice").grad(any(&[2, 8])).ints(&[1]).ints(&[8]).ints(&[-1]).ints(&[3]).check();
    case("Slice").grad(any(&[9, 2])).ints(&[20]).ints(&[-20]).ints(&[0]).ints(&[-4]).check();
    case("Slice").grad(any(&[5, 3])).ints(&[-20]).ints(&[2]).none().ints(&[1]).check();
    let node = case("Slice").grad(any(&[2, 5])).constant(int32(&[-4])).constant(int32(&[5]));
    node.constant(int32(&[1])).constant(int32(&[2])).check();
}

#[test]
fn pad() {
    for opset in [7, 10] {
        case("Pad").opset(opset).attr("pads", [1, 0, 2, 1]).attr("value", 0.5).grad(any(&[2, 3])).check();
        let node = case("Pad").opset(opset).attr("mode", "reflect").attr("pads", [1, 0, 0, 2]);
        node.grad(any(&[2, 3])).check();
    }
    for opset in [11, 13, 18, 19, 21] {
        case("Pad").opset(opset).grad(any(&[3, 4])).ints(&[1, -1, 0, 2]).check();
        case("Pad").opset(opset).grad(any(&[2, 3])).ints(&[1, 0, 0, 2]).grad(any(&[])).check();
        for mode in ["reflect", "edge"] {
            case("Pad").opset(opset).attr("mode", mode).grad(any(&[2, 4, 3])).ints(&[0, 2, 1, 1, 3, 0]).check();
        }
    }
    case("Pad").grad(any(&[2, 3, 2])).ints(&[1, 2, 0, 1]).none().ints(&[-1, 0]).check();
    case("Pad").opset(19).attr("mode", "wrap").grad(any(&[2, 3])).ints(&[1, 2, 0, 1]).check();
}

#[test]
fn middles() {
    for to in [[2, 7], [3, 4], [6, 1], [5, 4]] {
        case("CenterCropPad").grad(any(&[5, 4])).ints(&to).check();
    }
    case("CenterCropPad").opset(20).attr("axes", [-1, 1]).grad(any(&[2, 5, 3, 4])).ints(&[7, 2]).check();
}

#[test]
fn copies() {
    for opset in [8, 13, 21] {
        for to in [&[2, 3, 4][..], &[3, 1], &[5, 1, 3, 4]] {
            case("Expand").opset(opset).grad(any(&[3, 1])).ints(to).check();
        }
    }
    for opset in [7, 13, 21] {
        case("Tile").opset(opset).grad(any(&[2, 3])).ints(&[3, 2]).check();
        case("Tile").opset(opset).grad(any(&[2, 1, 3])).ints(&[1, 2, 1]).check();
    }
}

#[test]
fn blocks() {
    for opset in [7, 11, 13] {
        case("DepthToSpace").opset(opset).attr("blocksize", 2).grad(any(&[2, 8, 2, 3])).check();
        case("SpaceToDepth").opset(opset).attr("blocksize", 2).grad(any(&[2, 3, 4, 2])).check();
    }
    for mode in ["DCR", "CRD"] {
        case("DepthToSpace").attr("mode", mode).attr("blocksize", 3).grad(any(&[1, 18, 2, 1])).check();
    }
}
