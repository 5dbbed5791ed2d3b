//! Every gradient rule against central differences: one test a family, one line a case.

mod activation;
#[path = "../common/mod.rs"]
mod common;
mod complete;
mod conv;
mod einsum;
mod elementwise;
mod gather;
mod harness;
mod layout;
mod matmul;
mod norm;
mod pool;
mod recurrent;
mod reduce;
mod softmax;
