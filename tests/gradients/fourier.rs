use crate::{
    harness::{any, case, positive},
    norm::refusal,
};
use onnx_unlearn::{
    graph::{Attr, Attrs},
    tensor::Tensor,
};

#[test]
fn transforms() {
    for parts in [1, 2] {
        let x = || any(&[2, 5, parts]);
        for inverse in [0i64, 1] {
            let node = || case("DFT").opset(17).attr("inverse", inverse);
            node().grad(x()).check();
            node().attr("axis", 1i64).grad(any(&[2, 3, 4, parts])).check();
            node().attr("axis", 2i64).grad(any(&[2, 3, 4, parts])).check();
            // Filled with zeros, and cut.
            node().grad(x()).constant(Tensor::i64([], vec![8])).check();
            node().grad(x()).constant(Tensor::i64([], vec![4])).check();
            let node = || case("DFT").opset(20).attr("inverse", inverse).grad(any(&[2, 3, 4, parts]));
            node().check();
            node().none().constant(Tensor::i64([], vec![1])).check();
            node().constant(Tensor::i64([], vec![6])).constant(Tensor::i64([], vec![-2])).check();
        }
    }
    for opset in [17, 20] {
        // From half a spectrum.
        let node = || case("DFT").opset(opset).attr("onesided", 1i64).attr("inverse", 1i64).grad(any(&[2, 4, 2]));
        for n in [6, 7] {
            node().constant(Tensor::i64([], vec![n])).check();
        }
        node().check();
        case("DFT").opset(opset).attr("onesided", 1i64).grad(any(&[2, 5, 1])).check();
        case("DFT")
            .opset(opset)
            .attr("onesided", 1i64)
            .grad(any(&[2, 6, 1]))
            .constant(Tensor::i64([], vec![8]))
            .check();
    }
}

#[test]
fn transforms_of_frames() {
    let step = |v: i64| Tensor::i64([], vec![v]);
    for onesided in [0i64, 1] {
        let node = |long| case("STFT").opset(17).attr("onesided", onesided).grad(any(&[2, long, 1]));
        node(12).constant(step(2)).constant(positive(&[4])).constant(step(4)).check();
        node(13).constant(step(3)).constant(positive(&[5])).check();
        node(11).constant(step(4)).none().constant(step(4)).check();
        // Frames apart from one another.
        node(11).constant(step(5)).constant(positive(&[3])).constant(step(3)).check();
        // A window that is learned.
        node(12).constant(step(2)).grad(positive(&[4])).constant(step(4)).check();
        node(13).constant(step(3)).grad(any(&[5])).check();
        node(11).constant(step(5)).grad(positive(&[3])).constant(step(3)).check();
        case("STFT").opset(17).attr("onesided", onesided).data(any(&[2, 9])).constant(step(2)).grad(any(&[4])).check();
    }
}

#[test]
fn what_is_refused() {
    let long = refusal("DFT", Attrs::new(), &[&[1, 8192, 1]], &[&[1, 8192, 2]], 0);
    let half = Attrs::from([("inverse".to_owned(), Attr::Int(1)), ("onesided".to_owned(), Attr::Int(1))]);
    let half = refusal("DFT", half, &[&[1, 3, 2]], &[&[1, 7, 1]], 0);
    assert!(half.contains("half the spectrum of 7 values has 4, not 3"), "{half}");
    assert!(long.contains("a transform over 8192 points is too long"), "{long}");
}
