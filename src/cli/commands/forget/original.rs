//! The bytes of the source model, which the result is made from when training is done. Those of a large file are not held
//! until then: they are read again, and have to be the same.

use crate::{onnx::Bytes, provenance::digest::Digest};
use anyhow::{Context, Result, ensure};
use std::{
    fs::File,
    io::{Read as _, Seek as _},
    path::{Path, PathBuf},
};

/// Bytes that are held.
const HELD: usize = 256 << 20;

/// The bytes of a file as they were when it was read first.
pub(super) enum Original {
    Held(Bytes),
    OnDisk { path: PathBuf, file: File, digest: Digest },
}

impl Original {
    /// Of the file at `path`, which held these bytes of this digest.
    pub fn new(path: &Path, bytes: Bytes, digest: Digest) -> Result<Self> {
        Self::holding(HELD, path, bytes, digest)
    }

    fn holding(most: usize, path: &Path, bytes: Bytes, digest: Digest) -> Result<Self> {
        // What is no file can be read once.
        if bytes.len() <= most || !path.is_file() {
            return Ok(Self::Held(bytes));
        }
        // A file that is open stays what it is when another one takes its name.
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::OnDisk { path: path.to_owned(), file, digest })
    }

    pub fn bytes(&self) -> Result<Bytes> {
        match self {
            Self::Held(bytes) => Ok(bytes.clone()),
            Self::OnDisk { path, file, digest } => {
                let mut file = file;
                let mut bytes = Vec::new();
                let read = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
                read.with_context(|| format!("cannot read {} again", path.display()))?;
                ensure!(
                    Digest::of(&bytes) == *digest,
                    "{}: has been changed since it was read, so that the result would not be made from what was trained; \
                     nothing was written: run again, and leave the file as it is until the end",
                    path.display()
                );
                Ok(bytes.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_and_must_not_have_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.onnx");
        let bytes = Bytes::from_static(b"0123456789");
        std::fs::write(&path, &bytes).expect("written");
        let original = |most| Original::holding(most, &path, bytes.clone(), Digest::of(&bytes)).expect("is there");
        let (held, read) = (original(10), original(9));
        assert!(matches!((&held, &read), (Original::Held(_), Original::OnDisk { .. })));
        for _ in 0..2 {
            assert_eq!((held.bytes().expect("held"), read.bytes().expect("read")), (bytes.clone(), bytes.clone()));
        }
        // Another file of this name is another file.
        std::fs::rename(&path, folder.path().join("other")).expect("moved");
        std::fs::write(&path, "another").expect("written");
        assert_eq!(read.bytes().expect("read"), bytes);
        std::fs::write(folder.path().join("other"), "changed").expect("written");
        let refused = read.bytes().expect_err("has changed").to_string();
        assert!(refused.contains("model.onnx: has been changed since it was read"), "{refused}");
        assert_eq!(held.bytes().expect("held"), bytes);
    }
}
