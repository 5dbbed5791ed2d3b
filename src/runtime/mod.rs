//! Finds ONNX Runtime and runs graphs on a device. No other module names `ort`.

mod arena;
pub mod find;
pub mod gpu;
mod image;
pub mod install;
mod native;
pub mod probe;
mod session;
mod stepper;
mod value;

use crate::graph::Graph;

pub use native::instructions;
pub use session::{Device, Engine, Ports, RuntimeError, Session};
pub use stepper::{State, Stepper};

/// One 3x3 convolution of `x` [1, 1, 4, 4], for trying a library and a device.
fn probe_graph() -> Graph {
    use crate::{
        graph::{Builder, Value},
        tensor::{DType, Tensor},
    };
    let mut b = Builder::new(18);
    let x: Value = b.input("x", DType::F32, &[1, 1, 4, 4]);
    let w = b.constant(Tensor::f32([1, 1, 3, 3], vec![1.0; 9]));
    let y = b.op("Conv", &[&x, &w], &[], &[1, 1, 2, 2]);
    b.output(&y);
    b.finish()
}
