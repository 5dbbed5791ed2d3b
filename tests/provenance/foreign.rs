//! What other clients signed, and the keys that other programs write: `fixtures/stamps/v1/foreign`.

use crate::common::fixture;
use onnx_unlearn::provenance::{
    keys::{KeyError, PrivateKey, PublicKey},
    verify::{Answer, Request, examine},
};
use std::{fs, path::PathBuf};

fn foreign(name: &str) -> PathBuf {
    fixture("stamps/v1/foreign").join(name)
}

#[test]
fn folders_that_model_signing_signed_are_verified() {
    for curve in ["p256", "p384"] {
        let folder = foreign(&format!("model-signing-{curve}"));
        let key = PublicKey::read(&foreign(&format!("model-signing-{curve}.pub"))).expect("a key");
        let request = Request { key: Some(&key), ..Request::default() };
        let model = folder.join("model.onnx");
        let verdict = examine(&model, request).verdict(&model);
        assert_eq!((verdict.answer, verdict.reason), (Answer::Yes, "ok"), "{curve}: {:#?}", verdict.checks);
        // And no longer after a change.
        let copy = crate::common::temporary();
        for name in ["model.onnx", "model.sig"] {
            fs::copy(folder.join(name), copy.path().join(name)).expect("copied");
        }
        let model = copy.path().join("model.onnx");
        let verdict = examine(&model, request).verdict(&model);
        assert_eq!((verdict.answer, verdict.reason), (Answer::No, "signature.file_mismatch"), "{curve}");
    }
}

#[test]
fn an_envelope_of_securesystemslib_is_signed_as_ours_are() {
    use base64::Engine as _;
    let text = fs::read(foreign("securesystemslib-p256.json")).expect("read");
    let envelope: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let decode = |value: &serde_json::Value| {
        base64::engine::general_purpose::STANDARD.decode(value.as_str().expect("text")).expect("base64")
    };
    let (payload, kind) = (decode(&envelope["payload"]), envelope["payloadType"].as_str().expect("a type"));
    let mut signed = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    signed.extend(&payload);
    let signature = decode(&envelope["signatures"][0]["sig"]);
    let key = PublicKey::read(&foreign("model-signing-p256.pub")).expect("a key");
    assert!(key.signed(&signed, &signature));
    signed.push(0);
    assert!(!key.signed(&signed, &signature));
}

#[test]
fn keys_that_openssl_writes_are_read() {
    for (private, public) in
        [("test-p256.sec1.pem", "model-signing-p256.pub"), ("test-p384.pkcs8.pem", "model-signing-p384.pub")]
    {
        let (private, public) = (PrivateKey::read(&foreign(private)), PublicKey::read(&foreign(public)));
        assert_eq!(private.expect("a key").public().hint(), public.expect("a key").hint());
    }
}

#[test]
fn keys_that_cannot_be_used_are_refused_with_a_way_out() {
    for name in ["test-p256.encrypted-pkcs8.pem", "test-p256.encrypted-sec1.pem"] {
        let error = PrivateKey::read(&foreign(name)).err().expect("encrypted");
        assert!(matches!(error, KeyError::Encrypted { .. }), "{error}");
        assert!(error.to_string().contains("openssl pkey -in") && error.to_string().contains(name), "{error}");
    }
    for name in ["test-p521.pkcs8.pem", "test-ed25519.pkcs8.pem"] {
        let error = PrivateKey::read(&foreign(name)).err().expect("another kind");
        assert!(error.to_string().contains("P-256 or P-384") && error.to_string().contains(name), "{error}");
    }
    for name in ["test-p521.pub", "test-ed25519.pub"] {
        let error = PublicKey::read(&foreign(name)).expect_err("another kind");
        assert_eq!(error.code(), "key.unsupported");
    }
    let error = PrivateKey::read(&fixture("README.md")).err().expect("no key").to_string();
    assert!(error.contains("no PEM block"), "{error}");
}
