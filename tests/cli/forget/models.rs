//! Every form a model file can have: each is trained, and each keeps every byte that is not a weight.

use crate::common::{
    bytes::only_weights_differ,
    model, models,
    program::{Forget, run},
    proto::*,
    temporary,
};
use onnx_unlearn::{
    graph::{Builder, Value},
    onnx::{
        schema::*,
        wire::{Storage, layout},
    },
    provenance::stamp,
    tensor::Tensor,
};
use prost::Message;
use std::{collections::BTreeSet, fs, sync::Arc};

/// Forgets with `name`, verifies the result against its source and compares them byte by byte.
fn trained_in_place(name: &str, flags: &[&str]) -> serde_json::Value {
    let source = model(name);
    let forget = flags.iter().fold(Forget::new(&source).flag("--keep-failed"), |f, flag| f.flag(flag));
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{name}: {}", ran.stderr);
    let report = forget.report();
    if flags.contains(&"--allow-unchecked") {
        assert_eq!(report["check"]["outcome"], "not_checked", "{name}: then the flag is not needed");
    } else {
        assert_eq!(report["check"]["within"], true, "{name}: {}", report["check"]);
    }
    let result = forget.result();
    run(["verify".as_ref(), result.as_os_str(), "--source".as_ref(), source.as_os_str()]).exits(0);
    let trained: BTreeSet<String> = report["trained"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|t| t["name"].as_str().expect("a name").to_owned())
        .collect();
    only_weights_differ(&source, &result, &trained);
    report
}

#[test]
fn folded_and_with_batch_norm() {
    trained_in_place("fashion-mnist", &[]);
    let report = trained_in_place("fashion-mnist-bn", &[]);
    assert!(report["frozen"].as_array().is_some_and(|f| f.len() == 12), "mean and variance of six layers");
}

#[test]
fn weights_in_a_data_file() {
    trained_in_place("fashion-mnist-external", &[]);
}

#[test]
fn weights_in_constant_nodes() {
    trained_in_place("fashion-mnist-constants", &[]);
}

#[test]
fn weights_that_are_inputs_too_in_an_old_file_format() {
    trained_in_place("fashion-mnist-inputs", &[]);
}

#[test]
fn weights_in_typed_fields() {
    trained_in_place("fashion-mnist-float-data", &[]);
}

#[test]
fn an_older_opset() {
    trained_in_place("fashion-mnist-opset11", &[]);
}

#[test]
fn functions_of_the_model() {
    // tract knows no functions, so the finished file cannot be run in it.
    let report = trained_in_place("fashion-mnist-functions", &["--allow-unchecked"]);
    let reason = report["check"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("tract cannot load the model") && reason.contains("ConvRelu"), "{reason}");
    assert_eq!(report["trained"].as_array().map(Vec::len), Some(14));
    // Written out they are the nodes of the plain file, and every weight comes out the same to the last bit.
    assert_eq!(report["result"]["weights"], trained_in_place("fashion-mnist", &[])["result"]["weights"]);
}

/// A dense layer whose Reshape takes the batch from a Loop that counts the images one by one.
fn counted() -> ModelProto {
    let count = body("so_far", data_type::INT64, vec![node("Add", &["so_far", "one"], &["more"])], "more");
    let nodes = vec![
        node("Shape", &["input"], &["shape"]),
        node("Gather", &["shape", "zero"], &["n"]),
        node("Loop", &["n", "", "zeros"], &["rows"]).with(graph("body", count)),
        node("Concat", &["rows", "rest"], &["sides"]).with(int("axis", 0)),
        node("Reshape", &["input", "sides"], &["flat"]),
        node("MatMul", &["flat", "w"], &["scores"]),
    ];
    let w: Vec<f32> = (0..7840).map(|i| ((i % 13) as f32 - 6.0) / 100.0).collect();
    let list = |name: &str, value| integers(name, &[1], &[value]);
    let numbers = vec![list("zeros", 0), list("one", 1), list("rest", 784), integers("zero", &[], &[0])];
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![import("", OPSET)],
        graph: Some(GraphProto {
            node: nodes,
            initializer: [numbers, vec![floats("w", &[784, 10], &w)]].concat(),
            input: vec![shaped("input", data_type::FLOAT, Some(&[-1, 1, 28, 28]))],
            output: vec![value("scores", data_type::FLOAT)],
            ..inner(Vec::new(), &[])
        }),
        ..ModelProto::default()
    }
}

#[test]
fn control_flow_beside_the_path_of_the_gradient() {
    let folder = temporary();
    let path = folder.path().join("loop.onnx");
    fs::write(&path, counted().encode_to_vec()).expect("written");
    let forget = Forget::new(&path).flag("--keep-failed").flag("--allow-unchecked");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let report = forget.report();
    let trained: BTreeSet<String> = ["w".to_owned()].into();
    assert_eq!(report["trained"][0]["name"], "w");
    only_weights_differ(&path, &forget.result(), &trained);
    run(["verify".as_ref(), forget.result().as_os_str(), "--source".as_ref(), path.as_os_str()]).exits(0);
}

#[test]
fn a_final_softmax_is_stepped_over_and_said() {
    let report = trained_in_place("fashion-mnist-softmax", &[]);
    assert_eq!(report["head"]["behind"], "Softmax");
    assert_eq!(report["head"]["output"], "probabilities");
    Forget::new(model("fashion-mnist-softmax")).run().says(&["before the final Softmax"]);
}

#[test]
fn the_form_of_the_file_does_not_change_the_training() {
    let trained = |name: &str| {
        let forget = Forget::new(model(name)).flag("--keep-failed").flag("--quiet");
        assert!(matches!(forget.run().code, Some(0 | 1)));
        let report = forget.report();
        (report["phases"].clone(), report["measured"].clone())
    };
    let plain = trained("fashion-mnist");
    for name in ["fashion-mnist-external", "fashion-mnist-constants", "fashion-mnist-float-data"] {
        assert_eq!(trained(name), plain, "{name}");
    }
}

#[test]
fn weights_before_rounding_stay_and_a_warning_says_so() {
    let folder = temporary();
    let path = folder.path().join("binary.onnx");
    models::write(&path, |b, x| models::binary_weights(b, &x), |_| {});
    let forget = Forget::new(&path).flag("--keep-failed");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    ran.says(&["warning: the derivative of \"Sign\" (Sign) is zero wherever it exists", "1 float tensor(s) before it"]);
    let report = forget.report();
    assert_eq!(report["trained"].as_array().map(Vec::len), Some(1), "{}", report["trained"]);
    assert_eq!((&report["trained"][0]["name"], &report["frozen"][0]["name"]), (&"b".into(), &"w".into()));
    assert!(report["warnings"][0].as_str().is_some_and(|w| w.contains("(Sign)")), "{}", report["warnings"]);
}

#[test]
fn a_fused_model_is_trained_as_what_it_stands_for() {
    let folder = temporary();
    let trained = |fused: bool| {
        let path = folder.path().join("model.onnx");
        let build = |b: &mut Builder, x: Value| {
            let w: Vec<f32> = (0..36).map(|i| ((i % 7) as f32 - 3.0) / 9.0).collect();
            let w = b.named_constant("kernel", Arc::new(Tensor::f32([4, 1, 3, 3], w)));
            let offset = b.named_constant("offset", Arc::new(Tensor::f32([4], vec![0.1; 4])));
            let shape = vec![1, 4, 26, 26];
            let y = if fused {
                let attrs = [("activation", "Relu".into())];
                let inputs = [x.name(), w.name(), offset.name()];
                b.raw("com.microsoft", "FusedConv", &inputs, &attrs, &[shape]).remove(0)
            } else {
                let y = b.op("Conv", &[&x, &w, &offset], &[], &shape);
                b.op("Relu", &[&y], &[], &shape)
            };
            let flat = b.op("Flatten", &[&y], &[], &[1, 4 * 26 * 26]);
            vec![models::product(b, &flat, 10)]
        };
        models::write(&path, build, |_| {});
        // tract does not know the fused operator.
        let forget = Forget::new(&path).flag("--keep-failed").flag("--allow-unchecked");
        let ran = forget.run();
        assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
        let report = forget.report();
        (report["phases"].clone(), report["measured"].clone(), report["trained"].clone())
    };
    assert_eq!(trained(true), trained(false));
}

#[test]
fn batch_statistics_are_written_back_and_declared() {
    let source = model("fashion-mnist-bn");
    let forget = Forget::new(&source).flag("--keep-failed").set("--batch-norm", "batch");
    assert!(matches!(forget.run().code, Some(0 | 1)));
    let report = forget.report();
    let trained: BTreeSet<String> = report["trained"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|t| t["name"].as_str().expect("a name").to_owned())
        .collect();
    let statistics = trained.iter().filter(|n| n.contains("running_")).count();
    assert_eq!(statistics, 12, "mean and variance of six layers moved: {trained:?}");
    only_weights_differ(&source, &forget.result(), &trained);
    run(["verify".as_ref(), forget.result().as_os_str(), "--source".as_ref(), source.as_os_str()]).exits(0);
}

#[test]
fn a_result_can_be_unlearned_again() {
    let first = Forget::new(model("fashion-mnist")).flag("--keep-failed");
    assert!(matches!(first.run().code, Some(0 | 1)));
    let second = Forget::new(first.result()).set("--forget", "7").flag("--keep-failed");
    let ran = second.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let ran = ran.says(&["warning: the model was unlearned before (classes 5)"]);
    assert!(ran.stdout.contains("(forgotten before)"), "{}", ran.stdout);
    let report = second.report();
    super::page::valid(&report);
    assert_eq!(report["parameters"]["recipe"]["forgotten_before"], serde_json::json!([5]));
    let stamp = stamp::read(&fs::read(second.result()).expect("readable")).expect("a good stamp").expect("a stamp");
    assert_eq!((stamp.forget, stamp.forgotten_before), (vec!["7".to_owned()], vec!["5".to_owned()]));
    // The retain sample holds images of both classes, and neither is learned from.
    let dropped = report["data"]["retain"]["dropped"].as_array().expect("a list");
    assert_eq!(dropped.iter().map(|d| d[0].as_u64()).collect::<Vec<_>>(), [Some(5), Some(7)], "{dropped:?}");
    run(["verify".as_ref(), second.result().as_os_str(), "--source".as_ref(), first.result().as_os_str()]).exits(0);
    let metadata = layout(&fs::read(second.result()).expect("readable")).expect("a model").metadata;
    assert_eq!(metadata.iter().filter(|m| m.key.starts_with("dev.onnx-unlearn.")).count(), 2, "one stamp, not two");
}

/// Whoever changed the weights after the first run did not change the stamp, and what it says is no longer known to hold.
#[test]
fn the_stamp_of_another_model_is_pointed_out_and_not_believed() {
    let first = Forget::new(model("fashion-mnist")).flag("--keep-failed");
    first.run_for_report();
    let mut bytes = fs::read(first.result()).expect("readable");
    let tensors = layout(&bytes).expect("a model").tensors;
    let weight = tensors.iter().find(|t| t.data_type == 1 && t.dims.len() == 4).expect("a kernel");
    let Storage::Inline(ranges) = &weight.storage else { panic!("{weight:?}") };
    bytes[ranges[0].start] ^= 1;
    let folder = temporary();
    let stale = folder.path().join("stale.onnx");
    fs::write(&stale, bytes).expect("written");
    let second = Forget::new(&stale).set("--forget", "7").flag("--keep-failed");
    second.run().says(&["warning: the model's stamp is of another model", "(5)", "--forget"]);
    assert_eq!(second.report()["parameters"]["recipe"].get("forgotten_before"), None);
}
