//! Settings of the method, and that equal runs give equal bytes.

use crate::common::{model, program::Forget};
use std::fs;

/// Model and report as bytes.
fn bytes(forget: &Forget) -> (Vec<u8>, Vec<u8>) {
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let read = |name| fs::read(forget.out().join(name)).expect("written");
    (read("model.onnx"), read("unlearn-report.json"))
}

fn kept() -> Forget {
    Forget::new(model("fashion-mnist")).flag("--keep-failed").flag("--quiet")
}

#[test]
fn the_same_command_twice_gives_the_same_bytes() {
    for threads in ["1", "2"] {
        let run = || bytes(&kept().set("--threads", threads));
        let (first, second) = (run(), run());
        assert!(first.0 == second.0, "the models differ with {threads} threads");
        assert!(first.1 == second.1, "the reports differ with {threads} threads");
    }
}

#[test]
fn the_seed_decides() {
    let run = |seed| bytes(&kept().set("--seed", seed)).0;
    assert!(run("1") != run("2"));
}

#[test]
fn every_setting_reaches_the_training() {
    let plain = bytes(&kept()).0;
    for (flag, value) in [
        ("--noise-lr", "0.3"),
        ("--noise-penalty", "0.5"),
        ("--noise-penalty-form", "mean"),
        ("--noise-images", "4"),
        ("--noise-samples", "40"),
        ("--noise-steps", "3"),
        ("--impair-lr", "0.0007"),
        ("--impair-epochs", "2"),
        ("--repair-lr", "0.0007"),
        ("--repair-epochs", "2"),
        ("--batch-size", "30"),
        ("--per-class", "19"),
        ("--optimizer", "sgd"),
        ("--beta1", "0.8"),
        ("--beta2", "0.9"),
        ("--epsilon", "0.001"),
        ("--clip-norm", "0.1"),
        ("--mean", "0.3"),
        ("--std", "0.4"),
        ("--scale", "0.004"),
    ] {
        assert!(bytes(&kept().set(flag, value)).0 != plain, "{flag} {value} changes nothing");
    }
}

#[test]
fn sgd_has_a_momentum_and_can_go_without() {
    let sgd = |momentum| bytes(&kept().set("--optimizer", "sgd").set("--momentum", momentum)).0;
    assert!(sgd("0.9") != sgd("0"));
}

#[test]
fn clipping_bounds_the_step() {
    // Plain gradient descent moves by lr times the clipped norm at most.
    let forget = kept().set("--optimizer", "sgd").set("--momentum", "0").set("--clip-norm", "0.01");
    bytes(&forget);
    let report = forget.report();
    let moved = report["trained"].as_array().expect("a list").iter().filter_map(|t| t["change"].as_f64());
    let moved = moved.map(|c| c * c).sum::<f64>().sqrt();
    let steps: Vec<f64> =
        report["phases"].as_array().expect("a list")[1..].iter().filter_map(|phase| phase["steps"].as_f64()).collect();
    let bound = 0.01 * (steps[0] * 0.0005 + steps[1] * 0.00025);
    // float32 rounds each update; a thousandth is far more than that.
    assert!(moved > 0.0 && moved <= bound * 1.001, "moved by {moved}, the bound is {bound}");
}

#[test]
fn the_published_rates_destroy_the_model_and_nothing_is_written() {
    // 500 retain images a class, as in the demonstration: enough steps for the published rates to do their damage.
    let forget = kept()
        .without("--keep-failed")
        .set("--variant", "reference")
        .set("--retain", crate::common::fixture("data/fashion-mnist-retain.npz"))
        .set("--forget", "0")
        .set("--per-class", "100")
        .flag("--json");
    fs::create_dir(forget.out()).expect("a folder");
    fs::write(forget.result(), b"an earlier result").expect("written");
    let forget = forget.flag("--force");
    let json = forget.run().exits(1).json();
    assert_eq!((json["answer"].as_str(), json["verdict"].as_str()), (Some("no"), Some("fail")));
    let recipe = &json["report"]["parameters"]["recipe"];
    assert_eq!((recipe["impair"]["lr"].as_f64(), recipe["repair"]["lr"].as_f64()), (Some(0.02), Some(0.01)));
    assert_eq!(json["report"]["verdict"]["gates"][1]["outcome"], "fail", "the retained classes suffered");
    assert_eq!(fs::read(forget.result()).expect("there"), b"an earlier result");
    assert_eq!(forget.files(), ["model.onnx"]);
}

#[test]
fn the_reference_variant_says_where_it_differs() {
    let ran = Forget::new(model("fashion-mnist")).set("--variant", "reference").run();
    ran.says(&[
        "warning: the reference variant labels all noise as class 0, which is not among the classes to forget",
        "warning: the model has no BatchNormalization",
    ]);
}
