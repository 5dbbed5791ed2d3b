//! `attest`: claims about a result, added to those that are there.

use super::{output, seal};
use crate::{
    cli::{Status, args::AttestArgs, printer::Printer},
    provenance::{
        claims::{Audited, Facts, Occasion},
        digest::Digest,
        dsse::Statement,
        oms::CLAIMS,
        policy::Policy,
    },
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// The figure of an audit that a policy has bounds for.
const MEMBERSHIP: (&str, &str) = ("membership", "AUC");

pub fn run(args: &AttestArgs, printer: Printer) -> Result<Status> {
    let key = seal::private_key("--sign-key", &args.sign_key, &args.folder)?;
    let shown = args.folder.display();
    let facts = Facts::of(&args.folder, &seal::name_of(&args.folder)).with_context(|| shown.to_string())?;
    let statements = match (&args.audit, &args.policy) {
        (Some(audit), Some(policy)) => vec![of_audit(&facts, audit, policy)?],
        _ => vec![facts.slsa(&Occasion::default())?, facts.test_result()?],
    };
    let path = args.folder.join(CLAIMS);
    output::append(&path, seal::lines(&statements, &key)?.as_bytes())?;
    let claims: Vec<_> =
        statements.iter().map(|s| (s.predicate_type.as_str(), s.predicate["result"].as_str())).collect();
    let listed: Vec<_> = claims.iter().map(|(kind, result)| json!({"type": kind, "result": result})).collect();
    printer.json(&json!({"written": path, "key": key.public().hint(), "claims": listed}))?;
    for (kind, result) in claims {
        printer.result(format!("claimed  {kind}{}", result.map_or(String::new(), |result| format!(": {result}"))));
    }
    printer.result(format!("written  {}, signed by key {}", path.display(), key.public().hint()));
    Ok(Status::Yes)
}

/// What an audit found, held against the bounds of a policy.
fn of_audit(facts: &Facts, audit: &Path, policy: &Path) -> Result<Statement> {
    let shown = audit.display();
    let bytes = fs::read(audit).with_context(|| format!("cannot read {shown}"))?;
    let found: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("{shown}: not what audit --json prints"))?;
    let (policy, digest) = Policy::read(policy)?;
    let bounds =
        policy.membership_auc.context("--policy: has no membership_auc, so nothing says what an audit may find")?;
    let of_model = |role: &str| {
        let models = found["models"].as_array().into_iter().flatten();
        models.filter(|m| m["role"] == role).find_map(|m| m["file"].as_str()).unwrap_or("nothing").to_owned()
    };
    let file = facts.digests.file.to_string();
    ensure!(of_model("after") == file, "{shown} is about the model {}, this one is {file}", of_model("after"));
    let source = facts.stamp.source.file.to_string();
    ensure!(
        of_model("before") == source,
        "{shown} compares with {}, this model was made from {source}",
        of_model("before")
    );
    let measures = found["measures"].as_array().into_iter().flatten();
    let figures = measures.filter(|m| m["name"] == MEMBERSHIP.0).filter_map(|m| m["figures"].as_array()).flatten();
    let mut found =
        figures.filter(|f| f["figure"] == MEMBERSHIP.1 && f["of"] == "after").filter_map(|f| f["value"].as_number());
    let (auc, another) = (found.next(), found.next());
    ensure!(another.is_none(), "{shown}: says twice what membership inference came to");
    let auc = auc.with_context(|| format!("{shown}: membership inference was not measured on the model"))?;
    let passed = auc.as_f64().is_some_and(|auc| bounds.hold(auc));
    Ok(facts.audit_result(&Audited { audit: Digest::of(&bytes), policy: digest, auc, passed }))
}
