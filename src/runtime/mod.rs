//! runtime
pub mod find;
mod image;
pub mod install;
pub mod probe;
