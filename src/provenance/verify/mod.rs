//! Says whether a model is what its stamp says, who signed it, what is claimed of it, whether it comes from the source it
//! names, and whether that is what a policy asks for. Offline, without a runtime: one file a family of checks.

mod claims;
mod content;
mod lineage;
mod origin;
mod policy;

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use self::claims::Claimed;
use super::claims::Facts;
use super::digest::{Digest, DigestError, Digests, digest};
use super::folder_of;
use super::keys::PublicKey;
use super::oms::Manifest;
use super::policy::{Policy, Predicate};
use super::stamp::{REPORT, Stamp};

/// Version of [`Verdict`] as JSON.
pub const SCHEMA_VERSION: u32 = 1;

/// The answer to "is this model what it claims to be?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Every check that was possible passed.
    Yes,
    /// A check failed.
    No,
    /// It could not be told.
    Undecided,
}

/// What became of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not hold.
    Fail,
    /// It was not asked for, or an earlier one stands in its way.
    Skipped,
    /// It could not be told.
    Undecided,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub name: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// The reason code of a check that did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// What was found, naming the file, tensor or field.
    pub detail: String,
}

/// The outcome of [`verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The file that was asked about.
    pub model: String,
    /// The answer.
    pub answer: Answer,
    /// A stable code: `ok`, else that of the first failed check, else that of the first undecided one.
    pub reason: &'static str,
    /// All checks, in the order in which they are made.
    pub checks: Vec<Check>,
}

/// The names of all checks, in order.
const CHECKS: [&str; 14] = [
    "model",
    "stamp",
    "digest.weights",
    "digest.graph",
    "report",
    "origin",
    "origin.files",
    "claims",
    "claims.required",
    "lineage.source",
    "lineage.changes",
    "lineage.declared",
    "policy",
    "rederive",
];

/// What is asked about a model.
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    /// The model that it was made from.
    pub source: Option<&'a Path>,
    /// The key that is to have signed it.
    pub key: Option<&'a PublicKey>,
    /// What it has to be.
    pub policy: Option<&'a Policy>,
    /// Claims that have to be there.
    pub require: &'a [Predicate],
}

/// The checks of a model as far as they are made, and what they found.
#[derive(Default)]
pub struct Examined {
    checks: Checks,
    /// Digests of the model, where it could be read.
    pub digests: Option<Digests>,
    /// Its stamp, where it has one.
    pub stamp: Option<Stamp>,
    /// The report beside it.
    pub report: Option<Value>,
    /// Its files, where a key was given and they are those that were signed.
    pub manifest: Option<Manifest>,
    /// The claims that the key has signed and nothing contradicts.
    pub claims: Vec<Claimed>,
}

impl Examined {
    /// Adds the outcome of a check that is made elsewhere.
    pub fn add(&mut self, name: &'static str, outcome: Outcome, code: Option<&'static str>, detail: String) {
        self.checks.add(name, outcome, code, detail);
    }

    /// True where a check has failed already.
    pub fn failed(&self) -> bool {
        self.checks.0.iter().any(|check| check.outcome == Outcome::Fail)
    }

    /// Closes the list.
    pub fn verdict(self, model: &Path) -> Verdict {
        self.checks.verdict(model)
    }
}

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn pass(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Outcome::Pass, None, detail.into());
    }

    fn skip(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Outcome::Skipped, None, detail.into());
    }

    fn fail(&mut self, name: &'static str, code: &'static str, detail: impl Into<String>) {
        self.add(name, Outcome::Fail, Some(code), detail.into());
    }

    fn undecided(&mut self, name: &'static str, code: &'static str, detail: impl Into<String>) {
        self.add(name, Outcome::Undecided, Some(code), detail.into());
    }

    fn add(&mut self, name: &'static str, outcome: Outcome, code: Option<&'static str>, detail: String) {
        self.0.push(Check { name, outcome, code, detail });
    }

    /// Closes the list: what is missing was not reached. A failed check outranks an undecided one.
    fn verdict(mut self, model: &Path) -> Verdict {
        for name in CHECKS {
            if !self.0.iter().any(|c| c.name == name) {
                self.skip(name, "not reached");
            }
        }
        self.0.sort_by_key(|c| CHECKS.iter().position(|name| *name == c.name));
        let first = |outcome| self.0.iter().find(|c| c.outcome == outcome).and_then(|c| c.code);
        let (answer, reason) = match (first(Outcome::Fail), first(Outcome::Undecided)) {
            (Some(code), _) => (Answer::No, code),
            (None, Some(code)) => (Answer::Undecided, code),
            (None, None) => (Answer::Yes, "ok"),
        };
        let model = model.display().to_string();
        Verdict { schema_version: SCHEMA_VERSION, model, answer, reason, checks: self.0 }
    }
}

/// Checks a model against its stamp and, when `source` is given, against the model it was made from.
pub fn verify(path: &Path, source: Option<&Path>) -> Verdict {
    examine(path, Request { source, ..Request::default() }).verdict(path)
}

/// [`verify`] for bytes that lie, or are to lie, at `path`: external data and report are looked for beside it.
pub fn verify_bytes(bytes: &[u8], path: &Path, source: Option<&Path>) -> Verdict {
    examine_bytes(bytes, path, Request { source, ..Request::default() }).verdict(path)
}

/// Makes every check that is asked for and needs no runtime.
pub fn examine(path: &Path, request: Request<'_>) -> Examined {
    match fs::read(path) {
        Ok(bytes) => examine_bytes(&bytes, path, request),
        Err(error) => {
            let error = DigestError::Io { path: path.into(), source: error };
            let mut found = Examined::default();
            found.checks.undecided("model", error.code(), error.to_string());
            found
        }
    }
}

/// [`examine`] for bytes that were read from `path`.
pub fn examine_bytes(bytes: &[u8], path: &Path, request: Request<'_>) -> Examined {
    let mut found = Examined::default();
    let checks = &mut found.checks;
    let folder = folder_of(path);
    let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy().into_owned());
    // Read once: what is judged is what was signed, whatever becomes of the files meanwhile.
    let report = Report::read(folder);
    let read = [(name.as_str(), Some(Digest::of(bytes))), (REPORT, report.digest)];
    // Who signed does not depend on what the model is.
    match request.key {
        Some(key) => found.manifest = origin::check(checks, key, folder, &read),
        None => origin::skip(checks),
    }
    let report = report.content;
    match digest(bytes, folder) {
        Ok(digests) => {
            checks.pass("model", format!("{} tensors, model digest {}", digests.tensors.len(), digests.model));
            found.digests = Some(digests);
        }
        Err(error) => checks.undecided("model", error.code(), format!("{}: {error}", path.display())),
    }
    let Some(digests) = &found.digests else { return found };
    found.stamp = content::stamp(checks, path, bytes);
    let Some(stamp) = &found.stamp else { return found };
    content::report(checks, stamp, &report);
    found.report = report.as_ref().ok().cloned().flatten();
    let declared = report.and_then(|report| report.map(|report| lineage::Declared::of(&report)).transpose());
    content::digests(checks, stamp, digests, declared.as_ref().ok().and_then(Option::as_ref));
    match request.source {
        None => lineage::skip(checks, "no source model was given"),
        Some(source) => lineage::check(checks, stamp, digests, source, declared),
    }
    match (request.key, &found.manifest) {
        (Some(key), Some(manifest)) => {
            let report = found.report.clone().unwrap_or_default();
            match Facts::new(manifest.clone(), digests.clone(), bytes, stamp.clone(), report) {
                Ok(facts) => {
                    let subject = claims::Subject { folder, facts };
                    found.claims = claims::check(checks, key, &subject, request.require);
                }
                Err(error) => checks.undecided("claims", "report.malformed", error.to_string()),
            }
        }
        (Some(_), None) => {}
        (None, _) => claims::skip(checks),
    }
    match request.policy {
        None => checks.skip("policy", "no policy was given"),
        Some(policy) => {
            let subject =
                policy::Subject { key: request.key, stamp, report: found.report.as_ref(), claims: &found.claims };
            policy::check(checks, policy, &subject);
        }
    }
    found
}

/// The report beside the model, as it was read.
struct Report {
    /// `None` when there is none.
    content: Result<Option<Value>, Unread>,
    digest: Option<Digest>,
}

/// Why something beside the model was not understood, with its reason code.
#[derive(Debug)]
struct Unread {
    code: &'static str,
    detail: String,
}

impl Report {
    fn read(folder: &Path) -> Self {
        let path = folder.join(REPORT);
        let bytes = match small_file(&path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Self { content: Ok(None), digest: None },
            Err(detail) => return Self { content: Err(Unread { code: "input.unreadable", detail }), digest: None },
        };
        let malformed =
            |error| Unread { code: "report.malformed", detail: format!("{} is no report: {error}", path.display()) };
        Self { content: serde_json::from_slice(&bytes).map(Some).map_err(malformed), digest: Some(Digest::of(&bytes)) }
    }
}

/// Reports, signatures and claims are small; more is not read.
const SMALL: u64 = 64 << 20;

/// The bytes of a file beside the model; `None` when there is none. What is no regular file could be read for ever.
fn small_file(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let unreadable = |what: &dyn std::fmt::Display| format!("cannot read {}: {what}", path.display());
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&error)),
        Ok(found) if !found.is_file() => Err(unreadable(&"it is no regular file")),
        Ok(found) if found.len() > SMALL => Err(unreadable(&"it is larger than 64 MiB")),
        Ok(_) => fs::read(path).map(Some).map_err(|error| unreadable(&error)),
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
