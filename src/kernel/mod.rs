//! Computes the heavy parts of a training step on the CPU, in float32: whole batches at once, and nothing for padding.
//!
//! ONNX Runtime's own operators work image by image and lay weights out only where they never change, which suits
//! inference. Here are the same maps for training. [`tile`] and [`lines`] have the sums, in vector instructions; everything
//! else is safe code around them. `onnx-unlearn` offers them to the runtime as operators of a domain of its own
//! (`graph::native`) and writes them where a graph may hold them.

pub mod adam;
pub mod chain;
pub mod convolution;
pub mod depthwise;
mod isa;
pub mod layer_norm;
pub mod lines;
mod narrow;
pub mod pool;
pub mod pooling;
pub mod product;
mod room;
pub mod tile;
pub mod transpose;
pub mod windows;
mod winograd;

pub use chain::Chain;
pub use convolution::{Convolution, Sizes};
pub use depthwise::Depthwise;
pub use isa::Isa;
pub use pool::Pool;
pub use product::{Product, Size};

pub use windows::{Axis, Plan};
