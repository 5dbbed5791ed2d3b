//! Who signed the folder, and whether its files are those that were signed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::{Checks, quoted};
use crate::provenance::dsse::{Signed, Signer};
use crate::provenance::keys::PublicKey;
use crate::provenance::oms::{FolderError, Manifest, ManifestError, SIGNATURE};
use crate::provenance::stamp::REPORT;

/// What a digest alone can show.
const INTEGRITY_ONLY: &str = "integrity only, origin not authenticated";

pub(super) fn skip(checks: &mut Checks) {
    checks.skip("origin", INTEGRITY_ONLY);
    checks.skip("origin.files", INTEGRITY_ONLY);
}

/// Checks the signature and the files of a folder; gives the list of the files as they are now.
pub(super) fn check(checks: &mut Checks, key: &PublicKey, folder: &Path, model: &str) -> Option<Manifest> {
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
    files(checks, &signed, &found, model).then_some(found)
}

/// The signed list of files, where the key has signed one.
fn signature(checks: &mut Checks, key: &PublicKey, folder: &Path) -> Option<Manifest> {
    let path = folder.join(SIGNATURE);
    let shown = path.display();
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            checks.fail("origin", "signature.missing", format!("there is no {shown}"));
            return None;
        }
        Err(error) => {
            checks.undecided("origin", "input.unreadable", format!("cannot read {shown}: {error}"));
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
        Signer::Invalid => {
            let detail = format!("{shown}: the signature is not one by {} over this payload", key.hint());
            checks.fail("origin", "signature.invalid", detail);
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
/// the list ignores.
fn files(checks: &mut Checks, signed: &Manifest, found: &Manifest, model: &str) -> bool {
    let name = "origin.files";
    let differ = |listed: &&crate::provenance::oms::Resource| found.digest(&listed.name) != Some(listed.digest);
    let wrong: Vec<String> = signed.resources.iter().filter(differ).map(|r| r.name.clone()).collect();
    let extra = found.resources.iter().filter(|r| signed.digest(&r.name).is_none()).map(|r| r.name.clone());
    let read = [model, REPORT].into_iter().filter(|name| signed.ignores(name)).map(str::to_owned);
    let unlisted: Vec<String> = extra.chain(read).collect();
    let list = |what: &str, names: &[String]| format!("{what}: {}", quoted(names));
    let own = [model.to_owned()];
    let unlisted = if unlisted.is_empty() && signed.digest(model).is_none() { &own[..] } else { &unlisted[..] };
    if !wrong.is_empty() {
        let detail = list("missing, or not what was signed", &wrong);
        checks.fail(name, "signature.file_mismatch", detail);
    } else if !unlisted.is_empty() {
        checks.fail(name, "signature.unlisted_file", list("not covered by the signature", unlisted));
    } else {
        checks.pass(name, format!("all {} files are those that were signed", signed.resources.len()));
        return true;
    }
    false
}
