//! Learning rates that are found by trials.

use crate::common::{data, model, program::Forget, temporary};
use onnx_unlearn::{data::Seeded, graph::Graph, onnx, tensor::Tensor};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

/// Enough of everything to forget; the rates are left to trials. Exit codes do not matter: the little data of the tests is
/// for the mechanics.
fn forget(source: &Path) -> Forget {
    Forget::passing(source).without("--impair-lr").flag("--keep-failed")
}

fn trials(report: &Value) -> &Vec<Value> {
    report["calibration"]["trials"].as_array().expect("trials")
}

#[test]
fn what_is_found_is_what_is_run() {
    let source = model("fashion-mnist");
    let found = forget(&source);
    let ran = found.run();
    let first = found.report();
    let calibration = &first["calibration"];
    let trials = trials(&first);
    // Up to five rates, of which at most two are repaired twice.
    assert!((1..=7).contains(&trials.len()), "{calibration:#}");
    assert_eq!(calibration["judged_on"], "eval");
    let chosen = &trials[calibration["chosen"].as_u64().expect("one keeps the others") as usize];
    let rates = ["impair", "repair"].map(|phase| &first["parameters"]["recipe"][phase]["lr"]);
    assert_eq!(rates, [&chosen["impair_lr"], &chosen["repair_lr"]]);
    // Held-out samples judged, so that the trial has learned from all others and is the result: nothing is trained again.
    let impaired = ran.stderr.lines().filter(|l| l.contains(" impair: ") && l.contains(" steps")).count();
    let rates: BTreeSet<u64> = trials.iter().filter_map(|t| t["impair_lr"].as_f64()).map(f64::to_bits).collect();
    assert_eq!(impaired, rates.len() + 1, "one line for each, and the summary");
    let last = |phase: usize| first["phases"][phase]["last_loss"].clone();
    assert_eq!(chosen["loss"], Value::Array(vec![last(1), last(2)]));
    let retained = |row: &Value| row["retain"].as_f64().expect("a share");
    for trial in trials {
        // Spared: a quarter of the two points that the others may lose.
        let fall = retained(&calibration["source"]) - retained(trial);
        match trial["outcome"].as_str() {
            Some("spares") => assert!(fall <= 0.005 + 1e-9, "{trial:#}"),
            Some("fits") => assert!(fall > 0.005, "{trial:#}"),
            _ => (),
        }
        assert_eq!(trial["turned"][0]["class"], 5, "{trial:#}");
        assert_eq!(trial["forget"][0]["class"], 5, "{trial:#}");
    }
    // Three of the ten held-out samples of a class judge; the verdict is measured on the others.
    assert_eq!(calibration["samples"], 30);
    let classes = first["measured"]["before"]["classes"].as_array().expect("classes");
    assert!(classes.iter().all(|c| c["total"] == 7), "{classes:?}");

    // The same rates given make the same weights, without trials and with every sample in the verdict.
    let given = forget(&source)
        .set("--impair-lr", chosen["impair_lr"].to_string())
        .set("--repair-lr", chosen["repair_lr"].to_string());
    let second = given.run_for_report();
    assert_eq!(second["calibration"], Value::Null);
    assert_eq!(first["result"]["weights"], second["result"]["weights"]);
    assert_eq!(second["measured"]["before"]["classes"][0]["total"], 10);

    // And a second calibration finds the same.
    let again = forget(&source);
    assert_eq!(again.run_for_report()["calibration"], *calibration);
}

/// At a tenth of the rate, the few steps of an epoch here repair next to nothing.
#[test]
fn deep_takes_the_strongest_that_keeps_the_others() {
    let source = model("fashion-mnist");
    let report = forget(&source).set("--depth", "deep").set("--repair-epochs", "8").run_for_report();
    let trials = trials(&report);
    let rate = |t: &Value| t["impair_lr"].as_f64().expect("a rate");
    let fits: Vec<&Value> = trials.iter().filter(|t| t["outcome"] == "fits" || t["outcome"] == "spares").collect();
    let strongest = fits.iter().map(|t| rate(t)).fold(0.0, f64::max);
    assert!(strongest > 0.0, "{trials:#?}");
    let chosen = &trials[report["calibration"]["chosen"].as_u64().expect("one keeps the others") as usize];
    assert!((rate(chosen) - strongest).abs() < 1e-12, "{trials:#?}");
    assert!(rate(chosen) >= rate(&trials[0]), "the first rate is no bound: {trials:#?}");
}

#[test]
fn without_samples_of_the_class_turned_ones_tell() {
    let folder = temporary();
    let eval = folder.path().join("eval.npz");
    data::eval().without(5).write_npz(&eval);
    let source = model("fashion-mnist");
    for (forget, samples) in [(forget(&source).set("--eval", &eval), 10), (forget(&source).without("--eval"), 20)] {
        let report = forget.run_for_report();
        assert_eq!(report["calibration"]["judged_on"], "retain");
        // Held-out samples that judge nothing are all measured.
        assert_eq!(report["measured"]["before"]["classes"][0]["total"], samples);
        // What judges is left out of the trials; the run that follows learns from it as well.
        let last = |phase: usize| &report["phases"][phase]["last_loss"];
        assert!(trials(&report).iter().all(|t| t["loss"][0] != *last(1) && t["loss"][1] != *last(2)));
        let known = |row: &Value| row["turned"][0]["known"].as_f64().expect("a share");
        let before = known(&report["calibration"]["source"]);
        assert!(before >= 0.8, "the source model takes turned samples for the class: {before}");
        let strongest = trials(&report).iter().max_by_key(|t| (t["impair_lr"].as_f64().expect("a rate") * 1e9) as u64);
        let after = known(strongest.expect("a trial"));
        assert!(after < before, "{before} before, {after} at the strongest rate");
        assert!(trials(&report).iter().all(|t| t["forget"].as_array().is_some_and(Vec::is_empty)));
        assert_eq!(report["verdict"]["outcome"], "not_assessed", "{:#}", report["verdict"]);
    }
}

/// A model that knows nothing, and data that says nothing, never end in a pass.
#[test]
fn where_it_cannot_work_it_does_not_pass() {
    let folder = temporary();
    let random = folder.path().join("random.onnx");
    let mut graph: Graph = onnx::read(&model("fashion-mnist")).expect("a model").graph;
    for (name, tensor) in &mut graph.constants {
        if tensor.dtype().is_float() {
            let values = Seeded::new(3, name).normal(tensor.len()).into_iter().map(|v| 0.1 * v).collect();
            *tensor = Arc::new(Tensor::f32(tensor.shape(), values));
        }
    }
    fs::write(&random, onnx::export(&graph)).expect("written");
    let outcome = |forget: &Forget| forget.run_for_report()["verdict"]["outcome"].clone();
    assert_ne!(outcome(&forget(&random)), "pass");
    assert_eq!(outcome(&forget(&random).without("--eval")), "not_assessed");

    let one = folder.path().join("one.npz");
    data::retain().first(1).write_npz(&one);
    let source = model("fashion-mnist");
    assert_ne!(outcome(&forget(&source).set("--retain", &one)), "pass");
    let report = forget(&source).set("--retain", &one).without("--eval").run_for_report();
    assert_eq!(report["verdict"]["outcome"], "not_assessed");
    let warned = |text: &str| {
        report["warnings"].as_array().is_some_and(|w| w.iter().any(|w| w.as_str().is_some_and(|w| w.contains(text))))
    };
    assert!(warned("nothing judges the trials"), "{:#}", report["warnings"]);
}

/// The rate of other toolkits forgets too little, one that changes nothing forgets nothing, and the gate says so.
#[test]
fn too_small_a_rate_fails() {
    for rate in ["0.0001", "1e-12"] {
        let forget = Forget::passing(model("fashion-mnist")).set("--impair-lr", rate).set("--repair-lr", rate);
        let report = forget.flag("--keep-failed").run_for_report();
        assert_eq!(report["verdict"]["gates"][0]["outcome"], "fail", "{rate}: {:#}", report["verdict"]);
    }
}

#[test]
fn several_classes_share_the_noise() {
    let steps = |classes: &str| {
        let forget = Forget::new(model("fashion-mnist")).set("--forget", classes).set("--noise-samples", "64");
        let report = forget.flag("--keep-failed").run_for_report();
        let phases = report["phases"].as_array().expect("phases").clone();
        let impair = phases.iter().find(|p| p["phase"] == "impair").expect("impair");
        impair["samples"].as_u64().expect("a number")
    };
    // 20 retained samples of each other class, and 64 noise samples in all.
    assert_eq!([steps("5"), steps("5,3"), steps("1,2,3,5")], [180 + 64, 160 + 64, 120 + 64]);
}

/// Where the others suffer, repair is done again from the same impaired weights, at most twice in a calibration.
#[test]
fn a_gentler_repair_is_tried_where_the_others_suffer() {
    // No loss is allowed, and no trial of so few samples goes without.
    let report = forget(&model("fashion-mnist")).set("--max-retain-drop", "0").run_for_report();
    let rates = |t: &Value| ["impair_lr", "repair_lr"].map(|k| t[k].as_f64().expect("a rate"));
    let pairs: Vec<[&Value; 2]> = trials(&report)
        .windows(2)
        .map(|pair| [&pair[0], &pair[1]])
        .filter(|[first, second]| (rates(first)[0] - rates(second)[0]).abs() < 1e-12)
        .collect();
    assert!((1..=2).contains(&pairs.len()), "{:#}", report["calibration"]);
    let [first, second] = pairs[0];
    assert!((5.0 * rates(second)[1] - rates(first)[1]).abs() < 1e-12, "{first:#}{second:#}");
    assert_eq!(first["loss"][0], second["loss"][0], "impaired once");
    assert_ne!(first["loss"][1], second["loss"][1], "repaired twice");
    // Such a run repairs the same from the start.
    let [impair, repair] = rates(second).map(|rate| rate.to_string());
    let given = forget(&model("fashion-mnist")).set("--impair-lr", impair).set("--repair-lr", repair).run_for_report();
    assert_eq!(second["loss"], serde_json::json!([given["phases"][1]["last_loss"], given["phases"][2]["last_loss"]]));
}
