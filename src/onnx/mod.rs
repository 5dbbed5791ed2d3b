//! Turns bytes into a model and back, changing nothing it was not asked to.

mod condition;
mod export;
pub mod external;
mod import;
mod inline;
mod lift;
mod masters;
pub mod patch;
mod pen;
pub mod schema;
mod sequences;
mod subgraph;
mod unfuse;
pub mod wire;

pub use export::{dtype_of, export, export_without, wire_type};
pub use import::{ImportError, Model, of_bytes, read};
pub use lift::{LiftError, OLDEST_OPSET, STEP_OPSET, lift};
pub use masters::{Masters, masters};
/// Bytes that their owners share.
pub use prost::bytes::Bytes;
