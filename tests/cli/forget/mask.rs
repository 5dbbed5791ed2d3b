//! `--drop-output mask`: hides classes at the output, on top of what is measured, and is never counted.

use super::{heads, page};
use crate::common::{
    model, models,
    program::{Forget, run},
    temporary,
};
use onnx_unlearn::{graph::Attrs, onnx, provenance::stamp, tensor::Tensor};
use std::{fs, path::Path, sync::Arc};

fn constants(path: &Path) -> std::collections::BTreeMap<String, Arc<Tensor>> {
    onnx::read(path).expect("a model").graph.constants
}

#[test]
fn the_result_differs_in_entries_of_one_bias_and_the_measurements_do_not() {
    let plain = Forget::passing(model("fashion-mnist"));
    plain.run().exits(0);
    let masked = Forget::passing(model("fashion-mnist")).set("--drop-output", "mask");
    let ran = masked.run().exits(0);
    assert!(
        ran.stdout.contains("output       masked        hides, does not forget: \"head.bias\" is -9984"),
        "{}",
        ran.stdout
    );

    let (before, after) = (constants(&plain.result()), constants(&masked.result()));
    for (name, tensor) in &before {
        let mut expected = tensor.to_f32s();
        if name == "head.bias" {
            expected[5] = -9984.0;
        }
        assert!(after[name].to_f32s() == expected, "{name}");
    }
    let (plain_report, report) = (plain.report(), masked.report());
    for key in ["measured", "verdict", "routing", "phases", "trained"] {
        assert_eq!(report[key], plain_report[key], "{key} is of the weights before the masking");
    }
    assert_eq!(report["source"]["graph"], report["result"]["graph"]);
    assert_eq!(report["parameters"]["drop_output"], "mask");
    assert!(plain_report["masking"].is_null() && plain_report["parameters"]["drop_output"].is_null());
    assert_eq!(report["masking"]["classes"], serde_json::json!([5]));
    assert_eq!(report["masking"]["published"]["classes"][5]["correct"], 0);
    assert!(report["statement"].as_str().expect("text").contains("hides and does not forget"));
    page::valid(&report);
    let page = fs::read_to_string(masked.out().join("unlearn-report.html")).expect("there");
    assert!(page.contains("Output masked (hides, does not forget)"), "{page}");

    // The stamp holds the digest of the parameters, and the masked tensor is declared.
    let (result, source) = (masked.result(), model("fashion-mnist"));
    run(["verify".as_ref(), result.as_os_str(), "--source".as_ref(), source.as_os_str()]).exits(0);
    let params = |forget: &Forget| {
        let bytes = fs::read(forget.result()).expect("readable");
        stamp::read(&bytes).expect("a good stamp").expect("a stamp").params
    };
    assert_ne!(params(&plain), params(&masked));
}

#[test]
fn masking_makes_no_gate_pass() {
    let forget = Forget::new(model("fashion-mnist")).set("--impair-lr", "1e-9").set("--drop-output", "mask");
    let forget = forget.flag("--keep-failed").flag("--quiet");
    let ran = forget.run().exits(1);
    assert!(ran.stdout.contains("gate forget  fail"), "{}", ran.stdout);
    let report = forget.report();
    assert_eq!(report["measured"]["after_repair"]["classes"][5]["correct"], 9, "the weights still know the class");
    assert_eq!(report["masking"]["published"]["classes"][5]["correct"], 0, "the file no longer says it");
    assert_eq!(report["verdict"]["outcome"], "fail");
}

#[test]
fn a_frozen_bias_is_masked_and_declared() {
    let forget = Forget::new(model("fashion-mnist-softmax")).set("--drop-output", "mask").set("--freeze", "head.bias");
    let forget = forget.set("--impair-lr", "0.001").flag("--keep-failed").flag("--quiet");
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let report = forget.report();
    let trained = report["trained"].as_array().expect("a list");
    let bias = trained.iter().find(|t| t["name"] == "head.bias").expect("what differs is declared");
    assert_eq!((bias["change"].as_f64(), bias["statistic"].as_bool()), (Some(0.0), Some(false)), "training left it");
    let (result, source) = (forget.result(), model("fashion-mnist-softmax"));
    run(["verify".as_ref(), result.as_os_str(), "--source".as_ref(), source.as_os_str()]).exits(0);
}

#[test]
fn independent_scores_are_masked_too() {
    let folder = temporary();
    let path = folder.path().join("sigmoid.onnx");
    heads::behind_the_logits(&path, &[("Sigmoid", Attrs::new(), &[])], &[]);
    let forget = Forget::passing(&path).set("--drop-output", "mask");
    let report = heads::passes(&forget, &path);
    assert_eq!(report["masking"]["published"]["classes"][5]["correct"], 0);
}

#[test]
fn heads_without_a_bias_of_their_own_are_refused_before_any_training() {
    let folder = temporary();
    let path = folder.path().join("head.onnx");
    let refused = |path: &Path, words: &[&str]| {
        let ran = Forget::new(path)
            .set("--drop-output", "mask")
            .run()
            .fails(&["--drop-output mask: ", "leave the flag out"])
            .says(words);
        assert!(!ran.stderr.contains("noise:"), "{}", ran.stderr);
    };
    models::write(&path, |b, x| vec![models::dense(b, &x, 10)], |_| {});
    refused(&path, &["(MatMul), which adds no bias"]);

    refused(&model("fashion-mnist-qdq"), &["(DequantizeLinear), which adds no bias"]);

    // One number for all classes, after the bias.
    let number = |v: f32, shape: &[usize]| Tensor::f32(shape, vec![v; shape.iter().product()]);
    heads::behind_the_logits(&path, &[("Add", Attrs::new(), &["c"])], &[("c", number(1.0, &[1]))]);
    refused(&path, &["\"tail0\" (Add), whose bias \"c\" of shape [1] has not one entry for each of the 10 classes"]);
    heads::behind_the_logits(&path, &[("Mul", Attrs::new(), &["c"])], &[("c", number(2.0, &[10]))]);
    refused(&path, &["\"tail0\" (Mul), which adds no bias"]);

    // A bias that is added twice.
    let two = [("Mul", Attrs::new(), &["c"][..]), ("Add", Attrs::new(), &["c"][..])];
    heads::behind_the_logits(&path, &two, &[("c", number(2.0, &[10]))]);
    refused(&path, &["whose bias \"c\" is used elsewhere, too"]);

    // One score for two classes.
    models::write(&path, |b, x| vec![models::dense(b, &x, 1)], |_| {});
    let ran = Forget::new(&path).set("--forget", "1").set("--drop-output", "mask").run();
    ran.fails(&["--drop-output mask: output", "is one score that stands for both classes"]);
}

#[test]
fn an_added_constant_is_the_bias() {
    let folder = temporary();
    let path = folder.path().join("added.onnx");
    heads::behind_the_logits(
        &path,
        &[("Add", Attrs::new(), &["c"]), ("Softmax", Attrs::new(), &[])],
        &[("c", Tensor::f32([1, 10], (0..10).map(|i| i as f32 / 100.0).collect()))],
    );
    let forget = Forget::passing(&path).set("--drop-output", "mask");
    let report = heads::passes(&forget, &path);
    assert_eq!(report["masking"]["tensor"], "c");
    assert_eq!(constants(&forget.result())["c"].to_f32s()[5..6], [-9984.0]);
}
