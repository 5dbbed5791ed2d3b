use crate::harness::{Case, any, case, engine};
use onnx_unlearn::{
    graph::{Builder, Node},
    ops::{
        Emit, Form, Map, Task,
        conv::{Axis, Geometry, input_gradient, lower_forward},
    },
    runtime::{Device, Session},
    tensor::{DType, Tensor},
};
use std::{collections::HashMap, time::Instant};

/// Shape of x and w, group, strides, pads, dilations.
type Shape = (&'static [usize], &'static [usize], i64, &'static [i64], &'static [i64], &'static [i64]);

const SHAPES: &[Shape] = &[
    // Ordinary kernels: stride 1 and 2, with and without rows left over, unequal pads, dilation.
    (&[2, 2, 5, 4], &[3, 2, 3, 3], 1, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 2, 6, 5], &[3, 2, 3, 3], 1, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
    (&[1, 2, 7, 8], &[2, 2, 3, 2], 1, &[3, 2], &[0, 1, 2, 0], &[1, 1]),
    (&[1, 2, 7, 6], &[2, 2, 3, 2], 1, &[1, 2], &[2, 1, 2, 0], &[2, 3]),
    (&[2, 1, 8, 8], &[2, 1, 5, 5], 1, &[4, 3], &[2, 2, 2, 2], &[1, 1]),
    // Products: 1x1, and 1x1 with stride.
    (&[2, 3, 4, 4], &[2, 3, 1, 1], 1, &[1, 1], &[0, 0, 0, 0], &[1, 1]),
    (&[2, 3, 5, 4], &[2, 3, 1, 1], 1, &[2, 2], &[0, 0, 0, 0], &[1, 1]),
    (&[2, 3, 2, 2], &[4, 3, 1, 1], 1, &[2, 2], &[0, 0, 0, 0], &[1, 1]),
    // Small maps, where taps see nothing but padding.
    (&[3, 2, 1, 1], &[4, 2, 3, 3], 1, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[3, 2, 2, 2], &[2, 2, 3, 3], 1, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[3, 2, 2, 2], &[2, 2, 3, 3], 1, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 2, 3, 2], &[3, 2, 3, 2], 1, &[1, 1], &[0, 0, 0, 0], &[1, 1]),
    (&[2, 2, 4, 4], &[3, 2, 3, 3], 1, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
    (&[1, 2, 1, 2], &[2, 2, 5, 5], 1, &[3, 3], &[4, 4, 4, 4], &[1, 1]),
    (&[1, 2, 2, 2], &[2, 2, 2, 2], 1, &[1, 1], &[3, 2, 0, 1], &[3, 2]),
    // Pads wider than the kernel.
    (&[1, 1, 3, 3], &[2, 1, 2, 2], 1, &[1, 1], &[3, 3, 3, 3], &[1, 1]),
    // Groups and depthwise.
    (&[2, 4, 4, 4], &[6, 2, 3, 3], 2, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 3, 5, 5], &[3, 1, 3, 3], 3, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 3, 4, 5], &[6, 1, 3, 3], 3, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    (&[2, 4, 1, 1], &[4, 2, 3, 3], 2, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
    // One and three spatial axes.
    (&[2, 2, 7], &[3, 2, 3], 1, &[2], &[1, 1], &[1]),
    (&[2, 2, 6], &[2, 2, 2], 1, &[1], &[0, 2], &[2]),
    (&[1, 2, 3, 4, 3], &[2, 2, 2, 3, 2], 1, &[1, 2, 1], &[0, 1, 1, 0, 1, 0], &[1, 1, 1]),
    (&[2, 2, 1, 2, 1], &[2, 2, 3, 3, 3], 1, &[1, 1, 1], &[1, 1, 1, 1, 1, 1], &[1, 1, 1]),
];

fn node(op: &'static str, (x, w, group, strides, pads, dilations): Shape) -> Case {
    let node = case(op).attr("group", group).attr("strides", strides).attr("pads", pads).attr("dilations", dilations);
    node.grad(any(x)).grad(any(w))
}

#[test]
fn columns_put_together() {
    // Rank 1, 2 and 3; each with padding, strides and dilations.
    let node = |x: &[usize], size: &[i64], kernel: &[i64]| case("Col2Im").grad(any(x)).ints(size).ints(kernel);
    for opset in [18, 21, 23] {
        node(&[1, 4, 9], &[4, 4], &[2, 2]).opset(opset).check();
    }
    node(&[2, 6, 4], &[6], &[3]).check();
    node(&[1, 12, 9], &[5, 5], &[3, 2]).attr("pads", [1, 0, 1, 1]).attr("strides", [2, 2]).check();
    node(&[1, 4, 6], &[4, 5], &[2, 2]).attr("dilations", [2, 2]).check();
    node(&[1, 8, 8], &[3, 3, 3], &[2, 2, 2]).check();
}

#[test]
fn conv() {
    for &shape in SHAPES {
        node("Conv", shape).grad(any(&shape.1[..1])).check();
    }
    for opset in [7, 11, 18, 21, 22] {
        node("Conv", SHAPES[1]).opset(opset).attr("kernel_shape", [3, 3]).check();
    }
    case("Conv").grad(any(&[1, 2, 4, 4])).grad(any(&[2, 2, 2, 2])).check();
}

#[test]
fn conv_auto_pad() {
    for auto in ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"] {
        for (size, kernel, stride) in [([5, 6], [3, 2], 1), ([5, 6], [2, 3], 2), ([7, 4], [2, 1], 3)] {
            let node = case("Conv").attr("auto_pad", auto).attr("strides", [stride, stride]);
            let x = any(&[1, 2, size[0], size[1]]);
            node.grad(x).grad(any(&[3, 2, kernel[0], kernel[1]])).grad(any(&[3])).check();
        }
    }
}

#[test]
fn conv_transpose() {
    let shapes: &[Shape] = &[
        (&[2, 2, 3, 4], &[2, 3, 3, 3], 1, &[1, 1], &[1, 1, 1, 1], &[1, 1]),
        (&[2, 2, 3, 4], &[2, 3, 3, 3], 1, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
        (&[1, 2, 3, 3], &[2, 1, 2, 3], 1, &[3, 2], &[0, 1, 2, 0], &[1, 2]),
        (&[2, 4, 3, 3], &[4, 3, 3, 2], 2, &[2, 1], &[1, 0, 0, 1], &[1, 1]),
        (&[2, 3, 4, 4], &[3, 1, 3, 3], 3, &[2, 2], &[1, 1, 1, 1], &[1, 1]),
        (&[2, 3, 1, 1], &[3, 2, 4, 4], 1, &[1, 1], &[0, 0, 0, 0], &[1, 1]),
        (&[2, 2, 5], &[2, 3, 3], 1, &[2], &[0, 1], &[1]),
        (&[1, 2, 2, 3, 2], &[2, 2, 2, 2, 3], 1, &[1, 2, 1], &[0, 0, 1, 0, 0, 1], &[1, 1, 1]),
    ];
    for &shape in shapes {
        let bias = shape.1[1] * shape.2 as usize;
        node("ConvTranspose", shape).grad(any(&[bias])).check();
    }
    for opset in [7, 11, 21] {
        node("ConvTranspose", shapes[1]).opset(opset).attr("output_padding", [1, 1]).check();
    }
    let small = || case("ConvTranspose").grad(any(&[1, 2, 3, 3])).grad(any(&[2, 2, 3, 2]));
    for auto in ["VALID", "SAME_UPPER", "SAME_LOWER"] {
        small().attr("auto_pad", auto).attr("strides", [2, 1]).check();
    }
    for auto in ["NOTSET", "SAME_UPPER", "SAME_LOWER"] {
        small().attr("auto_pad", auto).attr("strides", [2, 2]).attr("output_shape", [6, 5]).check();
        small().attr("auto_pad", auto).attr("strides", [2, 2]).attr("output_shape", [4, 5]).check();
    }
    small().attr("strides", [3, 2]).attr("dilations", [1, 3]).attr("output_padding", [2, 1]).check();
}

/// The geometry of a shape, by the definition of the operator.
fn geometry((x, w, g, strides, pads, dilations): Shape) -> Geometry {
    let rank = strides.len();
    let axes = (0..rank).map(|i| {
        let (size, kernel, stride, dilation) = (x[2 + i], w[2 + i], strides[i] as usize, dilations[i] as usize);
        let padded = size + (pads[i] + pads[rank + i]) as usize;
        let out = (padded - dilation * (kernel - 1) - 1) / stride + 1;
        Axis { size, out, kernel, stride, dilation, before: pads[i], after: pads[rank + i] }
    });
    Geometry { n: x[0], c: x[1], m: w[0], g: g as usize, axes: axes.collect() }
}

const FORMS: &[(Map, &[Form])] = &[
    (Map::Forward, &[Form::Direct, Form::Native, Form::Sums, Form::Columns, Form::Dense]),
    (Map::Input, &[Form::Direct, Form::Native, Form::Sums, Form::Flipped, Form::Columns, Form::Dense]),
    (Map::Weight, &[Form::Direct, Form::Native, Form::Sums, Form::Images, Form::Columns, Form::Dense]),
];

/// A session that computes one map in one form, and the values it reads.
fn session(q: &Geometry, map: Map, form: Form) -> (Session, Vec<(&'static str, Tensor)>) {
    let task = Task { map, geometry: q.clone() };
    let feeds: Vec<(&str, Tensor)> = ["a", "b"].into_iter().zip(task.reads().iter().map(|shape| any(shape))).collect();
    let mut graph = Builder::new(18);
    let values: Vec<_> = feeds.iter().map(|(name, t)| graph.input(name, t.dtype(), t.shape())).collect();
    let result = task.write(&mut graph, form, &values);
    graph.output(&result);
    let label = format!("{map:?} {form:?} {q:?}");
    let session = engine().session(&label, &graph.finish());
    (session.unwrap_or_else(|e| panic!("{label}: {e}")), feeds)
}

fn run((session, feeds): &mut (Session, Vec<(&'static str, Tensor)>)) -> Tensor {
    let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (*n, t)).collect();
    session.run(&feeds).expect("the map runs").remove(0)
}

/// A node that gives y, with the attributes of a shape.
fn forward_node(op: &str, inputs: &[&str], (_, _, group, strides, pads, dilations): Shape) -> Node {
    let attrs = [("group", group.into()), ("strides", strides.into()), ("pads", pads.into())];
    let attrs = attrs.into_iter().chain([("dilations", dilations.into())]);
    Node {
        name: "conv".into(),
        op: op.into(),
        domain: String::new(),
        inputs: inputs.iter().map(|&name| name.to_owned()).collect(),
        outputs: vec!["y".into()],
        attrs: attrs.map(|(k, v)| (k.to_owned(), v)).collect(),
    }
}

/// The same shape, and the same numbers to 1e-5 of them or of 1.
#[track_caller]
fn same(got: &Tensor, want: &Tensor, what: &str) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    for (a, b) in got.as_f32().expect("floats").iter().zip(want.as_f32().expect("floats")) {
        assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{what}: {a} against {b}");
    }
}

/// Every form of every map, chosen or not, computes the same numbers.
#[test]
fn convolution_forms_agree() {
    for &shape in SHAPES {
        let q = geometry(shape);
        for (map, forms) in FORMS {
            let mut first: Option<Tensor> = None;
            for &form in *forms {
                let got = run(&mut session(&q, *map, form));
                let Some(want) = &first else {
                    first = Some(got);
                    continue;
                };
                same(&got, want, &format!("{map:?} {form:?} {q:?}"));
            }
        }
    }
}

/// So do the forms of what goes back through a pool.
#[test]
fn pool_forms_agree() {
    let mut compared = [0; 2];
    for &shape in SHAPES {
        let q = geometry(shape);
        let q = Geometry { m: q.c, g: q.c, ..q };
        // No pool has more padding than window.
        if q.axes.iter().any(|a| a.before.max(a.after) >= a.kernel as i64) {
            continue;
        }
        for (map, compared) in [Map::Average, Map::Maximum].into_iter().zip(&mut compared) {
            let forms = Task { map, geometry: q.clone() }.candidates(true);
            let of = |form: Form| {
                let mut session = session(&q, map, form);
                // So few numbers that windows have several largest ones, of which the first counts.
                let x = &mut session.1[0].1;
                *x = Tensor::f32(x.shape(), x.to_f32s().iter().map(|v| (2.0 * v).round()).collect());
                run(&mut session)
            };
            let want = of(Form::Direct);
            for form in forms.into_iter().filter(|&form| form != Form::Direct) {
                same(&of(form), &want, &format!("{map:?} {form:?} {q:?}"));
                *compared += 1;
            }
        }
    }
    assert!(compared.iter().all(|&n| n >= 10), "{compared:?}");
}

/// A graph that avoids `ConvTranspose` has none: not for the gradient to the input, not for the node itself, and both
/// compute the same.
#[test]
fn without_conv_transpose() {
    for &shape in SHAPES {
        let q = geometry(shape);
        let want = run(&mut session(&q, Map::Input, Form::Direct));
        let dy = ("dy", any(&[&[q.n, q.m], &q.out()[..]].concat()));
        let feeds = [dy, ("w", any(shape.1))];
        let extra: Vec<i64> = q.axes.iter().map(|a| a.size as i64 - (a.span() as i64 - a.before - a.after)).collect();
        let mut node = forward_node("ConvTranspose", &["dy", "w"], shape);
        node.attrs.insert("output_padding".into(), extra.into());
        let mut graph = Builder::new(18).avoiding(Device::Cuda(0).avoided());
        let values: Vec<_> = feeds.iter().map(|(name, t)| graph.input(name, t.dtype(), t.shape())).collect();
        let known = HashMap::new();
        let mut emit = Emit::new(&mut graph, &node, &known, &[], 0, DType::F32);
        let gradient = input_gradient(&mut emit, &q, Form::Direct, &values[0], &values[1]);
        let lower = onnx_unlearn::ops::find(&node).and_then(|op| op.lower).expect("a lowering");
        let lowered = lower(&mut emit, want.shape()).expect("it is lowered").expect("where it is avoided");
        graph.output(&gradient);
        // The builder writes equal nodes once, so that both may be one value.
        if lowered.name() != gradient.name() {
            graph.output(&lowered);
        }
        let graph = graph.finish();
        assert!(graph.nodes.iter().all(|n| n.op != "ConvTranspose"), "{q:?}");
        let mut session = engine().session("avoided", &graph).expect("opens");
        let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (*n, t)).collect();
        for got in session.run(&feeds).expect("runs") {
            same(&got, &want, &format!("{q:?}"));
        }
    }
}

/// A lowered forward node computes what the node computes, bias included.
#[test]
fn lowered_forward() {
    let mut lowered = 0;
    for &shape in SHAPES {
        let q = geometry(shape);
        let y: Vec<usize> = [q.n, q.m].into_iter().chain(q.out()).collect();
        let feeds = [("x", any(shape.0)), ("w", any(shape.1)), ("b", any(&shape.1[..1]))];
        let mut graph = Builder::new(18);
        for (name, t) in &feeds {
            graph.input(name, t.dtype(), t.shape());
        }
        let node = forward_node("Conv", &["x", "w", "b"], shape);
        let known = HashMap::new();
        let value = lower_forward(&mut Emit::new(&mut graph, &node, &known, &[], 0, DType::F32), &y);
        let Some(value) = value.expect("a convolution") else { continue };
        lowered += 1;
        assert_eq!(value.shape(), y);
        graph.output(&value);
        graph.forward(node, &[y]);
        let own = graph.value("y").expect("the node's output").clone();
        graph.output(&own);
        let mut session = engine().session("lowered", &graph.finish()).expect("opens");
        let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (*n, t)).collect();
        let both = session.run(&feeds).expect("runs");
        same(&both[0], &both[1], &format!("{q:?}"));
    }
    assert!(lowered >= 8, "only {lowered} shapes were lowered");
}

/// Times every form on the convolutions of `ResNet18` for 32x32 images at batch 256; the best of nine rounds, in ms. The star is
/// at the form that the rules choose where there are no operators of the tool's own.
#[test]
#[ignore = "a measurement, not a check"]
#[allow(clippy::print_stdout)]
fn convolution_forms() {
    let layers: &[[usize; 6]] = &[
        // channels in, channels out, map, kernel, stride, groups
        [3, 64, 32, 7, 2, 1],
        [64, 64, 8, 3, 1, 1],
        [64, 128, 8, 3, 2, 1],
        [64, 128, 8, 1, 2, 1],
        [128, 128, 4, 3, 1, 1],
        [128, 256, 4, 3, 2, 1],
        [128, 256, 4, 1, 2, 1],
        [256, 256, 2, 3, 1, 1],
        [256, 512, 2, 3, 2, 1],
        [256, 512, 2, 1, 2, 1],
        [512, 512, 1, 3, 1, 1],
        [64, 256, 8, 1, 1, 1],
        [128, 128, 8, 3, 1, 1],
        [256, 256, 4, 3, 1, 1],
        [512, 512, 2, 3, 1, 1],
        [96, 96, 8, 3, 1, 96],
        [96, 96, 8, 3, 2, 96],
    ];
    for &[c, m, size, kernel, stride, g] in layers {
        let pad = (kernel / 2) as i64;
        let out = (size + 2 * pad as usize - kernel) / stride + 1;
        let axis = Axis { size, out, kernel, stride, dilation: 1, before: pad, after: pad };
        let q = Geometry { n: 256, c, m, g, axes: vec![axis, axis] };
        println!("{c} -> {m}, map {size} to {out}, kernel {kernel}, stride {stride}, groups {g}");
        for map in [Map::Forward, Map::Input, Map::Weight] {
            time(&q, map);
        }
    }
}

/// The same for what goes back through a pool.
#[test]
#[ignore = "a measurement, not a check"]
#[allow(clippy::print_stdout)]
fn pool_forms() {
    // channels, map, kernel, stride, padding
    for [c, size, kernel, stride, pad] in [
        [64, 32, 2, 2, 0],
        [64, 32, 3, 2, 1],
        [128, 16, 3, 1, 1],
        [256, 8, 3, 1, 1],
        [256, 8, 3, 2, 1],
        [512, 8, 8, 1, 0],
        [128, 14, 14, 1, 0],
        [64, 28, 7, 7, 0],
    ] {
        let out = (size + 2 * pad - kernel) / stride + 1;
        let axis = Axis { size, out, kernel, stride, dilation: 1, before: pad as i64, after: pad as i64 };
        let q = Geometry { n: 256, c, m: c, g: c, axes: vec![axis, axis] };
        println!("{c} channels, map {size} to {out}, kernel {kernel}, stride {stride}");
        time(&q, Map::Average);
        time(&q, Map::Maximum);
    }
}

#[allow(clippy::print_stdout)]
fn time(q: &Geometry, map: Map) {
    let task = Task { map, geometry: q.clone() };
    let (forms, chosen) = (task.candidates(true), task.usual(false));
    let mut sessions: Vec<_> = forms.iter().map(|&f| session(q, map, f)).collect();
    let mut best = vec![f64::INFINITY; forms.len()];
    for _ in 0..9 {
        for (s, best) in sessions.iter_mut().zip(&mut best) {
            let start = Instant::now();
            run(s);
            *best = best.min(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let row: Vec<String> = forms
        .iter()
        .zip(&best)
        .map(|(f, ms)| format!("{f:?} {ms:.1}{}", if *f == chosen { "*" } else { "" }))
        .collect();
    println!("    {map:?}: {}", row.join("  "));
}
