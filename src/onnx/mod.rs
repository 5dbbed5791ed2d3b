//! Turns bytes into a model and back, changing nothing it was not asked to.

pub mod schema;
