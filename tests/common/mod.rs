//! What several test programs share: the runtime, the built program, small data sets and small models.
#![allow(dead_code)] // No test program uses all of it.

pub mod bytes;
pub mod data;
pub mod models;
pub mod program;
pub mod proto;
pub mod rules;

use onnx_unlearn::runtime::{
    Device, Engine,
    find::{self, FindError, Library},
    install::{Kind, install},
};
use std::{io::Write, path::PathBuf, sync::LazyLock};

/// The runtime that the program itself would use; installed, and said so, where there is none yet.
///
/// # Panics
/// When a library was named (`ORT_DYLIB_PATH`) and does not serve, or the installation fails.
pub fn library() -> &'static Library {
    static LIBRARY: LazyLock<Library> = LazyLock::new(|| match find::find(None, false) {
        Ok(library) => library,
        Err(FindError::NotFound { .. }) => {
            say("no ONNX Runtime here yet: installing the pinned one into the tool's cache for the tests");
            install(Kind::Cpu, &mut say).unwrap_or_else(|e| panic!("ONNX Runtime cannot be installed: {e}"))
        }
        Err(e) => panic!("{e}"),
    });
    &LIBRARY
}

/// Straight to stderr, which the test harness does not hold back.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Opens the runtime on `device` with two threads.
pub fn engine(device: Device) -> Engine {
    Engine::open(&library().path, device, 2).expect("the runtime opens")
}

/// A file of `fixtures/`, relative to the folder that tests run in.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from("fixtures").join(name)
}

/// A model of `fixtures/models/`.
pub fn model(name: &str) -> PathBuf {
    fixture("models").join(name).with_extension("onnx")
}

/// A temporary folder.
pub fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
