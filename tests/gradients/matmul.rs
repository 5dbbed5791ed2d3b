use crate::harness::{any, case};

#[test]
fn gemm() {
    for opset in [7, 9, 11, 13, 18, 21] {
        for (ta, tb) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let a: &[usize] = if ta == 1 { &[4, 3] } else { &[3, 4] };
            let b: &[usize] = if tb == 1 { &[5, 4] } else { &[4, 5] };
            let node = || case("Gemm").opset(opset).attr("transA", ta).attr("transB", tb).grad(any(a)).grad(any(b));
            node().attr("alpha", 0.5).attr("beta", -1.5).grad(any(&[3, 5])).check();
            node().grad(any(&[5])).check();
        }
    }
    for c in [&[1, 5][..], &[3, 1], &[1], &[]] {
        case("Gemm").attr("beta", 2.0).grad(any(&[3, 4])).grad(any(&[4, 5])).grad(any(c)).check();
    }
    case("Gemm").attr("alpha", 0.25).grad(any(&[3, 4])).grad(any(&[4, 5])).check();
}

#[test]
fn matmul() {
    let shapes: &[(&[usize], &[usize])] = &[
        (&[3, 4], &[4, 2]),
        (&[4], &[4]),
        (&[4], &[4, 2]),
        (&[3, 4], &[4]),
        (&[2, 3, 4], &[4, 2]),
        (&[2, 3, 4], &[4]),
        (&[2, 3, 4], &[1, 4, 2]),
        (&[4], &[2, 4, 3]),
        (&[3, 4], &[2, 4, 2]),
        (&[2, 3, 4], &[2, 4, 2]),
        (&[2, 1, 3, 4], &[3, 4, 2]),
        (&[1, 2, 3], &[2, 3, 2]),
        (&[1, 2, 1, 3, 4], &[2, 1, 2, 4, 2]),
        (&[3, 4], &[1, 1, 4, 2]),
    ];
    for (a, b) in shapes {
        case("MatMul").grad(any(a)).grad(any(b)).check();
    }
    for opset in [7, 9, 13, 21] {
        case("MatMul").opset(opset).grad(any(&[2, 3, 4])).grad(any(&[4, 2])).check();
    }
}
