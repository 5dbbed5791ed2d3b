//! Says what the bytes of a model are and where they come from.
//!
//! [`digest`] identifies a model by its content, [`stamp`] writes that and the source into the model's metadata, and
//! [`verify`] recomputes both.

pub mod digest;
pub mod stamp;
pub mod verify;
