//! Shows long work: a bar on a terminal, plain lines elsewhere.
#![allow(clippy::print_stderr)]

use super::{interrupt, printer::Printer};
use crate::unlearn::Watch;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Follows the phases of a run.
pub struct Progress {
    talks: bool,
    bar: Option<ProgressBar>,
    phase: &'static str,
    steps: usize,
    started: Instant,
    said: Instant,
}

impl Progress {
    /// Shows nothing when the printer is quiet.
    pub fn new(printer: Printer) -> Self {
        Self { talks: printer.talks(), bar: None, phase: "", steps: 0, started: Instant::now(), said: Instant::now() }
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// A phase of `steps` steps begins.
    pub fn start(&mut self, phase: &'static str, steps: usize) {
        self.finish();
        self.phase = phase;
        self.steps = steps;
        self.started = Instant::now();
        self.said = Instant::now();
        if !self.talks {
            return;
        }
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix:>7} {bar:30} step {pos}/{len}  {msg}  left {eta}");
            let bar = ProgressBar::new(steps as u64).with_prefix(phase);
            self.bar = Some(style.map_or(bar.clone(), |s| bar.with_style(s)));
        } else {
            eprintln!("{phase:>7}: {steps} steps");
        }
    }

    /// Step number `step` (from 1) is done; `said` is what is worth saying about it.
    pub fn advance(&mut self, step: usize, said: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(step as u64);
            bar.set_message(said.to_owned());
        } else if self.talks && (step == self.steps || self.said.elapsed() >= Duration::from_secs(5)) {
            self.said = Instant::now();
            let passed = self.started.elapsed().as_secs_f64();
            let left = passed / step as f64 * (self.steps - step) as f64;
            let said = if said.is_empty() { String::new() } else { format!("{said}, ") };
            eprintln!("{:>7}: step {step}/{}, {said}{passed:.1} s, {left:.1} s left", self.phase, self.steps);
        }
    }
}

impl Watch for Progress {
    fn begin(&mut self, phase: &'static str, steps: usize) {
        self.start(phase, steps);
    }

    fn step(&mut self, step: usize, loss: f32) -> bool {
        self.advance(step, &format!("loss {loss:.4}"));
        !interrupt::asked()
    }
}
