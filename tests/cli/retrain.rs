//! `retrain`: the same graph, trained without the class.

use crate::common::{
    data, model,
    program::{Ran, run},
    temporary,
};
use std::{fs, path::Path};

/// Trains on the little data of the tests.
fn retrain(source: &Path, out: &Path, more: &[&str]) -> Ran {
    let mut args: Vec<String> = vec!["retrain".into(), source.display().to_string()];
    let mut flag = |name: &str, value: &str| args.push(format!("{name}={value}"));
    flag("--forget", "5");
    flag("--mean", "0.2860");
    flag("--std", "0.3530");
    flag("--batch-size", "32");
    flag("--device", "cpu");
    flag("--threads", "1");
    flag("--data", &data::retain_file().display().to_string());
    flag("--eval", &data::eval_file().display().to_string());
    flag("--out", &out.display().to_string());
    args.extend(more.iter().map(|&s| s.to_owned()));
    run(args)
}

#[test]
fn a_network_learns_the_other_classes_from_nothing() {
    let folder = temporary();
    for name in ["fashion-mnist", "fashion-mnist-bn"] {
        let (source, out) = (model(name), folder.path().join(name));
        let shown = retrain(&source, &out, &["--epochs=40", "--lr=0.002", "--json", "--quiet"]).exits(0).json();
        let counts = |e: &serde_json::Value, forgotten: bool| {
            let classes = e["classes"].as_array().expect("classes").iter().enumerate();
            let of = classes.filter(|(c, _)| (*c == 5) == forgotten);
            of.map(|(_, c)| c["correct"].as_f64().expect("a count") / c["total"].as_f64().expect("a count"))
                .sum::<f64>()
        };
        assert_eq!(shown["after"]["classes"][0]["total"], 10, "all that is held out is measured");
        // Nine classes: guessing one of them gives 1 in 9 of each, so 1 in all.
        assert!(counts(&shown["after"], false) > 5.0, "{name}: {shown:#}");
        assert!(counts(&shown["after"], true) < 0.001, "{name}: the class left out is not answered: {shown:#}");
        let written = fs::read(out.join("model.onnx")).expect("a model");
        assert_ne!(written, fs::read(&source).expect("the source"));
        assert_eq!(written.len(), fs::read(&source).expect("the source").len(), "the graph stays, only weights change");
    }
}

#[test]
fn a_seed_is_a_model_and_a_result_is_kept() {
    let folder = temporary();
    let source = model("fashion-mnist-bn");
    let bytes = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        retrain(&source, &out, &[&["--epochs=1", "--quiet"], more].concat()).exits(0);
        fs::read(out.join("model.onnx")).expect("a model")
    };
    let first = bytes("first", &[]);
    assert_eq!(first, bytes("same", &[]));
    assert_ne!(first, bytes("other", &["--seed=1"]));
    retrain(&source, &folder.path().join("first"), &["--epochs=1"]).fails(&["exists", "--force"]);
    assert_ne!(first, bytes("first", &["--seed=1", "--force"]));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let folder = temporary();
    let out = folder.path().join("out");
    retrain(&model("fashion-mnist"), &out, &["--epochs=0"]).fails(&["--epochs 0"]);
    retrain(&model("fashion-mnist"), &out, &["--lr=-1"]).fails(&["--lr -1"]);
    assert!(!out.exists());
}
