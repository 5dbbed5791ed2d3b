//! `verify`: is the model what its stamp says?

use crate::{
    cli::{Status, args::VerifyArgs, printer::Printer},
    provenance::verify::{Answer, Outcome, verify},
};
use anyhow::Result;

pub fn run(args: &VerifyArgs, printer: Printer) -> Result<Status> {
    let verdict = verify(&args.model, args.source.as_deref());
    printer.json(&verdict)?;
    for check in &verdict.checks {
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
