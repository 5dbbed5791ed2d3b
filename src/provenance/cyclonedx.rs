//! An output as a CycloneDX 1.6 bill of materials, for tools that collect those. It repeats what stamp and report say, and is no
//! evidence: the claims are, and it points at them.

use serde_json::{Value, json};

use super::claims::Facts;
use super::oms::CLAIMS;
use super::stamp::MODEL;

/// Version of the format.
const SPEC_VERSION: &str = "1.6";

/// The bill of materials, as JSON.
pub fn export(facts: &Facts) -> Value {
    let (stamp, report) = (&facts.stamp, &facts.report);
    let sha256 = |digest: &super::digest::Digest| json!([{"alg": "SHA-256", "content": hex::encode(digest.0)}]);
    let property = |name: &str, value: String| json!({"name": format!("onnx-unlearn:{name}"), "value": value});
    let (tool, version) = stamp.tool.split_once('/').unwrap_or((&stamp.tool, ""));
    let classes: Vec<String> = stamp.forget.iter().map(|class| class_name(report, class)).collect();
    let mut patch = json!({"type": "unofficial"});
    if let Some(request) = &stamp.request {
        // Of the types of issues that the format knows, a wish fits best.
        patch["resolves"] = json!([{"type": "enhancement", "id": request}]);
    }
    let mut component = json!({
        "type": "machine-learning-model",
        "bom-ref": facts.digests.file.to_string(),
        "name": MODEL,
        "hashes": sha256(&facts.digests.file),
        "pedigree": {
            "ancestors": [{
                "type": "machine-learning-model",
                "bom-ref": stamp.source.file.to_string(),
                "name": report["source"]["name"].as_str().unwrap_or("source"),
                "hashes": sha256(&stamp.source.file),
            }],
            "patches": [patch],
            "notes": report["statement"].as_str().unwrap_or_default(),
        },
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "classification",
                "inputs": [{"format": "tensor"}],
                "outputs": [{"format": "class scores"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": metrics(report)},
            "considerations": {"technicalLimitations": report["limitations"]},
        },
        "properties": [
            property("weights", stamp.weights.to_string()),
            property("graph", stamp.graph.to_string()),
            property("source-weights", stamp.source.weights.to_string()),
            property("source-graph", stamp.source.graph.to_string()),
            property("method", stamp.method.clone()),
            property("forgotten-classes", classes.join(", ")),
            property("verdict", report["verdict"]["outcome"].as_str().unwrap_or_default().to_owned()),
        ],
    });
    if facts.claimed {
        component["externalReferences"] = json!([{
            "type": "attestation",
            "url": CLAIMS,
            "comment": "signed in-toto statements beside the model",
        }]);
    }
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": tool, "version": version}]},
            "component": component,
        },
    })
}

fn class_name(report: &Value, class: &str) -> String {
    let name = class.parse::<usize>().ok().and_then(|index| report["classes"][index].as_str());
    name.filter(|name| *name != class).map_or_else(|| class.to_owned(), |name| format!("{class} ({name})"))
}

/// The gates' measurements.
fn metrics(report: &Value) -> Vec<Value> {
    let gates = report["verdict"]["gates"].as_array().into_iter().flatten();
    let metric = |gate: &Value| {
        let (measure, slice) = (gate["measure"].as_str()?, gate["name"].as_str()?);
        let measured = gate["measured"].as_f64()?;
        let kind = if slice == "retain" { format!("fall of {measure}") } else { measure.to_owned() };
        Some(json!({"type": kind, "value": measured.to_string(), "slice": slice}))
    };
    gates.filter_map(metric).collect()
}
