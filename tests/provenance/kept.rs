//! Outputs of every version that was released: they stay verifiable.

use crate::common::{fixture, model};
use onnx_unlearn::provenance::{
    keys::PublicKey,
    policy::{Policy, Predicate},
    verify::{Answer, Outcome, Request, examine},
};

#[test]
fn signed_outputs_of_version_1_hold() {
    let policy = Policy::read("docs/policy.json".as_ref()).expect("a policy").0;
    for (name, source) in [("p256", "fashion-mnist"), ("p384-external", "fashion-mnist-external")] {
        let folder = fixture("stamps/v1").join(name);
        let key = PublicKey::read(&fixture(&format!("stamps/v1/{name}.pub"))).expect("a key");
        let source = model(source);
        let request =
            Request { key: Some(&key), source: Some(&source), policy: Some(&policy), require: &Predicate::ALL };
        let path = folder.join("model.onnx");
        let verdict = examine(&path, request).verdict(&path);
        assert_eq!((verdict.answer, verdict.reason), (Answer::Yes, "ok"), "{name}: {:#?}", verdict.checks);
        let skipped = verdict.checks.iter().filter(|c| c.outcome == Outcome::Skipped).map(|c| c.name);
        assert_eq!(skipped.collect::<Vec<_>>(), ["rederive"], "{name}");
    }
}
