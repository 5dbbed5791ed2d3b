//! Functions of a model and its control flow: what is written out computes what the file computes, what is kept is kept
//! whole, what is refused is named.

#[path = "../common/mod.rs"]
mod common;

mod build;
mod functions;
mod kept;
mod limits;
mod refused;
