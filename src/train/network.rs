//! A classifier made ready for training: the graph up to the logits and its weights.

use super::{
    batch_norm,
    head::{self, Head, HeadError},
    steps::{BatchedNetwork, fed},
    trace::trace,
    weights::{self, Stored},
};
use crate::{
    autodiff::{self, NotDifferentiable},
    graph::{Graph, Port},
    onnx::{self, LiftError, Model},
    ops,
    runtime::{Engine, RuntimeError},
    tensor::{DType, Tensor},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};
use thiserror::Error;

/// Trained tensors by name.
pub type Weights = BTreeMap<String, Arc<Tensor>>;

/// What BatchNormalization does while a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchNorm {
    /// It uses the stored statistics, which never move.
    Frozen,
    /// It uses the statistics of the batch and moves the stored ones.
    Batch,
}

/// Why a model cannot be trained.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum TrainError {
    #[error("{}: {source}", path.display())]
    Head { path: PathBuf, source: HeadError },
    #[error("{}: {} node(s) cannot be brought to opset {}:{}", path.display(), errors.len(), onnx::STEP_OPSET, lines(errors))]
    Lift { path: PathBuf, errors: Vec<LiftError> },
    #[error("{}: cannot be trained: {source}", path.display())]
    NotDifferentiable { path: PathBuf, source: NotDifferentiable },
    #[error("{}: the model has no input that its class scores depend on", path.display())]
    NoInput { path: PathBuf },
    #[error("{}: the class scores depend on several inputs ({}); models with one input are supported", path.display(), names.join(", "))]
    SeveralInputs { path: PathBuf, names: Vec<String> },
    #[error("{}: input {name:?} has element type {dtype}; models with a float32 input are supported", path.display())]
    InputType { path: PathBuf, name: String, dtype: String },
    #[error("{}: input {names:?} is read by no node, yet ONNX Runtime wants it fed; export the model without it", path.display())]
    IdleInput { path: PathBuf, names: Vec<String> },
    #[error(
        "{}: the model is quantised ({}): its weights are integers, which have no gradient, and none reaches input \
         {input:?}; unlearn the float model it was made from and quantise the result, or use the QDQ form of the \
         quantised model", path.display(), ops.join(", ")
    )]
    Quantised { path: PathBuf, input: String, ops: Vec<String> },
    #[error(
        "{}: noise cannot be learned: every path from input {input:?} to the class scores passes {}, whose derivative is \
         zero wherever it exists", path.display(), through(nodes)
    )]
    NoGradient { path: PathBuf, input: String, nodes: Vec<String> },
    #[error("{}: no weights to train: {reason}", path.display())]
    NoWeights { path: PathBuf, reason: String },
    #[error(
        "{}: at batch size {batch} the class scores have shape {shape:?} instead of [{batch}, classes]: the batch size is \
         frozen into the graph; export the model with a dynamic batch axis, or pass --batch-size {found} --noise-images {found}", path.display()
    )]
    FrozenBatch { path: PathBuf, batch: usize, shape: Vec<usize>, found: usize },
    #[error(
        "{}: the model does not run at batch size {batch}: {source}\n(if the file was exported for one batch size, export \
         it with a dynamic batch axis)", path.display()
    )]
    Batch { path: PathBuf, batch: usize, source: RuntimeError },
    #[error("--batch-norm batch: {0}")]
    BatchNorm(String),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

fn lines(errors: &[LiftError]) -> String {
    errors.iter().flat_map(|e| ["\n  ".to_owned(), e.to_string()]).collect()
}

fn through(nodes: &[String]) -> String {
    if nodes.is_empty() { "a comparison or an index".into() } else { nodes.join(", ") }
}

/// A classifier up to its logits, in the spelling of the step graphs.
pub struct Network {
    /// The model file, for messages.
    pub path: PathBuf,
    /// Name of the data input.
    pub input: String,
    /// Where the logits are.
    pub head: Head,
    /// Every float constant and what training does with it.
    pub stored: Vec<Stored>,
    /// Operators, as messages name them, that give weights before them a derivative of zero, so that these stay as they
    /// are.
    pub dead_ends: Vec<String>,
    pub(super) graph: Graph,
}

impl Network {
    /// Cuts the model at its logits and finds out what can be trained. Runs nothing.
    pub fn new(model: &Model, output: Option<&str>) -> Result<Self, TrainError> {
        let path = model.path.clone();
        let head =
            head::find(&model.graph, output).map_err(|source| TrainError::Head { path: path.clone(), source })?;
        let idle = model.idle_inputs();
        if !idle.is_empty() {
            return Err(TrainError::IdleInput { path, names: idle });
        }
        let mut graph = model.graph.clone();
        head::cut(&mut graph, &head);
        let input = data_input(&path, &graph)?;
        let graph = onnx::lift(graph).map_err(|errors| TrainError::Lift { path: path.clone(), errors })?;
        let from_input = dead_ends(&graph, &input);
        if from_input.quantised {
            let quantised: BTreeSet<&String> =
                graph.nodes.iter().filter(|n| ops::is_quantised(n)).map(|n| &n.op).collect();
            return Err(TrainError::Quantised { path, input, ops: quantised.into_iter().cloned().collect() });
        }
        let sorted = weights::sort(&graph, &input)
            .map_err(|source| TrainError::NotDifferentiable { path: path.clone(), source })?;
        if !autodiff::heard(&graph.nodes, &[head.logits.as_str()]).contains(input.as_str()) {
            return Err(TrainError::NoGradient { path, input, nodes: from_input.nodes });
        }
        let own: BTreeSet<&String> = model.stored.iter().collect();
        // Constants that only the lifted copy has (axes, bounds) are no business of the user's.
        let stored: Vec<Stored> = sorted.stored.into_iter().filter(|s| own.contains(&s.name)).collect();
        Ok(Self { path, input, head, stored, dead_ends: sorted.dead_ends, graph })
    }

    /// Names of the weights.
    pub fn trained(&self) -> impl Iterator<Item = &str> {
        self.stored.iter().filter(|s| s.frozen.is_none()).map(|s| s.name.as_str())
    }

    /// Number of float tensors that the operators of [`Self::dead_ends`] keep from learning.
    pub fn rounded_away(&self) -> usize {
        self.stored.iter().filter(|s| s.frozen == Some(weights::BEFORE_ROUNDING)).count()
    }

    /// The weights as the file holds them.
    pub fn weights(&self) -> Result<Weights, TrainError> {
        let weights: Weights =
            self.trained().map(|name| (name.to_owned(), Arc::clone(&self.graph.constants[name]))).collect();
        if weights.is_empty() {
            let reason = match self.stored.first().and_then(|s| s.frozen) {
                None => "the model stores no float tensors".to_owned(),
                Some(why) => format!("all {} float tensors are constants ({why}, ...)", self.stored.len()),
            };
            return Err(TrainError::NoWeights { path: self.path.clone(), reason });
        }
        Ok(weights)
    }

    /// True when the model has BatchNormalization nodes.
    pub fn has_batch_norm(&self) -> bool {
        batch_norm::present(&self.graph)
    }

    /// Fixes the batch: `sample` is one batch of real data, [batch, ...].
    pub fn at_batch(
        &self,
        engine: &Engine,
        sample: &Tensor,
        batch_norm: BatchNorm,
    ) -> Result<BatchedNetwork<'_>, TrainError> {
        let batch = sample.shape()[0];
        let feeds = [(self.input.as_str(), sample)];
        let mut live: BTreeSet<String> = self.trained().map(str::to_owned).collect();
        live.insert(self.input.clone());
        let run = |graph: &Graph, feeds: &[(&str, &Tensor)], live: &BTreeSet<String>| {
            let fail = |source| TrainError::Batch { path: self.path.clone(), batch, source };
            trace(engine, graph, feeds, live).map_err(fail)
        };
        let mut traced = run(&self.graph, &feeds, &live)?;
        let shape = traced.shape(&self.head.logits).unwrap_or_default().to_vec();
        let classes = head::classes(&self.head.logits, &shape)
            .map_err(|source| TrainError::Head { path: self.path.clone(), source })?;
        if shape[0] != batch {
            return Err(TrainError::FrozenBatch { path: self.path.clone(), batch, found: shape[0], shape });
        }
        let mut running = Vec::new();
        if batch_norm == BatchNorm::Batch && self.has_batch_norm() {
            let weights = Tensor::f32([batch, 1], vec![1.0; batch]);
            let (mut graph, moved) = batch_norm::write_out(&self.graph, &traced.values, fed::SAMPLE_WEIGHTS)
                .map_err(TrainError::BatchNorm)?;
            graph.inputs.push(Port::fixed(fed::SAMPLE_WEIGHTS, DType::F32, &[batch, 1]));
            live.insert(fed::SAMPLE_WEIGHTS.into());
            live.extend(moved.iter().map(|r| r.name.clone()));
            traced = run(&graph, &[feeds[0], (fed::SAMPLE_WEIGHTS, &weights)], &live)?;
            running = moved;
        }
        Ok(BatchedNetwork { network: self, engine: engine.clone(), traced, running, batch, classes })
    }
}

/// What the noise loses to rounding operators.
fn dead_ends(graph: &Graph, input: &str) -> autodiff::DeadEnds {
    let outputs: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
    autodiff::dead_ends(&graph.nodes, &outputs, &BTreeSet::from([input.to_owned()]))
}

fn data_input(path: &std::path::Path, graph: &Graph) -> Result<String, TrainError> {
    let read: BTreeSet<&str> = graph.nodes.iter().flat_map(|n| n.inputs.iter().map(String::as_str)).collect();
    let inputs: Vec<_> = graph.inputs.iter().filter(|i| read.contains(i.name.as_str())).collect();
    match inputs.as_slice() {
        [] => Err(TrainError::NoInput { path: path.to_owned() }),
        [one] if one.dtype == Some(DType::F32) => Ok(one.name.clone()),
        [one] => Err(TrainError::InputType {
            path: path.to_owned(),
            name: one.name.clone(),
            dtype: one.dtype.map_or("unknown".into(), |t| t.to_string()),
        }),
        many => Err(TrainError::SeveralInputs {
            path: path.to_owned(),
            names: many.iter().map(|i| i.name.clone()).collect(),
        }),
    }
}
