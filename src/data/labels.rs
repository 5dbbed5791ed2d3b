//! The classes of samples.

use std::ops::Range;

/// For every prediction of every sample the classes that are there: one, or any number where labels are multi-hot.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels {
    /// True where any number is possible.
    pub multi_hot: bool,
    classes: Vec<u32>,
    /// Where each prediction's classes end.
    ends: Vec<usize>,
}

impl Labels {
    /// Adds a prediction and its classes.
    pub fn push(&mut self, classes: impl IntoIterator<Item = u32>) {
        self.classes.extend(classes);
        self.ends.push(self.classes.len());
    }

    /// Adds all predictions of `other`.
    pub fn append(&mut self, other: &Self) {
        let before = self.classes.len();
        self.classes.extend(&other.classes);
        self.ends.extend(other.ends.iter().map(|end| before + end));
    }

    /// Forgets everything, but keeps the memory.
    pub fn clear(&mut self) {
        self.classes.clear();
        self.ends.clear();
    }

    /// All classes, one prediction after the other.
    pub fn all(&self) -> &[u32] {
        &self.classes
    }

    /// The classes of each of these predictions.
    pub fn of(&self, predictions: Range<usize>) -> impl Iterator<Item = &[u32]> {
        predictions.map(|i| &self.classes[i.checked_sub(1).map_or(0, |last| self.ends[last])..self.ends[i]])
    }
}
