//! Says what a model is, whatever file layout it has: the digest `onnx-content-v1`.
//!
//! `docs/stamp-format.md` specifies it; the code follows its order. Two files with equal digests hold the same weights
//! and the same declared graph; names of nodes, documentation, metadata and the way elements are stored do not count.

mod encode;
mod graph;
mod refusal;
mod tensor;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::onnx::schema::{ModelProto, TensorProto};
use crate::onnx::{Bytes, wire};

pub use self::refusal::{DigestError, Refusal};

/// Name and version of the digest.
pub const CONTENT: &str = "onnx-content-v1";

/// A SHA-256 value; prints as `sha256:` and lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a file's bytes, which are not held in memory together.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut hash = Sha256::new();
        each_block(path, &mut |block| hash.update(block))?;
        Ok(Self(hash.finalize().into()))
    }
}

/// Reads a file a block at a time.
pub(super) fn each_block(path: &Path, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let (mut file, mut block) = (File::open(path)?, vec![0; 1 << 16]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(()),
            n => take(&block[..n]),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.strip_prefix("sha256:").filter(|h| !h.bytes().any(|b| b.is_ascii_uppercase()));
        let mut bytes = [0; 32];
        match parsed.map(|h| hex::decode_to_slice(h, &mut bytes)) {
            Some(Ok(())) => Ok(Self(bytes)),
            _ => Err(format!("{text:?} is no digest: expected sha256: and 64 lower-case hex digits")),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The digest of one weight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorDigest {
    /// The value's name; in nested graphs and functions with the way there before it.
    pub key: String,
    /// ONNX element type number.
    pub data_type: i32,
    /// Length of every axis.
    pub dims: Vec<i64>,
    /// What type, dims and elements hash to.
    pub digest: Digest,
    /// The key as it enters the weights digest.
    #[serde(skip)]
    pub(super) id: Vec<u8>,
}

/// All digests of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Digests {
    /// Of the model file's bytes, external files not included.
    pub file: Digest,
    /// Of all weights, by name.
    pub weights: Digest,
    /// Of the graph without its weights.
    pub graph: Digest,
    /// Of graph and weights together.
    pub model: Digest,
    /// Every weight, sorted by key as the weights digest sorts them.
    pub tensors: Vec<TensorDigest>,
}

/// Digests of a model file on disk; external data is looked for beside it.
pub fn digest_file(path: &Path) -> Result<Digests, DigestError> {
    let bytes = fs::read(path).map_err(|source| DigestError::Io { path: path.into(), source })?;
    digest_shared(&bytes.into(), path.parent().unwrap_or(Path::new("")))
}

/// Digests of a model's bytes; `folder` holds its external data.
pub fn digest(bytes: &[u8], folder: &Path) -> Result<Digests, DigestError> {
    decoded(&wire::decode(bytes)?, bytes, folder)
}

/// The same without a copy of the weights.
pub fn digest_shared(bytes: &Bytes, folder: &Path) -> Result<Digests, DigestError> {
    decoded(&wire::decode(bytes.clone())?, bytes, folder)
}

fn decoded(model: &ModelProto, bytes: &[u8], folder: &Path) -> Result<Digests, DigestError> {
    // Both hash about as many bytes as the file has.
    std::thread::scope(|scope| {
        let file = scope.spawn(|| Digest::of(bytes));
        let (graph, tensors) = graph::model(model, folder)?;
        let weights = graph::weights(&tensors);
        let file = file.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok(Digests { file, weights, graph, model: model_digest(graph, weights), tensors })
    })
}

/// The digest of one tensor: its type, dims and elements, not its name.
pub fn tensor_digest(proto: &TensorProto, folder: &Path) -> Result<Digest, DigestError> {
    tensor::tensor(proto, folder).map_err(|problem| problem.at(format!("tensor {:?}", proto.name())))
}

/// What a graph digest and a weights digest make together.
pub fn model_digest(graph: Digest, weights: Digest) -> Digest {
    let mut out = Vec::new();
    encode::text(&mut out, "onnx-model-v1");
    out.extend(graph.0);
    out.extend(weights.0);
    Digest::of(&out)
}
