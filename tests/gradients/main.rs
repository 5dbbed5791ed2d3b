//! Every gradient rule against central differences: one test a family, one line a case.

#[path = "../common/mod.rs"]
mod common;
mod elementwise;
mod harness;
