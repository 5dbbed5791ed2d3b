//! Says whether a model is what its stamp says, and comes from the source it names. Offline, without a runtime.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, DigestError, Digests, digest, digest_file};
use super::stamp::{self, REPORT, Stamp, StampError};

/// Version of [`Verdict`] as JSON.
pub const SCHEMA_VERSION: u32 = 1;

/// What a digest alone can show.
const INTEGRITY_ONLY: &str = "integrity only, origin not authenticated";

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
const CHECKS: [&str; 8] = [
    "model",
    "stamp",
    "digest.weights",
    "digest.graph",
    "origin",
    "lineage.source",
    "lineage.changes",
    "lineage.declared",
];

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

/// What the report beside a model declares.
#[derive(Deserialize)]
struct Report {
    trained: Vec<Trained>,
}

#[derive(Deserialize)]
struct Trained {
    name: String,
    /// Digest of the tensor in the finished model, when the report gives it.
    #[serde(default)]
    digest: Option<Digest>,
}

/// Checks a model against its stamp and, when `source` is given, against the model it was made from.
pub fn verify(path: &Path, source: Option<&Path>) -> Verdict {
    match fs::read(path) {
        Ok(bytes) => verify_bytes(&bytes, path, source),
        Err(error) => {
            let error = DigestError::Io { path: path.into(), source: error };
            let mut checks = Checks(Vec::new());
            checks.undecided("model", error.code(), error.to_string());
            checks.verdict(path)
        }
    }
}

/// [`verify`] for bytes that lie, or are to lie, at `path`: external data and report are looked for beside it.
pub fn verify_bytes(bytes: &[u8], path: &Path, source: Option<&Path>) -> Verdict {
    let mut checks = Checks(Vec::new());
    checks.skip("origin", INTEGRITY_ONLY);
    let folder = path.parent().unwrap_or(Path::new(""));
    let digests = match digest(bytes, folder) {
        Ok(digests) => digests,
        Err(error) => {
            checks.undecided("model", error.code(), format!("{}: {error}", path.display()));
            return checks.verdict(path);
        }
    };
    checks.pass("model", format!("{} tensors, model digest {}", digests.tensors.len(), digests.model));
    let Some(stamp) = check_stamp(&mut checks, path, bytes) else { return checks.verdict(path) };
    let report = report(folder);
    check_digests(&mut checks, &stamp, &digests, report.as_ref().ok().and_then(Option::as_ref));
    match source {
        None => skip_lineage(&mut checks, "no source model was given"),
        Some(source) => check_lineage(&mut checks, &stamp, &digests, source, report),
    }
    checks.verdict(path)
}

fn check_stamp(checks: &mut Checks, path: &Path, bytes: &[u8]) -> Option<Stamp> {
    match stamp::read(bytes) {
        Ok(Some(stamp)) => {
            checks.pass(
                "stamp",
                format!("forgets {} by {}, written by {}", stamp.forgotten().join(", "), stamp.method, stamp.tool),
            );
            return Some(stamp);
        }
        Ok(None) => {
            let detail = format!("{} has no metadata entry {}", path.display(), stamp::STAMP_KEY);
            checks.fail("stamp", "stamp.missing", detail);
        }
        Err(error @ StampError::Inconsistent(_)) => checks.fail("stamp", error.code(), error.to_string()),
        Err(error) => checks.undecided("stamp", error.code(), error.to_string()),
    }
    None
}

fn check_digests(checks: &mut Checks, stamp: &Stamp, digests: &Digests, report: Option<&Report>) {
    if stamp.weights == digests.weights {
        checks.pass("digest.weights", digests.weights.to_string());
    } else {
        let mut found = vec![format!("the weights are {}, the stamp says {}", digests.weights, stamp.weights)];
        for trained in report.iter().flat_map(|r| &r.trained) {
            let name = &trained.name;
            let tensor = digests.tensors.iter().find(|t| t.key == *name).map(|t| t.digest);
            match (tensor, trained.digest) {
                (None, _) => found.push(format!("tensor {name:?} of the report is not in the model")),
                (Some(is), Some(declared)) if is != declared => {
                    found.push(format!("tensor {name:?} is {is}, the report says {declared}"));
                }
                _ => {}
            }
        }
        checks.fail("digest.weights", "digest.weights", found.join("; "));
    }
    if stamp.graph == digests.graph {
        checks.pass("digest.graph", digests.graph.to_string());
    } else {
        let detail = format!("the graph is {}, the stamp says {}", digests.graph, stamp.graph);
        checks.fail("digest.graph", "digest.graph", detail);
    }
}

fn skip_lineage(checks: &mut Checks, why: &str) {
    for name in ["lineage.source", "lineage.changes", "lineage.declared"] {
        checks.skip(name, why);
    }
}

/// The report beside the model; `Ok(None)` when there is none.
fn report(folder: &Path) -> Result<Option<Report>, String> {
    let path = folder.join(REPORT);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let report = serde_json::from_slice(&bytes);
    report.map(Some).map_err(|error| format!("{} does not list the trained tensors: {error}", path.display()))
}

fn check_lineage(
    checks: &mut Checks,
    stamp: &Stamp,
    digests: &Digests,
    source: &Path,
    report: Result<Option<Report>, String>,
) {
    let before = match digest_file(source) {
        Ok(before) => before,
        Err(error) => {
            checks.undecided("lineage.source", error.code(), format!("source {}: {error}", source.display()));
            return;
        }
    };
    check_source(checks, stamp, source, &before);
    let changed = stamp::changed(&before, digests);
    let total = digests.tensors.len();
    let list = if changed.is_empty() { "none".into() } else { quoted(&changed) };
    checks.pass("lineage.changes", format!("{} of {total} tensors differ from the source: {list}", changed.len()));
    match report {
        Ok(Some(report)) => check_declared(checks, &changed, &report),
        Ok(None) => {
            checks.skip("lineage.declared", format!("no {REPORT} beside the model declares the changed tensors"));
        }
        Err(detail) => checks.undecided("lineage.declared", "report.malformed", detail),
    }
}

fn check_source(checks: &mut Checks, stamp: &Stamp, source: &Path, before: &Digests) {
    let pairs = [
        ("file", before.file, stamp.source.file),
        ("weights", before.weights, stamp.source.weights),
        ("graph", before.graph, stamp.source.graph),
    ];
    let wrong = pairs.iter().filter(|(_, found, stamped)| found != stamped);
    let wrong: Vec<_> =
        wrong.map(|(what, found, stamped)| format!("{what} is {found}, the stamp says {stamped}")).collect();
    let source = source.display();
    if wrong.is_empty() {
        checks.pass("lineage.source", format!("{source} is the source that the stamp names"));
    } else {
        let detail = format!("{source} is not the source that the stamp names: {}", wrong.join("; "));
        checks.fail("lineage.source", "lineage.source_mismatch", detail);
    }
}

fn check_declared(checks: &mut Checks, changed: &[String], report: &Report) {
    let declared: BTreeSet<_> = report.trained.iter().map(|t| t.name.clone()).collect();
    let changed: BTreeSet<_> = changed.iter().cloned().collect();
    let undeclared: Vec<_> = changed.difference(&declared).cloned().collect();
    let unchanged: Vec<_> = declared.difference(&changed).cloned().collect();
    let name = "lineage.declared";
    if !undeclared.is_empty() {
        let detail = format!("changed but not declared in {REPORT}: {}", quoted(&undeclared));
        checks.fail(name, "lineage.undeclared_change", detail);
    } else if !unchanged.is_empty() {
        let detail = format!("declared in {REPORT} but not changed: {}", quoted(&unchanged));
        checks.fail(name, "lineage.declared_unchanged", detail);
    } else {
        checks.pass(name, format!("{REPORT} declares exactly the {} changed tensors", changed.len()));
    }
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
