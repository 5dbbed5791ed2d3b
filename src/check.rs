//! Runs the finished bytes in another engine (tract) and compares. Sees a file and samples, nothing else.

use crate::tensor::{DType, Tensor};
use serde::Serialize;
use std::{borrow::Cow, panic::resume_unwind, path::Path, thread};
use thiserror::Error;
use tract_onnx::prelude::*;

/// How far the two engines may differ, as numpy's `allclose` counts: |a - b| <= absolute + relative * |b|.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// Absolute part.
    pub absolute: f64,
    /// Relative part.
    pub relative: f64,
}

/// Why tract could not check a model.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum CheckError {
    #[error("not checked: tract cannot load the model: {0}")]
    Load(String),
    #[error("not checked: tract cannot run the model: {0}")]
    Run(String),
    #[error("not checked: tract gives shape {tract:?}, ONNX Runtime {runtime:?}")]
    Shape { tract: Vec<usize>, runtime: Vec<usize> },
}

/// How the two engines compare.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Samples run.
    pub samples: usize,
    /// Largest absolute difference of a score.
    pub max_absolute: f64,
    /// Largest difference relative to the larger of the two scores, among scores above the absolute tolerance.
    pub max_relative: f64,
    /// Samples for which both engines predict the same class, or classes.
    pub same_class: usize,
    /// The tolerance.
    pub tolerance: Tolerance,
    /// True when every score is within the tolerance.
    pub within: bool,
}

impl Comparison {
    /// True when the scores agree and so do all predictions.
    pub fn agrees(&self) -> bool {
        self.within && self.same_class == self.samples
    }
}

/// Inputs by name, the batch first.
pub type Feeds = Vec<(String, Tensor)>;

/// A file that tract can read; running it may still fail.
pub struct Loaded(InferenceModel);

/// A thread for tract, with as much stack as a main thread has.
pub fn thread() -> thread::Builder {
    thread::Builder::new().stack_size(8 << 20)
}

/// Reads the file.
pub fn load(path: &Path) -> Result<Loaded, CheckError> {
    // What the file declares about its shapes may be wrong without disturbing other engines; tract infers them.
    let loaded = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true).model_for_path(path);
    loaded.map(Loaded).map_err(|e| CheckError::Load(one_line(&e)))
}

/// How a file is prepared before it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Preparation {
    /// As it is written, which is quicker for a single sample: nothing is laid out.
    Written,
    /// Optimized, which is quicker for many; as it is written where the optimizer stumbles over it.
    Optimized,
}

impl Loaded {
    /// Scores that tract computes for `batches` of equal shapes from the output of this name, on up to `threads` threads.
    pub fn run(
        self,
        batches: &[Feeds],
        output: &str,
        preparation: Preparation,
        threads: usize,
    ) -> Result<Vec<Tensor>, CheckError> {
        let load = |e: TractError| CheckError::Load(one_line(&e));
        let Self(mut model) = self;
        let inputs = model.input_outlets().map_err(load)?.to_vec();
        let names: Vec<String> = inputs.iter().map(|outlet| model.node(outlet.node).name.clone()).collect();
        let fed = batches.iter().map(|feeds| fed(&names, feeds)).collect::<Result<Vec<_>, _>>()?;
        for (at, x) in fed.first().into_iter().flatten().enumerate() {
            let shape: TVec<usize> = x.shape().iter().copied().collect();
            model = model.with_input_fact(at, TypedFact::dt_shape(x.datum_type(), &shape[..]).into()).map_err(load)?;
        }
        let written = model.with_outputs_by_name([output]).and_then(InferenceModel::into_typed).map_err(load)?;
        if preparation == Preparation::Written {
            return scores(written, &fed, threads);
        }
        let optimized = written.clone().into_optimized().map_err(load);
        optimized
            .and_then(|model| scores(model, &fed, threads))
            .or_else(|e| scores(written, &fed, threads).map_err(|_| e))
    }
}

/// Scores of batches that are fed so.
fn scores(
    model: TypedModel,
    fed: &[TVec<tract_onnx::prelude::Tensor>],
    threads: usize,
) -> Result<Vec<Tensor>, CheckError> {
    let model = model.into_runnable().map_err(|e| CheckError::Load(one_line(&e)))?;
    let scores = |fed: &TVec<tract_onnx::prelude::Tensor>| -> TractResult<Tensor> {
        let result = model.run(fed.iter().map(|x| x.clone().into()).collect())?;
        let scores = result[0].cast_to::<f32>()?;
        let view = scores.to_plain_array_view::<f32>()?;
        Ok(Tensor::f32(view.shape(), view.iter().copied().collect()))
    };
    let of_share = |some: &[TVec<_>]| some.iter().map(&scores).collect::<Vec<_>>();
    let share = fed.len().div_ceil(threads.max(1)).max(1);
    let all: std::io::Result<Vec<TractResult<Tensor>>> = thread::scope(|scope| {
        let start = |some| {
            self::thread().spawn_scoped(scope, {
                let of_share = &of_share;
                move || of_share(some)
            })
        };
        let started = fed.chunks(share).map(start).collect::<Result<Vec<_>, _>>()?;
        let join = |t: thread::ScopedJoinHandle<'_, Vec<_>>| t.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok(started.into_iter().flat_map(join).collect())
    });
    let all = all.map_err(|e| CheckError::Run(e.to_string()))?;
    all.into_iter().map(|scores| scores.map_err(|e| CheckError::Run(one_line(&e)))).collect()
}

/// The feeds in the order of the model's inputs.
fn fed(names: &[String], feeds: &Feeds) -> Result<TVec<tract_onnx::prelude::Tensor>, CheckError> {
    let of = |name: &String| {
        let x = feeds.iter().find(|(n, _)| n == name).map(|(_, x)| x);
        in_tract(x.ok_or_else(|| CheckError::Load(format!("it asks for input {name:?}")))?)
    };
    names.iter().map(of).collect()
}

/// The samples as tract holds them.
fn in_tract(x: &Tensor) -> Result<tract_onnx::prelude::Tensor, CheckError> {
    let kind = match x.dtype() {
        DType::F32 => DatumType::F32,
        DType::F64 => DatumType::F64,
        DType::F16 => DatumType::F16,
        DType::I8 => DatumType::I8,
        DType::I16 => DatumType::I16,
        DType::I32 => DatumType::I32,
        DType::I64 => DatumType::I64,
        DType::U8 => DatumType::U8,
        DType::U16 => DatumType::U16,
        DType::U32 => DatumType::U32,
        DType::U64 => DatumType::U64,
        DType::Bool => DatumType::Bool,
        DType::BF16 => return Err(CheckError::Load("it has no bfloat16".into())),
    };
    let bytes = tract_ndarray::ArrayD::from_shape_vec(x.shape().to_vec(), x.to_f32s())
        .map_err(|e| CheckError::Run(e.to_string()))?
        .into_tensor();
    // Samples are numbers that float32 holds; whatever their type, the cast gives them back.
    bytes.cast_to_dt(kind).map(Cow::into_owned).map_err(|e| CheckError::Run(one_line(&e)))
}

/// Compares scores of the same batches of samples; the first axis is the batch. The class of the largest score is predicted, or, with a
/// `threshold`, every class with a score above it.
pub fn compare(
    tract: &[Tensor],
    runtime: &[Tensor],
    threshold: Option<f32>,
    tolerance: Tolerance,
) -> Result<Comparison, CheckError> {
    for (tract, runtime) in tract.iter().zip(runtime) {
        if tract.len() != runtime.len() || tract.shape().first() != runtime.shape().first() {
            return Err(CheckError::Shape { tract: tract.shape().to_vec(), runtime: runtime.shape().to_vec() });
        }
    }
    let all = |of: &[Tensor]| of.iter().flat_map(Tensor::to_f32s).collect::<Vec<f32>>();
    let (a, b) = (all(tract), all(runtime));
    let samples: usize = tract.iter().map(|t| t.shape().first().copied().unwrap_or(1)).sum();
    let (mut max_absolute, mut max_relative, mut within) = (0.0f64, 0.0f64, true);
    for (&a, &b) in a.iter().zip(&b) {
        let (a, b) = (f64::from(a), f64::from(b));
        let difference = (a - b).abs();
        // Not `>`: a difference that is not a number has to fail.
        within &= difference <= tolerance.absolute + tolerance.relative * b.abs();
        max_absolute = max_absolute.max(if difference.is_nan() { f64::INFINITY } else { difference });
        let larger = a.abs().max(b.abs());
        if larger > tolerance.absolute {
            max_relative = max_relative.max(difference / larger);
        }
    }
    let row = a.len() / samples.max(1);
    let best = |v: &[f32]| (0..v.len()).fold(0, |best, i| if v[i] > v[best] { i } else { best });
    let same = |a: &[f32], b: &[f32]| match threshold {
        Some(t) => a.iter().zip(b).all(|(&a, &b)| (a > t) == (b > t)),
        None => best(a) == best(b),
    };
    let same_class = a.chunks_exact(row).zip(b.chunks_exact(row)).filter(|(a, b)| same(a, b)).count();
    Ok(Comparison { samples, max_absolute, max_relative, same_class, tolerance, within })
}

/// tract's errors are chains; the last link says which operator it was.
fn one_line(e: &TractError) -> String {
    let chain: Vec<String> = e.chain().map(|c| c.to_string().replace('\n', " ")).collect();
    chain.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { absolute: 1e-3, relative: 1e-3 };

    fn scores(v: &[f32]) -> Tensor {
        Tensor::f32([v.len() / 2, 2], v.to_vec())
    }

    fn compared(a: &[f32], b: &[f32], threshold: Option<f32>) -> Comparison {
        compare(&[scores(a)], &[scores(b)], threshold, TOLERANCE).expect("shapes fit")
    }

    #[test]
    fn equal_scores_agree() {
        let c = compared(&[1.0, 2.0, 3.0, 0.0], &[1.0, 2.0, 3.0, 0.0], None);
        assert!(c.agrees());
        assert_eq!((c.samples, c.same_class), (2, 2));
    }

    #[test]
    fn a_difference_a_flipped_class_or_nan_is_seen() {
        let far = compared(&[1.0, 2.1], &[1.0, 2.0], None);
        assert!(!far.within && !far.agrees());
        let flipped = compared(&[1.0, 1.0005], &[1.0005, 1.0], None);
        assert!(flipped.within && !flipped.agrees());
        let nan = compared(&[f32::NAN, 1.0], &[0.0, 1.0], None);
        assert!(!nan.within);
        assert!(compare(&[scores(&[1.0, 2.0])], &[scores(&[1.0, 2.0, 3.0, 4.0])], None, TOLERANCE).is_err());
    }

    #[test]
    fn independent_classes_are_compared_each_by_itself() {
        // Which of two classes that are both there comes first says nothing.
        assert!(compared(&[1.0, 0.9995], &[0.9995, 1.0], Some(0.5)).agrees());
        let flipped = compared(&[0.9, 0.4999, 0.1, 0.2], &[0.9, 0.5001, 0.1, 0.2], Some(0.5));
        assert!(flipped.within && !flipped.agrees());
        assert_eq!(flipped.same_class, 1);
    }
}
