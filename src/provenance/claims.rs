//! What is claimed of an output, as in-toto statements: how it was made (SLSA provenance v1) and what was measured
//! (test-result v0.1). `claims.jsonl` holds a signed bundle a line.
//!
//! Every statement is made from the report and the files alone, so that a checker makes it again and compares. What only the
//! run knew, its time and its number, is an [`Occasion`].

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::digest::{Digest, DigestError, Digests, digest};
use super::dsse::Statement;
use super::oms::{CLAIMS, FolderError, Manifest};
use super::stamp::{MODEL, REPORT, Stamp, StampError, params_digest};
use crate::onnx::wire::layout;

/// `predicateType` of SLSA provenance.
pub const SLSA: &str = "https://slsa.dev/provenance/v1";
/// `predicateType` of test results.
pub const TEST_RESULT: &str = "https://in-toto.io/attestation/test-result/v0.1";
/// What a run of this tool is, for SLSA.
pub const BUILD_TYPE: &str = "https://onnx-unlearn.dev/unlearn/class/v1";
/// Who attests: the run itself, which is SLSA build level 1.
const BUILDER: &str = "https://onnx-unlearn.dev/unlearn";

/// Why nothing can be claimed of a folder.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum ClaimError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("cannot read {path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{MODEL}: {0}")]
    Digest(#[from] DigestError),
    #[error("{MODEL}: {0}")]
    Stamp(#[from] StampError),
    #[error("{MODEL} has no stamp: only what `forget` wrote can be attested")]
    Unstamped,
    #[error("{REPORT}: {0}")]
    Report(String),
    #[error("nothing can be claimed of a model that is not what stamp and report say: {0}")]
    Mismatch(String),
}

/// Everything a statement is made from.
pub struct Facts {
    /// Name of the folder.
    pub folder: String,
    /// Its files.
    pub manifest: Manifest,
    /// Digests of the model.
    pub digests: Digests,
    /// True where claims lie beside it.
    pub claimed: bool,
    /// Files of its external data.
    external: Vec<String>,
    /// Its stamp.
    pub stamp: Stamp,
    /// Its report.
    pub report: Value,
}

/// When and by what a statement was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Occasion {
    /// A number of the run that nothing else has.
    pub invocation: Option<String>,
    /// RFC 3339, UTC.
    pub started: Option<String>,
    /// RFC 3339, UTC.
    pub finished: Option<String>,
    /// True where the run itself attests, false where somebody does afterwards, who takes the report's word.
    pub during: bool,
}

impl Facts {
    /// Reads an output folder; `name` is what it is or will be called.
    pub fn of(folder: &Path, name: &str) -> Result<Self, ClaimError> {
        let manifest = Manifest::of_output(folder)?;
        let read = |file: &str| {
            std::fs::read(folder.join(file)).map_err(|source| ClaimError::Io { path: file.to_owned(), source })
        };
        let model = read(MODEL)?;
        let stamp = super::stamp::read(&model)?.ok_or(ClaimError::Unstamped)?;
        let digests = digest(&model, folder)?;
        let report = serde_json::from_slice(&read(REPORT)?).map_err(|e| ClaimError::Report(e.to_string()))?;
        if !stamp.is_of(&digests) {
            return Err(ClaimError::Mismatch("the stamp is one of other weights or another graph".into()));
        }
        if let Some(problem) = contradicts(&report, &stamp, true) {
            return Err(ClaimError::Mismatch(problem));
        }
        let claimed = folder.join(CLAIMS).exists();
        Ok(Self { folder: name.into(), manifest, digests, claimed, external: external(&model)?, stamp, report })
    }

    /// From what was read already.
    pub fn new(
        manifest: Manifest,
        digests: Digests,
        model: &[u8],
        stamp: Stamp,
        report: Value,
    ) -> Result<Self, ClaimError> {
        Ok(Self { folder: String::new(), manifest, digests, claimed: true, external: external(model)?, stamp, report })
    }

    fn annotations(graph: &Value, weights: &Value) -> Value {
        json!({"onnxGraph": graph, "onnxWeights": weights})
    }

    /// The files of the model, and the folder as a whole.
    fn subjects(&self) -> Vec<Value> {
        let Digests { file, weights, graph, .. } = &self.digests;
        let mut subjects = vec![json!({
            "name": MODEL,
            "digest": {"sha256": hex::encode(file.0)},
            "annotations": Self::annotations(&json!(graph), &json!(weights)),
        })];
        for name in &self.external {
            if let Some(digest) = self.manifest.digest(name) {
                subjects.push(json!({"name": name, "digest": {"sha256": hex::encode(digest.0)}}));
            }
        }
        subjects.push(self.manifest.subject(&self.folder));
        subjects
    }

    /// How the model was made.
    pub fn slsa(&self, occasion: &Occasion) -> Result<Statement, ClaimError> {
        let report = &self.report;
        let mut external = json!({
            "source": report["source"]["name"],
            "forgetClasses": self.stamp.forget,
            "method": self.stamp.method,
            "seed": report["parameters"]["recipe"]["seed"].to_string(),
            "hyperparameters": flatten(&report["parameters"]),
            "hyperparametersDigest": params_digest(&report["parameters"])?,
        });
        if let Some(request) = &self.stamp.request {
            external["request"] = json!(request);
        }
        let mut metadata = Map::new();
        let entries = [
            ("invocationId", &occasion.invocation),
            ("startedOn", &occasion.started),
            ("finishedOn", &occasion.finished),
        ];
        for (key, value) in entries {
            value.as_ref().map(|value| metadata.insert(key.into(), json!(value)));
        }
        let (tool, version) = self.stamp.tool.split_once('/').unwrap_or((&self.stamp.tool, ""));
        let byproduct = |digest: Digest| json!({"name": REPORT, "digest": {"sha256": hex::encode(digest.0)}, "mediaType": "application/json"});
        let predicate = json!({
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": external,
                "internalParameters": internal(report, occasion),
                "resolvedDependencies": self.dependencies(),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {tool: version}},
                "metadata": metadata,
                "byproducts": self.manifest.digest(REPORT).map(byproduct).into_iter().collect::<Vec<_>>(),
            },
        });
        Ok(Statement::new(self.subjects(), SLSA, predicate))
    }

    /// The source model, and the data as far as the report tells.
    fn dependencies(&self) -> Vec<Value> {
        let source = &self.stamp.source;
        let name = self.report["source"]["name"].as_str().unwrap_or("model.onnx");
        let mut all = vec![json!({
            "name": "source-model",
            "uri": format!("file:{name}"),
            "digest": {"sha256": hex::encode(source.file.0)},
            "mediaType": "application/x-onnx",
            "annotations": Self::annotations(&json!(source.graph), &json!(source.weights)),
        })];
        for (key, name) in [("retain", "retain-data"), ("eval", "eval-data")] {
            let data = &self.report["data"][key];
            if data.is_object() {
                all.push(dependency(name, data));
            }
        }
        all
    }

    /// What was measured, against the gates.
    pub fn test_result(&self) -> Result<Statement, ClaimError> {
        let verdict = &self.report["verdict"];
        let gates = verdict["gates"].as_array().ok_or_else(|| ClaimError::Report("holds no gates".into()))?;
        let of = |outcome: &str| -> Vec<&Value> {
            gates.iter().filter(|gate| gate["outcome"] == outcome).map(|gate| &gate["name"]).collect()
        };
        let thresholds: Map<String, Value> = gates.iter().filter_map(threshold).collect();
        let measured = gates.iter().map(|gate| (text(&gate["name"]), json!(text(&gate["measured"]))));
        let predicate = json!({
            "result": result(verdict["outcome"].as_str().unwrap_or_default()),
            "configuration": [{
                "name": "gates",
                "digest": {"sha256": hex::encode(params_digest(&thresholds)?.0)},
                "annotations": {"thresholds": thresholds, "measured": measured.collect::<Map<_, _>>()},
            }],
            "passedTests": of("pass"),
            "warnedTests": of("not_assessed"),
            "failedTests": of("fail"),
        });
        Ok(Statement::new(self.subjects(), TEST_RESULT, predicate))
    }

    /// What an audit measured, against the bounds of a policy.
    pub fn audit_result(&self, audit: &Audited<'_>) -> Statement {
        let name = "membership-inference";
        let (passed, failed) = if audit.passed { (vec![name], vec![]) } else { (vec![], vec![name]) };
        let file = |name: &str, digest: Digest| json!({"name": name, "digest": {"sha256": hex::encode(digest.0)}});
        let mut measured = file("audit", audit.audit);
        measured["annotations"] = json!({"membershipAuc": audit.auc.to_string()});
        let predicate = json!({
            "result": if audit.passed { "PASSED" } else { "FAILED" },
            "configuration": [measured, file("policy", audit.policy)],
            "passedTests": passed,
            "warnedTests": [],
            "failedTests": failed,
        });
        Statement::new(self.subjects(), TEST_RESULT, predicate)
    }
}

/// In what a report is not about the run that a stamp names; `None` where it is. A report of another writer need not say
/// everything: what is left out is no contradiction unless it is to be `complete`.
pub fn contradicts(report: &Value, stamp: &Stamp, complete: bool) -> Option<String> {
    let parameters = &report["parameters"];
    let forget: Option<Vec<String>> =
        parameters["recipe"]["forget"].as_array().map(|classes| classes.iter().map(text).collect());
    let digest =
        params_digest(parameters).ok().filter(|_| !parameters.is_null()).map_or(Value::Null, |digest| json!(digest));
    let said = [
        ("parameters", digest, json!(stamp.params)),
        ("result.weights", report["result"]["weights"].clone(), json!(stamp.weights)),
        ("result.graph", report["result"]["graph"].clone(), json!(stamp.graph)),
        ("source.file", report["source"]["file"].clone(), json!(stamp.source.file)),
        ("source.weights", report["source"]["weights"].clone(), json!(stamp.source.weights)),
        ("source.graph", report["source"]["graph"].clone(), json!(stamp.source.graph)),
        ("tool", report["tool"].clone(), json!(stamp.tool)),
        ("parameters.method", parameters["method"].clone(), json!(stamp.method)),
        ("parameters.recipe.forget", json!(forget), json!(stamp.forget)),
        ("request", report["request"].clone(), json!(stamp.request)),
    ];
    let differs = |(_, found, expected): &(_, Value, Value)| found != expected && (complete || !found.is_null());
    let (field, found, expected) = said.into_iter().find(differs)?;
    Some(format!("{field} of the report is {found}, the stamp says {expected}"))
}

/// What `audit` measured, for a claim.
#[derive(Clone, Debug)]
pub struct Audited<'a> {
    /// Of the audit's JSON.
    pub audit: Digest,
    /// Of the policy file.
    pub policy: Digest,
    /// Area under the curve of membership inference.
    pub auc: &'a serde_json::Number,
    /// Whether it is within the policy's bounds.
    pub passed: bool,
}

fn external(model: &[u8]) -> Result<Vec<String>, ClaimError> {
    let layout = layout(model).map_err(StampError::from)?;
    let of =
        |entries: &[(String, String)]| entries.iter().find(|(key, _)| key == "location").map(|(_, name)| name.clone());
    let mut names: Vec<String> = layout.external.iter().filter_map(|(_, entries)| of(entries)).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// What ran the training, and where.
fn internal(report: &Value, occasion: &Occasion) -> Value {
    let runtime = &report["runtime"];
    let mut all = json!({
        "backend": runtime["backend"],
        "backendBuild": runtime["library"],
        "device": runtime["device"],
        "threads": text(&runtime["threads"]),
        "target": runtime["target"],
        "attested": if occasion.during { "during the run" } else { "afterwards" },
    });
    if let Some(cpu) = runtime.get("cpu") {
        all["cpu"] = cpu.clone();
    }
    if let Some(engine) = report["check"].get("engine") {
        all["inferenceCheck"] = engine.clone();
    }
    all
}

/// Data, by a commitment where there is one. Only the digest of a file is one that can be computed from the artifact alone.
fn dependency(name: &str, data: &Value) -> Value {
    let mut annotations = json!({"samples": data["read"]});
    let digest = data["digest"].as_str();
    let mut entry = json!({"name": name});
    match (data["commitment"].as_str(), digest, data["kind"].as_str()) {
        (Some(commitment), ..) => {
            entry["uri"] = json!(format!("urn:onnx-unlearn:commitment:{commitment}"));
            annotations["commitment"] = json!(commitment);
        }
        (None, Some(digest), Some("npz")) => entry["digest"] = json!({"sha256": digest}),
        (None, Some(digest), _) => annotations["files"] = json!(format!("sha256:{digest}")),
        (None, None, _) => {}
    }
    entry["annotations"] = annotations;
    entry
}

fn threshold(gate: &Value) -> Option<(String, Value)> {
    Some((gate["name"].as_str()?.to_owned(), json!(text(&gate["threshold"]))))
}

fn result(outcome: &str) -> &'static str {
    match outcome {
        "pass" => "PASSED",
        "fail" => "FAILED",
        _ => "WARNED",
    }
}

/// A value as text: SLSA wants parameters as strings. What is no string is written as JSON.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Every leaf of an object, by its path: `recipe.noise.steps` is `"40"`.
pub fn flatten(value: &Value) -> BTreeMap<String, String> {
    fn into(value: &Value, path: &str, flat: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (key, value) in fields {
                    into(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, flat);
                }
            }
            leaf => {
                flat.insert(path.to_owned(), text(leaf));
            }
        }
    }
    let mut flat = BTreeMap::new();
    into(value, "", &mut flat);
    flat
}

/// The path of the first field in which a claim contradicts what is expected, with both values. A field that only one of them
/// has is no contradiction: later versions say more.
pub fn contradiction(claimed: &Value, expected: &Value) -> Option<(String, String, String)> {
    fn find(claimed: &Value, expected: &Value, path: &str) -> Option<(String, String, String)> {
        match (claimed, expected) {
            (Value::Object(a), Value::Object(b)) => {
                a.iter().find_map(|(key, value)| find(value, b.get(key)?, &format!("{path}.{key}")))
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                a.iter().zip(b).enumerate().find_map(|(i, (a, b))| find(a, b, &format!("{path}[{i}]")))
            }
            (a, b) => (a != b).then(|| (path.trim_start_matches('.').to_owned(), a.to_string(), b.to_string())),
        }
    }
    find(claimed, expected, "")
}
