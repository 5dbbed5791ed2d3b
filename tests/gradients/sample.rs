use crate::{
    harness::{Case, any, case},
    norm::refusal,
};
use onnx_unlearn::{
    autodiff,
    graph::{Attrs, Node},
    tensor::Tensor,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// Places in -1.6..1.6, none of them near a kink: those lie at pixels, halfway between them and at the ends, for images
/// of the given axes (width, height, depth).
fn places(shape: &[usize], size: &[usize], aligned: bool) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(31);
    let n: usize = shape.iter().product();
    let mut draw = |size: f32| loop {
        let g = rng.random_range(-1.6f32..1.6);
        let u = if aligned { 0.5 * (g + 1.0) * (size - 1.0) } else { ((g + 1.0) * size - 1.0) / 2.0 };
        // A step of 0.08 in the grid is one of 0.04 size in pixels.
        let margin = 0.045 * size;
        if (2.0 * u - (2.0 * u).round()).abs() / 2.0 > margin {
            return g;
        }
    };
    let values = (0..n).map(|i| draw(size[i % size.len()] as f32)).collect();
    Tensor::f32(shape, values)
}

fn node(mode: &'static str, padding: &'static str, aligned: bool) -> Case {
    let node = case("GridSample").attr("mode", mode).attr("padding_mode", padding);
    node.attr("align_corners", i64::from(aligned))
}

#[test]
fn images_at_places() {
    for padding in ["zeros", "border", "reflection"] {
        for aligned in [false, true] {
            let grid = || places(&[2, 3, 4, 2], &[4, 3], aligned);
            for (opset, linear, cubic) in
                [(16, "bilinear", "bicubic"), (20, "linear", "cubic"), (22, "linear", "cubic")]
            {
                for mode in [linear, cubic] {
                    node(mode, padding, aligned).opset(opset).grad(any(&[2, 3, 3, 4])).grad(grid()).check();
                }
                node("nearest", padding, aligned).opset(opset).grad(any(&[2, 3, 3, 4])).data(grid()).check();
            }
            let grid = || places(&[1, 2, 2, 3, 3], &[4, 3, 2], aligned);
            node("linear", padding, aligned).opset(20).grad(any(&[1, 2, 2, 3, 4])).grad(grid()).check();
            node("nearest", padding, aligned).opset(20).grad(any(&[1, 2, 2, 3, 4])).data(grid()).check();
            // One pixel wide.
            let thin = || places(&[2, 5, 1, 2], &[1, 3], false);
            node("bilinear", padding, aligned).opset(16).grad(any(&[2, 2, 3, 1])).data(thin()).check();
        }
    }
    case("GridSample").opset(16).grad(any(&[1, 1, 3, 4])).grad(places(&[1, 2, 2, 2], &[4, 3], false)).check();
    case("GridSample").microsoft().grad(any(&[1, 1, 3, 4])).grad(places(&[1, 2, 2, 2], &[4, 3], false)).check();
}

/// A place computed by a network learns nothing from the nearest pixel, and the user hears of it.
#[test]
fn the_nearest_pixel_is_a_step() {
    let node = Node {
        name: "sample1".into(),
        op: "GridSample".into(),
        domain: String::new(),
        inputs: ["x", "grid"].map(String::from).to_vec(),
        outputs: vec!["y".into()],
        attrs: Attrs::from([("mode".to_owned(), "nearest".into())]),
    };
    let wanted = BTreeSet::from(["grid".to_owned()]);
    let ends = autodiff::dead_ends(&[node], &["y"], &wanted);
    assert_eq!((ends.lost, ends.nodes), (wanted, vec!["\"sample1\" (GridSample)".to_owned()]));
}

#[test]
fn what_is_refused() {
    let why = |name: &str, value: &str| {
        let attrs = Attrs::from([(name.to_owned(), value.into())]);
        refusal("GridSample", attrs, &[&[1, 1, 3, 3], &[1, 2, 2, 2]], &[&[1, 1, 2, 2]], 0)
    };
    assert!(
        why("mode", "area")
            .contains("attribute mode: expected nearest, linear, bilinear, cubic or bicubic, got \"area\"")
    );
    assert!(why("padding_mode", "wrap").contains("attribute padding_mode: expected zeros, border or reflection"));
}

#[test]
fn affine_grids() {
    for aligned in [0i64, 1] {
        let node = || case("AffineGrid").opset(20).attr("align_corners", aligned);
        node().grad(any(&[2, 2, 3])).ints(&[2, 1, 3, 4]).check();
        node().grad(any(&[2, 3, 4])).ints(&[2, 5, 2, 3, 4]).check();
        node().grad(any(&[1, 2, 3])).ints(&[1, 1, 1, 3]).check();
    }
}
