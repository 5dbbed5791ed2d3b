//! BatchNormalization that computes with the statistics of the batch: by choice, or because the file says so.

use crate::common::{
    model,
    program::{Forget, run},
    temporary,
};
use onnx_unlearn::{
    graph::{Attr, Graph},
    onnx,
    tensor::Tensor,
};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

/// The fixture as a trainer exports it by mistake: in training mode, as opset 14 says it or as older ones did.
fn in_training_mode(path: &Path, opset: i64) {
    let mut graph: Graph = onnx::read(&model("fashion-mnist-bn")).expect("a model").graph;
    graph.opset = opset;
    let outputs: &[&str] = if opset < 14 { &["mean", "var", "saved_mean", "saved_var"] } else { &["mean", "var"] };
    for node in graph.nodes.iter_mut().filter(|n| n.op == "BatchNormalization") {
        node.attrs.remove("training_mode");
        if opset >= 14 {
            node.attrs.insert("training_mode".into(), Attr::Int(1));
        }
        let y = node.outputs[0].clone();
        node.outputs.extend(outputs.iter().map(|part| format!("{y}/{part}")));
    }
    fs::write(path, onnx::export(&graph)).expect("written");
}

fn forget(source: &Path, batch_norm: &str) -> Forget {
    // Labels, because what the source model answers depends on the statistics it is asked with.
    let forget = Forget::new(source).set("--targets", "labels").set("--batch-norm", batch_norm);
    forget.set("--noise-samples", "0").flag("--keep-failed").flag("--allow-unchecked")
}

/// Runs it, verifies the result and gives its tensors, those of statistics apart.
fn tensors(forget: &Forget, source: &Path) -> [BTreeMap<String, Arc<Tensor>>; 2] {
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}{}", ran.stdout, ran.stderr);
    let result = forget.result();
    run(["verify".as_ref(), result.as_os_str(), "--source".as_ref(), source.as_os_str()]).exits(0);
    let constants = onnx::read(&result).expect("a model").graph.constants;
    let (statistics, weights) = constants.into_iter().partition(|(name, _)| name.contains("running_"));
    [weights, statistics]
}

#[test]
fn a_file_in_training_mode_is_trained_as_what_it_computes() {
    let folder = temporary();
    let (new, old) = (folder.path().join("opset17.onnx"), folder.path().join("opset11.onnx"));
    in_training_mode(&new, 17);
    in_training_mode(&old, 11);
    let plain = model("fashion-mnist-bn");

    // Without noise, batch statistics by choice and by the file are the same training.
    let [weights, moved] = tensors(&forget(&plain, "batch"), &plain);
    let kept = onnx::read(&plain).expect("a model").graph.constants;
    for path in [&new, &old] {
        let [same, still] = tensors(&forget(path, "frozen"), path);
        assert_eq!(same, weights, "{}", path.display());
        assert!(still.iter().all(|(name, t)| kept[name] == *t), "frozen statistics stay as they are");
        let [same, also_moved] = tensors(&forget(path, "batch"), path);
        assert_eq!(same, weights, "{}", path.display());
        assert_eq!(also_moved, moved, "statistics move when that is asked for");
        assert!(moved.iter().all(|(name, t)| kept[name] != *t));
    }
}

#[test]
fn scores_that_depend_on_the_batch_are_pointed_out_and_measured_as_defined() {
    let folder = temporary();
    let path = folder.path().join("live.onnx");
    in_training_mode(&path, 17);
    let live = forget(&path, "frozen");
    live.run().says(&["warning: the file has BatchNormalization in training mode"]);
    let before = |forget: &Forget| {
        let classes = forget.report()["measured"]["before"]["classes"].as_array().expect("a list").clone();
        classes.iter().filter_map(|c| c["correct"].as_u64()).sum::<u64>()
    };
    let plain = forget(&model("fashion-mnist-bn"), "frozen");
    plain.run();
    // Statistics of a mixed batch come close to those of the training set; what the runtime's optimisations would make of
    // the file is near chance.
    let (live, plain) = (before(&live), before(&plain));
    assert!(live * 10 >= plain * 9, "{live} right in training mode, {plain} in inference mode");

    let shown = run(["inspect".as_ref(), path.as_os_str()]).exits(0);
    assert!(shown.stdout.contains("batch norm  is in training mode"), "{}", shown.stdout);
    run(["gradcheck".as_ref(), path.as_os_str(), "--quiet".as_ref()]).exits(0);

    // It is what it is where it cannot be trained, too.
    let mut graph = onnx::read(&path).expect("a model").graph;
    graph.nodes.iter_mut().filter(|n| n.op == "Relu").for_each(|n| n.op = "DeformConv".into());
    fs::write(&path, onnx::export(&graph)).expect("written");
    let shown = run(["inspect".as_ref(), path.as_os_str(), "--json".as_ref()]).exits(1).json();
    assert_eq!(shown["batch_norm"], serde_json::json!({"nodes": 6, "training_mode": true}));
}

#[test]
fn one_sample_has_no_statistics() {
    let folder = temporary();
    let path = folder.path().join("one.onnx");
    let mut graph = onnx::read(&model("fashion-mnist-bn")).expect("a model").graph;
    graph.inputs[0].dims.as_mut().expect("a shape")[0] = Some(1);
    fs::write(&path, onnx::export(&graph)).expect("written");
    // What is said has to help where batch statistics are the default as well.
    let forget =
        || Forget::new(&path).set("--variant", "reference").set("--batch-size", "1").set("--noise-images", "1");
    forget().run().fails(&["the file fixes the batch at one sample", "pass --batch-norm frozen"]);
    let ran = forget().set("--batch-norm", "frozen").flag("--keep-failed").run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
}
