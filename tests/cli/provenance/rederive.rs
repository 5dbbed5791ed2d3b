//! `verify --rederive`: the same weights from the same run, and from no other.

use super::{keys, text};
use crate::common::{
    data, model,
    program::{Forget, Ran, run},
};
use onnx_unlearn::{
    onnx::patch::{Patch, patch_bytes},
    provenance::{
        claims::{Facts, Occasion},
        keys::PrivateKey,
        oms::Manifest,
        stamp::{self, params_digest},
    },
};
use serde_json::{Value, json};
use std::{fs, path::Path};

fn rederive(model: &Path, source: &str, retain: &Path, more: &[&str]) -> Ran {
    let source = crate::common::model(source);
    let args = ["verify", text(model), "--source", text(&source), "--rederive", "--retain", text(retain), "--json"];
    run(args.iter().chain(more))
}

#[track_caller]
fn same(forget: &Forget, source: &str) {
    forget.run_for_report();
    let json = rederive(&forget.result(), source, data::retain_file(), &[]).exits(0).json();
    let checks = json["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"] == "rederive").expect("a check");
    assert_eq!(check["outcome"], "pass", "{json:#}");
}

fn base(name: &str) -> Forget {
    Forget::new(model(name)).flag("--keep-failed")
}

#[test]
fn the_run_of_a_report_gives_its_weights_again() {
    let default = base("fashion-mnist").set("--seed", "7").set("--freeze", "head.bias");
    same(&default.set("--noise-range", "0.1,0.9"), "fashion-mnist");
    let other = base("fashion-mnist-bn")
        .set("--optimizer", "sgd")
        .set("--clip-norm", "0.5")
        .set("--batch-norm", "batch")
        .set("--targets", "labels")
        .set("--forget", "1,5")
        .set("--noise-samples", "33")
        .set("--drop-output", "mask");
    same(&other, "fashion-mnist-bn");
    same(&base("fashion-mnist").set("--variant", "reference").without("--noise-samples"), "fashion-mnist");
}

#[test]
fn rates_that_trials_found_are_rates() {
    // Held-out data judges, and the trial that was taken is the result; without it a last run follows.
    let base = || base("fashion-mnist").without("--impair-lr").set("--noise-samples", "200");
    same(&base(), "fashion-mnist");
    same(&base().without("--eval"), "fashion-mnist");
}

#[test]
fn other_data_is_another_run() {
    let forget = base("fashion-mnist");
    forget.run_for_report();
    let ran = rederive(&forget.result(), "fashion-mnist", data::eval_file(), &[]).exits(1);
    assert_eq!(ran.json()["reason"], "rederive.data_mismatch");
    let committed = base("fashion-mnist").set("--commitment-key", keys().commitment());
    committed.run_for_report();
    let key = keys().commitment();
    let ask = |data: &Path| rederive(&committed.result(), "fashion-mnist", data, &["--commitment-key", text(&key)]);
    ask(data::retain_file()).exits(0);
    assert_eq!(ask(data::eval_file()).exits(1).json()["reason"], "rederive.data_mismatch");
}

/// Whoever has the key can write stamp, report and claims that agree with each other. The weights still tell.
#[test]
fn a_hyper_parameter_that_was_not_used_is_found_out() {
    let forget = base("fashion-mnist").set("--sign-key", keys().private());
    forget.run_for_report();
    let (out, key) = (forget.out(), PrivateKey::read(&keys().private()).expect("a key"));
    let mut report: Value = forget.report();
    report["parameters"]["recipe"]["impair"]["lr"] = json!(0.0006);
    let bytes = fs::read(forget.result()).expect("read");
    let mut stamp = stamp::read(&bytes).expect("a stamp").expect("a stamp");
    stamp.params = params_digest(&report["parameters"]).expect("a digest");
    let patch = Patch { metadata: stamp.to_metadata().expect("entries"), ..Patch::default() };
    fs::write(forget.result(), patch_bytes(&bytes, &patch).expect("patched").model).expect("written");
    fs::write(out.join("unlearn-report.json"), report.to_string()).expect("written");
    let facts = Facts::of(&out, "out").expect("an output");
    let occasion = Occasion { during: true, ..Occasion::default() };
    let claims = [facts.slsa(&occasion), facts.test_result()];
    let claims = claims.map(|claim| claim.expect("a claim").sign(&key).expect("signed") + "\n").concat();
    fs::write(out.join("claims.jsonl"), claims).expect("written");
    let signature = Manifest::of_output(&out).expect("files").statement("out").sign(&key).expect("signed");
    fs::write(out.join("model.sig"), signature).expect("written");
    let public = keys().public();
    run(["verify", text(&forget.result()), "--key", text(&public)]).exits(0);
    let ran = rederive(&forget.result(), "fashion-mnist", data::retain_file(), &["--key", text(&public)]).exits(1);
    let json = ran.json();
    assert_eq!(json["reason"], "rederive.not_reproduced");
    assert!(json.to_string().contains("largest absolute difference"), "{json:#}");
}
