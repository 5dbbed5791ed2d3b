//! Which learning rate a calibration tries next, and which it settles on.

use serde::Serialize;

/// Trials of a calibration; with the noise, which is learned once, they cost less than four runs.
pub const TRIALS: usize = 5;

/// Rates this close to each other are not told apart.
const FINEST: f64 = 1.5;

/// What a trial says about its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The classes are still known, and the others are kept.
    TooWeak,
    /// The classes are gone and the others are kept.
    Fits,
    /// The classes are gone, and others have lost more than they may.
    TooStrong,
    /// The classes are still known although others have lost more than they may.
    Harms,
    /// The model is destroyed, or the loss was no number.
    Destroys,
}

/// Rates tried so far.
pub type Tried = [(f64, Outcome)];

/// The rate to try next; `None` when it is known well enough or [`TRIALS`] are used up. `start` is the first one.
///
/// Searched is the mildest rate that forgets: factors of two up while the classes are known and down while they are gone,
/// then the geometric mean of the two rates around the edge.
pub fn next(tried: &Tried, start: f64) -> Option<f64> {
    if tried.is_empty() {
        return Some(start);
    }
    if tried.len() >= TRIALS {
        return None;
    }
    let known = |o: Outcome| matches!(o, Outcome::TooWeak | Outcome::Harms);
    let rates = |side: bool| tried.iter().filter(move |(_, o)| known(*o) == side).map(|&(rate, _)| rate);
    let strong = rates(false).fold(f64::INFINITY, f64::min);
    // Accuracies are noisy: what a stronger trial still knows, a milder one knows as well.
    let weak = rates(true).filter(|&rate| rate < strong).fold(0.0, f64::max);
    if strong.is_infinite() {
        return Some(weak * 2.0);
    }
    if weak == 0.0 {
        return Some(strong / 2.0);
    }
    (strong / weak > FINEST).then(|| (weak * strong).sqrt())
}

/// Number of the trial that decides: the mildest that fits; where none does, the strongest that keeps the other classes.
pub fn chosen(tried: &Tried) -> Option<usize> {
    let of = |wanted: Outcome| {
        tried.iter().enumerate().filter(move |(_, (_, o))| *o == wanted).map(|(i, &(rate, _))| (i, rate))
    };
    let mildest = of(Outcome::Fits).min_by(|a, b| a.1.total_cmp(&b.1));
    mildest.or_else(|| of(Outcome::TooWeak).max_by(|a, b| a.1.total_cmp(&b.1))).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches where classes are gone from `gone` on and others kept up to `kept`.
    fn search(gone: f64, kept: f64) -> Vec<(f64, Outcome)> {
        let mut tried = Vec::new();
        while let Some(rate) = next(&tried, 4e-4) {
            let outcome = match (rate >= gone, rate <= kept) {
                (true, true) => Outcome::Fits,
                (false, true) => Outcome::TooWeak,
                (true, false) => Outcome::TooStrong,
                (false, false) => Outcome::Harms,
            };
            tried.push((rate, outcome));
        }
        tried
    }

    #[test]
    fn finds_the_mildest_rate_that_fits() {
        for gone in [5e-5, 9e-5, 1.5e-4, 3e-4, 3.9e-4, 4e-4, 7e-4, 2e-3, 3e-3] {
            let tried = search(gone, f64::INFINITY);
            let (rate, outcome) = tried[chosen(&tried).expect("one fits")];
            assert_eq!(outcome, Outcome::Fits);
            assert!(tried.len() <= TRIALS && rate >= gone && rate <= gone * 2.001, "{gone}: {rate} of {tried:?}");
        }
    }

    #[test]
    fn a_narrow_window_is_found_and_an_empty_one_is_seen() {
        let tried = search(2.1e-4, 3e-4);
        let (rate, outcome) = tried[chosen(&tried).expect("one fits")];
        assert_eq!((outcome, (2.1e-4..=3e-4).contains(&rate)), (Outcome::Fits, true), "{tried:?}");
        // Others suffer before the classes are gone: the strongest rate that keeps them.
        let tried = search(1.5e-3, 6e-4);
        let (rate, outcome) = tried[chosen(&tried).expect("one keeps them")];
        assert!(outcome == Outcome::TooWeak && rate <= 6e-4, "{tried:?}");
        // No rate keeps them.
        assert_eq!(chosen(&search(1.0, 1e-9)), None);
    }
}
