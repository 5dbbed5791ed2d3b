//! Turns bytes into a model and back, changing nothing it was not asked to.

pub mod external;
pub mod patch;
pub mod schema;
pub mod wire;
