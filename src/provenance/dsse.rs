//! A signed statement: DSSE envelope inside a sigstore bundle.
//!
//! Sources: DSSE protocol v1.0.2 (pre-authentication encoding), sigstore bundle v0.3. A bundle is read strictly: a field that
//! the format does not have is refused, so that nothing in a bundle goes unread and no changed bit unnoticed.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::keys::{KeyHint, PrivateKey, PublicKey};

/// Media type of a bundle.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Type of the payload.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// `_type` of a statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// Why a bundle was not understood.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum BundleError {
    #[error("no sigstore bundle: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{field} is {found:?}, expected {expected:?}")]
    Field { field: &'static str, found: String, expected: &'static str },
    #[error("{0} is no base64")]
    Base64(&'static str),
    #[error("holds {0} signatures, expected one")]
    Signatures(usize),
    #[error("is signed by a certificate; only public keys are checked")]
    Certificate,
    #[error("the payload is no in-toto statement v1: {0}")]
    Statement(String),
}

/// A bundle as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Material {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<Hint>,
    #[serde(default, skip_serializing)]
    certificate: Option<Value>,
    #[serde(default, skip_serializing)]
    x509_certificate_chain: Option<Value>,
    #[serde(default)]
    tlog_entries: Vec<Value>,
    #[serde(default, skip_serializing)]
    #[allow(dead_code)] // Clients write it empty; time-stamps need a service, and are not looked at.
    timestamp_verification_data: Option<Value>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(clippy::struct_field_names)] // The format's names.
struct Hint {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<KeyHint>,
    #[serde(default, skip_serializing)]
    #[allow(dead_code)] // The key is given from outside; what a bundle says of it is never believed.
    raw_bytes: Option<Value>,
    #[serde(default, skip_serializing)]
    #[allow(dead_code)]
    key_details: Option<Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    sig: String,
    #[serde(default)]
    keyid: Option<String>,
}

/// A bundle that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed {
    /// The bytes that were signed, a statement.
    pub payload: Vec<u8>,
    signature: Vec<u8>,
    hint: Option<KeyHint>,
    keyid: String,
}

/// Whose a signature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The key's, over exactly these bytes, and the bundle names that key.
    Key,
    /// Somebody else's: the bundle names another key, and the signature is not this key's.
    Other,
    /// It ought to be the key's, and is not; why.
    Invalid(&'static str),
}

/// What is signed of a payload: DSSE's pre-authentication encoding.
fn pre_authentication(payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    bytes.extend(payload);
    bytes
}

/// Signs a statement; gives the bundle as one line of JSON.
fn sign(payload: &[u8], key: &PrivateKey) -> Result<String, BundleError> {
    let hint = key.public().hint();
    let signature =
        Signature { sig: STANDARD.encode(key.sign(&pre_authentication(payload))), keyid: Some(hint.0.clone()) };
    let bundle = Bundle {
        media_type: MEDIA_TYPE.into(),
        verification_material: Material {
            public_key: Some(Hint { hint: Some(hint), ..Hint::default() }),
            certificate: None,
            x509_certificate_chain: None,
            tlog_entries: Vec::new(),
            timestamp_verification_data: None,
        },
        dsse_envelope: Envelope {
            payload: STANDARD.encode(payload),
            payload_type: PAYLOAD_TYPE.into(),
            signatures: vec![signature],
        },
    };
    Ok(serde_json::to_string(&bundle)?)
}

fn decode(field: &'static str, text: &str) -> Result<Vec<u8>, BundleError> {
    STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text)).map_err(|_| BundleError::Base64(field))
}

impl BundleError {
    /// True for bytes that are no JSON: damage, and no other form of signature.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Json(error) if !error.is_data())
    }
}

impl Signed {
    /// Reads a bundle.
    pub fn parse(text: &[u8]) -> Result<Self, BundleError> {
        let bundle: Bundle = serde_json::from_slice(text)?;
        let expected = |field, found: &str, expected: &'static str| {
            let same = found == expected;
            same.then_some(()).ok_or_else(|| BundleError::Field { field, found: found.into(), expected })
        };
        expected("mediaType", &bundle.media_type, MEDIA_TYPE)?;
        expected("payloadType", &bundle.dsse_envelope.payload_type, PAYLOAD_TYPE)?;
        let material = bundle.verification_material;
        if material.certificate.is_some() || material.x509_certificate_chain.is_some() {
            return Err(BundleError::Certificate);
        }
        let envelope = bundle.dsse_envelope;
        let [signature] = envelope.signatures.as_slice() else {
            return Err(BundleError::Signatures(envelope.signatures.len()));
        };
        Ok(Self {
            payload: decode("payload", &envelope.payload)?,
            signature: decode("sig", &signature.sig)?,
            hint: material.public_key.and_then(|key| key.hint),
            keyid: signature.keyid.clone().unwrap_or_default(),
        })
    }

    /// Whose signature it is. A bundle's word on which key that is counts only where the signature is not the key's.
    pub fn by(&self, key: &PublicKey) -> Signer {
        let hint = key.hint();
        let named = self.hint.as_ref() == Some(&hint) || self.keyid == hint.0;
        // Both are optional.
        let only = self.hint.as_ref().is_none_or(|h| *h == hint) && (self.keyid == hint.0 || self.keyid.is_empty());
        match (key.signed(&pre_authentication(&self.payload), &self.signature), named, only) {
            (true, _, true) => Signer::Key,
            (true, _, false) => Signer::Invalid("the signature is the key's, but the bundle names another key"),
            (false, true, _) => {
                Signer::Invalid("the bundle names the key, but the signature is not one by it over this payload")
            }
            (false, false, _) => Signer::Other,
        }
    }

    /// The statement in it.
    pub fn statement(&self) -> Result<Statement, BundleError> {
        let statement: Statement =
            serde_json::from_slice(&self.payload).map_err(|e| BundleError::Statement(e.to_string()))?;
        match statement.kind.as_str() {
            STATEMENT_TYPE => Ok(statement),
            other => Err(BundleError::Statement(format!("_type is {other:?}"))),
        }
    }
}

/// An in-toto statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// What it is about.
    pub subject: Vec<Value>,
    /// What it says, by type.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What it says.
    pub predicate: Value,
}

impl Statement {
    /// Of some things.
    pub fn new(subject: Vec<Value>, predicate_type: &str, predicate: Value) -> Self {
        Self { kind: STATEMENT_TYPE.into(), subject, predicate_type: predicate_type.into(), predicate }
    }

    /// Its bytes, signed.
    pub fn sign(&self, key: &PrivateKey) -> Result<String, BundleError> {
        sign(&serde_json::to_vec(self)?, key)
    }

    /// The SHA-256 values of its subjects, in hex.
    pub fn subjects(&self) -> impl Iterator<Item = &str> {
        self.subject.iter().filter_map(|subject| subject["digest"]["sha256"].as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_length_and_bytes() {
        // The example of the DSSE protocol, with our payload type.
        let bytes = pre_authentication(b"hello world");
        assert_eq!(bytes, b"DSSEv1 28 application/vnd.in-toto+json 11 hello world");
    }
}
