use crate::{
    common::{self, rules::Rules},
    harness::{any, case},
};
use onnx_unlearn::{
    graph::Builder,
    runtime::Device,
    tensor::{DType, Tensor},
};
use std::collections::BTreeSet;

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

/// Products that are long enough for the tool's own operator, with a bias behind them and without, against the standard
/// operators: what comes out of the first is in the gradients of all.
#[test]
fn long_products() {
    const ROWS: [usize; 2] = [41, 50];
    let random = |shape: &[usize], seed: f32| {
        let value = |i: usize| ((i as f32 + seed) * 12.9898).sin() * 0.5;
        Tensor::f32(shape, (0..shape.iter().product()).map(value).collect())
    };
    for gemm in [false, true] {
        let rows: &[usize] = if gemm { &[2050] } else { &ROWS };
        let of = |columns: usize| [rows, &[columns]].concat();
        let mut b = Builder::new(18);
        let shapes = [("x", of(16)), ("w", vec![16, 20]), ("c", vec![20]), ("v", vec![20, 17])];
        let [x, w, c, v] = shapes.clone().map(|(name, shape)| b.input(name, DType::F32, &shape));
        let sum = if gemm {
            b.op("Gemm", &[&x, &w, &c], &[("alpha", 0.5.into())], &of(20))
        } else {
            let product = b.op("MatMul", &[&x, &w], &[], &of(20));
            b.op("Add", &[&product, &c], &[], &of(20))
        };
        let bent = b.op("Sigmoid", &[&sum], &[], &of(20));
        let y = b.op("MatMul", &[&bent, &v], &[], &of(17));
        b.output(&y);
        let graph = b.finish();
        let feeds: Vec<(String, Tensor)> =
            shapes.iter().zip(1u8..).map(|((name, s), i)| ((*name).to_owned(), random(s, f32::from(i)))).collect();
        let wanted: BTreeSet<String> = feeds.iter().map(|(name, _)| name.clone()).collect();
        let seed = random(&of(17), 9.0);
        let engine = common::engine(Device::Cpu);
        let [own, standard] = [true, false].map(|native| {
            let mut rules = Rules::new(&engine, &graph, &feeds, &wanted, native).expect("a graph");
            // The first product and two gradients of each; the scores themselves are not asked for.
            assert_eq!(rules.count("dev.onnx-unlearn.Product"), if native { 5 } else { 0 });
            assert!(!native || rules.count("Add(") == 0, "the bias is the product's");
            rules.gradients(&feeds, std::slice::from_ref(&seed)).expect("gradients")
        });
        assert_eq!(own.len(), 4);
        for (name, got) in &own {
            let (got, want) = (got.to_f32s(), standard[name].to_f32s());
            let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let apart = got.iter().zip(&want).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(apart <= 1e-5 * largest, "gradient of {name}, gemm {gemm}: {apart} apart, largest {largest}");
        }
    }
}
