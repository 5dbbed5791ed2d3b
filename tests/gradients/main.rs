//! Every gradient rule against central differences: one test a family, one line a case.

mod activation;
mod attention;
#[path = "../common/mod.rs"]
mod common;
mod complete;
mod conv;
mod einsum;
mod elementwise;
mod fourier;
mod fused;
mod gather;
mod harness;
mod layout;
mod matmul;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod resize;
mod rounding;
mod sample;
mod sequences;
mod softmax;
mod trigonometry;
