//! Every gradient rule against central differences: one test a family, one line a case.

#[path = "../common/mod.rs"]
mod common;
mod activation;
mod complete;
mod elementwise;
mod harness;
mod norm;
mod reduce;
mod softmax;
