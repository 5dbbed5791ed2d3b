//! The `onnx-unlearn` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnx_unlearn::cli::main()
}
