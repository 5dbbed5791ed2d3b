//! One file a command; each reads as its story.

pub mod audit;
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
mod subject;
mod table;
pub mod verify;
