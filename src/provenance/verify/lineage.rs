//! Whether the model comes from the source it names, and differs from it in what the report declares.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{Checks, Unread, quoted};
use crate::provenance::digest::{Digest, Digests, digest_file};
use crate::provenance::stamp::{self, REPORT, Stamp};

/// What the report beside a model declares.
#[derive(Deserialize)]
pub(super) struct Declared {
    pub trained: Vec<Trained>,
}

#[derive(Deserialize)]
pub(super) struct Trained {
    pub name: String,
    /// Digest of the tensor in the finished model, when the report gives it.
    #[serde(default)]
    pub digest: Option<Digest>,
}

impl Declared {
    /// From a report.
    pub fn of(report: &Value) -> Result<Self, Unread> {
        let code = "report.malformed";
        let detail = |error| format!("{REPORT} does not list the trained tensors: {error}");
        Self::deserialize(report).map_err(|error| Unread { code, detail: detail(error) })
    }
}

pub(super) fn skip(checks: &mut Checks, why: &str) {
    for name in ["lineage.source", "lineage.changes", "lineage.declared"] {
        checks.skip(name, why);
    }
}

pub(super) fn check(
    checks: &mut Checks,
    stamp: &Stamp,
    digests: &Digests,
    source: &Path,
    report: Result<Option<Declared>, Unread>,
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
        Err(Unread { code, detail }) => checks.undecided("lineage.declared", code, detail),
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

fn check_declared(checks: &mut Checks, changed: &[String], report: &Declared) {
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
