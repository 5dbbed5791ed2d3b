//! Every kind of head: softmax inside or outside, independent sigmoids, one logit for two classes, a prediction a step.

use crate::common::{
    data, model,
    program::{Forget, run},
    temporary,
};
use onnx_unlearn::{
    graph::{Attrs, Builder, Graph, Node, Port},
    onnx,
    tensor::{DType, Tensor},
};
use std::{fs, path::Path, sync::Arc};

/// The fixture's network with more nodes behind its logits; the last one's output is the model's.
pub fn behind_the_logits(path: &Path, nodes: &[(&str, Attrs, &[&str])], constants: &[(&str, Tensor)]) {
    fs::write(path, onnx::export(&extended(nodes, constants))).expect("written");
}

/// The same as a graph.
pub fn extended(nodes: &[(&str, Attrs, &[&str])], constants: &[(&str, Tensor)]) -> Graph {
    let mut graph: Graph = onnx::read(&model("fashion-mnist")).expect("a model").graph;
    let mut last = graph.outputs[0].name.clone();
    for (name, tensor) in constants {
        graph.constants.insert((*name).to_owned(), Arc::new(tensor.clone()));
    }
    for (i, (op, attrs, inputs)) in nodes.iter().enumerate() {
        let output = format!("tail{i}");
        graph.nodes.push(Node {
            name: output.clone(),
            op: (*op).to_owned(),
            domain: String::new(),
            inputs: std::iter::once(last).chain(inputs.iter().map(ToString::to_string)).collect(),
            outputs: vec![output.clone()],
            attrs: attrs.clone(),
        });
        last = output;
    }
    graph.outputs = vec![Port { dtype: Some(DType::F32), ..Port::open(last) }];
    graph
}

/// The verdict is pass, and the result is what its stamp says.
pub fn passes(forget: &Forget, source: &Path) -> serde_json::Value {
    let ran = forget.run();
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    let result = forget.result();
    run(["verify".as_ref(), result.as_os_str(), "--source".as_ref(), source.as_os_str()]).exits(0);
    forget.report()
}

#[test]
fn independent_scores_behind_sigmoids() {
    let folder = temporary();
    let path = folder.path().join("sigmoid.onnx");
    behind_the_logits(&path, &[("Sigmoid", Attrs::new(), &[])], &[]);
    let report = passes(&Forget::passing(&path), &path);
    assert_eq!(report["head"]["behind"], "Sigmoid");
    // Summed over ten classes, an untrained sigmoid costs 10 log 2 = 6.9 nats; the source is far better than that.
    let first = report["phases"][2]["first_loss"].as_f64().expect("a number");
    assert!(first > 0.0 && first < 6.9, "{first}");
}

/// Quantizers of probabilities would cut off logits, so they go with the Softmax.
#[test]
fn a_softmax_before_quantizers_is_stepped_over_with_them() {
    let folder = temporary();
    let (plain, quantized) = (folder.path().join("softmax.onnx"), folder.path().join("quantized.onnx"));
    let softmax = ("Softmax", Attrs::new(), [].as_slice());
    let pair: [(&str, Attrs, &[&str]); 2] =
        ["QuantizeLinear", "DequantizeLinear"].map(|op| (op, Attrs::new(), ["scale", "zero"].as_slice()));
    let numbers =
        [("scale", Tensor::scalar(1.0 / 255.0)), ("zero", Tensor::from_f32s(DType::U8, Vec::new(), vec![0.0]))];
    behind_the_logits(&plain, std::slice::from_ref(&softmax), &[]);
    let [quantize, dequantize] = pair;
    behind_the_logits(&quantized, &[softmax, quantize, dequantize], &numbers);
    let trained = |path: &Path| {
        let report = passes(&Forget::passing(path).flag("--allow-unchecked"), path);
        assert_eq!(report["head"]["behind"], "Softmax");
        (report["phases"].clone(), report["trained"].clone())
    };
    assert_eq!(trained(&quantized), trained(&plain));
}

/// The second output of a training graph's loss is a LogSoftmax of its first input, also where its shape is changed.
#[test]
fn the_log_probabilities_beside_a_loss() {
    let folder = temporary();
    let plain = folder.path().join("log_softmax.onnx");
    behind_the_logits(&plain, &[("LogSoftmax", Attrs::new(), &[])], &[]);
    let trained = |path: &Path, logits: &str| {
        let report = passes(&Forget::passing(path).flag("--allow-unchecked"), path);
        assert_eq!(
            (report["head"]["behind"].as_str(), report["head"]["logits"].as_str()),
            (Some("LogSoftmax"), Some(logits))
        );
        (report["phases"].clone(), report["trained"].clone(), report["measured"].clone())
    };
    let expected = trained(&plain, "logits");
    let labels: (&str, Attrs, &[&str]) =
        ("ArgMax", [("axis".to_owned(), 1i64.into()), ("keepdims".to_owned(), 0i64.into())].into(), &[]);
    for (file, output, loss_on) in [("loss.onnx", "scores", "logits"), ("flattened.onnx", "flat", "flat")] {
        let path = folder.path().join(file);
        let mut graph = extended(std::slice::from_ref(&labels), &[]);
        let node = |op: &str, inputs: &[&str], outputs: &[&str]| Node {
            name: op.into(),
            op: op.into(),
            domain: String::new(),
            inputs: inputs.iter().map(ToString::to_string).collect(),
            outputs: outputs.iter().map(ToString::to_string).collect(),
            attrs: Attrs::new(),
        };
        graph.nodes.push(node("SoftmaxCrossEntropyLoss", &["logits", "tail0"], &["loss", "scores"]));
        graph.nodes.push(node("Flatten", &["scores"], &["flat"]));
        graph.outputs = vec![Port { dtype: Some(DType::F32), ..Port::open(output) }];
        fs::write(&path, onnx::export(&graph)).expect("written");
        assert_eq!(trained(&path, loss_on), expected);
    }
}

/// Sandals (5) against sneakers (7): the difference of their logits decides.
pub fn two_classes(path: &Path, sigmoid: bool) {
    let mut weights = vec![0.0f32; 10];
    (weights[5], weights[7]) = (-1.0, 1.0);
    let mut nodes: Vec<(&str, Attrs, &[&str])> = vec![("MatMul", Attrs::new(), &["difference"])];
    if sigmoid {
        nodes.push(("Sigmoid", Attrs::new(), &[]));
    }
    behind_the_logits(path, &nodes, &[("difference", Tensor::f32([10, 1], weights))]);
}

pub fn relabelled(images: &data::Images, path: &Path) {
    let mut pair = images.only(5);
    let other = images.only(7);
    pair.y = vec![0; pair.y.len()];
    pair.y.extend(vec![1; other.y.len()]);
    pair.x.extend(other.x);
    pair.write_npz(path);
}

#[test]
fn one_logit_for_two_classes() {
    let folder = temporary();
    let (retain, eval) = (folder.path().join("retain.npz"), folder.path().join("eval.npz"));
    relabelled(data::retain(), &retain);
    relabelled(data::eval(), &eval);
    for sigmoid in [false, true] {
        let path = folder.path().join(format!("two-{sigmoid}.onnx"));
        two_classes(&path, sigmoid);
        let forget = Forget::passing(&path).set("--retain", &retain).set("--eval", &eval).set("--forget", "0");
        let report = passes(&forget.set("--impair-epochs", "6").set("--max-forget-accuracy", "0.3"), &path);
        assert_eq!(report["classes"], serde_json::json!(["0", "1"]));
        let before = &report["measured"]["before"]["classes"];
        assert!(before[0]["correct"].as_u64() >= Some(7) && before[1]["correct"].as_u64() >= Some(7), "{before}");
    }
}

/// A classifier of every step of a series: step t shows class c as a one in place c of four.
pub fn per_step(path: &Path) {
    let mut b = Builder::new(17);
    let x = b.input("series", DType::F32, &[1, 6, 4]);
    let mut weights = vec![0.0; 16];
    (0..4).for_each(|i| weights[i * 5] = 6.0);
    let w = b.named_constant("w", Arc::new(Tensor::f32([4, 4], weights)));
    let y = b.op("MatMul", &[&x, &w], &[], &[1, 6, 4]);
    b.output(&y);
    let mut graph = b.finish();
    graph.inputs[0].dims = Some(vec![None, Some(6), Some(4)]);
    graph.outputs[0].dtype = Some(DType::F32);
    fs::write(path, onnx::export(&graph)).expect("written");
}

pub fn series(path: &Path, label: impl Fn(usize, usize) -> usize, each: bool) {
    let n = 24;
    let labels: Vec<usize> = (0..n).flat_map(|i| (0..6).map(move |t| (i, t))).map(|(i, t)| label(i, t)).collect();
    let x = labels.iter().flat_map(|&c| (0..4).map(move |k| if k == c { 1.0f32 } else { 0.0 }));
    let x = data::npy(&[n as u64, 6, 4], x);
    let y = if each {
        data::npy(&[n as u64, 6], labels.iter().map(|&c| c as i64))
    } else {
        data::npy(&[n as u64], labels.chunks(6).map(|steps| steps[0] as i64))
    };
    data::write_arrays(path, &[("x", x), ("y", y)]);
}

/// The last four series change from step to step and hold class 2 somewhere; of the others every fourth is of class 2.
pub fn step_class(i: usize, t: usize) -> usize {
    if i < 20 { i % 4 } else { (i + t) % 4 }
}

#[test]
fn a_prediction_for_every_step() {
    let folder = temporary();
    let path = folder.path().join("steps.onnx");
    per_step(&path);
    let data = folder.path().join("series.npz");
    for each in [true, false] {
        // A label for each step, or one for all steps of a series.
        series(&data, |i, t| if each { step_class(i, t) } else { i % 4 }, each);
        let forget = Forget::new(&path).set("--retain", &data).set("--eval", &data).set("--forget", "2");
        let forget = forget.without("--mean").without("--std").flag("--keep-failed");
        let ran = forget.run();
        assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
        let report = forget.report();
        let total: u64 = (0..4).filter_map(|c| report["measured"]["before"]["classes"][c]["total"].as_u64()).sum();
        assert_eq!(total, 24 * 6, "every step is measured");
        let dropped = report["data"]["retain"]["dropped"][0][1].as_u64();
        let expected = if each { (0..24).filter(|&i| (0..6).any(|t| step_class(i, t) == 2)).count() } else { 6 };
        assert_eq!(dropped, Some(expected as u64), "a series with one step of class 2 is not read");
    }
}

#[test]
fn labels_of_another_number_of_steps_are_refused() {
    let folder = temporary();
    let path = folder.path().join("steps.onnx");
    per_step(&path);
    let data = folder.path().join("series.npz");
    let x = data::npy(&[4, 6, 4], vec![0.0f32; 96]);
    data::write_arrays(&data, &[("x", x), ("y", data::npy(&[4, 5], vec![0i64; 20]))]);
    let forget = Forget::new(&path).set("--retain", &data).set("--forget", "2").without("--eval");
    forget.run().fails(&["array `y` has shape [4, 5]", "expected one class index per sample, [N]"]);
}
