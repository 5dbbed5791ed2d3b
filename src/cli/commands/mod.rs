//! One file a command; each reads as its story.

pub mod attest;
pub mod audit;
pub mod commit;
pub mod demo;
pub mod diff;
pub mod digest;
pub mod doctor;
pub mod evaluate;
pub mod export;
pub mod forget;
pub mod gradcheck;
pub mod inspect;
pub mod keygen;
mod output;
pub mod runtime;
mod samples;
mod seal;
mod session;
pub mod sign;
mod source;
mod subject;
mod table;
pub mod verify;
