//! The runtime and the device of a run.

use crate::common::{library, model, program::Forget, temporary};
use std::fs;

#[test]
fn cuda_without_cuda_is_an_error_and_never_falls_back() {
    // A copy of the library alone has no CUDA provider beside it, whatever this machine has.
    let folder = temporary();
    let alone = folder.path().join(library().path.file_name().expect("a file"));
    fs::copy(&library().path, &alone).expect("copied");
    for device in ["cuda", "cuda:1"] {
        let forget = Forget::new(model("fashion-mnist")).set("--device", device).set("--ort-lib", &alone);
        let ran = forget.run().fails(&["has no CUDA provider beside it", "runtime install --cuda"]);
        assert!(!ran.stderr.contains("device cpu") && !ran.stderr.contains("noise"), "{}", ran.stderr);
        assert!(!forget.out().exists());
    }
    let auto = Forget::new(model("fashion-mnist")).set("--device", "auto").set("--ort-lib", &alone).run();
    auto.says(&["device cpu"]);
}

#[test]
fn a_library_that_is_none() {
    let forget = || Forget::new(model("fashion-mnist"));
    let ran = forget().set("--ort-lib", "no/such/library.so").run();
    ran.fails(&["--ort-lib", "no/such/library.so", "runtime install"]);
    let ran = forget().set("--ort-lib", "fixtures/README.md").run();
    ran.fails(&["--ort-lib", "fixtures/README.md is not a library"]);
    let ran = forget().set("--ort-lib", "fixtures").run();
    ran.fails(&["--ort-lib", "fixtures", "directory"]);
}

#[test]
fn a_wrong_variable_is_named() {
    let forget = Forget::new(model("fashion-mnist"));
    let mut program = crate::common::program::program();
    program.args(forget.args()).env("ORT_DYLIB_PATH", "/no/such/library.so");
    let ran = crate::common::program::Ran::new(&program.output().expect("the program starts"));
    ran.fails(&["ORT_DYLIB_PATH", "/no/such/library.so"]);
}
