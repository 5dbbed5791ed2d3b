//! Every way in which claims can be wrong, with its reason code.

use crate::harness::{Output, key};
use onnx_unlearn::provenance::{
    claims::{Facts, Occasion},
    dsse::Statement,
    oms::CLAIMS,
    policy::Predicate,
    verify::{Answer, Check, Outcome, Request, Verdict},
};
use serde_json::{Value, json};
use std::fs;

fn check<'v>(verdict: &'v Verdict, name: &str) -> &'v Check {
    verdict.checks.iter().find(|check| check.name == name).expect("a check of this name")
}

fn refused(verdict: &Verdict, reason: &str) {
    assert_eq!((verdict.answer, verdict.reason), (Answer::No, reason), "{:#?}", verdict.checks);
}

/// SLSA provenance with one change, signed.
fn changed(output: &Output, change: impl Fn(&mut Value)) -> String {
    let mut statement = output.facts().slsa(&Occasion { during: true, ..Occasion::default() }).expect("a claim");
    change(&mut statement.predicate);
    signed(output, &statement)
}

fn signed(output: &Output, statement: &Statement) -> String {
    statement.sign(&output.key).expect("signed") + "\n"
}

fn result(output: &Output) -> String {
    signed(output, &output.facts().test_result().expect("a claim"))
}

#[test]
fn claims_say_what_stamp_and_report_say() {
    let verdict = Output::new().verified();
    assert_eq!(check(&verdict, "claims").outcome, Outcome::Pass);
    assert_eq!(check(&verdict, "claims").detail, "2 hold");
    assert_eq!(check(&verdict, "claims.required").outcome, Outcome::Pass);
}

#[test]
fn a_claim_that_was_taken_away_is_missed() {
    let output = Output::new();
    let text = fs::read_to_string(output.path(CLAIMS)).expect("read");
    for line in text.lines() {
        output.write_claims(&format!("{line}\n"));
        refused(&output.verified(), "claim.missing");
    }
    fs::remove_file(output.path(CLAIMS)).expect("removed");
    refused(&output.verified(), "claim.missing");
}

#[test]
fn what_is_asked_for_has_to_be_there() {
    let output = Output::unsigned(7.0);
    let mut report = output.report();
    report.as_object_mut().expect("an object").remove("claims");
    output.write_report(&report);
    output.sign();
    assert_eq!(output.verified().answer, Answer::Yes, "nobody asked for claims");
    refused(&output.asked(Request { require: &[Predicate::Slsa], ..Request::default() }), "claim.missing");
    output.claim();
    let asked = output.asked(Request { require: &Predicate::ALL, ..Request::default() });
    assert_eq!(asked.answer, Answer::Yes, "{:#?}", asked.checks);
}

#[test]
fn claims_of_another_model_are_about_something_else() {
    let (output, mut other) = (Output::new(), Output::unsigned(8.0));
    std::mem::swap(&mut other.key, &mut Output::new().key);
    output.write_claims(&other.claims_by(&output.key));
    refused(&output.verified(), "claim.subject_mismatch");
}

#[test]
fn claims_by_another_key_do_not_count() {
    let output = Output::new();
    let others = output.claims_by(&key());
    output.write_claims(&others);
    refused(&output.verified(), "claim.missing");
    // Beside the claims of the key they do no harm.
    output.write_claims(&(others + &output.claims_by(&output.key)));
    let verdict = output.verified();
    assert_eq!(verdict.answer, Answer::Yes, "{:#?}", verdict.checks);
    assert_eq!(check(&verdict, "claims").detail, "2 hold; 2 by other keys, not verified");
}

#[test]
fn every_field_of_a_claim_is_held_against_stamp_and_report() {
    let output = Output::new();
    let fields = [
        ("/buildDefinition/externalParameters/forgetClasses/0", json!("2")),
        ("/buildDefinition/externalParameters/method", json!("other")),
        ("/buildDefinition/externalParameters/seed", json!("1")),
        ("/buildDefinition/externalParameters/source", json!("other.onnx")),
        ("/buildDefinition/externalParameters/request", json!("DSR-2")),
        ("/buildDefinition/externalParameters/hyperparameters/recipe.impair.lr", json!("0.002")),
        ("/buildDefinition/externalParameters/hyperparametersDigest", json!("sha256:00")),
        ("/buildDefinition/internalParameters/backend", json!("other")),
        ("/buildDefinition/internalParameters/threads", json!("2")),
        ("/buildDefinition/resolvedDependencies/0/digest/sha256", json!("00")),
        ("/buildDefinition/resolvedDependencies/1/digest/sha256", json!("01")),
        ("/runDetails/builder/id", json!("https://example.com")),
        ("/runDetails/byproducts/0/digest/sha256", json!("00")),
    ];
    for (pointer, value) in fields {
        let slsa = changed(&output, |predicate| *predicate.pointer_mut(pointer).expect(pointer) = value.clone());
        output.write_claims(&(slsa + &result(&output)));
        let verdict = output.verified();
        refused(&verdict, "claim.field_mismatch");
        let last = pointer.trim_end_matches("/0").rsplit('/').next().expect("a field");
        assert!(check(&verdict, "claims").detail.contains(last), "{}", check(&verdict, "claims").detail);
    }
    let slsa = changed(&output, |predicate| {
        predicate["buildDefinition"]["externalParameters"].as_object_mut().expect("fields").remove("hyperparameters");
    });
    output.write_claims(&(slsa + &result(&output)));
    refused(&output.verified(), "claim.field_mismatch");
}

#[test]
fn a_result_that_was_not_measured_is_no_result() {
    let output = Output::new();
    let slsa = changed(&output, |_| {});
    let fields = [
        ("/result", json!("FAILED")),
        ("/passedTests", json!(["forget"])),
        ("/configuration/0/annotations/measured/forget", json!("0.5")),
        ("/configuration/0/annotations/thresholds/forget", json!("0.5")),
    ];
    for (pointer, value) in fields {
        let mut statement = output.facts().test_result().expect("a claim");
        *statement.predicate.pointer_mut(pointer).expect(pointer) = value;
        output.write_claims(&(slsa.clone() + &signed(&output, &statement)));
        refused(&output.verified(), "claim.field_mismatch");
    }
}

#[test]
fn claims_of_later_versions_may_say_more() {
    let output = Output::new();
    let slsa = changed(&output, |predicate| {
        predicate["buildDefinition"]["externalParameters"]["further"] = json!("x");
        predicate["buildDefinition"]["onnx_unlearn_further"] = json!(1);
    });
    output.write_claims(&(slsa + &result(&output)));
    assert_eq!(output.verified().answer, Answer::Yes);
}

#[test]
fn provenance_of_another_kind_of_build_is_none_of_ours() {
    let output = Output::new();
    let slsa = changed(&output, |p| p["buildDefinition"]["buildType"] = json!("https://example.com/ci"));
    output.write_claims(&(slsa + &result(&output)));
    refused(&output.verified(), "claim.missing");
}

#[test]
fn a_line_that_is_damaged_cannot_be_told() {
    let output = Output::new();
    let good = fs::read_to_string(output.path(CLAIMS)).expect("read");
    for text in [format!("{good}\n"), format!("{good}{{\n"), good.trim_end().to_owned(), format!("x{good}")] {
        output.write_claims(&text);
        let verdict = output.verified();
        // What did not hold is missed as well, and a no outranks what cannot be told.
        assert_ne!(verdict.answer, Answer::Yes, "{text}");
        assert_eq!(check(&verdict, "claims").code, Some("claim.malformed"), "{text}");
    }
}

#[test]
fn signatures_of_other_forms_are_those_of_others() {
    let output = Output::new();
    let good = fs::read_to_string(output.path(CLAIMS)).expect("read");
    let bundle: Value = serde_json::from_str(good.lines().next().expect("a line")).expect("JSON");
    let mut certificate = bundle.clone();
    certificate["verificationMaterial"] = json!({"certificate": {"rawBytes": ""}, "tlogEntries": []});
    let mut twice = bundle.clone();
    let signature = bundle["dsseEnvelope"]["signatures"][0].clone();
    twice["dsseEnvelope"]["signatures"] = json!([signature, signature]);
    let mut further = bundle;
    further["dsseEnvelope"]["further"] = json!(1);
    for line in [certificate, twice, further, json!({})] {
        output.write_claims(&format!("{good}{line}\n"));
        let verdict = output.verified();
        assert_eq!(verdict.answer, Answer::Yes, "{line}: {:#?}", verdict.checks);
        assert_eq!(check(&verdict, "claims").detail, "2 hold; 1 by other keys, not verified");
    }
}

#[test]
fn an_audit_without_its_figure_says_nothing() {
    let output = Output::new();
    let good = fs::read_to_string(output.path(CLAIMS)).expect("read");
    for auc in [json!(0.9), json!("0,9"), json!("NaN"), Value::Null] {
        let mut statement = output.facts().test_result().expect("a claim");
        statement.predicate["configuration"][0] = json!({"name": "audit", "annotations": {"membershipAuc": auc}});
        output.write_claims(&(good.clone() + &signed(&output, &statement)));
        let verdict = output.verified();
        assert_eq!(check(&verdict, "claims").code, Some("claim.malformed"), "{auc}");
    }
}

#[test]
fn subjects_are_known_by_digest_and_not_by_name() {
    let output = Output::new();
    let mut statement = output.facts().slsa(&Occasion { during: true, ..Occasion::default() }).expect("a claim");
    for subject in &mut statement.subject {
        subject["name"] = json!("another name");
    }
    statement.subject.reverse();
    output.write_claims(&(signed(&output, &statement) + &result(&output)));
    assert_eq!(output.verified().answer, Answer::Yes);
    let mut more = statement.subject[1].clone();
    more["annotations"]["onnxWeights"] = json!("sha256:00");
    statement.subject.push(more);
    output.write_claims(&(signed(&output, &statement) + &result(&output)));
    refused(&output.verified(), "claim.field_mismatch");
}

#[test]
fn a_claim_says_everything_that_claims_of_its_type_say() {
    let output = Output::new();
    let mut statement = output.facts().test_result().expect("a claim");
    statement.predicate = json!({"configuration": [{"name": "gates"}]});
    output.write_claims(&(changed(&output, |_| {}) + &signed(&output, &statement)));
    refused(&output.verified(), "claim.field_mismatch");
    let slsa = changed(&output, |p| p["buildDefinition"]["externalParameters"]["hyperparameters"] = json!({}));
    output.write_claims(&(slsa + &result(&output)));
    refused(&output.verified(), "claim.field_mismatch");
}

#[test]
fn a_result_that_failed_is_none_to_ask_for() {
    let output = Output::unsigned(7.0);
    let mut report = output.report();
    report["verdict"]["outcome"] = json!("fail");
    report["verdict"]["gates"][0]["outcome"] = json!("fail");
    report["verdict"]["gates"][0]["measured"] = json!(0.9);
    output.write_report(&report);
    output.claim();
    output.sign();
    assert_eq!(output.verified().answer, Answer::Yes, "it is what its owner says, and that is that it failed");
    refused(&output.asked(Request { require: &[Predicate::TestResult], ..Request::default() }), "claim.missing");
}

#[test]
fn a_changed_line_of_the_key_is_invalid() {
    let output = Output::new();
    let text = fs::read_to_string(output.path(CLAIMS)).expect("read");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut swapped = lines[0].clone();
    swapped["dsseEnvelope"]["signatures"] = lines[1]["dsseEnvelope"]["signatures"].clone();
    output.write_claims(&format!("{swapped}\n{}\n", lines[1]));
    refused(&output.verified(), "claim.invalid");
}

#[test]
fn an_output_without_stamp_cannot_be_attested() {
    let folder = crate::common::temporary();
    fs::copy(crate::harness::source(), folder.path().join("model.onnx")).expect("copied");
    let error = Facts::of(folder.path(), "out").err().expect("no stamp").to_string();
    assert!(error.contains("no stamp"), "{error}");
}

#[test]
fn a_report_of_another_run_does_not_fit_the_stamp() {
    let output = Output::unsigned(7.0);
    let mut report = output.report();
    report["parameters"]["recipe"]["seed"] = json!(1);
    output.write_report(&report);
    let error = Facts::of(output.folder(), "out").err().expect("nothing to claim").to_string();
    assert!(error.contains("parameters of the report"), "{error}");
    output.sign();
    let verdict = output.verified();
    refused(&verdict, "report.mismatch");
    assert!(check(&verdict, "report").detail.contains("parameters"));
}

#[test]
fn nothing_is_claimed_of_a_model_that_was_changed_after_its_stamp() {
    let output = Output::unsigned(7.0);
    let mut bytes = fs::read(output.model()).expect("read");
    let weight = 7_f32.to_le_bytes();
    let at = bytes.windows(4).position(|window| window == weight).expect("the weights");
    bytes[at] ^= 1;
    fs::write(output.model(), bytes).expect("written");
    let error = Facts::of(output.folder(), "out").err().expect("nothing to claim").to_string();
    assert!(error.contains("the stamp is one of other weights"), "{error}");
}

#[test]
fn a_request_is_the_same_in_stamp_and_report() {
    let output = Output::unsigned(7.0);
    let mut report = output.report();
    report["request"] = json!("DSR-2");
    output.write_report(&report);
    output.sign();
    refused(&output.verified(), "report.mismatch");
}
