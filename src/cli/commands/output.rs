//! The folder that a result is written to: a file under its final name is complete.

use crate::provenance::{
    folder_of,
    oms::{CLAIMS, SIGNATURE},
    stamp,
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Name of the finished model.
pub const MODEL: &str = stamp::MODEL;
/// Name of its report.
pub const REPORT: &str = stamp::REPORT;
/// Name of the report for people.
pub const PAGE: &str = "unlearn-report.html";
/// Every file of a result but its external data. A result that lacks one of them does not keep that of an earlier one.
const RESULT: [&str; 5] = [MODEL, REPORT, PAGE, CLAIMS, SIGNATURE];

/// A folder for results and, inside it, one for what is not finished. Dropping it without [`Output::publish`] leaves
/// the folder as it was.
pub struct Output {
    folder: PathBuf,
    created: bool,
    staging: Option<TempDir>,
}

impl Output {
    /// Refuses a folder that holds a result already (unless `force`), and one that cannot be written to. `inputs` must
    /// not be overwritten.
    pub fn prepare(folder: &Path, force: bool, inputs: &[&Path]) -> Result<Self> {
        for name in RESULT {
            let path = folder.join(name);
            if path.symlink_metadata().is_ok() && !force {
                bail!("{} exists; choose another --out folder, or pass --force to replace it", path.display());
            }
            for input in inputs {
                if let (Ok(a), Ok(b)) = (path.canonicalize(), input.canonicalize())
                    && a == b
                {
                    bail!("--out {}: the result would replace the input {}", folder.display(), input.display());
                }
            }
        }
        let created = !folder.exists();
        fs::create_dir_all(folder).with_context(|| format!("--out {}: cannot be created", folder.display()))?;
        let staging = tempfile::Builder::new()
            .prefix(".onnx-unlearn-")
            .tempdir_in(folder)
            .with_context(|| format!("--out {}: cannot be written to", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), created, staging: Some(staging) })
    }

    /// Refuses further files of the result whose names are taken: those that hold the external data of the source (which
    /// must survive), and any other unless `force`.
    pub fn claim<'n>(&self, names: impl IntoIterator<Item = &'n String>, source: &Path, force: bool) -> Result<()> {
        for name in names {
            let (target, original) = (self.folder.join(name), source.join(name));
            if RESULT.iter().any(|own| self.folder.join(own) == target) {
                bail!(
                    "the source keeps data in {name}, which is the name of a file of the result; save the model with its data \
                     under another name"
                );
            }
            if let (Ok(a), Ok(b)) = (target.canonicalize(), original.canonicalize())
                && a == b
            {
                bail!(
                    "--out {}: the result would replace {}, the data of the source",
                    self.folder.display(),
                    a.display()
                );
            }
            if target.symlink_metadata().is_ok() && !force {
                bail!("{} exists; choose another --out folder, or pass --force to replace it", target.display());
            }
        }
        Ok(())
    }

    /// Refuses a folder with files that are no part of the result: a signature covers a folder as a whole. `further` are files of
    /// the result that not every result has.
    pub fn alone(&self, further: &BTreeSet<String>) -> Result<()> {
        let own = |name: &Path| {
            RESULT.iter().any(|own| name == Path::new(own))
                || further.iter().any(|own| name == Path::new(own))
                || self.folder.join(name).starts_with(self.staging())
        };
        let foreign = files(&self.folder, Path::new(""))?.into_iter().find(|name| !own(name));
        if let Some(name) = foreign {
            bail!(
                "--out {}: holds {}, which is no part of the result, and --sign-key signs the folder as a whole; choose an empty \
                 folder",
                self.folder.display(),
                name.display()
            );
        }
        Ok(())
    }

    /// The folder that the result is written to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder for unfinished files.
    pub fn staging(&self) -> &Path {
        self.staging.as_ref().map_or(&self.folder, TempDir::path)
    }

    /// A folder inside the staging folder, empty.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.staging().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }

    /// Moves every file of `finished` (a folder in the staging folder) to its final name, the model last. Gives the
    /// paths written.
    pub fn publish(mut self, finished: &Path) -> Result<Vec<PathBuf>> {
        let mut names = files(finished, Path::new(""))?;
        names.sort_by_key(|name| (name == Path::new(MODEL), name.clone()));
        for name in &names {
            let target = self.folder.join(name);
            ensure!(!target.is_dir(), "cannot write {}: it is a folder", target.display());
        }
        // Without its signature nobody takes a half of two results for one.
        let signature = self.folder.join(SIGNATURE);
        if signature.symlink_metadata().is_ok() {
            fs::remove_file(&signature).with_context(|| format!("cannot remove {}", signature.display()))?;
        }
        let mut written = Vec::new();
        for name in names {
            let target = self.folder.join(&name);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
            }
            fs::rename(finished.join(&name), &target).with_context(|| format!("cannot write {}", target.display()))?;
            written.push(target);
        }
        // What an earlier result left says nothing about this one.
        for name in RESULT {
            let old = self.folder.join(name);
            if !written.contains(&old) && old.exists() {
                fs::remove_file(&old).with_context(|| format!("cannot remove {}", old.display()))?;
            }
        }
        self.created = false;
        if let Some(staging) = self.staging.take() {
            // Leftovers of a finished run are no failure of the run.
            let _ = staging.close();
        }
        // Makes the new names last through a power cut; not every file system lets a folder be synchronised.
        let _ = File::open(&self.folder).and_then(|f| f.sync_all());
        Ok(written)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        drop(self.staging.take());
        if self.created {
            // Only ever removes an empty folder that this run has made.
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// Writes a file and waits until it is on the disk.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let save = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    save().with_context(|| format!("cannot write {} ({} bytes)", path.display(), bytes.len()))
}

/// Writes a file beside its final name and moves it there.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".onnx-unlearn-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // Without this a temporary file is its owner's alone; the user's mask decides, as for any new file.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder_of(path)).with_context(failed)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}

/// Appends whole lines to a file, in one write, so that others may append at the same time.
pub fn append(path: &Path, lines: &[u8]) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut file = File::options().create(true).append(true).read(true).open(path).with_context(failed)?;
    if file.seek(SeekFrom::End(0)).with_context(failed)? > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last)).with_context(failed)?;
        ensure!(last == *b"\n", "{}: its last line is cut off", path.display());
    }
    file.write_all(lines).and_then(|()| file.sync_all()).with_context(failed)
}

fn files(root: &Path, below: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let folder = root.join(below);
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        if entry.file_type()?.is_dir() { found.extend(files(root, &name)?) } else { found.push(name) }
    }
    Ok(found)
}
