//! Builds step graphs and moves weights.

mod trace;

pub use trace::{Traced, trace};
