//! Every gradient rule against central differences: one test a family, one line a case.

#[path = "../common/mod.rs"]
mod common;
mod conv;
mod elementwise;
mod gather;
mod harness;
mod layout;
mod matmul;
mod pool;
