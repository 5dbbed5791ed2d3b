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
        keys(subject, policy),
        predicates(subject, policy),
    ];
    let problems: Vec<(&str, String)> = problems.into_iter().flatten().collect();
    match problems.first() {
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
    let found = gates.into_iter().flatten().find(|g| g["name"] == gate);
    let problem = match found.map(|g| (g["outcome"].as_str(), g["measured"].as_f64())) {
        None => format!("the report has no gate {gate}"),
        Some((Some("not_assessed") | None, _)) => format!("gate {gate} was not assessed"),
        Some((_, Some(measured))) if measured <= limit => return None,
        Some((_, measured)) => {
            let measured = measured.map_or("no number".into(), |m| m.to_string());
            format!("gate {gate}: measured {measured}, at most {limit} is allowed")
        }
    };
    Some(("policy.threshold", problem))
}

fn membership(subject: &Subject<'_>, policy: &Policy) -> Problem {
    let bounds = policy.membership_auc?;
    let auc = |claim: &Claimed| match claim {
        Claimed::Audit(predicate) => {
            predicate.pointer("/configuration/0/annotations/membershipAuc")?.as_str()?.parse::<f64>().ok()
        }
        _ => None,
    };
    // Claims accumulate: the worst one counts, so that a later one does not hide it.
    let outside = |auc: f64| (auc - 0.5).abs();
    let worst = subject.claims.iter().filter_map(auc).max_by(|a, b| outside(*a).total_cmp(&outside(*b)));
    match worst {
        Some(worst) if bounds.hold(worst) => None,
        Some(worst) => {
            let detail = format!("membership inference: AUC {worst}, allowed is {} to {}", bounds.min, bounds.max);
            Some(("policy.threshold", detail))
        }
        None => Some(("policy.threshold", "no claim that holds says how well membership inference does".into())),
    }
}

fn listed(code: &'static str, what: &str, allowed: Option<&[String]>, found: &str) -> Problem {
    let allowed = allowed?;
    let problem = || (code, format!("{what} {found:?} is not among {}", allowed.join(", ")));
    (!allowed.iter().any(|a| a == found)).then(problem)
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
