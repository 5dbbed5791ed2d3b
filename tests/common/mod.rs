//! What several test programs share.
#![allow(dead_code)]

use onnx_unlearn::runtime::{Device, Engine};
use std::path::PathBuf;

/// Opens the runtime on `device` with two threads.
pub fn engine(device: Device) -> Engine {
    let path = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from).expect("ORT_DYLIB_PATH");
    Engine::open(&path, device, 2).expect("the runtime opens")
}
