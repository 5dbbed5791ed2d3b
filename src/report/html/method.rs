//! How it was done: the trials for the learning rates, the curves of the losses, pictures of the noise.

use super::{
    Page, chart,
    chart::{AFTER, IMPAIRED, OTHERS},
    percent,
    picture::{DEVIATIONS, Pictures},
};
use crate::unlearn::{Calibration, Outcome, Row, Sign};
use maud::{Markup, html};

/// Classes whose noise is shown.
const CLASSES: usize = 8;

impl Page<'_> {
    /// The trials that found the learning rates; nothing where they were given.
    pub(super) fn trials(&self) -> Markup {
        html! {
            @if let Some(calibration) = &self.report.calibration {
                h2 { "How the learning rates were found" }
                p {
                    "No learning rate fits every model. Trials, each from the source weights, were judged on "
                    (calibration.samples) " samples of "
                    @if calibration.judged_on == "eval" {
                        "the held-out data, which the verdict does not measure on; the one that was chosen is the result. "
                    } @else {
                        "the retain sample, which the trials were not trained on. "
                    }
                    "Up to " (calibration.budget.impair) " rates of impair were to be tried, with up to " (calibration.budget.repair)
                    " repairs. "
                    @if self.strongest(calibration) {
                        "The strongest rate is taken that suppresses the classes and keeps the others: "
                    } @else {
                        "The mildest rate is taken that suppresses the classes and keeps the others, or the first tried that spares them: "
                    }
                    strong { (self.taken(calibration)) } "."
                }
                div.wide { table {
                    thead { tr {
                        th { "trial" } th.n { "impair rate" } th.n { "repair rate" } th.n { "turned" } th.n { "forgotten" }
                        th.n { "retained" } th.says { "outcome" }
                    } }
                    tbody {
                        tr { th { "source" } (self.trial(&calibration.source)) td { "as it was" } }
                        @for (i, row) in calibration.trials.iter().enumerate() {
                            tr.chosen[calibration.chosen == Some(i)] {
                                th { (i + 1) }
                                (self.trial(row))
                                td { (judgement(row.outcome)) @if calibration.chosen == Some(i) { " – chosen" } }
                            }
                        }
                    }
                } }
                p.note {
                    "Turned: share of retained samples that were changed until the source model took them for the class, and \
                     that are still taken for it (at most " (percent(Some(calibration.limits.turned))) " counts as gone, \
                     and at most " (percent(Some(calibration.limits.turned_beside))) " beside real samples). \
                     Forgotten: accuracy on held-out samples of the classes named, where there are some (at most "
                    (percent(Some(calibration.limits.forget))) "). Retained: accuracy on the other classes (a fall of at most "
                    (format!("{:.2}", 100.0 * calibration.limits.drop)) " points"
                    @if self.strongest(calibration) { ", with a standard error to spare where that leaves some" }
                    @else { ", or a little more where few samples judge and it may be chance" }
                    "; a trial that loses at most a quarter of that limit spares them). \
                     Trials with the same rate of impair share that phase."
                }
            }
        }
    }

    /// True where the strongest rate that keeps the others was looked for.
    fn strongest(&self, calibration: &Calibration) -> bool {
        calibration.strongest(self.report.parameters.recipe.depth)
    }

    fn taken(&self, calibration: &Calibration) -> String {
        let recipe = &self.report.parameters.recipe;
        let rates = format!("{:.2e} for impair, {:.2e} for repair", recipe.impair.lr, recipe.repair.lr);
        match calibration.chosen.map(|i| calibration.trials[i].outcome) {
            Some(Outcome::Fits | Outcome::Spares) => rates,
            Some(_) => format!("{rates} (no trial did both; this is the strongest that kept the others)"),
            None => format!("{rates} (no trial kept the others; this is the mildest tried)"),
        }
    }

    fn trial(&self, row: &Row) -> Markup {
        let rate = |rate: f64| if rate > 0.0 { format!("{rate:.2e}") } else { "–".to_owned() };
        let several = self.forget().len() > 1;
        let signs = |signs: &[Sign]| {
            html! {
                @if signs.is_empty() { "–" }
                @for sign in signs {
                    div { @if several { (self.class(sign.class)) ": " } (percent(Some(sign.known))) }
                }
            }
        };
        html! {
            td.n { (rate(row.impair_lr)) }
            td.n { (rate(row.repair_lr)) }
            td.n { (signs(&row.turned)) }
            td.n { (signs(&row.forget)) }
            td.n { (percent(row.retain)) }
        }
    }

    /// The losses over the steps of each phase.
    pub(super) fn curves(&self) -> Markup {
        let phases = &self.report.phases;
        let noise: Vec<_> = self
            .forget()
            .iter()
            .zip(&self.report.noise_objective)
            .zip(OTHERS.iter().cycle())
            .map(|((&class, values), &colour)| (class, colour, values.as_slice()))
            .collect();
        let lines: Vec<_> = noise.iter().map(|&(_, colour, values)| (colour, values)).collect();
        let names: Vec<_> = noise.iter().map(|&(class, colour, _)| (colour, self.class(class))).collect();
        html! {
            h2 { "How the losses went" }
            @if !lines.is_empty() {
                figure {
                    (chart::legend(names.iter().map(|(colour, name)| (*colour, name.as_str()))))
                    (chart::curves("Curve of the noise objective over its steps", &lines))
                    figcaption {
                        "Noise: the objective by step, a curve per class. It falls as the model gets more wrong about the \
                         noise under the label of its class, and as the noise gets smaller."
                    }
                }
            }
            @for (name, colour) in [("impair", IMPAIRED), ("repair", AFTER)] {
                @for phase in phases.iter().filter(|p| p.phase == name) {
                    figure {
                        (chart::curves(&format!("Curve of the {name} loss over its steps"), &[(colour, &phase.losses)]))
                        figcaption {
                            @if name == "impair" { "Impair" } @else { "Repair" }
                            ": cross-entropy in nats by step, " (phase.steps) " steps over " (phase.samples) " samples, from "
                            (format!("{:.4}", phase.first_loss)) " to " (format!("{:.4}", phase.last_loss))
                            @if let Some(accuracy) = phase.accuracy {
                                "; " (percent(Some(accuracy))) " of the samples seen were predicted as labelled"
                            }
                            "."
                        }
                    }
                }
            }
        }
    }

    /// Pictures of the noise, where it has the form of pictures.
    pub(super) fn pictures(&self) -> Markup {
        let layout = self.report.parameters.preprocess.layout;
        let input = self.report.noise.site == crate::train::Site::Input;
        let of = |(class, noise): &(usize, _)| Some((*class, Pictures::of(noise, layout).filter(|_| input)?));
        let shown: Vec<_> = self.noise.iter().take(CLASSES).filter_map(of).collect();
        let range = self.report.noise.range;
        html! {
            @if !shown.is_empty() {
                h2 { "What the noise looks like" }
                p {
                    "A few of the " (self.report.parameters.recipe.noise.images) " noise images of each class, as they were \
                     after the last noise step. They are computed from the model and random numbers alone and show no one's \
                     picture."
                }
                @for (class, pictures) in &shown {
                    figure {
                        div.noise {
                            @for (i, uri) in pictures.uris.iter().enumerate() {
                                img src=(uri) alt=(format!("noise image {} of {}", i + 1, self.class(*class)));
                            }
                        }
                        figcaption {
                            (self.class(*class)) ": mid-grey is the mean of the values shown ("
                            (format!("{:.2}", pictures.mean)) "), black and white (0 and 255) lie " (DEVIATIONS)
                            " standard deviations of " (format!("{:.2}", pictures.deviation)) " below and above it; what is \
                             beyond is cut off."
                            @if pictures.every > 1 { " One pixel in " (pictures.every) " is shown, in both directions." }
                        }
                    }
                }
                p.note {
                    "Values are standardised: the model is fed " (format!("{:.4} + {:.4}", range.center, range.spread))
                    " times the value."
                    @if self.noise.len() > shown.len() {
                        " Shown are " (shown.len()) " of " (self.noise.len()) " classes."
                    }
                }
            }
        }
    }
}

fn judgement(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::TooWeak => "too weak: the classes are still known",
        Outcome::Fits => "fits",
        Outcome::Spares => "fits, and spares the others",
        Outcome::TooStrong => "too strong: the others lost too much",
        Outcome::Harms => "harms: the others lost too much, and the classes are still known",
        Outcome::Destroys => "destroys the model",
    }
}
