//! Every way in which a signed folder can be wrong, with its reason code.

use crate::harness::{Output, key};
use onnx_unlearn::provenance::{
    dsse::Statement,
    oms::{CLAIMS, Manifest, PREDICATE, SIGNATURE},
    stamp::{MODEL, REPORT},
    verify::{Answer, Request, Verdict, examine, examine_bytes},
};
use serde_json::json;
use sha2::Digest as _;
use std::fs;

fn says(verdict: &Verdict, answer: Answer, reason: &str) {
    assert_eq!((verdict.answer, verdict.reason), (answer, reason), "{:#?}", verdict.checks);
}

#[test]
fn a_signed_output_is_what_it_was() {
    says(&Output::new().verified(), Answer::Yes, "ok");
}

#[test]
fn the_folder_may_be_renamed() {
    let output = Output::new();
    let moved = crate::common::temporary();
    let elsewhere = moved.path().join("another name");
    fs::create_dir(&elsewhere).expect("a folder");
    for name in [MODEL, REPORT, SIGNATURE, CLAIMS] {
        fs::copy(output.path(name), elsewhere.join(name)).expect("copied");
    }
    let (public, model) = (output.public(), elsewhere.join(MODEL));
    let verdict = examine(&model, Request { key: Some(&public), ..Request::default() }).verdict(&model);
    says(&verdict, Answer::Yes, "ok");
}

#[test]
fn without_a_signature_nobody_vouches() {
    let output = Output::new();
    fs::remove_file(output.path(SIGNATURE)).expect("removed");
    says(&output.verified(), Answer::No, "signature.missing");
}

#[test]
fn another_key_is_not_the_signer() {
    let mut output = Output::new();
    output.key = key();
    says(&output.verified(), Answer::No, "signature.wrong_key");
}

#[test]
fn a_signature_over_other_bytes_is_invalid() {
    let (output, other) = (Output::new(), Output::unsigned(8.0));
    let public = output.public();
    // The bundle of one payload with the payload of another, as somebody would write it who has no key.
    let mut bundle: serde_json::Value =
        serde_json::from_slice(&fs::read(output.path(SIGNATURE)).expect("read")).expect("JSON");
    let theirs =
        Manifest::of_output(other.folder()).expect("files").statement("out").sign(&output.key).expect("signed");
    let theirs: serde_json::Value = serde_json::from_str(&theirs).expect("JSON");
    bundle["dsseEnvelope"]["payload"] = theirs["dsseEnvelope"]["payload"].clone();
    output.write_signature(&bundle.to_string());
    says(&output.verified(), Answer::No, "signature.invalid");
    assert_eq!(public, output.public());
}

#[test]
fn a_signature_of_another_model_does_not_fit() {
    let (output, mut signer) = (Output::new(), Output::unsigned(8.0));
    signer.key = key();
    signer.sign();
    // By the key that signed it the bundle is good, and the files are not those it lists.
    fs::copy(signer.path(SIGNATURE), output.path(SIGNATURE)).expect("copied");
    let (public, model) = (signer.public(), output.model());
    let verdict = examine(&model, Request { key: Some(&public), ..Request::default() }).verdict(&model);
    says(&verdict, Answer::No, "signature.file_mismatch");
}

#[test]
fn every_signed_file_counts() {
    for name in [MODEL, REPORT] {
        let output = Output::new();
        let mut bytes = fs::read(output.path(name)).expect("read");
        bytes.push(b'\n');
        fs::write(output.path(name), bytes).expect("written");
        let verdict = output.verified();
        assert_eq!(verdict.answer, Answer::No, "{name}");
        let files = verdict.checks.iter().find(|check| check.name == "origin.files").expect("a check");
        assert_eq!(files.code, Some("signature.file_mismatch"));
        assert!(files.detail.contains(name), "{}", files.detail);
        fs::remove_file(output.path(name)).expect("removed");
        assert_ne!(output.verified().answer, Answer::Yes, "{name}");
    }
}

#[test]
fn a_file_more_is_not_covered() {
    for name in ["more.txt", "below/more.txt", ".hidden"] {
        let output = Output::new();
        let path = output.path(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, "").expect("written");
        says(&output.verified(), Answer::No, "signature.unlisted_file");
    }
}

#[cfg(unix)]
#[test]
fn a_link_is_no_file() {
    let output = Output::new();
    let elsewhere = crate::common::temporary();
    for name in [MODEL, REPORT] {
        let target = elsewhere.path().join(name);
        fs::rename(output.path(name), &target).expect("moved");
        std::os::unix::fs::symlink(&target, output.path(name)).expect("linked");
        says(&output.verified(), Answer::No, "signature.unlisted_file");
        fs::remove_file(output.path(name)).expect("removed");
        fs::copy(&target, output.path(name)).expect("copied");
    }
    says(&output.verified(), Answer::Yes, "ok");
}

/// A signed list with these files and ignored paths.
fn listing(output: &Output, resources: &[(&str, String)], ignored: &[&str]) {
    let files = Manifest::of_output(output.folder()).expect("files");
    let listed: Vec<_> =
        resources.iter().map(|(name, digest)| json!({"name": name, "digest": digest, "algorithm": "sha256"})).collect();
    let predicate = json!({
        "resources": listed,
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": ignored},
    });
    let digests: Vec<u8> = resources.iter().flat_map(|(_, digest)| hex::decode(digest).expect("hex")).collect();
    let root = hex::encode(sha2::Sha256::digest(digests));
    assert!(!files.resources.is_empty());
    let statement = Statement::new(vec![json!({"name": "out", "digest": {"sha256": root}})], PREDICATE, predicate);
    output.write_signature(&statement.sign(&output.key).expect("signed"));
}

fn hash(output: &Output, name: &str) -> String {
    hex::encode(sha2::Sha256::digest(fs::read(output.path(name)).expect("read")))
}

#[test]
fn a_list_that_leaves_the_model_out_vouches_for_nothing() {
    let output = Output::new();
    let report = hash(&output, REPORT);
    listing(&output, &[(REPORT, report)], &[MODEL, CLAIMS]);
    says(&output.verified(), Answer::No, "signature.unlisted_file");
}

#[test]
fn a_list_names_plain_paths_once() {
    let output = Output::new();
    let (model, report) = (hash(&output, MODEL), hash(&output, REPORT));
    for name in ["../model.onnx", "/model.onnx", "./model.onnx", "a//b", "a\\b", ""] {
        listing(&output, &[(name, model.clone())], &[CLAIMS]);
        says(&output.verified(), Answer::Undecided, "signature.malformed");
    }
    listing(&output, &[(MODEL, model.clone()), (MODEL, model.clone())], &[CLAIMS]);
    says(&output.verified(), Answer::Undecided, "signature.malformed");
    // In which order is the signer's affair; claims are about the folder in ours, so there are none here.
    let mut told = output.report();
    told["claims"] = json!([]);
    output.write_report(&told);
    fs::remove_file(output.path(CLAIMS)).expect("removed");
    listing(&output, &[(REPORT, hash(&output, REPORT)), (MODEL, model)], &[CLAIMS]);
    says(&output.verified(), Answer::Yes, "ok");
    assert_ne!(report, hash(&output, REPORT));
}

#[test]
fn what_is_no_bundle_is_malformed() {
    let output = Output::new();
    let good = fs::read_to_string(output.path(SIGNATURE)).expect("read");
    let bundle: serde_json::Value = serde_json::from_str(&good).expect("JSON");
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut bundle = bundle.clone();
        change(&mut bundle);
        bundle.to_string()
    };
    let bad = [
        String::new(),
        "{}".to_owned(),
        format!("{good}{good}"),
        changed(&|b| b["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.2+json".into()),
        changed(&|b| b["dsseEnvelope"]["payloadType"] = "text/plain".into()),
        changed(&|b| b["dsseEnvelope"]["payload"] = "!".into()),
        changed(&|b| b["dsseEnvelope"]["signatures"] = json!([])),
        changed(&|b| b["dsseEnvelope"]["more"] = json!(1)),
        changed(&|b| b["verificationMaterial"] = json!({"certificate": {"rawBytes": ""}})),
    ];
    for text in bad {
        output.write_signature(&text);
        says(&output.verified(), Answer::Undecided, "signature.malformed");
    }
    output.write_signature(&changed(&|b| {
        let twice = b["dsseEnvelope"]["signatures"][0].clone();
        b["dsseEnvelope"]["signatures"] = json!([twice, twice]);
    }));
    says(&output.verified(), Answer::Undecided, "signature.malformed");
}

#[test]
fn a_signature_names_its_key() {
    let output = Output::new();
    let mut bundle: serde_json::Value =
        serde_json::from_slice(&fs::read(output.path(SIGNATURE)).expect("read")).expect("JSON");
    bundle["dsseEnvelope"]["signatures"][0]["keyid"] = "00".into();
    output.write_signature(&bundle.to_string());
    says(&output.verified(), Answer::No, "signature.invalid");
}

#[test]
fn what_is_appended_to_a_model_is_noticed_twice() {
    // A stamp once more, as somebody would forge one: readers that take the last entry would believe it.
    let output = Output::new();
    let mut bytes = fs::read(output.model()).expect("read");
    let key = b"dev.onnx-unlearn.digest";
    let mut entry = vec![1 << 3 | 2, key.len() as u8];
    entry.extend(key);
    entry.extend([2 << 3 | 2, 1, b'x']);
    bytes.extend([14 << 3 | 2, entry.len() as u8]);
    bytes.extend(entry);
    fs::write(output.model(), &bytes).expect("written");
    let verdict = output.verified();
    says(&verdict, Answer::No, "signature.file_mismatch");
    let model = verdict.checks.iter().find(|check| check.name == "model").expect("a check");
    assert_eq!(model.code, Some("model.duplicate_metadata_key"));
    // Without the key, nobody can tell which entry counts.
    let verdict = examine(&output.model(), Request::default()).verdict(&output.model());
    says(&verdict, Answer::Undecided, "model.duplicate_metadata_key");
}

#[test]
fn external_data_is_signed_as_the_model_is() {
    let folder = crate::common::temporary();
    for (from, to) in [("external.onnx", "model.onnx"), ("external.data", "external.data")] {
        fs::copy(crate::common::fixture("stamps").join(from), folder.path().join(to)).expect("copied");
    }
    let key = key();
    let signature = Manifest::of_output(folder.path()).expect("files").statement("out").sign(&key).expect("signed");
    fs::write(folder.path().join(SIGNATURE), signature).expect("written");
    let model = folder.path().join(MODEL);
    let public = key.public();
    let files = || {
        let verdict = examine(&model, Request { key: Some(&public), ..Request::default() }).verdict(&model);
        verdict.checks.into_iter().find(|check| check.name == "origin.files").expect("a check")
    };
    assert_eq!(files().code, None, "{}", files().detail);
    let data = folder.path().join("external.data");
    let mut bytes = fs::read(&data).expect("read");
    bytes[0] ^= 1;
    fs::write(&data, bytes).expect("written");
    assert_eq!(files().code, Some("signature.file_mismatch"));
    assert!(files().detail.contains("external.data"), "{}", files().detail);
}

#[test]
fn a_report_that_cannot_be_read_is_not_passed_over() {
    let output = Output::new();
    fs::write(output.path(REPORT), "{").expect("written");
    fs::remove_file(output.path(CLAIMS)).expect("removed");
    output.sign();
    says(&output.verified(), Answer::Undecided, "report.malformed");
    let verdict = examine(&output.model(), Request::default()).verdict(&output.model());
    says(&verdict, Answer::Undecided, "report.malformed");
}

#[test]
fn what_is_judged_is_what_was_signed() {
    // A file that is exchanged while it is verified: the bytes judged are not those on the disk.
    let (output, other) = (Output::new(), Output::unsigned(8.0));
    let public = output.public();
    let request = Request { key: Some(&public), ..Request::default() };
    let bytes = fs::read(other.model()).expect("read");
    let verdict = examine_bytes(&bytes, &output.model(), request).verdict(&output.model());
    let files = verdict.checks.iter().find(|check| check.name == "origin.files").expect("a check");
    assert_eq!(files.code, Some("signature.file_mismatch"));
}

#[cfg(unix)]
#[test]
fn a_signature_is_a_regular_file() {
    let output = Output::new();
    let elsewhere = crate::common::temporary();
    let target = elsewhere.path().join(SIGNATURE);
    fs::rename(output.path(SIGNATURE), &target).expect("moved");
    std::os::unix::fs::symlink(&target, output.path(SIGNATURE)).expect("linked");
    says(&output.verified(), Answer::Undecided, "input.unreadable");
}

#[test]
fn a_name_that_verifiers_refuse_is_not_signed() {
    let output = Output::new();
    fs::write(output.path("a\\b"), "").expect("written");
    let error = Manifest::of_output(output.folder()).expect_err("a backslash").to_string();
    assert!(error.contains("cannot be signed"), "{error}");
}
