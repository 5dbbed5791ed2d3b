//! Settings of the method, and that equal runs give equal bytes.

use crate::common::{model, models, program::Forget, temporary};
use std::fs;

/// Model, report and page as bytes.
fn bytes(forget: &Forget) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let ran = forget.run();
    assert!(matches!(ran.code, Some(0 | 1)), "{}", ran.stderr);
    let read = |name| fs::read(forget.out().join(name)).expect("written");
    (read("model.onnx"), read("unlearn-report.json"), read("unlearn-report.html"))
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
        assert!(first.2 == second.2, "the pages differ with {threads} threads");
    }
}

#[test]
fn the_seed_decides() {
    let run = |seed| bytes(&kept().set("--seed", seed)).0;
    assert!(run("1") != run("2"));
}

#[test]
fn every_setting_reaches_the_training() {
    // A model of one layer, because there are many settings.
    let folder = temporary();
    let path = folder.path().join("dense.onnx");
    models::write(&path, |b, x| vec![models::dense(b, &x, 10)], |_| {});
    let kept = || Forget::new(&path).flag("--keep-failed").flag("--quiet");
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
        .without("--impair-lr")
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

#[test]
fn the_reference_variant_counts_as_the_notebook_does_beside_its_own_count() {
    let forget = Forget::new(model("fashion-mnist-bn")).set("--variant", "reference").flag("--keep-failed");
    let ran = forget.run();
    let report = forget.report();
    let phases = report["phases"].as_array().expect("a list");
    let own = |i: usize, field: &str| phases[i][field].as_f64().expect("a number");
    let theirs = report["notebook"]["training"].as_array().expect("a list");
    for (i, training) in theirs.iter().enumerate() {
        let share = own(i + 1, "samples") / 50_000.0;
        for (field, ours) in [("loss", "mean_loss"), ("accuracy", "accuracy")] {
            let (a, b) = (training[field].as_f64().expect("a number"), own(i + 1, ours) * share);
            assert!((a - b).abs() < 1e-12, "{field} of {}: {a} and {b}", training["phase"]);
        }
    }
    assert_eq!(theirs.len(), 2);
    // The little held-out data fits into one batch a kind, where both ways of counting agree.
    let class = &report["measured"]["after_repair"]["classes"][5];
    let ours = class["correct"].as_f64().expect("a number") / class["total"].as_f64().expect("a number");
    assert_eq!(report["notebook"]["measured"][1]["forget"].as_f64(), Some(ours));
    assert!(ran.stdout.contains("the same run as the notebook counts it:"), "{}", ran.stdout);

    let corrected = Forget::new(model("fashion-mnist")).flag("--keep-failed");
    corrected.run();
    assert!(corrected.report()["notebook"].is_null(), "the intended algorithm is not the notebook's");
}

#[test]
fn no_noise_samples_is_the_control_without_noise() {
    let forget = kept().set("--noise-samples", "0");
    bytes(&forget);
    let report = forget.report();
    let phases = report["phases"].as_array().expect("a list");
    let names: Vec<_> = phases.iter().filter_map(|phase| phase["phase"].as_str()).collect();
    assert_eq!(names, ["impair", "repair"]);
    assert_eq!(phases[0]["samples"], phases[1]["samples"], "the retain sample alone");
    assert_eq!(report["noise_objective"].as_array().map(Vec::len), Some(0));
}

#[test]
fn the_report_gives_preprocessing_as_it_was_typed() {
    let forget = kept();
    bytes(&forget);
    let text = fs::read_to_string(forget.out().join("unlearn-report.json")).expect("text");
    assert!(text.contains(r#""mean":[0.286]"#) && text.contains(r#""std":[0.353]"#), "{text}");
}

#[test]
fn training_accuracy_is_that_of_the_samples_seen() {
    // At this rate no float32 moves, so each pass sees the source model; without --eval that is measured on the same sample.
    let forget = kept().set("--impair-lr", "1e-15").set("--repair-lr", "1e-15").set("--noise-samples", "0");
    let forget = forget.without("--eval").set("--targets", "labels");
    bytes(&forget);
    let report = forget.report();
    let classes = report["measured"]["before"]["classes"].as_array().expect("a list");
    let sum = |field: &str| classes.iter().filter_map(|class| class[field].as_f64()).sum::<f64>();
    let accuracy = report["phases"][1]["accuracy"].as_f64().expect("a number");
    assert!((accuracy - sum("correct") / sum("total")).abs() < 1e-9, "{accuracy} and {classes:?}");
}

/// A batch in parts takes the same steps, so that each class is forgotten and kept alike.
#[test]
fn a_limit_to_memory_feeds_batches_in_parts() {
    let json = |limit: &str| {
        let forget = kept().set("--memory-limit", limit).flag("--json");
        forget.run().json()
    };
    let (whole, parts) = (json("4G"), json("12M"));
    assert_eq!(parts["report"]["parameters"]["recipe"]["memory_limit"], 12 << 20);
    let accuracy = |run: &serde_json::Value| {
        let classes = run["report"]["measured"]["after_repair"]["classes"].as_array().expect("classes").clone();
        let sum = |key: &str| classes.iter().filter_map(|c| c[key].as_f64()).sum::<f64>();
        sum("correct") / sum("total")
    };
    let (whole, parts) = (accuracy(&whole), accuracy(&parts));
    assert!(whole > 0.5 && (whole - parts).abs() < 0.05, "{whole} {parts}");
    let ran = kept().set("--memory-limit", "100k").run();
    ran.fails(&["--memory-limit: a step of 1 samples may take", "--batch-size"]);
    let ran = kept().set("--memory-limit", "2M").set("--batch-norm", "batch").run();
    ran.fails(&["--memory-limit: a step of"]);
    for wrong in ["", "much", "-1G", "0"] {
        kept().set("--memory-limit", wrong).run().fails(&["--memory-limit", "expected a number of bytes"]);
    }
}
