//! Looks at an ONNX Runtime library before `ort` touches it.
//!
//! `ort` panics when the library it finds cannot be used; asking first turns every cause into an error of its own.
//! The bytes are checked before the system's loader sees the file, so that a file which is no library for this machine,
//! is cut short or exports no ONNX Runtime never runs any code here.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::image::{self, Host, Image};

/// The oldest ONNX Runtime the step graphs are tested on.
pub const MINIMUM: (u32, u32, u32) = (1, 31, 1);

/// A library that can be loaded, is ONNX Runtime and is new enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// Absolute path of the library.
    pub path: PathBuf,
    /// What the library says its version is, such as `1.31.1`.
    pub version: String,
}

/// Why a file cannot serve as ONNX Runtime.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ProbeError {
    /// Nothing at this path.
    #[error("{} does not exist", path.display())]
    Missing { path: PathBuf },
    /// The path cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// Not a library this machine can load; nothing of it was run.
    #[error("{} is not a library: {reason}", path.display())]
    NotALibrary { path: PathBuf, reason: String },
    /// A library the system's loader refuses, most often because another library it needs is missing.
    #[error("{} cannot be loaded: {reason}", path.display())]
    NotLoadable { path: PathBuf, reason: String },
    /// A library without `OrtGetApiBase`.
    #[error("{} is a library, but not ONNX Runtime: it has no symbol OrtGetApiBase", path.display())]
    NotOnnxRuntime { path: PathBuf },
    /// The library answers with no version, or with one that is no version.
    #[error("{} has the symbol OrtGetApiBase but tells no version (it answers {answer:?})", path.display())]
    NoVersion { path: PathBuf, answer: String },
    /// An ONNX Runtime below [`MINIMUM`].
    #[error("{} is ONNX Runtime {found}, and {needed} or newer is needed", path.display())]
    TooOld { path: PathBuf, found: String, needed: Version },
    /// A place of the search holds no candidate.
    #[error("{reason}")]
    Nothing { reason: String },
}

/// A version as major, minor, patch; ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// [`MINIMUM`] as a version.
    pub const NEEDED: Self = Self(MINIMUM.0, MINIMUM.1, MINIMUM.2);

    /// Reads `1.31.1`; what follows the third number (`-rc1`, `+cu130`) is left out, a missing third number is 0.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = match parts.next() {
            Some(rest) => rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?,
            None => 0,
        };
        Some(Self(major, minor, patch))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Loads the library at `path`, asks for its version and unloads it again.
///
/// A relative path is taken from the current directory.
pub fn probe(path: &Path) -> Result<Probed, ProbeError> {
    let path =
        std::path::absolute(path).map_err(|source| ProbeError::Unreadable { path: path.to_path_buf(), source })?;
    look_at_bytes(&path)?;
    let answer = ask_version(&path)?;
    new_enough(path, answer)
}

/// Everything that can be known without loading.
fn look_at_bytes(path: &Path) -> Result<(), ProbeError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ProbeError::Missing { path: path.to_path_buf() },
        _ => ProbeError::Unreadable { path: path.to_path_buf(), source },
    };
    let not = |reason: &str| ProbeError::NotALibrary { path: path.to_path_buf(), reason: reason.to_owned() };
    // Asked before opening: opening a pipe would wait for its other end.
    let kind = path.metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(not("it is a directory; name the library file inside it"));
    }
    if !kind.is_file() {
        return Err(not("it is not a regular file"));
    }
    let mut file = File::open(path).map_err(failed)?;
    match image::inspect(&mut file, Host::THIS).map_err(failed)? {
        Image::Possible => Ok(()),
        Image::WithoutEntryPoint => Err(ProbeError::NotOnnxRuntime { path: path.to_path_buf() }),
        Image::Not(reason) => Err(not(&reason)),
    }
}

fn new_enough(path: PathBuf, answer: String) -> Result<Probed, ProbeError> {
    match Version::parse(&answer) {
        None => Err(ProbeError::NoVersion { path, answer }),
        Some(found) if found < Version::NEEDED => {
            Err(ProbeError::TooOld { path, found: answer, needed: Version::NEEDED })
        }
        Some(_) => Ok(Probed { path, version: answer }),
    }
}

/// `OrtApiBase` of the C API: its layout has been the same since ONNX Runtime 1.0.
#[repr(C)]
struct ApiBase {
    get_api: Option<extern "C" fn(u32) -> *const std::ffi::c_void>,
    get_version_string: Option<extern "C" fn() -> *const std::ffi::c_char>,
}

#[expect(unsafe_code, reason = "a C library can only be asked through its C interface")]
fn ask_version(path: &Path) -> Result<String, ProbeError> {
    let not_loadable = |error: libloading::Error| ProbeError::NotLoadable {
        path: path.to_path_buf(),
        // The loader's own words are in the source of the error, where there is one.
        reason: std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
    };
    // SAFETY: loading runs the library's initialisers. The file was found to be a library for this machine that names
    // OrtGetApiBase; loading it is what the user asks for, and what `ort` does next.
    let library = unsafe { libloading::Library::new(path) }.map_err(not_loadable)?;
    // SAFETY: the type is that of OrtGetApiBase in the C API, and no other library uses the name; null is `None`.
    let entry = unsafe { library.get::<Option<extern "C" fn() -> *const ApiBase>>(c"OrtGetApiBase") };
    let Some(entry) = entry.ok().and_then(|symbol| *symbol) else {
        return Err(ProbeError::NotOnnxRuntime { path: path.to_path_buf() });
    };
    // SAFETY: the pointer is null or that of a constant that lives as long as the library, which is still loaded.
    let base = unsafe { entry().as_ref() };
    let text = base.and_then(|base| base.get_version_string).map_or(std::ptr::null(), |get| get());
    if text.is_null() {
        return Err(ProbeError::NoVersion { path: path.to_path_buf(), answer: String::new() });
    }
    // SAFETY: not null, a C string constant inside the library; copied before the library is unloaded.
    Ok(unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(Version::parse("1.31.1"), Some(Version(1, 31, 1)));
        assert_eq!(Version::parse("1.31.1-rc2"), Some(Version(1, 31, 1)));
        assert_eq!(Version::parse("1.32.0+cu130"), Some(Version(1, 32, 0)));
        assert_eq!(Version::parse("2.0"), Some(Version(2, 0, 0)));
        for text in ["", "1", "one.two.three", "1.x.2", "1.31.", "1.31.rc1", "99999999999.0.0"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        let judged = |text: &str| new_enough(PathBuf::from("lib"), text.to_owned());
        for good in ["1.31.1", "1.31.2", "1.32.0", "2.0.0", "1.100.0"] {
            assert_eq!(judged(good).expect(good).version, good);
        }
        for old in ["1.31.0", "1.18.0", "1.4.9", "0.99.9"] {
            assert!(matches!(judged(old), Err(ProbeError::TooOld { found, .. }) if found == old), "{old}");
        }
        assert!(matches!(judged("latest"), Err(ProbeError::NoVersion { .. })));
    }
}
