//! One case: the outputs it expects, then the gradient of each input.

use crate::{
    archive::{Case, Problem},
    common::rules::{self, Feeds},
    gradient::compare,
};
use onnx_unlearn::{
    graph::Graph,
    onnx,
    runtime::Engine,
    tensor::{DType, Tensor},
};
use std::fs::File;
use zip::ZipArchive;

/// How far an output may be from the expected one, relative to it: as in the package's own runner of these tests, and
/// twice the last digit of bfloat16, to which such cases round more than once on the way.
const RELATIVE: f32 = 1e-3;
const RELATIVE_BF16: f32 = 0.0157;
/// The same where the expected one is near zero.
const ABSOLUTE: f32 = 1e-7;

/// What was compared in a case that passed.
pub struct Outcome {
    /// Number of inputs whose gradient was compared.
    pub compared: usize,
    /// Those among them that have a derivative other than zero.
    pub sloped: usize,
}

/// Examines a case; the error says which part failed, and how.
pub fn examine(engine: &Engine, case: &Case, archive: &mut ZipArchive<File>) -> Result<Outcome, String> {
    let Problem { graph, feeds, expected } = case.read(archive)?;
    let lifted = onnx::lift(graph).map_err(|e| format!("cannot be rewritten: {}", e[0]))?;
    // Training computes in float32, whatever the float type of the file.
    let (graph, _) = onnx::masters(lifted).map_err(|e| format!("cannot be trained in float32: {e}"))?;
    let single = |t: Tensor| if t.dtype().is_float() { Tensor::f32(t.shape(), t.to_f32s()) } else { t };
    let feeds: Vec<(String, Tensor)> = feeds.into_iter().map(|(name, t)| (name, single(t))).collect();

    forward(engine, &graph, &feeds, &expected)?;
    let mut outcome = Outcome { compared: 0, sloped: 0 };
    // Integers have no derivative, neither by an integer nor of one.
    let of_floats = expected.iter().any(|t| t.dtype().is_float());
    for (name, _) in feeds.iter().filter(|(_, t)| of_floats && t.dtype() == DType::F32 && !t.is_empty()) {
        let found = compare(engine, &graph, &feeds, name).map_err(|e| format!("gradient of {name}: {e}"))?;
        if !found.agrees() {
            return Err(format!("gradient of {name}: off by {:.1} times what is allowed", found.error));
        }
        if found.share == 0.0 {
            return Err(format!("gradient of {name}: no output is smooth"));
        }
        outcome.compared += 1;
        outcome.sloped += usize::from(!found.flat);
    }
    Ok(outcome)
}

/// The graph that training works on gives what the case expects.
fn forward(engine: &Engine, graph: &Graph, feeds: &Feeds, expected: &[Tensor]) -> Result<(), String> {
    let mut session = engine.session("the graph", graph).map_err(|e| e.to_string())?;
    let outputs = rules::run(&mut session, feeds)?;
    assert_eq!(outputs.len(), expected.len(), "outputs of the graph and of the case");
    for (i, (got, want)) in outputs.iter().zip(expected).enumerate() {
        if got.shape() != want.shape() {
            return Err(format!("output {i} has shape {:?}, expected {:?}", got.shape(), want.shape()));
        }
        if !want.dtype().is_float() {
            if got != want {
                return Err(format!("output {i} differs: {:?}, expected {:?}", got.data(), want.data()));
            }
            continue;
        }
        let relative = if want.dtype() == DType::BF16 { RELATIVE_BF16 } else { RELATIVE };
        for (k, (a, b)) in got.to_f32s().into_iter().zip(want.to_f32s()).enumerate() {
            let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            if !(same || (b.is_finite() && (a - b).abs() <= ABSOLUTE + relative * b.abs())) {
                return Err(format!("output {i} differs: element {k} is {a}, expected {b}"));
            }
        }
    }
    Ok(())
}
