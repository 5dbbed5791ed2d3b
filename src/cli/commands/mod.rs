//! One file a command; each reads as its story.

pub mod demo;
pub mod digest;
pub mod evaluate;
pub mod forget;
pub mod gradcheck;
pub mod inspect;
mod output;
pub mod runtime;
mod samples;
mod session;
mod source;
mod table;
pub mod verify;
