//! `compare`: other methods beside UNSIR.

use crate::common::{
    data, model,
    program::{Ran, run},
    temporary,
};
use std::path::Path;

/// On the little data of the tests.
fn compare(forget_data: Option<&Path>, more: &[&str]) -> Ran {
    let source = model("fashion-mnist");
    let mut args: Vec<String> = vec!["compare".into(), source.display().to_string()];
    let mut flag = |name: &str, value: &str| args.push(format!("{name}={value}"));
    for (name, value) in [
        ("--forget", "5"),
        ("--mean", "0.2860"),
        ("--std", "0.3530"),
        ("--per-class", "20"),
        ("--batch-size", "32"),
        ("--noise-images", "8"),
        ("--noise-steps", "2"),
        ("--noise-samples", "32"),
        ("--device", "cpu"),
        ("--threads", "1"),
    ] {
        flag(name, value);
    }
    flag("--retain", &data::retain_file().display().to_string());
    flag("--eval", &data::eval_file().display().to_string());
    if let Some(path) = forget_data {
        flag("--forget-data", &path.display().to_string());
    }
    args.extend(more.iter().map(|&s| s.to_owned()));
    run(args)
}

#[test]
fn methods_run_side_by_side_with_the_same_steps() {
    let folder = temporary();
    let forgotten = folder.path().join("forgotten.npz");
    data::retain().only(5).write_npz(&forgotten);
    let shown = compare(Some(&forgotten), &["--runs=2", "--impair-lr=0.002", "--json", "--quiet"]).exits(0).json();
    let methods = shown["methods"].as_array().expect("methods");
    let names: Vec<&str> = methods.iter().filter_map(|m| m["method"].as_str()).collect();
    assert_eq!(names, ["unsir", "gaussian-noise", "grey-images", "fine-tune", "random-labels", "gradient-ascent"]);
    // 180 retained and 32 noise samples in impair, 180 in repair, 32 in a batch.
    assert!(methods.iter().all(|m| m["steps"] == 7 + 6), "{shown:#}");
    for method in methods {
        let runs = method["runs"].as_array().expect("runs");
        assert_eq!(runs.len(), 2);
        // Whatever learns is not the source model any more, and seeds matter.
        assert!(method["method"] == "gradient-ascent" || runs[0] != shown["before"] || runs[1] != shown["before"]);
    }
    // Going up the loss of the class takes the class away.
    let ascent = methods[5]["runs"][0]["forget"].as_f64();
    assert!(ascent.is_none_or(|a| a < shown["before"]["forget"].as_f64().expect("a share")), "{shown:#}");
}

#[test]
fn without_samples_of_the_class_only_what_needs_none_runs() {
    let table = compare(None, &["--runs=2", "--impair-lr=0.001", "--quiet"]).exits(0).stdout;
    assert!(table.contains("fine-tune") && !table.contains("random-labels"), "{table}");
    compare(None, &["--methods=random-labels"]).fails(&["--methods random-labels", "--forget-data"]);
    compare(None, &["--runs=0"]).fails(&["--runs 0"]);
    // Retraining has steps of its own, and runs where it is named: 180 samples in batches of 32, twice.
    compare(None, &["--methods=retrain"]).fails(&["--methods retrain", "another method"]);
    let methods = "--methods=fine-tune,retrain";
    let shown = compare(None, &[methods, "--retrain-epochs=2", "--runs=1", "--impair-lr=0.001", "--json"]);
    let shown = shown.exits(0).json();
    assert_eq!(shown["methods"][1]["method"], "retrain");
    assert_eq!(shown["methods"][1]["steps"], 12, "{shown:#}");
    assert!(shown["methods"][1]["runs"][0]["retain"].is_number(), "{shown:#}");
}
