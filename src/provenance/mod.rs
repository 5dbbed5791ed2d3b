//! Says what the bytes of a model are, where they come from, and who vouches for it.
//!
//! [`digest`] identifies a model by its content, and [`stamp`] writes that and the source into the model's metadata. [`oms`]
//! lists and signs the files of an output, [`claims`] says how it was made and what was measured, both as [`dsse`] bundles by
//! [`keys`]. [`commitment`] commits to data without showing it. [`verify`] recomputes all of it, against a [`policy`] where
//! there is one; [`diff`] says what differs between two models. [`svr`] and [`cyclonedx`] put it in the words of others.

pub mod claims;
pub mod commitment;
pub mod cyclonedx;
pub mod diff;
pub mod digest;
pub mod dsse;
pub mod keys;
pub mod oms;
pub mod policy;
pub mod stamp;
pub mod svr;
pub mod verify;

use std::path::Path;

/// The folder that a file lies in; of a bare name the current one.
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A random identifier, as a UUID of version 4 (RFC 9562).
pub fn random_id() -> Result<String, keys::KeyError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| keys::KeyError::Random(e.to_string()))?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex::encode(bytes);
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    Ok(format!("urn:uuid:{}", parts.join("-")))
}
