//! Who signed the folder, and whether its files are those that were signed.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Checks, quoted, small_file};
use crate::provenance::digest::Digest;
use crate::provenance::dsse::{Signed, Signer};
use crate::provenance::keys::PublicKey;
use crate::provenance::oms::{FolderError, Manifest, ManifestError, Resource, SIGNATURE};

/// What a digest alone can show.
const INTEGRITY_ONLY: &str = "integrity only, origin not authenticated";

pub(super) fn skip(checks: &mut Checks) {
    checks.skip("origin", INTEGRITY_ONLY);
    checks.skip("origin.files", INTEGRITY_ONLY);
}

/// What was read of the folder already: file names, with the digest of the bytes, or `None` where there was no such file.
type Read<'a> = [(&'a str, Option<Digest>)];

/// Checks the signature and the files of a folder; gives the signed list, where the files are those on it.
pub(super) fn check(checks: &mut Checks, key: &PublicKey, folder: &Path, read: &Read<'_>) -> Option<Manifest> {
    let signed = signature(checks, key, folder)?;
    let found = match Manifest::of(folder, &signed.ignored) {
        Ok(found) => found,
        Err(error @ FolderError::Io { .. }) => {
            checks.undecided("origin.files", "input.unreadable", error.to_string());
            return None;
        }
        Err(error) => {
            checks.fail("origin.files", "signature.unlisted_file", error.to_string());
            return None;
        }
    };
    // Claims are held against the report, and a report that was not signed is nobody's.
    files(checks, &signed, &found, read).then_some(signed)
}

/// The signed list of files, where the key has signed one.
fn signature(checks: &mut Checks, key: &PublicKey, folder: &Path) -> Option<Manifest> {
    let path = folder.join(SIGNATURE);
    let shown = path.display();
    let bytes = match small_file(&path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            checks.fail("origin", "signature.missing", format!("there is no {shown}"));
            return None;
        }
        Err(detail) => {
            checks.undecided("origin", "input.unreadable", detail);
            return None;
        }
    };
    let bundle = match Signed::parse(&bytes) {
        Ok(bundle) => bundle,
        Err(error) => {
            checks.undecided("origin", "signature.malformed", format!("{shown}: {error}"));
            return None;
        }
    };
    match bundle.by(key) {
        Signer::Key => {}
        Signer::Other => {
            let detail = format!("{shown} is signed by another key than {}", key.hint());
            checks.fail("origin", "signature.wrong_key", detail);
            return None;
        }
        Signer::Invalid(why) => {
            checks.fail("origin", "signature.invalid", format!("{shown}: {why} (key {})", key.hint()));
            return None;
        }
    }
    let statement = match bundle.statement() {
        Ok(statement) => statement,
        Err(error) => {
            checks.undecided("origin", "signature.malformed", format!("{shown}: {error}"));
            return None;
        }
    };
    match Manifest::read(&statement) {
        Ok(manifest) => {
            let count = manifest.resources.len();
            checks.pass("origin", format!("{count} files signed by key {}", key.hint()));
            Some(manifest)
        }
        Err(error) => {
            let detail = format!("{shown}: {error}");
            match error {
                ManifestError::Root { .. } => checks.fail("origin", "signature.invalid", detail),
                ManifestError::Method { .. } => checks.undecided("origin", "signature.unsupported", detail),
                _ => checks.undecided("origin", "signature.malformed", detail),
            }
            None
        }
    }
}

/// Compares the files with the list; true where they are those that were signed. What is read here must be on the list, whatever
/// the list ignores, and must have been on the disk as it was signed when it was read.
fn files(checks: &mut Checks, signed: &Manifest, found: &Manifest, read: &Read<'_>) -> bool {
    let name = "origin.files";
    let differ = |listed: &&Resource| {
        let earlier = read.iter().find(|(name, _)| *name == listed.name).map(|(_, digest)| *digest);
        let [now, then] = [found.digest(&listed.name), earlier.unwrap_or(Some(listed.digest))];
        now != Some(listed.digest) || then != Some(listed.digest)
    };
    let wrong: Vec<String> = signed.resources.iter().filter(differ).map(|r| r.name.clone()).collect();
    let extra = found.resources.iter().filter(|r| signed.digest(&r.name).is_none()).map(|r| r.name.clone());
    let ignored = read.iter().filter(|(name, digest)| digest.is_some() && signed.digest(name).is_none());
    let unlisted: BTreeSet<String> = extra.chain(ignored.map(|(name, _)| (*name).to_owned())).collect();
    let list = |what: &str, names: &[String]| format!("{what}: {}", quoted(names));
    if !wrong.is_empty() {
        let detail = list("missing, or not what was signed", &wrong);
        checks.fail(name, "signature.file_mismatch", detail);
    } else if !unlisted.is_empty() {
        let unlisted: Vec<String> = unlisted.into_iter().collect();
        checks.fail(name, "signature.unlisted_file", list("not covered by the signature", &unlisted));
    } else {
        checks.pass(name, format!("all {} files are those that were signed", signed.resources.len()));
        return true;
    }
    false
}
