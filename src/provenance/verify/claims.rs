//! What the key's owner claims of the model, and whether stamp and report say the same.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{Checks, small_file};
use crate::provenance::claims::{BUILD_TYPE, ClaimError, Facts, Occasion, SLSA, TEST_RESULT, contradiction};
use crate::provenance::dsse::{Signed, Signer, Statement};
use crate::provenance::keys::PublicKey;
use crate::provenance::oms::CLAIMS;
use crate::provenance::policy::Predicate;

const NO_KEY: &str = "no key was given";

/// What SLSA provenance of this tool always says.
const NEEDED: &[&str] = &[
    "/buildDefinition/externalParameters/forgetClasses",
    "/buildDefinition/externalParameters/method",
    "/buildDefinition/externalParameters/hyperparameters",
    "/buildDefinition/externalParameters/hyperparametersDigest",
    "/buildDefinition/resolvedDependencies/0/digest/sha256",
    "/runDetails/builder/id",
];

/// What test results of this tool always say.
const NEEDED_OF_RESULTS: &[&str] = &[
    "/result",
    "/passedTests",
    "/failedTests",
    "/configuration/0/annotations/thresholds",
    "/configuration/0/annotations/measured",
];

/// A claim that holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Claimed {
    /// How the model was made.
    Slsa,
    /// The gates of the run.
    Gates {
        /// True where one of them failed.
        failed: bool,
    },
    /// The AUC of membership inference that an audit measured.
    Audit(f64),
    /// Something that this tool does not write.
    Other(String),
}

/// What is claimed about.
pub(super) struct Subject<'a> {
    pub folder: &'a Path,
    /// With a report that is null where there is none that could be read.
    pub facts: Facts,
}

/// Why a claim does not hold, with its reason code.
enum Problem {
    No(&'static str, String),
    Undecided(&'static str, String),
}

pub(super) fn skip(checks: &mut Checks) {
    checks.skip("claims", NO_KEY);
    checks.skip("claims.required", NO_KEY);
}

/// Checks every claim by the key; gives those that hold.
pub(super) fn check(
    checks: &mut Checks,
    key: &PublicKey,
    subject: &Subject<'_>,
    require: &[Predicate],
) -> Vec<Claimed> {
    let path = subject.folder.join(CLAIMS);
    let text = match small_file(&path) {
        Ok(text) => text,
        Err(detail) => {
            checks.undecided("claims", "input.unreadable", detail);
            return Vec::new();
        }
    };
    let mut holding = Vec::new();
    match &text {
        None => checks.skip("claims", format!("there is no {}", path.display())),
        Some(text) => match lines(text, key, subject, &mut holding) {
            Ok(others) => {
                let unverified =
                    if others > 0 { format!("; {others} by other keys, not verified") } else { String::new() };
                checks.pass("claims", format!("{} hold{unverified}", holding.len()));
            }
            Err(Problem::No(code, detail)) => checks.fail("claims", code, format!("{CLAIMS} {detail}")),
            Err(Problem::Undecided(code, detail)) => checks.undecided("claims", code, format!("{CLAIMS} {detail}")),
        },
    }
    required(checks, subject, require, &holding);
    holding
}

/// Every line; gives the number of those that other keys have signed.
fn lines(text: &[u8], key: &PublicKey, subject: &Subject<'_>, holding: &mut Vec<Claimed>) -> Result<usize, Problem> {
    let mut others = 0;
    let Some(text) = text.strip_suffix(b"\n") else {
        return Err(Problem::Undecided(
            "claim.malformed",
            "does not end with a line feed: its last line may be cut off".into(),
        ));
    };
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let at = |what: String| format!("line {}: {what}", number + 1);
        let malformed = |error: &dyn std::fmt::Display| Problem::Undecided("claim.malformed", at(error.to_string()));
        let signer = match Signed::parse(line) {
            Ok(bundle) => (bundle.by(key), Some(bundle)),
            Err(error) if error.is_damage() => return Err(malformed(&error)),
            // A signature of another form, by a certificate for one, is not this key's.
            Err(_) => (Signer::Other, None),
        };
        let bundle = match signer {
            (Signer::Key, Some(bundle)) => bundle,
            (Signer::Invalid(why), _) => {
                return Err(Problem::No("claim.invalid", at(format!("{why} (key {})", key.hint()))));
            }
            _ => {
                others += 1;
                continue;
            }
        };
        let statement = bundle.statement().map_err(|e| malformed(&e))?;
        holding.push(subject.holds(&statement).map_err(|problem| match problem {
            Problem::No(code, detail) => Problem::No(code, at(detail)),
            Problem::Undecided(code, detail) => Problem::Undecided(code, at(detail)),
        })?);
    }
    Ok(others)
}

impl Subject<'_> {
    fn holds(&self, statement: &Statement) -> Result<Claimed, Problem> {
        let mismatch = |detail: String| Problem::No("claim.field_mismatch", detail);
        let about: BTreeSet<&str> = statement.subjects().collect();
        // A list by another signer may have another order, and then another root.
        let roots = [self.facts.manifest.root(), self.facts.manifest.sorted().root()];
        for (what, digests) in [("the model file", &[self.facts.digests.file][..]), ("the folder", &roots[..])] {
            if !digests.iter().any(|digest| about.contains(hex::encode(digest.0).as_str())) {
                let detail = format!("no subject is {what}, {}", digests[0]);
                return Err(Problem::No("claim.subject_mismatch", detail));
            }
        }
        let predicate = &statement.predicate;
        let kind = statement.predicate_type.as_str();
        let ours = match kind {
            SLSA => predicate.pointer("/buildDefinition/buildType") == Some(&BUILD_TYPE.into()),
            TEST_RESULT => predicate.pointer("/configuration/0/name") == Some(&"gates".into()),
            _ => false,
        };
        if !ours {
            let audit = kind == TEST_RESULT && predicate.pointer("/configuration/0/name") == Some(&"audit".into());
            return if audit { audited(predicate) } else { Ok(Claimed::Other(kind.to_owned())) };
        }
        let expected = self.expected(kind, predicate)?;
        let contradictions = std::iter::once(contradiction(predicate, &expected.predicate))
            .chain(statement.subject.iter().map(|subject| annotations(subject, &expected.subject)));
        if let Some((field, claimed, found)) = contradictions.flatten().next() {
            return Err(mismatch(format!("{kind}: field {field} is {claimed}, stamp and report say {found}")));
        }
        let needed = if kind == SLSA { NEEDED } else { NEEDED_OF_RESULTS };
        if let Some(field) = needed.iter().find(|field| predicate.pointer(field).is_none()) {
            return Err(mismatch(format!("{kind}: field {field} is missing")));
        }
        // Contradictions are only looked for in what is there; of the settings, all have to be.
        let settings = "/buildDefinition/externalParameters/hyperparameters";
        if predicate.pointer(settings) != expected.predicate.pointer(settings) {
            return Err(mismatch(format!("{kind}: field {settings} lacks settings that the report has")));
        }
        Ok(match kind {
            SLSA => Claimed::Slsa,
            _ => Claimed::Gates { failed: predicate["result"] == "FAILED" },
        })
    }

    /// The statement as stamp and report make it.
    fn expected(&self, kind: &str, claimed: &Value) -> Result<Statement, Problem> {
        if self.facts.report.is_null() {
            let detail = "nothing to hold the claim against: there is no report beside the model".into();
            return Err(Problem::Undecided("report.missing", detail));
        }
        let undecided = |error: ClaimError| Problem::Undecided("report.malformed", error.to_string());
        if kind == TEST_RESULT {
            return self.facts.test_result().map_err(undecided);
        }
        let during = claimed.pointer("/buildDefinition/internalParameters/attested") == Some(&"during the run".into());
        self.facts.slsa(&Occasion { during, ..Occasion::default() }).map_err(undecided)
    }
}

/// What a subject says of the model's digests, where it is one of the expected subjects; names say nothing.
fn annotations(subject: &Value, expected: &[Value]) -> Option<(String, String, String)> {
    let same = expected.iter().find(|e| e["digest"]["sha256"] == subject["digest"]["sha256"])?;
    contradiction(&subject["annotations"], &same["annotations"])
}

/// What an audit came to; a claim without its figure says nothing and hides nothing.
fn audited(predicate: &Value) -> Result<Claimed, Problem> {
    let auc = predicate.pointer("/configuration/0/annotations/membershipAuc").and_then(Value::as_str);
    match auc.and_then(|auc| auc.parse::<f64>().ok()).filter(|auc| auc.is_finite()) {
        Some(auc) => Ok(Claimed::Audit(auc)),
        None => Err(Problem::Undecided("claim.malformed", "says of an audit no membershipAuc that is a number".into())),
    }
}

/// Claims can be taken away without a trace in their file: the signed report says which there have to be. Who asks for a claim
/// asks for what it says, too.
fn required(checks: &mut Checks, subject: &Subject<'_>, require: &[Predicate], holding: &[Claimed]) {
    let listed = subject.facts.report["claims"].as_array();
    let listed: BTreeSet<&str> = listed.into_iter().flatten().filter_map(Value::as_str).collect();
    let asked: BTreeSet<&str> = require.iter().map(|predicate| predicate.uri()).collect();
    let of_report = listed.iter().copied().filter(|uri| !holding.iter().any(|claim| claim.is(uri)));
    let of_asker = asked.iter().copied().filter(|uri| !holds(holding, uri));
    let missing: BTreeSet<&str> = of_report.chain(of_asker).collect();
    let name = "claims.required";
    let wanted = listed.union(&asked).count();
    if wanted == 0 {
        checks.skip(name, "none were asked for");
    } else if missing.is_empty() {
        checks.pass(name, format!("all {wanted} are there"));
    } else {
        let missing = missing.into_iter().collect::<Vec<_>>().join(", ");
        checks.fail(name, "claim.missing", format!("no claim that holds, and does not say FAILED, of type {missing}"));
    }
}

impl Claimed {
    /// True for a claim of this type.
    fn is(&self, uri: &str) -> bool {
        match self {
            Self::Slsa => uri == SLSA,
            Self::Gates { .. } => uri == TEST_RESULT,
            Self::Audit(_) => false,
            Self::Other(kind) => kind == uri && uri != SLSA && uri != TEST_RESULT,
        }
    }
}

/// True where a claim of this type is among those that hold. A result that says FAILED is none to ask for.
pub(super) fn holds(holding: &[Claimed], uri: &str) -> bool {
    holding.iter().any(|claim| claim.is(uri) && *claim != Claimed::Gates { failed: true })
}
