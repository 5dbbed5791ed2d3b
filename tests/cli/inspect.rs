//! `inspect`: what a model is and what of it would be trained, without a runtime.

use crate::common::{
    model, models,
    program::{Ran, program, run},
    temporary,
};
use onnx_unlearn::{
    graph::{Builder, Value},
    tensor::Tensor,
};
use std::sync::Arc;

fn inspect(name: &str, more: &[&str]) -> Ran {
    run(["inspect", model(name).to_str().expect("UTF-8")].iter().chain(more))
}

#[test]
fn a_trainable_model() {
    let ran = inspect("fashion-mnist-bn", &[]).exits(0);
    assert_eq!(ran.stderr, "");
    for line in [
        "model       fixtures/models/fashion-mnist-bn.onnx\n",
        "opset       17 (IR ",
        "inputs      input float32[?, 1, 28, 28]\n",
        "outputs     logits float32[?, 10]\n",
        "BatchNormalization 6, Conv 6, ",
        "stamped     no\n",
        "noise       is learned for input input\n",
        "loss        is computed on logits\n",
        "classes     10\n",
        "tract       can run the file\n",
        "trainable   yes\n",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    assert_eq!(ran.stdout.lines().filter(|l| l.starts_with("frozen ")).count(), 12, "{}", ran.stdout);
}

#[test]
fn json_says_the_same() {
    let json = inspect("fashion-mnist-softmax", &["--json"]).exits(0).json();
    assert_eq!((json["trainable"].as_bool(), json["behind"].as_str()), (Some(true), Some("Softmax")));
    assert_eq!(json["operators"]["Conv"], 6);
    let trained = json["trained"].as_array().expect("a list");
    assert!(trained.iter().all(|t| t["reason"].is_null() && t["shape"].is_array()), "{trained:?}");
    let external = inspect("fashion-mnist-external", &["--json"]).exits(0).json();
    assert_eq!(external["external_files"], serde_json::json!(["fashion-mnist-external.data"]));
    let parameters = |name| inspect(name, &["--json"]).json()["parameters"].as_u64();
    assert_eq!(parameters("fashion-mnist-constants"), parameters("fashion-mnist"));
    // Functions are shown as the operators they are made of.
    let operators = |name| inspect(name, &["--json"]).json()["operators"].clone();
    assert_eq!(operators("fashion-mnist-functions"), operators("fashion-mnist"));
}

#[test]
fn no_runtime_is_needed() {
    let mut program = program();
    program.env("ORT_DYLIB_PATH", "/no/such/library.so").arg("inspect").arg(model("fashion-mnist"));
    assert!(program.output().expect("the program starts").status.success());
}

#[test]
fn every_operator_without_a_rule_is_listed() {
    let folder = temporary();
    let path = folder.path().join("bent.onnx");
    let build = |b: &mut onnx_unlearn::graph::Builder, x| {
        let bent = b.op("DeformConv", &[&x], &[], &[1, 1, 28, 28]);
        let scores = models::dense(b, &bent, 10);
        vec![b.op("RoiAlign", &[&scores], &[], &[1, 10])]
    };
    models::write(&path, build, |_| {});
    let ran = run(["inspect".as_ref(), path.as_os_str()]).exits(1);
    assert!(ran.stdout.contains("trainable   no: "), "{}", ran.stdout);
    assert!(ran.stdout.contains("operators   DeformConv 1, Flatten 1, MatMul 1, RoiAlign 1\n"), "{}", ran.stdout);
    for node in ["DeformConv", "RoiAlign"] {
        let line = ran.stdout.lines().find(|l| l.trim_start().starts_with("in node ") && l.contains(node));
        assert!(line.is_some_and(|l| l.contains("no gradient rule")), "{node} in\n{}", ran.stdout);
    }
    let json = run(["inspect".as_ref(), path.as_os_str(), "--json".as_ref()]).exits(1).json();
    let obstacles = json["obstacles"].as_array().expect("a list");
    assert_eq!(obstacles.len(), 2, "{json}");
    assert!(obstacles.iter().all(|o| o["reason"].as_str().is_some_and(|r| r.contains("no gradient rule"))), "{json}");
    assert!(json["problem"].as_str().is_some_and(|p| p.contains("DeformConv") && p.contains("RoiAlign")), "{json}");
}

#[test]
fn rounding_operators_and_what_lies_before_them_are_shown() {
    let folder = temporary();
    let path = folder.path().join("binary.onnx");
    models::write(&path, |b, x| models::binary_weights(b, &x), |_| {});
    let ran = run(["inspect".as_ref(), path.as_os_str()]).exits(0);
    for line in [
        "frozen      w [784, 10]: lies before rounding operators, whose derivative is zero\n",
        "trained     b [10]\n",
        "dead end    \"Sign\" (Sign): its derivative is zero, so weights before it do not learn\n",
        "trainable   yes\n",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    let json = run(["inspect".as_ref(), path.as_os_str(), "--json".as_ref()]).exits(0).json();
    assert_eq!(json["dead_ends"], serde_json::json!(["\"Sign\" (Sign)"]));
    let plain = inspect("fashion-mnist", &["--json"]).exits(0).json();
    assert_eq!(plain["dead_ends"], serde_json::json!([]));
}

#[test]
fn tract_runs_what_cannot_be_trained_too() {
    let folder = temporary();
    let path = folder.path().join("rounded.onnx");
    let build = |b: &mut Builder, x: Value| {
        let whole = b.op("Floor", &[&x], &[], x.shape());
        vec![models::dense(b, &whole, 10)]
    };
    models::write(&path, build, |_| {});
    let json = run(["inspect".as_ref(), path.as_os_str(), "--json".as_ref()]).exits(1).json();
    assert_eq!((&json["trainable"], &json["tract"]), (&false.into(), &"can run the file".into()), "{json:#}");
}

/// Zeros to start from are how exporters say "nothing yet"; a first state that was learned is a weight.
#[test]
fn initial_states_of_zeros_are_frozen() {
    let folder = temporary();
    let path = folder.path().join("rows.onnx");
    let build = |b: &mut Builder, x: Value| {
        let target = b.constant(Tensor::ints(&[28, 1, 28]));
        let rows = b.op("Reshape", &[&x, &target], &[], &[28, 1, 28]);
        let mut full = |name: &str, shape: &[usize], value: f32| {
            let values = vec![value; shape.iter().product()];
            b.named_constant(name, Arc::new(Tensor::f32(shape, values)))
        };
        let (input, recurrent) = (full("input-weight", &[1, 12, 28], 0.1), full("recurrent-weight", &[1, 12, 3], 0.1));
        let (zeros, learned, zero) =
            (full("zeros", &[1, 1, 3], 0.0), full("learned", &[1, 1, 3], 0.2), full("zero", &[], 0.0));
        let state = b.constant(Tensor::ints(&[1, 1, 3]));
        let filled = b.op("Expand", &[&zero, &state], &[], &[1, 1, 3]);
        let mut layer = |h: &Value, c: &Value| {
            let inputs = [rows.name(), input.name(), recurrent.name(), "", "", h.name(), c.name()];
            let shapes = [vec![28, 1, 1, 3], vec![1, 1, 3]];
            b.raw("", "LSTM", &inputs, &[("hidden_size", 3i64.into())], &shapes).remove(1)
        };
        let (one, other) = (layer(&zeros, &filled), layer(&learned, &zeros));
        let both = b.op("Add", &[&one, &other], &[], &[1, 1, 3]);
        let flat = b.op("Squeeze", &[&both], &[], &[1, 3]);
        vec![models::product(b, &flat, 10)]
    };
    models::write(&path, build, |_| {});
    let ran = run(["inspect".as_ref(), path.as_os_str()]).exits(0);
    for line in [
        "trained     input-weight [1, 12, 28]\n",
        "trained     learned [1, 1, 3]\n",
        "trained     recurrent-weight [1, 12, 3]\n",
        "trained     w [3, 10]\n",
    ] {
        assert!(ran.stdout.contains(line), "{line:?} is missing in\n{}", ran.stdout);
    }
    let frozen: Vec<&str> = ran.stdout.lines().filter(|l| l.starts_with("frozen ")).collect();
    assert_eq!(frozen.len(), 2, "{}", ran.stdout);
    assert!(frozen[0].contains("zero []") && frozen[0].contains("a single number, repeated"), "{frozen:?}");
    assert!(frozen[1].contains("zeros [1, 1, 3]") && frozen[1].contains("an initial state of zeros"), "{frozen:?}");
}

#[test]
fn an_unreadable_model_is_an_error() {
    run(["inspect", "no/such/model.onnx"]).fails(&["cannot read no/such/model.onnx"]);
    run(["inspect", "fixtures/README.md"]).fails(&["fixtures/README.md is not an ONNX file"]);
}
