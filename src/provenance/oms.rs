//! The files of a folder and their signature: OpenSSF Model Signing v1.0, method `files` with SHA-256.
//!
//! `model.sig` is a bundle over a list of all regular files of the folder. Claims may be added beside it later: their file,
//! as that of the signature, is not on the list.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::digest::Digest;
use super::dsse::Statement;

/// File name of the signature.
pub const SIGNATURE: &str = "model.sig";
/// File name of the claims.
pub const CLAIMS: &str = "claims.jsonl";
/// `predicateType` of a signature.
pub const PREDICATE: &str = "https://model_signing/signature/v1.0";
/// Paths of git, which no list of files has.
const GIT: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];
/// Paths that are on no list that this tool writes.
pub const IGNORED: [&str; 6] = [GIT[0], GIT[1], GIT[2], GIT[3], CLAIMS, SIGNATURE];

/// Why a folder could not be listed.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum FolderError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is a symbolic link or no regular file: only regular files are signed", .0.display())]
    Irregular(PathBuf),
    #[error("{} has a name that is not UTF-8 or that holds a backslash: it cannot be signed", .0.display())]
    Name(PathBuf),
}

/// Why a statement is no signature of a folder that is understood here.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum ManifestError {
    #[error("predicateType is {0:?}, expected {PREDICATE:?}")]
    Type(String),
    #[error("the predicate is no list of signed files: {0}")]
    Predicate(#[from] serde_json::Error),
    #[error("the list is of method {method:?} with {hash:?}; only \"files\" with \"sha256\" is supported")]
    Method { method: String, hash: String },
    #[error("resource {name:?}: {problem}")]
    Resource { name: String, problem: &'static str },
    #[error("the subject is {found}, the listed files make {root}")]
    Root { found: String, root: Digest },
}

/// One signed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Path below the folder, with `/`.
    pub name: String,
    /// Of its bytes.
    pub digest: Digest,
}

/// All signed files of a folder, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The files.
    pub resources: Vec<Resource>,
    /// Paths whose files are not listed.
    pub ignored: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Predicate {
    resources: Vec<Listed>,
    serialization: Serialization,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    digest: String,
    algorithm: String,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    #[serde(default)]
    ignore_paths: Vec<String>,
}

impl Manifest {
    /// Lists and hashes the files of a folder, but for those at or below the `ignored` paths.
    pub fn of(folder: &Path, ignored: &[String]) -> Result<Self, FolderError> {
        let mut resources = Vec::new();
        walk(folder, "", ignored, &mut |name, path| {
            let digest = Digest::of_file(&path).map_err(|source| FolderError::Io { path, source })?;
            resources.push(Resource { name, digest });
            Ok(())
        })?;
        resources.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { resources, ignored: ignored.to_vec() })
    }

    /// [`Manifest::of`] with the paths that this tool leaves out.
    pub fn of_output(folder: &Path) -> Result<Self, FolderError> {
        Self::of(folder, &IGNORED.map(str::to_owned))
    }

    /// The same list in the order that this tool writes.
    #[must_use]
    pub fn sorted(&self) -> Self {
        let mut sorted = self.clone();
        sorted.resources.sort_by(|a, b| a.name.cmp(&b.name));
        sorted
    }

    /// The digest of the folder: of the files' digests one after the other.
    pub fn root(&self) -> Digest {
        let mut all = Sha256::new();
        self.resources.iter().for_each(|resource| all.update(resource.digest.0));
        Digest(all.finalize().into())
    }

    /// The digest of a file on the list.
    pub fn digest(&self, name: &str) -> Option<Digest> {
        self.resources.iter().find(|resource| resource.name == name).map(|resource| resource.digest)
    }

    /// The statement that is signed. `name` is that of the folder, and says nothing.
    pub fn statement(&self, name: &str) -> Statement {
        let listed = |r: &Resource| json!({"name": r.name, "digest": hex::encode(r.digest.0), "algorithm": "sha256"});
        let predicate = json!({
            "resources": self.resources.iter().map(listed).collect::<Vec<_>>(),
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": false,
                "ignore_paths": self.ignored,
            },
        });
        Statement::new(vec![self.subject(name)], PREDICATE, predicate)
    }

    /// The folder as the subject of a statement.
    pub fn subject(&self, name: &str) -> serde_json::Value {
        json!({"name": name, "digest": {"sha256": hex::encode(self.root().0)}})
    }

    /// Reads a signed statement.
    pub fn read(statement: &Statement) -> Result<Self, ManifestError> {
        if statement.predicate_type != PREDICATE {
            return Err(ManifestError::Type(statement.predicate_type.clone()));
        }
        let predicate: Predicate = serde_json::from_value(statement.predicate.clone())?;
        let Serialization { method, hash_type, ignore_paths } = predicate.serialization;
        if method != "files" || hash_type != "sha256" {
            return Err(ManifestError::Method { method, hash: hash_type });
        }
        let resources = predicate.resources.into_iter().map(resource).collect::<Result<Vec<_>, _>>()?;
        // The order is the signer's: the reference client sorts by the parts of a path, which is not the order of its letters.
        let mut names = BTreeSet::new();
        if let Some(twice) = resources.iter().find(|resource| !names.insert(resource.name.as_str())) {
            return Err(ManifestError::Resource { name: twice.name.clone(), problem: "is listed twice" });
        }
        // What belongs to git is never listed, whether the list says so or not.
        let ignored = ignore_paths.into_iter().chain(GIT.map(str::to_owned)).collect();
        let manifest = Self { resources, ignored };
        let root = manifest.root();
        let found: Vec<_> = statement.subjects().collect();
        if found != [hex::encode(root.0)] {
            return Err(ManifestError::Root { found: found.join(", "), root });
        }
        Ok(manifest)
    }
}

fn resource(listed: Listed) -> Result<Resource, ManifestError> {
    let Listed { name, digest, algorithm } = listed;
    let problem = |problem| ManifestError::Resource { name: name.clone(), problem };
    if algorithm != "sha256" {
        return Err(problem("its algorithm is not sha256"));
    }
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '\0']);
    if !name.split('/').all(plain) {
        return Err(problem("is no plain path below the folder"));
    }
    let digest =
        format!("sha256:{digest}").parse().map_err(|_| problem("its digest is not 64 lower-case hex digits"))?;
    Ok(Resource { name, digest })
}

fn ignores(ignored: &[String], name: &str) -> bool {
    let below =
        |path: &String| name.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    // A signature never covers itself.
    name == SIGNATURE || ignored.iter().any(below)
}

fn walk(
    folder: &Path,
    below: &str,
    ignored: &[String],
    take: &mut dyn FnMut(String, PathBuf) -> Result<(), FolderError>,
) -> Result<(), FolderError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| FolderError::Io { path, source }
    };
    let here = folder.join(below);
    for entry in fs::read_dir(&here).map_err(io(&here))? {
        let entry = entry.map_err(io(&here))?;
        let path = entry.path();
        let name = entry.file_name().into_string().ok().filter(|name| !name.contains('\\'));
        let name = name.ok_or_else(|| FolderError::Name(path.clone()))?;
        let name = if below.is_empty() { name } else { format!("{below}/{name}") };
        if ignores(ignored, &name) {
            continue;
        }
        let kind = entry.file_type().map_err(io(&path))?;
        if kind.is_dir() {
            walk(folder, &name, ignored, take)?;
        } else if kind.is_file() {
            take(name, path)?;
        } else {
            return Err(FolderError::Irregular(path));
        }
    }
    Ok(())
}
