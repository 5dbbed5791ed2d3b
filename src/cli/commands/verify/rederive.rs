//! `verify --rederive`: trains again as the report says, and compares the weights.
//!
//! Equality means equal bits of every weight, and is promised on the CPU alone: for the same build of ONNX Runtime, the same
//! instruction sets and the same number of threads. There is no tolerance.

use crate::{
    cli::{
        args::{Cli, Command, VerifyArgs},
        commands::{forget, seal},
        plan,
        printer::{Printer, chain},
    },
    provenance::{
        commitment::CommitmentKey,
        verify::{Examined, Outcome},
    },
    report::RuntimeRecord,
    runtime::RuntimeError,
};
use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use serde_json::Value;
use std::path::{Path, PathBuf};

const NAME: &str = "rederive";

/// Makes the check.
pub fn check(args: &VerifyArgs, found: &mut Examined, printer: Printer) {
    let (outcome, code, detail) = match attempt(args, found, printer) {
        Ok(result) => result,
        Err(error) => {
            let runtime = error.downcast_ref::<RuntimeError>().is_some();
            let code = if runtime { "runtime.missing" } else { "rederive.not_possible" };
            (Outcome::Undecided, Some(code), chain(&error))
        }
    };
    found.add(NAME, outcome, code, detail);
}

type Finding = (Outcome, Option<&'static str>, String);

fn attempt(args: &VerifyArgs, found: &Examined, printer: Printer) -> Result<Finding> {
    let report = found.report.as_ref().context("there is no report beside the model, which says how it was made")?;
    let stamp = found.stamp.as_ref().context("the model has no stamp that holds")?;
    let digests = found.digests.as_ref().context("the model could not be read")?;
    let source = args.source.as_deref().context("--source is needed")?;
    let retain = args.retain.as_deref().context("--retain is needed")?;
    let committed = report["data"]["retain"]["commitment"].as_str();
    if let Some(problem) = data_mismatch(args, retain, committed)? {
        return Ok((Outcome::Fail, Some("rederive.data_mismatch"), problem));
    }
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let mut words: Vec<String> = vec!["onnx-unlearn".into(), "forget".into()];
    let word = |flag: &str, path: &Path| {
        Ok::<_, anyhow::Error>(format!("--{flag}={}", path.to_str().context("a path is not UTF-8")?))
    };
    words.extend([word("retain", retain)?, word("out", folder.path())?]);
    if let Some(library) = &args.ort_lib {
        words.push(word("ort-lib", library)?);
    }
    if let Some(file) = labels(report, folder.path())? {
        words.push(word("labels", &file)?);
    }
    words.extend(plan::arguments(report)?);
    words.extend(["--".into(), source.to_str().context("a path is not UTF-8")?.to_owned()]);
    let Command::Forget(mut again) =
        Cli::try_parse_from(&words).map_err(|e| anyhow!("the report's settings: {e}"))?.command
    else {
        return Err(anyhow!("the report's settings are no run"));
    };
    if let Some(forms) = report["runtime"].get("forms") {
        let forms = serde_json::from_value(forms.clone()).context("the report's runtime.forms")?;
        again.forms = Some(forms);
    }
    let expected = forget::Expected { parameters: stamp.params, data: report["data"]["retain"]["digest"].as_str() };
    let Some(made) = forget::rederive(&again, &expected, Printer::new(!printer.talks(), true))? else {
        let detail = format!("--retain {}: not the data that the report names", retain.display());
        return Ok((Outcome::Fail, Some("rederive.data_mismatch"), detail));
    };
    if made.weights == digests.weights {
        return Ok((
            Outcome::Pass,
            None,
            format!("trained again as the report says: every weight has the same bits{}", promise(report)),
        ));
    }
    if committed.is_some() && args.commitment_key.is_none() {
        let detail = format!(
            "trained again, the weights are others; but whether --retain {} is the data of the run was not checked: give \
             --commitment-key",
            retain.display()
        );
        return Ok((Outcome::Undecided, Some("rederive.not_possible"), detail));
    }
    let moved = made.distance(&args.model)?;
    let detail = format!(
        "trained again as the report says, the weights are {}, not {}; the largest absolute difference is {moved}{}",
        made.weights,
        digests.weights,
        differences(report, &made.runtime)
    );
    Ok((Outcome::Fail, Some("rederive.not_reproduced"), detail))
}

/// Why the data is not that of the run, as far as a commitment tells.
fn data_mismatch(args: &VerifyArgs, retain: &Path, committed: Option<&str>) -> Result<Option<String>> {
    Ok(match (&args.commitment_key, committed) {
        (None, _) => None,
        (Some(_), None) => bail!("--commitment-key: the report commits to no data; leave it out"),
        (Some(key), Some(committed)) => {
            let commitment = CommitmentKey::read(key)?.commit(&seal::files_of(retain)?)?.to_string();
            let problem = || format!("--retain {}: not the data that the report commits to", retain.display());
            (commitment != committed).then(problem)
        }
    })
}

/// Names of classes, where they have some: a folder of pictures is sorted by them.
fn labels(report: &Value, folder: &Path) -> Result<Option<PathBuf>> {
    let classes: Vec<&str> = report["classes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if classes.iter().enumerate().all(|(i, name)| *name == i.to_string()) {
        return Ok(None);
    }
    let file = folder.join("classes.txt");
    std::fs::write(&file, classes.join("\n") + "\n").context("no temporary file")?;
    Ok(Some(file))
}

/// What was promised of the device that the report names.
fn promise(report: &Value) -> &'static str {
    let cpu = report["runtime"]["device"] == "cpu";
    if cpu { "" } else { " (on a GPU that is not promised, and was so this time)" }
}

/// How this runtime differs from the one that the report names.
fn differences(report: &Value, now: &RuntimeRecord) -> String {
    let then = &report["runtime"];
    let now = serde_json::to_value(now).unwrap_or_default();
    let keys = ["backend", "library", "device", "threads", "tf32", "forms", "target", "cpu"];
    let differ: Vec<String> = keys
        .iter()
        .filter(|key| then.get(**key).is_some_and(|old| *old != now[**key]))
        .map(|key| format!("{key} was {}, is {}", then[*key], now[*key]))
        .collect();
    if differ.is_empty() {
        "; runtime, threads and instruction sets are the same".into()
    } else {
        format!("; equal bits are not promised here: {}", differ.join(", "))
    }
}
