//! What a policy asks for, one question at a time.

use crate::harness::Output;
use onnx_unlearn::provenance::{
    claims::Audited,
    digest::Digest,
    oms::CLAIMS,
    policy::Policy,
    verify::{Answer, Request, Verdict, examine},
};
use serde_json::{Value, json};
use std::fs;

fn policy(mut text: Value) -> Policy {
    text["schema_version"] = json!(1);
    let folder = crate::common::temporary();
    let path = folder.path().join("policy.json");
    fs::write(&path, text.to_string()).expect("written");
    Policy::read(&path).expect("a policy").0
}

fn judged(output: &Output, text: Value) -> Verdict {
    let policy = policy(text);
    output.asked(Request { policy: Some(&policy), ..Request::default() })
}

fn refused(output: &Output, text: Value, reason: &str) {
    let verdict = judged(output, text);
    assert_eq!((verdict.answer, verdict.reason), (Answer::No, reason), "{:#?}", verdict.checks);
}

#[test]
fn what_holds_passes() {
    let output = Output::new();
    let text = json!({
        "max_forget_accuracy": 0.0,
        "max_retain_drop": 0.005,
        "methods": ["unsir"],
        "keys": [output.public().hint()],
        "tools": [concat!("onnx-unlearn/", env!("CARGO_PKG_VERSION"))],
        "require": ["slsa", "test-result"],
        "forget": ["1"],
        "request": "DSR-1",
    });
    let verdict = judged(&output, text);
    assert_eq!(verdict.answer, Answer::Yes, "{:#?}", verdict.checks);
}

#[test]
fn each_question_has_its_no() {
    let output = Output::new();
    refused(&output, json!({"max_retain_drop": 0.004}), "policy.threshold");
    refused(&output, json!({"methods": ["retraining"]}), "policy.method");
    refused(&output, json!({"keys": ["00"]}), "policy.key");
    refused(&output, json!({"tools": ["onnx-unlearn/9.0.0"]}), "policy.version");
    refused(&output, json!({"forget": ["1", "2"]}), "policy.forget");
    refused(&output, json!({"request": "DSR-2"}), "policy.request");
    refused(&output, json!({"membership_auc": {"min": 0.4, "max": 0.6}}), "policy.threshold");
    let mut report = output.report();
    report["claims"] = json!([]);
    report["verdict"]["gates"][0] = json!({"name": "forget", "outcome": "not_assessed", "threshold": 0.01});
    output.write_report(&report);
    fs::remove_file(output.path(CLAIMS)).expect("removed");
    output.sign();
    refused(&output, json!({"require": ["slsa"]}), "policy.predicate_missing");
    refused(&output, json!({"max_forget_accuracy": 1.0}), "policy.threshold");
}

#[test]
fn an_audit_is_held_against_its_bounds() {
    let output = Output::new();
    let claim = |auc: f64, passed| {
        let auc = serde_json::Number::from_f64(auc).expect("a number");
        let audited = Audited { audit: Digest::of(b"audit"), policy: Digest::of(b"policy"), auc: &auc, passed };
        output.facts().audit_result(&audited).sign(&output.key).expect("signed") + "\n"
    };
    let base = fs::read_to_string(output.path(CLAIMS)).expect("read");
    let bounds = json!({"membership_auc": {"min": 0.4, "max": 0.6}});
    output.write_claims(&(base.clone() + &claim(0.55, true)));
    assert_eq!(judged(&output, bounds.clone()).answer, Answer::Yes);
    // A better one that is added later does not hide it.
    output.write_claims(&(base.clone() + &claim(0.7, false) + &claim(0.5, true)));
    refused(&output, bounds, "policy.threshold");
    // Nor does one that is farther from chance and allowed.
    output.write_claims(&(base + &claim(0.1, true) + &claim(0.6, false)));
    refused(&output, json!({"membership_auc": {"min": 0.0, "max": 0.55}}), "policy.threshold");
}

#[test]
fn every_gate_of_a_name_counts() {
    let output = Output::unsigned(7.0);
    let mut report = output.report();
    let mut more = report["verdict"]["gates"][0].clone();
    more["measured"] = json!(0.9);
    report["verdict"]["gates"].as_array_mut().expect("a list").push(more);
    output.write_report(&report);
    output.claim();
    output.sign();
    refused(&output, json!({"max_forget_accuracy": 0.01}), "policy.threshold");
}

#[test]
fn what_nobody_signed_is_not_judged() {
    let output = Output::new();
    let ask = |policy: &Policy| {
        examine(&output.model(), Request { policy: Some(policy), ..Request::default() }).verdict(&output.model())
    };
    let verdict = ask(&policy(json!({"max_forget_accuracy": 0.01})));
    assert_eq!((verdict.answer, verdict.reason), (Answer::Undecided, "usage"));
    assert_eq!(ask(&policy(json!({"max_forget_accuracy": 0.01, "allow_unsigned": true}))).answer, Answer::Yes);
}

#[test]
fn a_policy_is_read_strictly() {
    let folder = crate::common::temporary();
    let path = folder.path().join("policy.json");
    let texts = [
        ("{}", "schema_version"),
        (r#"{"schema_version":2}"#, "this program knows 1"),
        (r#"{"schema_version":1,"max_forget_acuracy":0.01}"#, "max_forget_acuracy"),
        (r#"{"schema_version":1,"max_retain_drop":2}"#, "from 0 to 1"),
        (r#"{"schema_version":1,"membership_auc":{"min":0.6,"max":0.4}}"#, "is above"),
        (r#"{"schema_version":1,"require":["sbom"]}"#, "sbom"),
    ];
    for (text, word) in texts {
        fs::write(&path, text).expect("written");
        let error = onnx_unlearn_error(&path);
        assert!(error.contains(word) && error.contains("policy.json"), "{error}");
    }
}

fn onnx_unlearn_error(path: &std::path::Path) -> String {
    let error = Policy::read(path).expect_err("no policy");
    let cause = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
    format!("{error} {cause}")
}
