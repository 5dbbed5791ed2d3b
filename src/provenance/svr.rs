//! What `verify` concluded, for others to rely on: a simple verification result (in-toto svr v0.2).

use serde_json::{Value, json};

use super::digest::Digest;
use super::dsse::Statement;
use super::keys::KeyHint;
use super::verify::{Outcome, Verdict};

/// `predicateType` of a verification result.
pub const SVR: &str = "https://in-toto.io/attestation/svr/v0.2";
/// Who verified.
const VERIFIER: &str = "https://onnx-unlearn.dev/verify";

/// The statement; `subjects` are name and digest of what was verified, `key` is whose signature was asked for, `created` is RFC 3339. It says what passed and nothing
/// of what did not.
pub fn statement(
    verdict: &Verdict,
    subjects: &[(String, Digest)],
    key: Option<&KeyHint>,
    policy: Option<Digest>,
    created: &str,
) -> Statement {
    let sha256 = |digest: &Digest| json!({"sha256": hex::encode(digest.0)});
    let subjects = subjects.iter().map(|(name, digest)| json!({"name": name, "digest": sha256(digest)})).collect();
    let policies: Vec<Value> =
        policy.iter().map(|digest| json!({"name": "policy", "digest": sha256(digest)})).collect();
    let passed = verdict.checks.iter().filter(|check| check.outcome == Outcome::Pass);
    let property = |name: &str| format!("ONNX_UNLEARN_{}", name.to_uppercase().replace('.', "_"));
    let key = key.map(|hint| property(&format!("key.{hint}")));
    let predicate = json!({
        "verifier": {"id": VERIFIER, "policies": policies},
        "timeCreated": created,
        "properties": passed.map(|check| property(check.name)).chain(key).collect::<Vec<_>>(),
    });
    Statement::new(subjects, SVR, predicate)
}
