//! `verify`: is the model what it claims to be?

mod rederive;

use super::{output, seal};
use crate::{
    cli::{Status, args::VerifyArgs, printer::Printer},
    provenance::{
        digest::Digest,
        folder_of,
        keys::{PrivateKey, PublicKey},
        policy::Policy,
        svr,
        verify::{Answer, Examined, Outcome, Request, Verdict, examine},
    },
};
use anyhow::{Context, Result, ensure};
use std::path::Path;

pub fn run(args: &VerifyArgs, printer: Printer) -> Result<Status> {
    let key = match args.key.as_deref().map(PublicKey::read).transpose() {
        Ok(key) => key,
        Err(error) => return unusable(&args.model, "origin", error.code(), &format!("--key: {error}"), printer),
    };
    let (policy, policy_digest) = match args.policy.as_deref().map(Policy::read).transpose() {
        Ok(policy) => policy.unzip(),
        Err(error) => return unusable(&args.model, "policy", "usage", &format!("--policy: {error}"), printer),
    };
    let svr_key = args.svr_key.as_deref().map(PrivateKey::read).transpose().context("--svr-key")?;
    if let Some(path) = &args.emit_svr {
        let shown = path.display();
        ensure!(path.symlink_metadata().is_err(), "--emit-svr {shown}: exists; remove it or choose another file");
        let [to, of] = [path, &args.model].map(|file| {
            let folder = folder_of(file);
            folder.canonicalize().unwrap_or_else(|_| folder.to_owned())
        });
        ensure!(!to.starts_with(&of), "--emit-svr {shown}: lies beside the model, where a signature covers every file");
    }
    let request =
        Request { source: args.source.as_deref(), key: key.as_ref(), policy: policy.as_ref(), require: &args.require };
    let mut found = examine(&args.model, request);
    match (args.rederive, found.failed()) {
        (false, _) => found.add("rederive", Outcome::Skipped, None, "was not asked for".into()),
        (true, true) => found.add("rederive", Outcome::Skipped, None, "not reached: an earlier check failed".into()),
        (true, false) => rederive::check(args, &mut found, printer),
    }
    let subjects = subjects(&args.model, &found);
    let verdict = found.verdict(&args.model);
    if let (Some(path), Answer::Yes) = (&args.emit_svr, verdict.answer) {
        let statement = svr::statement(
            &verdict,
            &subjects,
            key.as_ref().map(PublicKey::hint).as_ref(),
            policy_digest,
            &seal::now(),
        );
        let text = match &svr_key {
            Some(key) => seal::lines(&[statement], key)?,
            None => format!("{}\n", serde_json::to_string(&statement)?),
        };
        output::replace(path, text.as_bytes())?;
    }
    show(&verdict, printer)
}

/// The model file and, where its files were listed, the folder.
fn subjects(model: &Path, found: &Examined) -> Vec<(String, Digest)> {
    let name = model.file_name().map_or_else(Default::default, |name| name.to_string_lossy().into_owned());
    let file = found.digests.as_ref().map(|digests| (name, digests.file));
    let root = found.manifest.as_ref().map(|manifest| (seal::name_of(folder_of(model)), manifest.root()));
    file.into_iter().chain(root).collect()
}

/// A key or a policy that cannot be used is an answer too, with its code.
fn unusable(model: &Path, check: &'static str, code: &'static str, detail: &str, printer: Printer) -> Result<Status> {
    let mut found = Examined::default();
    found.add(check, Outcome::Undecided, Some(code), detail.to_owned());
    show(&found.verdict(model), printer)
}

fn show(verdict: &Verdict, printer: Printer) -> Result<Status> {
    printer.json(verdict)?;
    for check in verdict.checks.iter().filter(|_| printer.talks()) {
        let outcome = match check.outcome {
            Outcome::Pass => "pass",
            Outcome::Fail => "FAIL",
            Outcome::Skipped => "skipped",
            Outcome::Undecided => "UNDECIDED",
        };
        printer.result(format!("{outcome:>9}  {:<18} {}", check.name, check.detail));
    }
    let (answer, status) = match verdict.answer {
        Answer::Yes => ("yes", Status::Yes),
        Answer::No => ("no", Status::No),
        Answer::Undecided => ("undecided", Status::Undecided),
    };
    printer.result(format!("{}: {answer} ({})", verdict.model, verdict.reason));
    Ok(status)
}
