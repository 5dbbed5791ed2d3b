//! The stamp, and whether the model still is what it says.

use std::path::Path;

use serde_json::Value;

use super::lineage::Declared;
use super::{Checks, Unread};
use crate::provenance::claims::contradicts;
use crate::provenance::digest::Digests;
use crate::provenance::stamp::{self, REPORT, Stamp, StampError};

pub(super) fn stamp(checks: &mut Checks, path: &Path, bytes: &[u8]) -> Option<Stamp> {
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

pub(super) fn digests(checks: &mut Checks, stamp: &Stamp, digests: &Digests, report: Option<&Declared>) {
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

/// Holds the report beside the model against the stamp: it is a report of this model, and its settings are those stamped.
pub(super) fn report(checks: &mut Checks, stamp: &Stamp, report: &Result<Option<Value>, Unread>) {
    let name = "report";
    match report {
        Ok(None) => checks.skip(name, format!("there is no {REPORT} beside the model")),
        Err(Unread { code, detail }) => checks.undecided(name, code, detail),
        Ok(Some(report)) => match contradicts(report, stamp, false) {
            None => checks.pass(name, format!("{REPORT} is about this model, with the settings that the stamp names")),
            Some(problem) => checks.fail(name, "report.mismatch", problem),
        },
    }
}
