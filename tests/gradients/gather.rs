use crate::harness::{any, case, distinct};
use onnx_unlearn::tensor::{Data, Tensor};

fn index(shape: &[usize], v: &[i64]) -> Tensor {
    Tensor::i64(shape, v.to_vec())
}

#[test]
fn gather() {
    for opset in [7, 11, 13, 21] {
        case("Gather").opset(opset).grad(any(&[4, 3])).constant(index(&[3], &[2, 0, 2])).check();
        case("Gather").opset(opset).attr("axis", 1).grad(any(&[2, 4, 2])).data(index(&[2, 2], &[3, 1, 1, 0])).check();
    }
    case("Gather").attr("axis", -1).grad(any(&[2, 3, 4])).data(index(&[3], &[-1, 0, -4])).check();
    // A scalar index drops the axis.
    case("Gather").attr("axis", 1).grad(any(&[2, 3, 4])).constant(index(&[], &[-1])).check();
    case("Gather").attr("axis", 1).grad(any(&[2, 3, 4])).data(index(&[], &[1])).check();
    case("Gather").grad(any(&[4])).constant(index(&[1], &[2])).check();
    let int32 = Tensor::new(vec![2], Data::I32(vec![1, -2]));
    case("Gather").attr("axis", 1).grad(any(&[2, 3])).constant(int32).check();
}

#[test]
fn gather_elements() {
    for opset in [11, 13, 21] {
        let node = case("GatherElements").opset(opset).attr("axis", 1).grad(any(&[3, 4]));
        node.data(index(&[2, 3], &[0, 3, 0, -1, 2, 2])).check();
        case("GatherND").opset(opset).grad(any(&[3, 4, 2])).data(index(&[3, 2], &[0, 1, 2, -1, 0, 1])).check();
    }
    case("GatherND").opset(12).grad(any(&[3, 4])).constant(index(&[2, 1], &[2, 0])).check();
}

#[test]
fn scatter() {
    let at = || index(&[2, 2], &[0, 3, -1, 1]);
    for op in ["Scatter", "ScatterElements"] {
        let opset = if op == "Scatter" { 9 } else { 11 };
        case(op).opset(opset).attr("axis", 1).grad(any(&[3, 4])).data(at()).grad(any(&[2, 2])).check();
    }
    for opset in [16, 18, 21] {
        let node = case("ScatterElements").opset(opset).attr("axis", 1).attr("reduction", "add");
        node.grad(any(&[3, 4])).data(index(&[2, 2], &[1, 1, 0, 1])).grad(any(&[2, 2])).check();
    }
    for (opset, reduction) in [(11, None), (13, None), (16, Some("add")), (18, Some("none"))] {
        let node = case("ScatterND").opset(opset);
        let node = if let Some(r) = reduction { node.attr("reduction", r) } else { node };
        node.grad(any(&[4, 3])).data(index(&[2, 1], &[3, 1])).grad(any(&[2, 3])).check();
    }
    case("MaxUnpool").attr("kernel_shape", [2, 3]).grad(any(&[1, 1, 1, 2])).data(index(&[1, 1, 1, 2], &[5, 2])).check();
}

#[test]
fn top_k() {
    for largest in [0, 1] {
        let node = case("TopK").outputs(2).attr("axis", 1).attr("largest", largest);
        node.grad(distinct(&[2, 5, 2])).ints(&[3]).check();
    }
    case("TopK").opset(7).outputs(2).attr("k", 2).grad(distinct(&[2, 5])).check();
    case("TopK").opset(10).outputs(2).grad(distinct(&[2, 5])).ints(&[2]).check();
}

#[test]
fn one_hot() {
    for axis in [-1, 0, 1] {
        let node = case("OneHot").attr("axis", axis).data(index(&[2, 3], &[0, 2, 1, 3, -1, 0]));
        node.constant(index(&[], &[4])).grad(any(&[2])).check();
    }
}

#[test]
fn triangles_and_sums() {
    for upper in [0, 1] {
        case("Trilu").opset(14).attr("upper", upper).grad(any(&[2, 3, 4])).check();
        case("Trilu").attr("upper", upper).grad(any(&[3, 4])).constant(index(&[], &[-1])).check();
    }
    for (exclusive, reverse) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let node = case("CumSum").opset(11).attr("exclusive", exclusive).attr("reverse", reverse);
        node.grad(any(&[3, 4])).constant(index(&[], &[1])).check();
        // Rows with no zero, one and two.
        let x = Tensor::f32([3, 4], vec![0.5, -2.0, 1.5, 0.7, 1.2, 0.0, -0.8, 2.0, 0.9, 0.0, 1.1, 0.0]);
        let node = case("CumProd").opset(26).attr("exclusive", exclusive).attr("reverse", reverse);
        node.grad(x).constant(index(&[], &[1])).check();
    }
}

#[test]
fn reverse_sequence() {
    let lengths = || index(&[3], &[1, 4, 2]);
    for opset in [10, 13, 18, 23] {
        case("ReverseSequence").opset(opset).grad(any(&[4, 3])).constant(lengths()).check();
        let node = || case("ReverseSequence").opset(opset).attr("batch_axis", 0).attr("time_axis", 1);
        node().grad(any(&[3, 4])).data(lengths()).check();
        node().grad(any(&[3, 5, 2, 2])).constant(lengths()).check();
    }
}

#[test]
fn compress() {
    let mask = |v: &[bool]| Tensor::new(vec![v.len()], Data::Bool(v.to_vec()));
    for opset in [9, 11, 18, 23] {
        let node = |axis: i64| case("Compress").opset(opset).attr("axis", axis).grad(any(&[2, 3, 2]));
        node(1).constant(mask(&[true, false, true])).check();
        node(0).constant(mask(&[false, true])).check();
        // What a mask does not reach is left out.
        node(2).constant(mask(&[true])).check();
        node(1).constant(mask(&[false, true])).check();
        case("Compress").opset(opset).grad(any(&[2, 3])).constant(mask(&[false, true, false, true, true])).check();
    }
    case("Compress").attr("axis", -1).grad(any(&[2, 3])).constant(mask(&[true, true, false])).check();
}
