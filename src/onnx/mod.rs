//! Turns bytes into a model and back, changing nothing it was not asked to.

mod export;
mod lift;
pub mod schema;

pub use export::{dtype_of, export, wire_type};
pub use lift::{LiftError, OLDEST_OPSET, STEP_OPSET, lift};
