//! Whether the model is what a policy asks for.

use serde_json::Value;

use super::Checks;
use super::claims::{Claimed, holds};
use crate::provenance::keys::PublicKey;
use crate::provenance::policy::Policy;
use crate::provenance::stamp::Stamp;

/// What is judged.
pub(super) struct Subject<'a> {
    pub key: Option<&'a PublicKey>,
    pub stamp: &'a Stamp,
    pub report: Option<&'a Value>,
    pub claims: &'a [Claimed],
}

pub(super) fn check(checks: &mut Checks, policy: &Policy, subject: &Subject<'_>) {
    if subject.key.is_none() && !policy.allow_unsigned {
        let detail = "a policy judges what somebody has signed: give --key, or let the policy say allow_unsigned";
        checks.undecided("policy", "usage", detail);
        return;
    }
    let problems = [
        threshold(subject, "forget", policy.max_forget_accuracy),
        threshold(subject, "retain", policy.max_retain_drop),
        membership(subject, policy),
        listed("policy.method", "method", policy.methods.as_deref(), &subject.stamp.method),
        listed("policy.version", "tool", policy.tools.as_deref(), &subject.stamp.tool),
        forgotten(subject, policy),
        request(subject, policy),
        keys(subject, policy),
        predicates(subject, policy),
    ];
    let problems: Vec<(&str, String)> = problems.into_iter().flatten().collect();
    match problems.first() {
        None if *policy == Policy { schema_version: policy.schema_version, ..Policy::default() } => {
            checks.pass("policy", "it asks for nothing");
        }
        None => checks.pass("policy", "everything that it asks for holds"),
        Some((code, _)) => {
            let details: Vec<_> = problems.iter().map(|(_, detail)| detail.as_str()).collect();
            checks.fail("policy", code, details.join("; "));
        }
    }
}

type Problem = Option<(&'static str, String)>;

/// A gate of the report: what was measured must be at most `limit`.
fn threshold(subject: &Subject<'_>, gate: &str, limit: Option<f64>) -> Problem {
    let limit = limit?;
    let gates = subject.report.and_then(|report| report["verdict"]["gates"].as_array());
    let mut found = gates.into_iter().flatten().filter(|g| g["name"] == gate);
    let found = (found.next(), found.next());
    let problem = match found {
        (None, _) => format!("the report has no gate {gate}"),
        (Some(_), Some(_)) => format!("the report has several gates {gate}"),
        (Some(g), None) => match (g["outcome"].as_str(), g["measured"].as_f64()) {
            (Some("not_assessed") | None, _) => format!("gate {gate} was not assessed"),
            (_, Some(measured)) if measured <= limit => return None,
            (_, measured) => {
                let measured = measured.map_or("no number".into(), |m| m.to_string());
                format!("gate {gate}: measured {measured}, at most {limit} is allowed")
            }
        },
    };
    Some(("policy.threshold", problem))
}

fn membership(subject: &Subject<'_>, policy: &Policy) -> Problem {
    let bounds = policy.membership_auc?;
    let auc = |claim: &Claimed| match claim {
        Claimed::Audit(auc) => Some(*auc),
        _ => None,
    };
    // Claims accumulate: every one counts, so that a later one does not hide an earlier one.
    let claimed: Vec<f64> = subject.claims.iter().filter_map(auc).collect();
    let problem = match claimed.iter().find(|auc| !bounds.hold(**auc)) {
        Some(auc) => format!("membership inference: AUC {auc}, allowed is {} to {}", bounds.min, bounds.max),
        None if claimed.is_empty() => "no claim that holds says how well membership inference does".into(),
        None => return None,
    };
    Some(("policy.threshold", problem))
}

fn listed(code: &'static str, what: &str, allowed: Option<&[String]>, found: &str) -> Problem {
    let allowed = allowed?;
    let problem = || (code, format!("{what} {found:?} is not among {}", allowed.join(", ")));
    (!allowed.iter().any(|a| a == found)).then(problem)
}

/// Without this question, another output by the same key would do as well.
fn forgotten(subject: &Subject<'_>, policy: &Policy) -> Problem {
    let forgotten = subject.stamp.forgotten();
    let missing: Vec<&str> =
        policy.forget.iter().flatten().filter(|class| !forgotten.contains(class)).map(String::as_str).collect();
    let problem = || {
        let detail = format!(
            "class {} is not among those that the stamp says were forgotten: {}",
            missing.join(", "),
            forgotten.join(", ")
        );
        ("policy.forget", detail)
    };
    (!missing.is_empty()).then(problem)
}

fn request(subject: &Subject<'_>, policy: &Policy) -> Problem {
    let asked = policy.request.as_ref()?;
    let found = subject.stamp.request.as_ref();
    let problem = || {
        let found = found.map_or("none".into(), |request| format!("{request:?}"));
        ("policy.request", format!("the stamp's request is {found}, expected {asked:?}"))
    };
    (found != Some(asked)).then(problem)
}

fn keys(subject: &Subject<'_>, policy: &Policy) -> Problem {
    let allowed = policy.keys.as_ref()?;
    let hint = subject.key.map(PublicKey::hint);
    match hint {
        Some(hint) if allowed.contains(&hint) => None,
        Some(hint) => Some(("policy.key", format!("key {hint} is not among those that may sign"))),
        None => Some(("policy.key", "the policy names keys, and none was given".into())),
    }
}

fn predicates(subject: &Subject<'_>, policy: &Policy) -> Problem {
    let missing = policy.require.iter().filter(|p| !holds(subject.claims, p.uri())).map(|p| p.name());
    let missing: Vec<_> = missing.collect();
    let problem = || ("policy.predicate_missing", format!("no claim that holds of type {}", missing.join(", ")));
    (!missing.is_empty()).then(problem)
}
