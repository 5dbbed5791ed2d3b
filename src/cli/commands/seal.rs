//! Signature and claims of an output, for `forget`, `sign` and `attest`.

use crate::data;
use crate::provenance::{
    claims::{Facts, Occasion},
    commitment::Files,
    dsse::Statement,
    keys::PrivateKey,
    oms::Manifest,
};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The name by which statements call a folder: its own, which may be changed later.
pub fn name_of(folder: &Path) -> String {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().map_or_else(|| ".".into(), |name| name.to_string_lossy().into_owned())
}

/// The signature of a folder's files, as they lie in `files`.
pub fn signature(files: &Path, name: &str, key: &PrivateKey) -> Result<String> {
    Ok(Manifest::of_output(files)?.statement(name).sign(key)?)
}

/// The claims of a run, a line each.
pub fn claims(facts: &Facts, occasion: &Occasion, key: &PrivateKey) -> Result<String> {
    lines(&[facts.slsa(occasion)?, facts.test_result()?], key)
}

/// Signed statements, a line each.
pub fn lines(statements: &[Statement], key: &PrivateKey) -> Result<String> {
    let mut text = String::new();
    for statement in statements {
        text += &statement.sign(key)?;
        text.push('\n');
    }
    Ok(text)
}

/// The time in UTC, to the second.
pub fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// The files that data lies in, for a commitment.
pub fn files_of(data: &Path) -> Result<Files> {
    let files = data::files(data).with_context(|| data.display().to_string())?;
    Ok(match files.as_slice() {
        [one] if one.is_dir() => Files::of_folder(one)?,
        [one] => Files::One(one.clone()),
        several => {
            let named = |(file, name): (&PathBuf, &str)| (file.clone(), name.to_owned());
            Files::Several(several.iter().zip(["images", "labels"]).map(named).collect())
        }
    })
}
