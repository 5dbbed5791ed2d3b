//! Reads tensor data that lies in a file beside the model, trusting nothing the model says about it.
//!
//! A model from elsewhere could name any file of the machine; so the location must stay in the model's folder, be no
//! link of any kind, and hold every byte that the tensor claims.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

use super::schema::{EXTERNAL, TensorProto};

/// Why external data was not read. Every variant names the tensor; those about a file name the file.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum ExternalError {
    #[error("tensor {tensor:?}: external data without a location")]
    NoLocation { tensor: String },
    #[error(
        "tensor {tensor:?}: external data key {key:?} is unknown (location, offset, length and checksum are known)"
    )]
    UnknownKey { tensor: String, key: String },
    #[error("tensor {tensor:?}: external data key {key:?} stands twice")]
    RepeatedKey { tensor: String, key: String },
    #[error("tensor {tensor:?}: external data {key} {value:?} is not a number of bytes")]
    Number { tensor: String, key: String, value: String },
    #[error(
        "tensor {tensor:?}: external location {location:?} leaves the model's folder: it must be a relative path without `..`"
    )]
    Outside { tensor: String, location: String },
    #[error("tensor {tensor:?}: external file {} is or lies behind a symbolic link", path.display())]
    Symlink { tensor: String, path: PathBuf },
    #[error("tensor {tensor:?}: external file {} has {links} hard links, only 1 is accepted", path.display())]
    HardLink { tensor: String, path: PathBuf, links: u64 },
    #[error("tensor {tensor:?}: external file {} is not a regular file", path.display())]
    NotAFile { tensor: String, path: PathBuf },
    #[error("tensor {tensor:?}: bytes {offset}+{length} pass the end of external file {} ({size} bytes)", path.display())]
    PastEnd { tensor: String, path: PathBuf, offset: u64, length: u64, size: u64 },
    #[error("tensor {tensor:?}: external file {}: {source}", path.display())]
    Io { tensor: String, path: PathBuf, source: io::Error },
}

/// A tensor's claim on bytes of another file, its text checked but the file not yet looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalRef {
    /// Name of the tensor, for messages.
    pub tensor: String,
    /// Relative path, `/` between its parts, without `.` or `..`.
    pub location: String,
    /// First byte.
    pub offset: u64,
    /// Number of bytes; `None`: up to the end of the file.
    pub length: Option<u64>,
}

impl ExternalRef {
    /// Reads the `external_data` entries of a tensor.
    pub fn parse<'e>(
        tensor: &str,
        entries: impl IntoIterator<Item = (&'e str, &'e str)>,
    ) -> Result<Self, ExternalError> {
        let (mut location, mut offset, mut length, mut checksum) = (None, None, None, None);
        for (key, value) in entries {
            let slot = match key {
                "location" => &mut location,
                "offset" => &mut offset,
                "length" => &mut length,
                "checksum" => &mut checksum,
                _ => return Err(ExternalError::UnknownKey { tensor: tensor.into(), key: key.into() }),
            };
            if slot.replace(value).is_some() {
                return Err(ExternalError::RepeatedKey { tensor: tensor.into(), key: key.into() });
            }
        }
        let number = |key: &str, text: Option<&str>| {
            let Some(text) = text else { return Ok(None) };
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let value = if digits { text.parse().ok() } else { None };
            let fail = || ExternalError::Number { tensor: tensor.into(), key: key.into(), value: text.into() };
            value.map(Some).ok_or_else(fail)
        };
        let location = location.ok_or_else(|| ExternalError::NoLocation { tensor: tensor.into() })?;
        Ok(Self {
            tensor: tensor.into(),
            location: inside(tensor, location)?,
            offset: number("offset", offset)?.unwrap_or(0),
            length: number("length", length)?,
        })
    }

    /// Reads the entries of a decoded tensor; `None` when its data is not external.
    pub fn of(tensor: &TensorProto) -> Result<Option<Self>, ExternalError> {
        if tensor.data_location() != EXTERNAL {
            return Ok(None);
        }
        Self::parse(tensor.name(), tensor.external_data.iter().map(|e| (e.key(), e.value()))).map(Some)
    }

    /// Opens the bytes for reading; `folder` is the one the model file lies in.
    pub fn open(&self, folder: &Path) -> Result<ExternalBytes, ExternalError> {
        let path = self.path(folder)?;
        let fail = |source| ExternalError::Io { tensor: self.tensor.clone(), path: path.clone(), source };
        let named = fs::symlink_metadata(&path).map_err(fail)?;
        if !named.is_file() {
            return Err(ExternalError::NotAFile { tensor: self.tensor.clone(), path });
        }
        let mut file = File::open(&path).map_err(fail)?;
        let opened = file.metadata().map_err(fail)?;
        self.check_links(&path, &named, &opened)?;
        let size = opened.len();
        let length = self.length.unwrap_or_else(|| size.saturating_sub(self.offset));
        if self.offset.checked_add(length).is_none_or(|end| end > size) {
            let (tensor, offset) = (self.tensor.clone(), self.offset);
            return Err(ExternalError::PastEnd { tensor, path, offset, length, size });
        }
        file.seek(SeekFrom::Start(self.offset)).map_err(fail)?;
        Ok(ExternalBytes { file: file.take(length), length, path, tensor: self.tensor.clone() })
    }

    /// The file's path, once no part of the location is a symbolic link.
    fn path(&self, folder: &Path) -> Result<PathBuf, ExternalError> {
        let mut path = folder.to_path_buf();
        for part in self.location.split('/') {
            path.push(part);
            let found = fs::symlink_metadata(&path);
            let found = found.map_err(|source| {
                let path = path.clone();
                ExternalError::Io { tensor: self.tensor.clone(), path, source }
            })?;
            if found.file_type().is_symlink() {
                return Err(ExternalError::Symlink { tensor: self.tensor.clone(), path });
            }
        }
        Ok(path)
    }

    /// Refuses hard links, and a file that was exchanged between look and open.
    #[cfg(unix)]
    fn check_links(&self, path: &Path, named: &fs::Metadata, opened: &fs::Metadata) -> Result<(), ExternalError> {
        use std::os::unix::fs::MetadataExt;
        let (tensor, path) = (self.tensor.clone(), path.to_path_buf());
        if (named.dev(), named.ino()) != (opened.dev(), opened.ino()) {
            return Err(ExternalError::Symlink { tensor, path });
        }
        match opened.nlink() {
            1 => Ok(()),
            links => Err(ExternalError::HardLink { tensor, path, links }),
        }
    }

    #[cfg(not(unix))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)] // The standard library cannot tell elsewhere.
    fn check_links(&self, _: &Path, _: &fs::Metadata, _: &fs::Metadata) -> Result<(), ExternalError> {
        Ok(())
    }
}

/// The location, tidied, when it stays in the model's folder.
fn inside(tensor: &str, location: &str) -> Result<String, ExternalError> {
    let outside = || ExternalError::Outside { tensor: tensor.into(), location: location.into() };
    // A backslash separates folders on one system and is part of a name on others: no model needs it.
    if location.contains(['\\', '\0']) {
        return Err(outside());
    }
    let mut parts = Vec::new();
    for part in Path::new(location).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str().ok_or_else(outside)?),
            Component::CurDir => {}
            _ => return Err(outside()),
        }
    }
    if parts.is_empty() { Err(outside()) } else { Ok(parts.join("/")) }
}

/// The bytes of one tensor, read as a stream.
#[derive(Debug)]
pub struct ExternalBytes {
    file: io::Take<File>,
    length: u64,
    path: PathBuf,
    tensor: String,
}

impl ExternalBytes {
    /// Number of bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// All bytes at once.
    pub fn read(self) -> Result<Vec<u8>, ExternalError> {
        // `open` found that many bytes in the file, so the reservation is no larger than the file.
        let mut data = Vec::with_capacity(usize::try_from(self.length).unwrap_or(0));
        self.each(|part| data.extend_from_slice(part))?;
        Ok(data)
    }

    /// Hands all bytes to `take` in order, a part at a time.
    pub fn each(mut self, mut take: impl FnMut(&mut [u8])) -> Result<(), ExternalError> {
        let mut buffer = vec![0; 1 << 20];
        let mut left = self.length;
        while left > 0 {
            let part = &mut buffer[..usize::try_from(left).unwrap_or(usize::MAX).min(1 << 20)];
            if let Err(source) = self.file.read_exact(part) {
                return Err(ExternalError::Io { tensor: self.tensor, path: self.path, source });
            }
            take(part);
            left -= part.len() as u64;
        }
        Ok(())
    }
}
