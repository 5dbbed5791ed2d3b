//! Salted commitments to data: an auditor who is given the key can check which data a run read, and nobody else can.
//!
//! A plain digest of a small data set is a fingerprint of it: whoever holds candidates can compare. The commitment is
//! HMAC-SHA-256 under a random key. What it is computed over is described at [`message`], so that standard tools make the same.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;

use super::digest::{Digest, each_block};
use super::keys::{KeyError, write_secret};

/// What a commitment begins with.
const PREFIX: &str = "hmac-sha256:";

/// A commitment; prints as `hmac-sha256:` and lower-case hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Commitment([u8; 32]);

impl fmt::Display for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", hex::encode(self.0))
    }
}

impl FromStr for Commitment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        match text.strip_prefix(PREFIX).map(|digits| hex::decode_to_slice(digits, &mut bytes)) {
            Some(Ok(())) => Ok(Self(bytes)),
            _ => Err(format!("{text:?} is no commitment: expected {PREFIX} and 64 hex digits")),
        }
    }
}

impl From<Commitment> for String {
    fn from(commitment: Commitment) -> Self {
        commitment.to_string()
    }
}

impl TryFrom<String> for Commitment {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The key of commitments: 32 random bytes, in a file of 64 hex digits.
pub struct CommitmentKey([u8; 32]);

/// Why there is no commitment.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum CommitmentError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is no commitment key: expected 64 hex digits (`onnx-unlearn keygen --kind commitment` makes one)", .0.display())]
    Key(PathBuf),
    #[error("{} has a name that is not UTF-8, or is no regular file", .0.display())]
    Irregular(PathBuf),
}

impl CommitmentKey {
    /// A new key.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| KeyError::Random(e.to_string()))?;
        Ok(Self(bytes))
    }

    /// Writes the key to a new file that only its owner can read.
    pub fn write(&self, path: &Path) -> Result<(), KeyError> {
        write_secret(path, &format!("{}\n", hex::encode(self.0)))
    }

    /// Reads a key file.
    pub fn read(path: &Path) -> Result<Self, CommitmentError> {
        let text = fs::read(path).map_err(|source| CommitmentError::Io { path: path.into(), source })?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim_ascii(), &mut bytes).map_err(|_| CommitmentError::Key(path.into()))?;
        Ok(Self(bytes))
    }

    /// Commits to data.
    pub fn commit(&self, data: &Files) -> Result<Commitment, CommitmentError> {
        // A key of 32 bytes is shorter than a block, and every length is allowed.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!("any length is a key"));
        message(data, &mut |bytes| mac.update(bytes))?;
        Ok(Commitment(mac.finalize().into_bytes().into()))
    }
}

/// The files that data lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Files {
    /// One file.
    One(PathBuf),
    /// Several files, each with the name that it has in the message.
    Several(Vec<(PathBuf, String)>),
}

impl Files {
    /// All files of a folder that are not hidden, by their path below it.
    pub fn of_folder(folder: &Path) -> Result<Self, CommitmentError> {
        let mut files = Vec::new();
        below(folder, "", &mut files)?;
        files.sort_by(|a, b| a.1.cmp(&b.1));
        Ok(Self::Several(files))
    }
}

fn below(folder: &Path, at: &str, files: &mut Vec<(PathBuf, String)>) -> Result<(), CommitmentError> {
    let here = folder.join(at);
    let io = |source| CommitmentError::Io { path: here.clone(), source };
    for entry in fs::read_dir(&here).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.contains('\n'));
        let name = name.ok_or_else(|| CommitmentError::Irregular(path.clone()))?;
        // Desktops leave hidden files where somebody looks, and reading the data passes them over as well.
        if name.starts_with('.') {
            continue;
        }
        let name = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
        // Links are followed, as reading the data follows them.
        if path.is_dir() {
            below(folder, &name, files)?;
        } else if path.is_file() {
            files.push((path, name));
        } else {
            return Err(CommitmentError::Irregular(path));
        }
    }
    Ok(())
}

/// What is committed to: of one file its bytes; of several one line `<SHA-256>  <name>` each, in their order, which is what
/// `sha256sum` prints.
fn message(data: &Files, take: &mut dyn FnMut(&[u8])) -> Result<(), CommitmentError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| CommitmentError::Io { path, source }
    };
    match data {
        Files::One(path) => each_block(path, take).map_err(io(path)),
        Files::Several(files) => files.iter().try_for_each(|(path, name)| {
            let digest = Digest::of_file(path).map_err(io(path))?;
            take(format!("{}  {name}\n", hex::encode(digest.0)).as_bytes());
            Ok(())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_committed_to_by_its_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        fs::write(&path, "Hi There").expect("written");
        // RFC 4231, test case 1, whose key is 20 bytes; padded with zeros HMAC makes the same of it.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let commitment = CommitmentKey(key).commit(&Files::One(path)).expect("a commitment");
        let expected = "hmac-sha256:b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(commitment.to_string(), expected);
        assert_eq!(expected.parse(), Ok(commitment));
    }
}
