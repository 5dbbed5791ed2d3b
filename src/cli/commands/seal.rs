//! Signature and claims of an output, for `forget`, `sign` and `attest`.

use crate::{
    data,
    provenance::{
        claims::{Facts, Occasion},
        commitment::Files,
        dsse::Statement,
        keys::PrivateKey,
        oms::Manifest,
    },
};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};

/// The name by which statements call a folder: its own, which may be changed later.
pub fn name_of(folder: &Path) -> String {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().map_or_else(|| ".".into(), |name| name.to_string_lossy().into_owned())
}

/// The signature of a folder's files, as they lie in `files`, and their number.
pub fn signature(files: &Path, name: &str, key: &PrivateKey) -> Result<(String, usize)> {
    let manifest = Manifest::of_output(files)?;
    ensure!(!manifest.resources.is_empty(), "{}: holds no file to sign", files.display());
    Ok((manifest.statement(name).sign(key)?, manifest.resources.len()))
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

/// Reads a private key, and refuses one that would be published with `folder`.
pub fn private_key(flag: &str, path: &Path, folder: &Path) -> Result<PrivateKey> {
    outside(flag, path, folder)?;
    PrivateKey::read(path).context(flag.to_owned())
}

/// Refuses a file that lies in a folder which others are to have.
pub fn outside(flag: &str, path: &Path, folder: &Path) -> Result<()> {
    if let (Ok(path), Ok(folder)) = (path.canonicalize(), folder.canonicalize()) {
        ensure!(
            !path.starts_with(&folder),
            "{flag} {}: lies in {}, which is for others to have; keep it elsewhere",
            path.display(),
            folder.display()
        );
    }
    Ok(())
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
