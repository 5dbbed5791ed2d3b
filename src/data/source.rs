//! Tells a folder, an archive of arrays and IDX files apart, and hashes what is read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::batches::{Further, Samples};
use super::labels::Labels;
use super::names::ClassNames;
use super::sampling::{Chosen, Tally};
use super::{DataError, LoadPlan, SourceKind, folder, idx, npz};

/// What a path turned out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Source {
    /// One subfolder per class.
    Folder(PathBuf),
    /// Arrays `x` and `y`.
    Npz(PathBuf),
    /// Images and labels.
    Idx(PathBuf, PathBuf),
}

/// What every kind of source gives.
pub(super) struct Loaded {
    pub kind: SourceKind,
    pub samples: Samples,
    pub shape: Vec<usize>,
    /// Rows of further inputs.
    pub further: Vec<Further>,
    pub labels: Labels,
    pub order: Vec<u64>,
    pub tally: Tally,
    /// Names found in the source itself.
    pub names: Option<ClassNames>,
    /// Digest of what was read, where that is not the files as a whole.
    pub digest: Option<String>,
}

impl Loaded {
    /// From an array file.
    pub fn new(kind: SourceKind, samples: Samples, shape: Vec<usize>, chosen: Chosen) -> Self {
        let Chosen { labels, order, tally, .. } = chosen;
        Self { kind, samples, shape, further: Vec::new(), labels, order, tally, names: None, digest: None }
    }
}

impl Source {
    /// Looks at the first bytes; only where they say nothing does the name decide which complaint is made.
    pub fn find(path: &Path) -> Result<Self, DataError> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_path_buf()));
        }
        if !path.exists() {
            if let Some((images, labels)) = path.to_str().and_then(|text| text.split_once(',')) {
                return Ok(Self::Idx(images.into(), labels.into()));
            }
            return Err(DataError::Missing { path: path.to_path_buf() });
        }
        let unknown = |found: String| Err(DataError::UnknownKind { path: path.to_path_buf(), found });
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let mut start = Vec::new();
        let read = idx::plain(path)?.take(6).read_to_end(&mut start);
        match start.as_slice() {
            [b'P', b'K', 3 | 5, ..] => Ok(Self::Npz(path.to_path_buf())),
            [0, 0, 8, 1, ..] => unknown("is a file of labels; name the file of images".to_owned()),
            [0, 0, 8, 3 | 4, ..] => Ok(Self::Idx(path.to_path_buf(), idx::labels_beside(path)?)),
            [0x93, b'N', b'U', b'M', b'P', b'Y'] => {
                unknown("is a single array without labels; save both with np.savez(file, x=..., y=...)".to_owned())
            }
            _ if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("npz")) => {
                Ok(Self::Npz(path.to_path_buf()))
            }
            _ if name.contains("idx") => Ok(Self::Idx(path.to_path_buf(), idx::labels_beside(path)?)),
            [] if read.is_ok() => unknown("is empty".to_owned()),
            _ => unknown("is of no known kind".to_owned()),
        }
    }

    /// Fails where the model wants more inputs than this kind of source can hold.
    pub fn holds_all_inputs(&self, plan: &LoadPlan<'_>) -> Result<(), DataError> {
        let kind = match self {
            Self::Npz(_) => return Ok(()),
            Self::Folder(_) => SourceKind::Folder,
            Self::Idx(..) => SourceKind::Idx,
        };
        if plan.further.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = plan.further.iter().map(|input| input.name.as_str()).collect();
        Err(DataError::OneInput { path: plan.path.to_path_buf(), kind, names: names.join(", ") })
    }

    /// Reads what the plan asks for, and hashes the files of an array source meanwhile.
    pub fn load(&self, plan: &LoadPlan<'_>) -> Result<(Loaded, String), DataError> {
        let (loaded, digest) = match self {
            Self::Folder(path) => (folder::load(path, plan), Ok(String::new())),
            Self::Npz(path) => rayon::join(|| npz::load(path, plan), || file_digest(path)),
            Self::Idx(images, labels) => rayon::join(
                || idx::load(images, labels, plan),
                || Ok(manifest_digest([(file_digest(images)?, "images"), (file_digest(labels)?, "labels")])),
            ),
        };
        let mut loaded = loaded?;
        let digest = match loaded.digest.take() {
            Some(digest) => digest,
            None => digest?,
        };
        Ok((loaded, digest))
    }
}

/// What a data source consists of: a folder, an `.npz`, or images and labels.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    Ok(match Source::find(path)? {
        Source::Folder(path) | Source::Npz(path) => vec![path],
        Source::Idx(images, labels) => vec![images, labels],
    })
}

/// SHA-256 of a file's bytes, in hexadecimal.
fn file_digest(path: &Path) -> Result<String, DataError> {
    let failed = |source| unreadable(path, source);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut block) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut block).map_err(failed)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&block[..n]),
        }
    }
}

/// SHA-256 over one line per file, `<digest>  <name>\n`: what `sha256sum` prints, hashed once more.
pub(super) fn manifest_digest<N: std::fmt::Display>(files: impl IntoIterator<Item = (String, N)>) -> String {
    let mut hash = Sha256::new();
    for (digest, name) in files {
        hash.update(format!("{digest}  {name}\n"));
    }
    hex::encode(hash.finalize())
}

/// The error for something that cannot be opened or read.
pub(super) fn unreadable(path: &Path, source: io::Error) -> DataError {
    let path = path.to_path_buf();
    if source.kind() == io::ErrorKind::NotFound { DataError::Missing { path } } else { DataError::Io { path, source } }
}
