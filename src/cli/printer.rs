//! The only place that prints: results to stdout, everything else to stderr.
#![allow(clippy::print_stdout, clippy::print_stderr)]
// Whoever prints has to hold a printer, also for what no setting changes.
#![allow(clippy::unused_self)]

use serde::Serialize;
use std::fmt::Display;

/// Knows what the user wants to see.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    quiet: bool,
    json: bool,
}

impl Printer {
    /// `quiet` silences notes and progress, `json` replaces readable results by one JSON document.
    pub fn new(quiet: bool, json: bool) -> Self {
        Self { quiet, json }
    }

    /// True when notes and progress are wanted.
    pub fn talks(self) -> bool {
        !self.quiet
    }

    /// A readable result, on stdout; nothing when JSON was asked for.
    pub fn result(self, text: impl Display) {
        if !self.json {
            write_out(&format!("{text}\n"));
        }
    }

    /// The result as JSON, on stdout; nothing unless it was asked for.
    pub fn json(self, value: &impl Serialize) -> anyhow::Result<()> {
        if self.json {
            write_out(&format!("{}\n", serde_json::to_string_pretty(value)?));
        }
        Ok(())
    }

    /// What is going on, on stderr.
    pub fn note(self, text: impl Display) {
        if self.talks() {
            eprintln!("{text}");
        }
    }

    /// A warning, on stderr, also when quiet.
    pub fn warning(self, text: impl Display) {
        eprintln!("warning: {text}");
    }

    /// An error and its causes, on stderr.
    pub fn error(self, error: &anyhow::Error) {
        eprintln!("error: {}", chain(error));
    }
}

/// The messages of an error and its causes, each once.
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Writes to stdout; a reader that has gone away is no error of ours.
fn write_out(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
