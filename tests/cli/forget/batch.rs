//! Files exported for one batch size: freed where that is the same function, else fed in parts.

use crate::common::{
    model,
    program::{Forget, run},
    temporary,
};
use onnx_unlearn::{
    graph::{Attrs, Graph, Node},
    onnx,
    tensor::Tensor,
};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

/// A node of one output, named after it.
pub fn node(op: &str, inputs: &[&str], output: &str) -> Node {
    Node {
        name: output.to_owned(),
        op: op.to_owned(),
        domain: String::new(),
        inputs: inputs.iter().map(ToString::to_string).collect(),
        outputs: vec![output.to_owned()],
        attrs: Attrs::new(),
    }
}

/// The fixture for exactly `batch` samples, with `tail` in the place of its Flatten node (`from` and `to` are its input
/// and output).
pub fn frozen(path: &Path, batch: usize, tail: impl Fn(&mut Graph, &str, &str) -> Vec<Node>) {
    let mut graph = onnx::read(&model("fashion-mnist")).expect("a model").graph;
    for port in graph.inputs.iter_mut().chain(&mut graph.outputs) {
        if let Some(dims) = &mut port.dims {
            dims[0] = Some(batch);
        }
    }
    let at = graph.nodes.iter().position(|n| matches!(n.op.as_str(), "Flatten" | "Reshape")).expect("a flat head");
    let old = graph.nodes.remove(at);
    let new = tail(&mut graph, &old.inputs[0], &old.outputs[0]);
    for (i, node) in new.into_iter().enumerate() {
        graph.nodes.insert(at + i, node);
    }
    fs::write(path, onnx::export(&graph)).expect("written");
}

/// A Reshape to exactly `batch` rows.
pub fn reshape(graph: &mut Graph, batch: i64, from: &str, to: &str) -> Node {
    graph.constants.insert("target".into(), Arc::new(Tensor::ints(&[batch, -1])));
    node("Reshape", &[from, "target"], to)
}

/// Trained tensors of a finished run.
fn weights(forget: &Forget, source: &Path) -> BTreeMap<String, Vec<f32>> {
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    run(["verify".as_ref(), forget.result().as_os_str(), "--source".as_ref(), source.as_os_str()]).exits(0);
    let report = forget.report();
    let names = report["trained"].as_array().expect("a list").iter().filter_map(|t| t["name"].as_str());
    let constants = onnx::read(&forget.result()).expect("a model").graph.constants;
    names.map(|name| (name.to_owned(), constants[name].to_f32s())).collect()
}

/// Largest difference of the trained tensors, relative to the largest change that training made.
fn difference(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>) -> f32 {
    let source = onnx::read(&model("fashion-mnist")).expect("a model").graph.constants;
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let (mut moved, mut apart) = (0.0f32, 0.0f32);
    for (name, values) in a {
        for ((x, y), w) in values.iter().zip(&b[name]).zip(source[name].to_f32s()) {
            moved = moved.max((x - w).abs());
            apart = apart.max((x - y).abs());
        }
    }
    apart / moved
}

fn sgd(path: &Path) -> Forget {
    // Plain descent: Adam would turn the rounding of a near-zero gradient into a full step.
    Forget::new(path)
        .flag("--keep-failed")
        .set("--optimizer", "sgd")
        .set("--impair-lr", "0.01")
        .set("--repair-lr", "0.01")
}

#[test]
fn a_batch_frozen_into_reshapes_is_freed() {
    let folder = temporary();
    let open = sgd(&model("fashion-mnist"));
    let expected = weights(&open, &model("fashion-mnist"));
    for batch in [1usize, 4] {
        let path = folder.path().join(format!("frozen-{batch}.onnx"));
        frozen(&path, batch, |graph, from, to| vec![reshape(graph, batch as i64, from, to)]);
        let forget = sgd(&path);
        let found = weights(&forget, &path);
        assert!(expected == found, "the same steps on the same samples, batch {batch}");
        let steps = |f: &Forget| f.report()["phases"].clone();
        assert_eq!(steps(&open), steps(&forget), "as many steps of as many samples");
    }
}

#[test]
fn a_batch_that_cannot_be_freed_is_fed_in_parts_with_summed_gradients() {
    let folder = temporary();
    let path = folder.path().join("squeezed.onnx");
    // The axis of the batch is taken away and put back: more than one sample cannot pass.
    frozen(&path, 1, |graph, from, to| {
        graph.constants.insert("axis".into(), Arc::new(Tensor::ints(&[0])));
        vec![node("Squeeze", &[from, "axis"], "squeezed"), reshape(graph, 1, "squeezed", to)]
    });
    // Without noise, whose first Adam steps turn the rounding of small gradients into differences of their own.
    let control = |path: &Path| sgd(path).set("--noise-samples", "0");
    let expected = weights(&control(&model("fashion-mnist")), &model("fashion-mnist"));
    let apart = difference(&expected, &weights(&control(&path), &path));
    assert!(apart < 1e-3, "float32 sums in another order, nothing more: {apart}");

    let (whole, parts) = (sgd(&model("fashion-mnist")), sgd(&path));
    weights(&whole, &model("fashion-mnist"));
    weights(&parts, &path);
    let objective = |forget: &Forget| -> Vec<f64> {
        let list = forget.report()["noise_objective"][0].clone();
        list.as_array().expect("a list").iter().filter_map(serde_json::Value::as_f64).collect()
    };
    for (a, b) in objective(&whole).iter().zip(objective(&parts)) {
        assert!((a - b).abs() < 1e-3 * a.abs(), "noise learned image by image: {a} and {b}");
    }
    assert_eq!(parts.report()["phases"][1]["samples"], 180 + 32);
}
