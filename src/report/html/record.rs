//! For the record: the limits of the claim, what the files are, what ran, and every setting.

use super::Page;
use crate::{
    data::LoadSummary,
    provenance::{claims::text, stamp},
    train::Site,
};
use maud::{Markup, html};
use serde_json::Value;

impl Page<'_> {
    pub(super) fn limits(&self) -> Markup {
        html! {
            h2 { "What this report does not show" }
            p {
                "It shows that the procedure above was run, and what was measured about the model's predictions. More is not \
                 claimed."
            }
            ul { @for limit in &self.report.limitations { li { (limit) } } }
        }
    }

    pub(super) fn provenance(&self) -> Markup {
        let r = self.report;
        let params = stamp::params_digest(&r.parameters).map_or_else(|e| e.to_string(), |d| d.to_string());
        let site = match &r.noise.site {
            Site::Input => format!("input {}", r.parameters.input),
            Site::Value { name, node } => format!("{name}, computed by node {node}"),
        };
        html! {
            h2 { "Provenance" }
            p {
                "The finished file carries a stamp with these digests. " code { "onnx-unlearn verify" } " computes them anew, \
                 without a network; what they cover is written down in the documentation of the stamp."
            }
            div.wide { table { tbody {
                @for (name, identity) in [("source", &r.source), ("result", &r.result)] {
                    tr { th { (name) ": file" } td { code { (identity.name) } br; span.digest { (identity.file.as_deref().unwrap_or("–")) } } }
                    tr { th { (name) ": weights" } td.digest { (identity.weights) } }
                    tr { th { (name) ": graph" } td.digest { (identity.graph) } }
                }
                tr { th { "settings (below)" } td.digest { (params) } }
                tr { th { "program" } td { (r.tool) } }
                @if let Some(request) = &r.request { tr { th { "request" } td { (request) } } }
                tr { th { "runtime" } td { (r.runtime.backend) ", library " span.digest { (r.runtime.library) } } }
                tr { th { "ran on" } td { (r.runtime.device) ", " (r.runtime.threads) " thread(s), " (r.runtime.target) } }
                tr { th { "seed" } td { (r.parameters.recipe.seed) } }
                tr { th { "scores" } td {
                    "output " code { (r.head.output) } ", loss on " code { (r.head.logits) }
                    @if let Some(op) = &r.head.behind { " before " (op) }
                } }
                tr { th { "noise learned for" } td { (site) } }
                tr { th { "retain data" } td { (self.data(&r.data.retain)) } }
                tr { th { "held-out data" } td {
                    @match &r.data.eval { Some(eval) => (self.data(eval)), None => "none" }
                } }
            } } }
        }
    }

    fn data(&self, data: &LoadSummary) -> Markup {
        html! {
            (data.kind) " of " (data.pixels) ", " (data.read) " samples read"
            @if data.multi_hot { ", several classes in a sample" }
            @for (class, n) in &data.dropped { "; " (n) " of " (self.class(*class)) " dropped by label" }
            @if data.beyond_limit > 0 { "; " (data.beyond_limit) " passed over by --per-class" }
            @match &data.commitment {
                Some(commitment) => { br; "commitment " span.digest { (commitment) } }
                None => { br; "SHA-256 " span.digest { (data.digest) } }
            }
        }
    }

    /// Every setting, as the digest in the stamp covers them.
    pub(super) fn settings(&self) -> Markup {
        let mut rows = Vec::new();
        if let Ok(value) = serde_json::to_value(&self.report.parameters) {
            flatten(String::new(), &value, &mut rows);
        }
        html! {
            h2 { "Settings" }
            div.wide { table { tbody {
                @for (name, value) in &rows { tr { th { code { (name) } } td { (value) } } }
            } } }
        }
    }
}

/// Keys with dots between them, and their values.
fn flatten(name: String, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(name, value, rows);
            }
        }
        Value::String(text) => rows.push((name, text.clone())),
        Value::Array(values) if values.iter().all(|v| !v.is_object() && !v.is_array()) => {
            rows.push((name, values.iter().map(text).collect::<Vec<_>>().join(", ")));
        }
        Value::Null => rows.push((name, "–".to_owned())),
        other => rows.push((name, other.to_string())),
    }
}
