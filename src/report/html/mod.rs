//! The report for people: one page that needs nothing beside it, no network and no script.
//!
//! It says what the JSON report says, in the same order of importance for a reader who decides and one who checks: verdict
//! and summary, measurements, how it was done, what changed, what it does not show, and what the files are. Every text that
//! comes from a file goes through the template, which escapes it. Like the JSON it holds no time and no path.

mod chart;
mod method;
mod outcome;
mod picture;
mod record;
mod weights;

use super::{GateOutcome, Report};
use crate::tensor::Tensor;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Rows of a table at most; the JSON report has all.
const ROWS: usize = 100;

/// What a browser may do with the page: show it.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The page for a report; `noise` are the classes to forget with their noise, [images, ...], standardised.
pub fn page(report: &Report, noise: &[(usize, Tensor)]) -> String {
    let page = Page { report, noise };
    let title = format!("Unlearning report: {}", report.source.name);
    let chapters = html! {
        (page.verdict())
        (page.summary())
        (page.measurements())
        (page.routing())
        (page.limits())
        div.annex {
            (page.trials())
            (page.curves())
            (page.pictures())
            (page.changes())
            (page.provenance())
            (page.settings())
        }
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                h1 { (title) }
                p.note {
                    "Written by " (report.tool) ". The same facts, and more digits, stand in the file "
                    code { "unlearn-report.json" } " beside this page."
                }
                (chapters)
            }
        }
    };
    page.into_string()
}

/// What the chapters are written from.
struct Page<'a> {
    report: &'a Report,
    noise: &'a [(usize, Tensor)],
}

impl Page<'_> {
    /// A class with its index, where the name is another.
    fn class(&self, class: usize) -> String {
        match self.report.classes.get(class) {
            Some(name) if *name != class.to_string() => format!("{name} ({class})"),
            _ => format!("class {class}"),
        }
    }

    /// True for a class that was to be known as before.
    fn kept(&self, class: usize) -> bool {
        self.report.parameters.recipe.keeps(class)
    }

    fn forget(&self) -> &[usize] {
        &self.report.parameters.recipe.forget
    }

    /// Classes that earlier runs took out.
    fn before(&self) -> &[usize] {
        &self.report.parameters.recipe.forgotten_before
    }

    /// The classes to forget, for a sentence.
    fn forgotten(&self) -> String {
        self.list(self.forget())
    }

    fn list(&self, classes: &[usize]) -> String {
        classes.iter().map(|&c| self.class(c)).collect::<Vec<_>>().join(", ")
    }

    /// The data that was measured, for a sentence.
    fn measured_on(&self) -> &'static str {
        if self.report.measured.on == "eval" {
            "held-out data"
        } else {
            "the retain sample, which the weights were trained on"
        }
    }
}

/// An outcome in its colour.
fn outcome(outcome: GateOutcome) -> Markup {
    let class = match outcome {
        GateOutcome::Pass => "pass",
        GateOutcome::Fail => "fail",
        GateOutcome::NotAssessed => "not_assessed",
    };
    html! { strong class=(class) { (outcome.label()) } }
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".to_owned(), super::percent)
}

/// What a table leaves out.
fn left_out(all: usize, what: &str) -> Markup {
    html! {
        @if all > ROWS {
            p.note { "The table shows " (ROWS) " of " (all) " " (what) "; unlearn-report.json has all." }
        }
    }
}
