//! The program as a person meets it: exit codes, stdout, stderr and files, one file per command.

#[path = "../common/mod.rs"]
mod common;

mod audit;
mod compare;
mod demo;
mod digest;
mod evaluate;
mod forget;
mod gradcheck;
mod inspect;
mod program;
mod provenance;
mod retrain;
mod runtime;
mod verify;
