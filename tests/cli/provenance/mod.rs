//! Signing, claiming, committing, comparing, exporting: what a person does around `forget` and `verify`.

mod rederive;

use crate::{
    common::{
        data, model,
        program::{Forget, Ran, names, run},
        temporary,
    },
    forget::page::valid,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};
use tempfile::TempDir;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Keys that all tests here use.
struct Keys {
    folder: TempDir,
}

impl Keys {
    fn private(&self) -> PathBuf {
        self.folder.path().join("k.pem")
    }

    fn public(&self) -> PathBuf {
        self.folder.path().join("k.pem.pub")
    }

    fn commitment(&self) -> PathBuf {
        self.folder.path().join("c.key")
    }
}

fn keys() -> &'static Keys {
    static KEYS: LazyLock<Keys> = LazyLock::new(|| {
        let keys = Keys { folder: temporary() };
        run(["keygen", "--out", text(&keys.private())]).exits(0);
        run(["keygen", "--kind", "commitment", "--out", text(&keys.commitment())]).exits(0);
        keys
    });
    &KEYS
}

/// A signed result that tests look at and do not change.
fn signed() -> &'static Forget {
    static RESULT: LazyLock<Forget> = LazyLock::new(|| {
        let forget = Forget::passing(model("fashion-mnist"))
            .set("--sign-key", keys().private())
            .set("--commitment-key", keys().commitment())
            .set("--request-id", "DSR-2026-0031");
        let ran = forget.run().exits(0);
        let secret = fs::read_to_string(keys().private()).expect("read");
        for line in secret.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!ran.stderr.contains(line) && !ran.stdout.contains(line), "a key is never shown");
        }
        forget
    });
    &RESULT
}

/// A copy of it.
fn copied() -> TempDir {
    let folder = temporary();
    for name in signed().files() {
        fs::copy(signed().out().join(&name), folder.path().join(&name)).expect("copied");
    }
    folder
}

fn verify(folder: &Path, more: &[&str]) -> Ran {
    let model = folder.join("model.onnx");
    run(["verify", text(&model), "--key", text(&keys().public())].iter().chain(more))
}

#[test]
fn a_signed_result_is_verified_by_who_has_the_public_key() {
    let names = ["claims.jsonl", "model.onnx", "model.sig", "unlearn-report.html", "unlearn-report.json"];
    assert_eq!(signed().files(), names);
    let source = model("fashion-mnist");
    let ran = verify(&signed().out(), &["--source", text(&source), "--require", "slsa,test-result"]).exits(0);
    assert!(ran.stdout.ends_with("model.onnx: yes (ok)\n"), "{}", ran.stdout);
    // Without the key nobody knows who made it, and it says so.
    let ran = run(["verify", text(&signed().result())]).exits(0);
    assert!(ran.stdout.contains("integrity only, origin not authenticated"), "{}", ran.stdout);
    // Quiet is the answer alone.
    let ran = verify(&signed().out(), &["--quiet"]).exits(0);
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
}

#[test]
fn the_request_runs_through_stamp_report_page_and_claims() {
    let out = signed().out();
    let report = signed().report();
    valid(&report);
    assert_eq!(report["request"], "DSR-2026-0031");
    for name in ["model.onnx", "unlearn-report.html"] {
        let bytes = fs::read(out.join(name)).expect("read");
        assert!(bytes.windows(13).any(|w| w == b"DSR-2026-0031"), "{name}");
    }
    let slsa = run(["export", text(&out), "--format", "slsa"]).exits(0).json();
    assert_eq!(slsa["predicate"]["buildDefinition"]["externalParameters"]["request"], "DSR-2026-0031");
    let bom = run(["export", text(&out), "--format", "cyclonedx"]).exits(0).json();
    let component = &bom["metadata"]["component"];
    assert_eq!(component["pedigree"]["patches"][0]["resolves"][0]["id"], "DSR-2026-0031");
    assert_eq!(bom["specVersion"], "1.6");
}

#[test]
fn data_is_committed_to_and_not_shown() {
    let out = signed().out();
    for role in ["retain", "eval"] {
        assert!(signed().report()["data"][role]["commitment"].is_string());
        assert!(signed().report()["data"][role].get("digest").is_none(), "a digest can be compared with candidates");
    }
    let commit = |data: &Path, more: &[&str]| {
        run(["commit", text(data), "--commitment-key", text(&keys().commitment())].iter().chain(more))
    };
    let ran = commit(data::retain_file(), &["--output", text(&out)]).exits(0);
    assert!(ran.stdout.starts_with("yes: ") && ran.stdout.contains("the retain data"), "{}", ran.stdout);
    let ran = commit(data::eval_file(), &["--output", text(&out)]).exits(0);
    assert!(ran.stdout.contains("the eval data"), "{}", ran.stdout);
    commit(&model("fashion-mnist"), &["--output", text(&out)]).fails(&["fashion-mnist.onnx"]);
    let other = temporary();
    let path = other.path().join("other.npz");
    let mut bytes = fs::read(data::retain_file()).expect("read");
    bytes.push(0);
    fs::write(&path, bytes).expect("written");
    let ran = commit(&path, &["--output", text(&out)]).exits(1);
    assert!(ran.stdout.starts_with("no: "), "{}", ran.stdout);
}

#[test]
fn a_policy_decides() {
    let folder = temporary();
    let policy = |content: Value| {
        let path = folder.path().join("policy.json");
        fs::write(&path, content.to_string()).expect("written");
        path
    };
    let path = policy(json!({"schema_version": 1, "max_forget_accuracy": 0.1, "require": ["slsa"]}));
    verify(&signed().out(), &["--policy", text(&path)]).exits(0);
    let path = policy(json!({"schema_version": 1, "keys": ["00"]}));
    let ran = verify(&signed().out(), &["--policy", text(&path), "--json"]).exits(1);
    assert_eq!(ran.json()["reason"], "policy.key");
    let path = policy(json!({"schema_version": 1, "keyz": []}));
    let ran = verify(&signed().out(), &["--policy", text(&path)]).exits(2);
    assert!(ran.stdout.contains("policy.json") && ran.stdout.contains("keyz"), "{}", ran.stdout);
}

#[test]
fn the_policy_that_comes_with_the_project_can_be_met() {
    let ran = verify(&signed().out(), &["--policy", "docs/policy.json", "--json"]);
    // This small run is judged by gates that are wider than those of the policy.
    let json = ran.json();
    assert!(["ok", "policy.threshold"].contains(&json["reason"].as_str().expect("a code")), "{json:#}");
}

#[test]
fn what_was_concluded_can_be_passed_on() {
    let folder = temporary();
    let path = folder.path().join("svr.json");
    verify(&signed().out(), &["--emit-svr", text(&path)]).exits(0);
    let statement: Value = serde_json::from_slice(&fs::read(&path).expect("written")).expect("JSON");
    assert_eq!(statement["predicateType"], "https://in-toto.io/attestation/svr/v0.2");
    let properties = statement["predicate"]["properties"].as_array().expect("a list");
    assert!(properties.contains(&json!("ONNX_UNLEARN_ORIGIN")));
    assert!(!properties.contains(&json!("ONNX_UNLEARN_POLICY")), "it was not asked for");
    // Nothing is passed on of a no.
    let copy = copied();
    fs::write(copy.path().join("more.txt"), "").expect("written");
    let path = folder.path().join("no.json");
    verify(copy.path(), &["--emit-svr", text(&path)]).exits(1);
    assert!(!path.exists());
}

#[test]
fn what_was_not_signed_in_the_run_can_be_signed_later() {
    let copy = copied();
    let folder = copy.path();
    for name in ["model.sig", "claims.jsonl"] {
        fs::remove_file(folder.join(name)).expect("removed");
    }
    let key = keys().private();
    verify(folder, &[]).exits(1);
    run(["sign", text(folder), "--sign-key", text(&key)]).exits(0);
    run(["sign", text(folder), "--sign-key", text(&key)]).fails(&["model.sig exists", "--force"]);
    run(["sign", text(folder), "--sign-key", text(&key), "--force"]).exits(0);
    // The report names the claims that belong to the result.
    let ran = verify(folder, &["--json"]).exits(1);
    assert_eq!(ran.json()["reason"], "claim.missing");
    run(["attest", text(folder), "--sign-key", text(&key)]).exits(0);
    verify(folder, &[]).exits(0);
    let slsa = fs::read_to_string(folder.join("claims.jsonl")).expect("read");
    assert_eq!(slsa.lines().count(), 2);
    // More claims may follow, and the signature stays good.
    run(["attest", text(folder), "--sign-key", text(&key)]).exits(0);
    verify(folder, &[]).exits(0);
    assert_eq!(names(folder).len(), 5);
}

#[test]
fn an_audit_can_be_claimed() {
    let copy = copied();
    let (folder, key) = (copy.path(), keys().private());
    let elsewhere = temporary();
    let (audit, policy) = (elsewhere.path().join("audit.json"), elsewhere.path().join("policy.json"));
    let source = model("fashion-mnist");
    let result = folder.join("model.onnx");
    let args = ["audit", text(&source), text(&result), "--forget", "5", "--only", "membership", "--json"];
    let data = ["--data", text(data::eval_file()), "--train-data", text(data::retain_file())];
    let ran = run(args.iter().chain(&data).chain(&["--mean", "0.2860", "--std", "0.3530"])).exits(0);
    fs::write(&audit, &ran.stdout).expect("written");
    let bounds = |min: f64, max: f64| {
        let content = json!({"schema_version": 1, "membership_auc": {"min": min, "max": max}});
        fs::write(&policy, content.to_string()).expect("written");
    };
    bounds(0.0, 1.0);
    let attest = |folder: &Path| {
        let args =
            ["attest", text(folder), "--sign-key", text(&key), "--audit", text(&audit), "--policy", text(&policy)];
        run(args)
    };
    assert_eq!(verify(folder, &["--policy", text(&policy), "--json"]).exits(1).json()["reason"], "policy.threshold");
    attest(folder).exits(0);
    verify(folder, &["--policy", text(&policy)]).exits(0);
    bounds(0.0, 0.0);
    assert_eq!(verify(folder, &["--policy", text(&policy), "--json"]).exits(1).json()["reason"], "policy.threshold");
    // An audit of another model is none of this one.
    let other = fs::read_to_string(&audit).expect("read").replace("\"file\": \"sha256:", "\"file\": \"sha256:0");
    fs::write(&audit, other).expect("written");
    attest(folder).fails(&["audit.json is about the model"]);
}

#[test]
fn what_cannot_be_signed_is_said_before_the_work() {
    let base = || Forget::new(model("fashion-mnist")).set("--sign-key", keys().private());
    let forget = base();
    fs::create_dir_all(forget.out()).expect("made");
    fs::write(forget.out().join("notes.txt"), "").expect("written");
    let ran = forget.run().fails(&["notes.txt", "--sign-key signs the folder as a whole"]);
    assert!(!ran.stderr.contains("noise:"), "{}", ran.stderr);
    assert_eq!(forget.files(), ["notes.txt"]);
    base().set("--sign-key", "no/such/key.pem").run().fails(&["no/such/key.pem"]);
    base().set("--sign-key", keys().public()).run().fails(&["holds a public key"]);
    base().set("--commitment-key", keys().public()).run().fails(&["no commitment key"]);
    base().set("--request-id", "").run().fails(&["--request-id"]);
}

#[test]
fn a_result_that_is_not_signed_keeps_no_signature_of_an_earlier_one() {
    let copy = copied();
    let forget = Forget::passing(model("fashion-mnist")).set("--out", copy.path());
    forget.run().fails(&["exists", "--force"]);
    forget.flag("--force").run().exits(0);
    assert_eq!(names(copy.path()), ["model.onnx", "unlearn-report.html", "unlearn-report.json"]);
}

#[test]
fn what_differs_is_named_and_only_that() {
    let (source, result) = (model("fashion-mnist"), signed().result());
    let diff = |more: &[&str]| run(["diff", text(&source), text(&result)].iter().chain(more));
    let ran = diff(&[]).exits(1);
    assert!(ran.stdout.contains("tensor   changed  head.weight"), "{}", ran.stdout);
    let ran = diff(&["--only", "*"]).exits(0);
    assert!(ran.stdout.ends_with("byte for byte\n"), "{}", ran.stdout);
    let ran = diff(&["--only", "head.*"]).exits(1);
    assert!(ran.stdout.contains("that --only does not name: onnx::Conv_63"), "{}", ran.stdout);
    run(["diff", text(&source), text(&source)]).exits(0);
    let json = diff(&["--json"]).exits(1).json();
    assert_eq!(json["difference"]["nothing_else"], true);
    run(["diff", text(&source), "no/such.onnx"]).fails(&["no/such.onnx"]);
}

#[test]
fn keys_that_cannot_be_used_have_their_code() {
    let result = signed().result();
    let ask = |key: &Path| run(["verify", text(&result), "--key", text(key), "--json"]).exits(2).json();
    assert_eq!(ask(&keys().private())["reason"], "key.unsupported");
    assert_eq!(ask(Path::new("no/such.pub"))["reason"], "input.unreadable");
    run(["verify", text(&result), "--require", "slsa"]).exits(2).says(&["--key"]);
    run(["keygen", "--out", text(&keys().private())]).fails(&["exists; a key is never replaced"]);
}

#[test]
fn a_secret_that_would_be_published_is_refused() {
    let copy = copied();
    let inside = copy.path().join("k.pem");
    fs::copy(keys().private(), &inside).expect("copied");
    for command in ["sign", "attest"] {
        run([command, text(copy.path()), "--sign-key", text(&inside)]).fails(&[
            "--sign-key",
            "k.pem",
            "keep it elsewhere",
        ]);
    }
    fs::copy(keys().commitment(), copy.path().join("c.key")).expect("copied");
    let forget = Forget::new(model("fashion-mnist")).set("--out", copy.path()).flag("--force");
    forget.set("--commitment-key", copy.path().join("c.key")).run().fails(&["--commitment-key", "keep it elsewhere"]);
}

#[test]
fn an_svr_replaces_nothing() {
    let folder = temporary();
    let path = folder.path().join("svr.json");
    fs::write(&path, "mine").expect("written");
    verify(&signed().out(), &["--emit-svr", text(&path)]).fails(&["svr.json", "exists"]);
    assert_eq!(fs::read(&path).expect("read"), b"mine");
    let beside = signed().out().join("svr.json");
    verify(&signed().out(), &["--emit-svr", text(&beside)]).fails(&["lies beside the model"]);
}

#[test]
fn data_beside_equal_files_counts() {
    let folders = [temporary(), temporary()];
    for folder in &folders {
        for name in ["fashion-mnist-external.onnx", "fashion-mnist-external.data"] {
            fs::copy(Path::new("fixtures/models").join(name), folder.path().join(name)).expect("copied");
        }
    }
    let [a, b] = [0, 1].map(|i| folders[i].path().join("fashion-mnist-external.onnx"));
    run(["diff", text(&a), text(&b)]).exits(0);
    let data = folders[1].path().join("fashion-mnist-external.data");
    let mut bytes = fs::read(&data).expect("read");
    bytes[3] ^= 1;
    fs::write(&data, bytes).expect("written");
    run(["diff", text(&a), text(&b)]).exits(1);
}
