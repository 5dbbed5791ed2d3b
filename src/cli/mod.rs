//! Turns arguments into a plan, runs it, prints, and chooses the exit code. The only module that does any of these.

mod args;
mod commands;
mod interrupt;
mod plan;
mod printer;
mod progress;

use args::{Cli, Command};
use clap::Parser;
use printer::Printer;
use std::process::ExitCode;

/// What an invocation comes to. The numbers are the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// It ran and the answer is yes.
    Yes = 0,
    /// It ran and the answer is no.
    No = 1,
    /// It could not tell: bad usage, unreadable input, a missing runtime, an interruption.
    Undecided = 2,
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // clap prints help and version to stdout and calls that success; everything else is bad usage.
            let code = if e.use_stderr() { Status::Undecided } else { Status::Yes };
            let _ = e.print();
            return ExitCode::from(code as u8);
        }
    };
    let printer = Printer::new(cli.command.quiet(), cli.command.json());
    let status = match cli.command {
        Command::Forget(args) => commands::forget::run(&args, printer),
        Command::Compare(args) => commands::forget::compare(&args, printer),
        Command::Retrain(args) => commands::forget::retrain(&args, printer),
        Command::Evaluate(args) => commands::evaluate::run(&args, printer),
        Command::Audit(args) => commands::audit::run(&args, printer),
        Command::Verify(args) => commands::verify::run(&args, printer),
        Command::Inspect(args) => commands::inspect::run(&args, printer),
        Command::Gradcheck(args) => commands::gradcheck::run(&args, printer),
        Command::Digest(args) => commands::digest::run(&args, printer),
        Command::Keygen(args) => commands::keygen::run(&args, printer),
        Command::Sign(args) => commands::sign::run(&args, printer),
        Command::Attest(args) => commands::attest::run(&args, printer),
        Command::Commit(args) => commands::commit::run(&args, printer),
        Command::Diff(args) => commands::diff::run(&args, printer),
        Command::Export(args) => commands::export::run(&args, printer),
        Command::Runtime(args) => commands::runtime::run(&args, printer),
        Command::Doctor(args) => commands::doctor::run(&args, printer),
        Command::Demo(args) => commands::demo::run(&args, printer),
    };
    let status = status.unwrap_or_else(|error| {
        printer.error(&error);
        Status::Undecided
    });
    ExitCode::from(status as u8)
}
