//! A small output: the model of `fixtures/stamps/matmul.onnx` with another W, stamped, with a report.

use crate::common::fixture;
use onnx_unlearn::{
    provenance::{
        claims::{Facts, Occasion, SLSA, TEST_RESULT},
        digest::{Digests, digest_file},
        keys::{Curve, PrivateKey, PublicKey},
        oms::{CLAIMS, Manifest, SIGNATURE},
        stamp::{self, MODEL, REPORT, Source, StampInfo, params_digest},
        verify::{Request, Verdict, examine},
    },
    tensor::Tensor,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// An output folder and the key that signs it.
pub struct Output {
    folder: TempDir,
    pub key: PrivateKey,
}

pub fn key() -> PrivateKey {
    PrivateKey::generate(Curve::P256).expect("a key")
}

pub fn source() -> PathBuf {
    fixture("stamps/matmul.onnx")
}

/// The settings of the pretended run.
fn parameters(seed: u64) -> Value {
    json!({"method": "unsir", "recipe": {"forget": [1], "seed": seed, "impair": {"lr": 0.001}}})
}

impl Output {
    /// Not signed, with `w` as its weights.
    pub fn unsigned(w: f32) -> Self {
        let (folder, key) = (crate::common::temporary(), key());
        let path = source();
        let bytes = fs::read(&path).expect("the source");
        let before = digest_file(&path).expect("its digests");
        let weights = Tensor::f32([2, 3], vec![w; 6]);
        let info = StampInfo {
            forget: vec!["1".into()],
            forgotten_before: Vec::new(),
            output: None,
            method: "unsir".into(),
            params: params_digest(&parameters(0)).expect("a digest"),
            request: Some("DSR-1".into()),
        };
        let from = Source { bytes: &bytes, folder: path.parent().expect("a folder"), digests: &before };
        let stamped = stamp::finish(&from, folder.path(), &BTreeMap::from([("W", &weights)]), info).expect("stamped");
        fs::write(folder.path().join(MODEL), &stamped.model).expect("written");
        let output = Self { folder, key };
        output.write_report(&report(&before, &stamped.digests));
        output
    }

    /// Signed, with the claims that `forget` makes.
    pub fn new() -> Self {
        let output = Self::unsigned(7.0);
        output.claim();
        output.sign();
        output
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub fn model(&self) -> PathBuf {
        self.path(MODEL)
    }

    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    pub fn report(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path(REPORT)).expect("a report")).expect("JSON")
    }

    pub fn write_report(&self, report: &Value) {
        fs::write(self.path(REPORT), serde_json::to_vec(report).expect("JSON")).expect("written");
    }

    pub fn facts(&self) -> Facts {
        Facts::of(self.folder(), "out").expect("an output")
    }

    /// The claims of a run, signed by `key`.
    pub fn claims_by(&self, key: &PrivateKey) -> String {
        let facts = self.facts();
        let occasion = Occasion { invocation: Some("urn:uuid:1".into()), during: true, ..Occasion::default() };
        let statements = [facts.slsa(&occasion), facts.test_result()];
        statements.map(|statement| statement.expect("a claim").sign(key).expect("signed") + "\n").concat()
    }

    pub fn write_claims(&self, text: &str) {
        fs::write(self.path(CLAIMS), text).expect("written");
    }

    pub fn claim(&self) {
        self.write_claims(&self.claims_by(&self.key));
    }

    pub fn sign(&self) {
        self.write_signature(
            &Manifest::of_output(self.folder()).expect("files").statement("out").sign(&self.key).expect("signed"),
        );
    }

    pub fn write_signature(&self, text: &str) {
        fs::write(self.path(SIGNATURE), text).expect("written");
    }

    /// What `verify --key` says.
    pub fn verified(&self) -> Verdict {
        self.asked(Request::default())
    }

    /// The same with further questions.
    pub fn asked(&self, request: Request<'_>) -> Verdict {
        let public = self.public();
        examine(&self.model(), Request { key: Some(&public), ..request }).verdict(&self.model())
    }
}

fn report(before: &Digests, after: &Digests) -> Value {
    let identity = |d: &Digests| json!({"name": "m.onnx", "file": d.file, "weights": d.weights, "graph": d.graph});
    let gate = |name: &str, threshold: f64, measured: f64| json!({"name": name, "outcome": "pass", "measure": "accuracy", "threshold": threshold, "measured": measured});
    json!({
        "schema_version": 1,
        "tool": concat!("onnx-unlearn/", env!("CARGO_PKG_VERSION")),
        "request": "DSR-1",
        "claims": [SLSA, TEST_RESULT],
        "statement": "UNSIR was run to suppress 1 of m.onnx.",
        "parameters": parameters(0),
        "source": identity(before),
        "result": identity(after),
        "classes": ["a", "b", "c"],
        "runtime": {"backend": "onnxruntime 0", "library": "sha256:00", "device": "cpu", "threads": 1, "target": "none"},
        "trained": [{"name": "W"}],
        "data": {"retain": {"read": 4, "kind": "npz", "digest": "00"}, "eval": null},
        "check": {"outcome": "compared", "engine": "another engine"},
        "verdict": {"outcome": "pass", "gates": [gate("forget", 0.01, 0.0), gate("retain", 0.02, 0.005)]},
        "limitations": ["a limit"],
    })
}
