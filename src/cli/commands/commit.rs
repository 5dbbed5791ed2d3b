//! `commit`: the commitment to data, and whether a result is about that data.

use super::{output::REPORT, seal};
use crate::{
    cli::{Status, args::CommitArgs, printer::Printer},
    provenance::commitment::CommitmentKey,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};

pub fn run(args: &CommitArgs, printer: Printer) -> Result<Status> {
    let key = CommitmentKey::read(&args.commitment_key)?;
    let commitment = key.commit(&seal::files_of(&args.data)?)?.to_string();
    let Some(output) = &args.output else {
        printer.json(&json!({"data": args.data, "commitment": commitment}))?;
        printer.result(&commitment);
        return Ok(Status::Yes);
    };
    let path = output.join(REPORT);
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Value = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let of = |role: &str| report["data"][role]["commitment"].as_str().map(str::to_owned);
    let roles: Vec<&str> = ["retain", "eval"].into_iter().filter(|role| of(role).is_some()).collect();
    anyhow::ensure!(!roles.is_empty(), "{}: commits to no data; forget does with --commitment-key", path.display());
    let found: Vec<&str> = roles.iter().copied().filter(|role| of(role).as_ref() == Some(&commitment)).collect();
    printer.json(&json!({"data": args.data, "commitment": commitment, "committed_as": found}))?;
    match found.as_slice() {
        [] => {
            printer.result(format!("no: {} commits to other data than {}", path.display(), args.data.display()));
            Ok(Status::No)
        }
        roles => {
            let roles = roles.join(" and ");
            printer.result(format!(
                "yes: {} is the {roles} data that {} commits to",
                args.data.display(),
                path.display()
            ));
            Ok(Status::Yes)
        }
    }
}
