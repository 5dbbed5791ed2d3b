//! Keys of signatures: reading them from PEM, writing new ones, signing and checking.
//!
//! ECDSA on P-256 with SHA-256 and on P-384 with SHA-384, with the nonces of RFC 6979, so that the same key and bytes give
//! the same signature. A private key is never printed, and an error never shows what a key file holds.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::elliptic_curve::Generate as _;
use p256::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The curves that OpenSSF Model Signing and this tool have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256, with SHA-256.
    P256,
    /// NIST P-384, with SHA-384.
    P384,
}

/// A key that signs.
pub enum PrivateKey {
    /// On P-256.
    P256(p256::ecdsa::SigningKey),
    /// On P-384.
    P384(p384::ecdsa::SigningKey),
}

/// A key that checks signatures.
#[derive(Clone, Debug, PartialEq)]
pub enum PublicKey {
    /// On P-256.
    P256(p256::ecdsa::VerifyingKey),
    /// On P-384.
    P384(p384::ecdsa::VerifyingKey),
}

/// The SHA-256 of a public key as PEM: how a bundle names the key that signed it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyHint(pub String);

impl fmt::Display for KeyHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a key was not read or written.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum KeyError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is encrypted, and no password is asked for; `openssl pkey -in {0} -out plain.pem` writes it without one, to a \
             place that only you can read", path.display())]
    Encrypted { path: PathBuf },
    #[error("{} holds {found}; expected a {wanted} key as PEM, on P-256 or P-384", path.display())]
    Unsupported { path: PathBuf, wanted: &'static str, found: String },
    #[error("{} exists; a key is never replaced", path.display())]
    Exists { path: PathBuf },
    #[error("the key cannot be written as PKCS#8: {0}")]
    Encoding(p256::pkcs8::Error),
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

impl KeyError {
    /// The stable reason code of `verify`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "input.unreadable",
            _ => "key.unsupported",
        }
    }
}

/// A block of a PEM file.
struct Block<'t> {
    label: &'t str,
    text: &'t str,
}

/// The blocks of a PEM file, in order; what stands around them is stepped over.
fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("-----BEGIN ") {
        let block = &rest[start..];
        let Some(label) = block["-----BEGIN ".len()..].split("-----").next() else { break };
        let end = format!("-----END {label}-----");
        let Some(at) = block.find(&end) else { break };
        found.push(Block { label, text: &block[..at + end.len()] });
        rest = &block[at + end.len()..];
    }
    found
}

/// The block of a PEM file that is a key. Curve parameters, which OpenSSL writes before a key, say nothing that the key does
/// not say itself.
fn key_block<'t>(path: &Path, text: &'t str, wanted: &'static str) -> Result<Block<'t>, KeyError> {
    let unsupported = |found: &str| KeyError::Unsupported { path: path.into(), wanted, found: found.into() };
    let mut found = blocks(text).into_iter().filter(|block| block.label != "EC PARAMETERS");
    let block = found.next().ok_or_else(|| unsupported("no PEM block"))?;
    if found.next().is_some() {
        return Err(unsupported("several PEM blocks"));
    }
    if block.text.contains("ENCRYPTED") && wanted == "private" {
        return Err(KeyError::Encrypted { path: path.into() });
    }
    Ok(block)
}

fn read(path: &Path) -> Result<String, KeyError> {
    let io = |source| KeyError::Io { path: path.into(), source };
    let bytes = fs::read(path).map_err(io)?;
    // Whatever is no text holds no PEM block.
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

impl PrivateKey {
    /// A new key.
    pub fn generate(curve: Curve) -> Result<Self, KeyError> {
        let random = |e: &dyn fmt::Display| KeyError::Random(e.to_string());
        Ok(match curve {
            Curve::P256 => Self::P256(p256::SecretKey::try_generate().map_err(|e| random(&e))?.into()),
            Curve::P384 => Self::P384(p384::SecretKey::try_generate().map_err(|e| random(&e))?.into()),
        })
    }

    /// Reads PKCS#8 or SEC1, as PEM.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = read(path)?;
        let block = key_block(path, &text, "private")?;
        let found = |what: &str| KeyError::Unsupported { path: path.into(), wanted: "private", found: what.into() };
        let key = match block.label {
            "PRIVATE KEY" => p256::SecretKey::from_pkcs8_pem(block.text)
                .map(|key| Self::P256(key.into()))
                .or_else(|_| p384::SecretKey::from_pkcs8_pem(block.text).map(|key| Self::P384(key.into())))
                .ok(),
            "EC PRIVATE KEY" => p256::SecretKey::from_sec1_pem(block.text)
                .map(|key| Self::P256(key.into()))
                .or_else(|_| p384::SecretKey::from_sec1_pem(block.text).map(|key| Self::P384(key.into())))
                .ok(),
            "PUBLIC KEY" => return Err(found("a public key")),
            label => return Err(found(&format!("a block {label:?}"))),
        };
        key.ok_or_else(|| found("a key of another kind or a damaged one"))
    }

    /// The key as PKCS#8 in PEM.
    fn to_pem(&self) -> Result<String, KeyError> {
        let text = match self {
            Self::P256(key) => p256::SecretKey::from(key).to_pkcs8_pem(LineEnding::LF),
            Self::P384(key) => p384::SecretKey::from(key).to_pkcs8_pem(LineEnding::LF),
        };
        Ok(text.map_err(KeyError::Encoding)?.to_string())
    }

    /// Writes the key to a new file that only its owner can read, and the public key beside it, to `<file>.pub`. Gives the
    /// path of the latter.
    pub fn write(&self, path: &Path) -> Result<PathBuf, KeyError> {
        let mut public = path.as_os_str().to_owned();
        public.push(".pub");
        let public = PathBuf::from(public);
        if public.symlink_metadata().is_ok() {
            return Err(KeyError::Exists { path: public });
        }
        write_secret(path, &self.to_pem()?)?;
        let io = |source| KeyError::Io { path: public.clone(), source };
        if let Err(error) = fs::write(&public, self.public().to_pem()) {
            // Half a pair is of no use, and nobody has seen this key yet.
            let _ = fs::remove_file(path);
            return Err(io(error));
        }
        Ok(public)
    }

    /// The key that checks its signatures.
    pub fn public(&self) -> PublicKey {
        match self {
            Self::P256(key) => PublicKey::P256(*key.verifying_key()),
            Self::P384(key) => PublicKey::P384(*key.verifying_key()),
        }
    }

    /// The signature of some bytes, in DER.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(key) => {
                let signature: p256::ecdsa::DerSignature = key.sign(bytes);
                signature.as_bytes().to_vec()
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::DerSignature = key.sign(bytes);
                signature.as_bytes().to_vec()
            }
        }
    }
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo, as PEM.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = read(path)?;
        let block = key_block(path, &text, "public")?;
        let found = |what: &str| KeyError::Unsupported { path: path.into(), wanted: "public", found: what.into() };
        match block.label {
            "PUBLIC KEY" => p256::ecdsa::VerifyingKey::from_public_key_pem(block.text)
                .map(Self::P256)
                .or_else(|_| p384::ecdsa::VerifyingKey::from_public_key_pem(block.text).map(Self::P384))
                .map_err(|_| found("a key of another kind or a damaged one")),
            label if label.ends_with("PRIVATE KEY") => {
                Err(found("a private key, which nobody but the signer may have"))
            }
            label => Err(found(&format!("a block {label:?}"))),
        }
    }

    /// The key as SubjectPublicKeyInfo in PEM, lines ended by LF.
    pub fn to_pem(&self) -> String {
        let text = match self {
            Self::P256(key) => key.to_public_key_pem(LineEnding::LF),
            Self::P384(key) => key.to_public_key_pem(LineEnding::LF),
        };
        // A point of the curve always has an encoding; a wrong name for a key would be worse than an end.
        text.unwrap_or_else(|error| unreachable!("a public key without an encoding: {error}"))
    }

    /// How a bundle names this key.
    pub fn hint(&self) -> KeyHint {
        KeyHint(hex::encode(Sha256::digest(self.to_pem())))
    }

    /// True when `signature` (DER) is one of these bytes by this key.
    pub fn signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::P256(key) => {
                p256::ecdsa::DerSignature::from_bytes(signature).is_ok_and(|s| key.verify(bytes, &s).is_ok())
            }
            Self::P384(key) => {
                p384::ecdsa::DerSignature::from_bytes(signature).is_ok_and(|s| key.verify(bytes, &s).is_ok())
            }
        }
    }
}

/// Writes a secret to a new file that only its owner can read.
pub(super) fn write_secret(path: &Path, text: &str) -> Result<(), KeyError> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.into() },
        _ => KeyError::Io { path: path.into(), source },
    };
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}
