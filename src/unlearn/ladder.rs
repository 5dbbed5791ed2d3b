//! Which learning rate a calibration tries next, and which it settles on.

use super::Depth;
use serde::Serialize;

/// Most impair rates that a calibration tries.
pub const TRIALS: usize = 5;

/// Rates this close to each other are not told apart.
const FINEST: f64 = 1.2;

/// Which of the rates that forget is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// The mildest, unless a stronger one spares the other classes.
    Mildest,
    /// The strongest that keeps the other classes.
    Strongest,
}

impl Search {
    /// What is looked for at a depth; `held_out` where held-out samples of the classes judge. Without them, what tells that
    /// a class is gone is no more than a sign, so the rate goes as far as it can.
    pub(super) fn of(depth: Depth, held_out: bool) -> Self {
        match depth {
            Depth::Shallow | Depth::Standard if held_out => Self::Mildest,
            Depth::Shallow | Depth::Standard | Depth::Deep => Self::Strongest,
        }
    }
}

/// What a trial says about its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The classes are still known, and the others are kept.
    TooWeak,
    /// The classes are gone and the others are kept.
    Fits,
    /// The same, and the others have lost so little that a milder rate has nothing to gain.
    Spares,
    /// The classes are gone, and others have lost more than they may.
    TooStrong,
    /// The classes are still known although others have lost more than they may.
    Harms,
    /// The model is destroyed, or the loss was no number.
    Destroys,
}

/// Rates tried so far.
pub type Tried = [(f64, Outcome)];

/// The rate to try next; `None` when it is known well enough or all trials are used up. `start` is the first one.
///
/// For the mildest rate that forgets: factors of two up while the classes are known and down while they are gone, then the
/// geometric mean of the two rates around the edge; no more once a rate spares the others, because what a milder one still
/// does is to forget less deeply. For the strongest that keeps the others: up while they are kept, down while they are not,
/// and the mean around that edge.
pub fn next(tried: &Tried, search: Search, start: f64) -> Option<f64> {
    if tried.is_empty() {
        return Some(start);
    }
    let settled = search == Search::Mildest && tried.iter().any(|(_, o)| *o == Outcome::Spares);
    if settled || tried.len() >= TRIALS {
        return None;
    }
    let below = |o: Outcome| match search {
        Search::Mildest => matches!(o, Outcome::TooWeak | Outcome::Harms),
        Search::Strongest => matches!(o, Outcome::TooWeak | Outcome::Fits | Outcome::Spares),
    };
    let rates = |side: bool| tried.iter().filter(move |(_, o)| below(*o) == side).map(|&(rate, _)| rate);
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

/// Number of the trial that decides: the one that spares the others, else the mildest that fits; or the strongest that fits.
/// Where none does, the strongest that keeps the other classes.
pub fn chosen(tried: &Tried, search: Search) -> Option<usize> {
    let of = |wanted: &'static [Outcome]| {
        tried.iter().enumerate().filter(|(_, (_, o))| wanted.contains(o)).map(|(i, &(rate, _))| (i, rate))
    };
    let by_rate = |a: &(usize, f64), b: &(usize, f64)| a.1.total_cmp(&b.1);
    let fitting = match search {
        Search::Mildest => of(&[Outcome::Spares]).min_by(by_rate).or_else(|| of(&[Outcome::Fits]).min_by(by_rate)),
        Search::Strongest => of(&[Outcome::Fits, Outcome::Spares]).max_by(by_rate),
    };
    fitting.or_else(|| of(&[Outcome::TooWeak]).max_by(by_rate)).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches where classes are gone from `gone` on and others kept up to `kept`.
    fn search(gone: f64, kept: f64, search: Search) -> Vec<(f64, Outcome)> {
        let mut tried = Vec::new();
        while let Some(rate) = next(&tried, search, 4e-4) {
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
            let tried = search(gone, f64::INFINITY, Search::Mildest);
            let (rate, outcome) = tried[chosen(&tried, Search::Mildest).expect("one fits")];
            assert_eq!(outcome, Outcome::Fits);
            let finest = if (1e-4..1e-3).contains(&gone) { FINEST } else { 2.0 };
            assert!(
                tried.len() <= TRIALS && rate >= gone && rate <= gone * finest * 1.001,
                "{gone}: {rate} of {tried:?}"
            );
        }
    }

    #[test]
    fn a_narrow_window_is_found_and_an_empty_one_is_seen() {
        let tried = search(2.1e-4, 3e-4, Search::Mildest);
        let (rate, outcome) = tried[chosen(&tried, Search::Mildest).expect("one fits")];
        assert_eq!((outcome, (2.1e-4..=3e-4).contains(&rate)), (Outcome::Fits, true), "{tried:?}");
        // Others suffer before the classes are gone: the strongest rate that keeps them.
        let tried = search(1.5e-3, 6e-4, Search::Mildest);
        let (rate, outcome) = tried[chosen(&tried, Search::Mildest).expect("one keeps them")];
        assert!(outcome == Outcome::TooWeak && rate <= 6e-4, "{tried:?}");
        // No rate keeps them.
        assert_eq!(chosen(&search(1.0, 1e-9, Search::Mildest), Search::Mildest), None);
    }

    #[test]
    fn a_rate_that_spares_the_others_ends_the_search_for_the_mildest() {
        let spared = [(4e-4, Outcome::TooStrong), (2e-4, Outcome::Fits), (1e-4, Outcome::Spares)];
        assert_eq!(next(&spared[..2], Search::Mildest, 4e-4), Some(1e-4));
        assert_eq!((next(&spared, Search::Mildest, 4e-4), chosen(&spared, Search::Mildest)), (None, Some(2)));
        assert_eq!(next(&[(4e-4, Outcome::Spares)], Search::Mildest, 4e-4), None);
        // The strongest goes on from there.
        assert_eq!(next(&[(4e-4, Outcome::Spares)], Search::Strongest, 4e-4), Some(8e-4));
        assert_eq!(chosen(&spared, Search::Strongest), Some(1));
    }

    #[test]
    fn finds_the_strongest_rate_that_keeps() {
        for kept in [7e-5, 1.1e-4, 4e-4, 5e-4, 9e-4, 1.3e-3, 2.5e-3] {
            let tried = search(5e-5, kept, Search::Strongest);
            let (rate, outcome) = tried[chosen(&tried, Search::Strongest).expect("one fits")];
            assert_eq!(outcome, Outcome::Fits);
            let finest = if (2e-4..1.6e-3).contains(&kept) { FINEST } else { 2.0 };
            assert!(
                tried.len() <= TRIALS && rate <= kept && rate * finest * 1.001 >= kept,
                "{kept}: {rate} of {tried:?}"
            );
        }
    }
}
