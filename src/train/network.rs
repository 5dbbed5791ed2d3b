//! A classifier made ready for training: the graph up to the logits and its weights.

use super::{
    batch_norm, channels,
    head::{Head, HeadError},
    inputs::{self, Choice, Inputs, Part, Row, Site},
    reading, rebatch,
    steps::{BatchedNetwork, fed},
    trace::trace,
    weights::{self, Rules, Stored},
};
use crate::{
    autodiff::{self, NotDifferentiable},
    graph::{Graph, Port},
    onnx::{self, LiftError, Masters, Model},
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

/// Samples of the run that confirms shapes.
const FEW: usize = 2;

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
    #[error(
        "{}: the class scores depend on several inputs ({}); say which one holds the samples with --input NAME; the others \
         come as arrays of that name in an .npz, or as --constant NAME=VALUE", path.display(), names.join(", ")
    )]
    SeveralInputs { path: PathBuf, names: Vec<String> },
    #[error("{}: the class scores depend on no input {wanted:?}; they depend on {}", path.display(), names.join(", "))]
    UnknownInput { path: PathBuf, wanted: String, names: Vec<String> },
    #[error("{}: input {name:?} has element type {dtype}, which this tool does not feed", path.display())]
    InputType { path: PathBuf, name: String, dtype: String },
    #[error(
        "{}: noise cannot be learned for the integers of input {input:?}: {} float values are computed from them ({}), and \
         which of them stands for a sample cannot be told", path.display(), found.len(), found.join(", ")
    )]
    NoSite { path: PathBuf, input: String, found: Vec<String> },
    #[error("{}: --constant {name}: the model leaves the shape of this input open; give it as an array in an .npz", path.display())]
    OpenConstant { path: PathBuf, name: String },
    #[error("{}: inputs {} are read by no node, yet ONNX Runtime wants them fed; export the model without them", path.display(), quoted(names))]
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
        "{}: for {batch} samples the class scores have shape {shape:?} instead of [{batch}, ...]: the batch size {found} is \
         frozen into the graph although the input leaves it open; export the model with a dynamic batch axis", path.display()
    )]
    Frozen { path: PathBuf, batch: usize, shape: Vec<usize>, found: usize },
    #[error(
        "{}: the model does not run at batch size {batch}: {source}\n(if the file was exported for one batch size, export \
         it with a dynamic batch axis)", path.display()
    )]
    Batch { path: PathBuf, batch: usize, source: RuntimeError },
    #[error("{}: {reason}", path.display())]
    Quantized { path: PathBuf, reason: String },
    #[error("{}: cannot be written back: {reason}", path.display())]
    WriteBack { path: PathBuf, reason: String },
    #[error("{}: {flag} {pattern}: no tensor that the file stores has such a name", path.display())]
    Pattern { path: PathBuf, flag: &'static str, pattern: String },
    #[error("{}: BatchNormalization with the statistics of the batch: {reason}", path.display())]
    BatchNorm { path: PathBuf, reason: String },
    #[error(
        "the weights that were written to a temporary file in {} cannot be read back: {source}", folder.display()
    )]
    Lost { folder: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

fn lines(errors: &[LiftError]) -> String {
    errors.iter().flat_map(|e| ["\n  ".to_owned(), e.to_string()]).collect()
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

fn through(nodes: &[String]) -> String {
    if nodes.is_empty() { "a comparison or an index".into() } else { nodes.join(", ") }
}

/// A classifier up to its logits, in the spelling of the step graphs.
pub struct Network {
    /// The model file, for messages.
    pub path: PathBuf,
    /// Name of the input that holds the samples.
    pub input: String,
    /// Every input and the part it plays.
    pub inputs: Inputs,
    /// Where noise is learned.
    pub site: Site,
    /// Where the logits are.
    pub head: Head,
    /// Every float constant and what training does with it.
    pub stored: Vec<Stored>,
    /// Tensors whose elements can be replaced in the file.
    writable: BTreeSet<String>,
    /// Operators, as messages name them, that give weights before them a derivative of zero, so that these stay as they
    /// are.
    pub dead_ends: Vec<String>,
    pub(super) graph: Graph,
    masters: Masters,
}

impl Network {
    /// Cuts the model at its logits and finds out what can be trained. Runs nothing.
    pub fn new(model: &Model, output: Option<&str>) -> Result<Self, TrainError> {
        Self::with(model, &Choice { output: output.map(str::to_owned), ..Choice::default() })
    }

    /// The same, with what the user says about inputs, outputs and weights.
    pub fn with(model: &Model, choice: &Choice) -> Result<Self, TrainError> {
        let path = model.path.clone();
        let (head, graph) = reading::cut(model, choice)?;
        let graph = onnx::lift(graph).map_err(|errors| TrainError::Lift { path: path.clone(), errors })?;
        let (graph, masters) =
            onnx::masters(graph).map_err(|reason| TrainError::Quantized { path: path.clone(), reason })?;
        let inputs = inputs::choose(&path, &graph, choice)?;
        let site = inputs::site(&path, &graph, &inputs.main)?;
        let input = inputs.main.name.clone();
        let learned = match &site {
            Site::Input => &input,
            Site::Value { name, .. } => name,
        };
        let from_input = dead_ends(&graph, learned);
        if from_input.quantised {
            let quantised: BTreeSet<&String> =
                graph.nodes.iter().filter(|n| ops::is_quantised(n)).map(|n| &n.op).collect();
            return Err(TrainError::Quantised { path, input, ops: quantised.into_iter().cloned().collect() });
        }
        let own: BTreeSet<&String> = model.stored.iter().chain(&model.enclosed).collect();
        let rules = Rules::new(choice, &own).map_err(|(flag, pattern)| {
            let path = path.clone();
            TrainError::Pattern { path, flag, pattern }
        })?;
        let sorted = weights::sort(&graph, learned, &model.enclosed, &rules)
            .map_err(|source| TrainError::NotDifferentiable { path: path.clone(), source })?;
        if !autodiff::heard(&graph.nodes, &[head.logits.as_str()]).contains(learned.as_str()) {
            return Err(TrainError::NoGradient { path, input, nodes: from_input.nodes });
        }
        // Constants that only the lifted copy has (axes, bounds) are no business of the user's.
        let mut stored: Vec<Stored> = sorted.stored.into_iter().filter(|s| own.contains(&s.name)).collect();
        // Nor are tensors gone that only other outputs need.
        let listed: BTreeSet<String> = stored.iter().map(|s| s.name.clone()).collect();
        for name in own.into_iter().filter(|name| !listed.contains(*name)) {
            if let Some(t) = model.graph.constants.get(name).filter(|t| t.dtype().is_float()) {
                stored.push(Stored { name: name.clone(), shape: t.shape().to_vec(), frozen: Some(weights::NOT_USED) });
            }
        }
        stored.sort_by(|a, b| a.name.cmp(&b.name));
        let writable = model.stored.iter().cloned().collect();
        let dead_ends = sorted.dead_ends;
        Ok(Self { path, input, inputs, site, head, stored, writable, dead_ends, graph, masters })
    }

    /// Names of the weights.
    pub fn trained(&self) -> impl Iterator<Item = &str> {
        self.stored.iter().filter(|s| s.frozen.is_none()).map(|s| s.name.as_str())
    }

    /// Elements of all weights.
    pub(super) fn weight_elements(&self) -> usize {
        self.trained().map(|name| self.graph.constants[name].len()).sum()
    }

    /// Element type of a stored tensor in the file.
    pub fn dtype(&self, name: &str) -> DType {
        self.masters.dtype(name).unwrap_or(DType::F32)
    }

    /// Number of float tensors that the operators of [`Self::dead_ends`] keep from learning.
    pub fn rounded_away(&self) -> usize {
        self.stored.iter().filter(|s| s.frozen == Some(weights::BEFORE_ROUNDING)).count()
    }

    /// The weights of the file, as the real numbers they stand for.
    pub fn weights(&self) -> Result<Weights, TrainError> {
        let weights: Weights =
            self.trained().map(|name| (name.to_owned(), Arc::clone(&self.graph.constants[name]))).collect();
        if weights.is_empty() {
            let reason = match self.stored.first().and_then(|s| s.frozen) {
                None if self.graph.nodes.iter().any(|n| n.op == "ConstantOfShape") => {
                    "the model stores no float tensors, but fills them in (ConstantOfShape); export it with its weights"
                        .to_owned()
                }
                None => "the model stores no float tensors".to_owned(),
                Some(why) => format!("all {} float tensors are constants ({why}, ...)", self.stored.len()),
            };
            return Err(TrainError::NoWeights { path: self.path.clone(), reason });
        }
        Ok(weights)
    }

    /// Trained weights in the element types of the file.
    pub fn write_back(&self, weights: &Weights) -> Result<Weights, TrainError> {
        let write = |(name, after): (&String, &Arc<Tensor>)| {
            let tensor = self.masters.write_back(name, &self.graph.constants[name], after);
            tensor.map(|t| (name.clone(), t)).map_err(|reason| {
                let path = self.path.clone();
                TrainError::WriteBack { path, reason }
            })
        };
        weights.iter().map(write).collect()
    }

    /// The axis of a stored tensor that counts the outputs of its layer, for a scale per channel.
    pub fn output_axis(&self, name: &str) -> usize {
        channels::output_axis(&self.graph, name)
    }

    /// The stored mean and variance of the BatchNormalization nodes, by name.
    pub fn running_statistics(&self) -> Weights {
        let names = batch_norm::statistics(&self.graph);
        names.filter_map(|name| Some((name.to_owned(), Arc::clone(self.graph.constants.get(name)?)))).collect()
    }

    /// True when the model has BatchNormalization nodes.
    pub fn has_batch_norm(&self) -> bool {
        batch_norm::present(&self.graph)
    }

    /// True when some of them are in training mode, so that the scores of the file depend on the whole batch.
    pub fn has_live_batch_norm(&self) -> bool {
        batch_norm::live(&self.graph)
    }

    /// Fixes the batch: `sample` is one batch of real data, [batch, ...], of a model with one input.
    pub fn at_batch(
        &self,
        engine: &Engine,
        sample: &Tensor,
        batch_norm: BatchNorm,
    ) -> Result<BatchedNetwork<'_>, TrainError> {
        self.at_batch_of(engine, vec![(self.input.clone(), sample.clone())], batch_norm)
    }

    /// Fixes the batch: `samples` are one batch of real data for each input, [batch, ...], the main one first. Where the
    /// file fixes a smaller batch that nothing can free it from, that is the batch of the result.
    pub fn at_batch_of(
        &self,
        engine: &Engine,
        samples: Vec<(String, Tensor)>,
        batch_norm: BatchNorm,
    ) -> Result<BatchedNetwork<'_>, TrainError> {
        let (mut graph, samples) = rebatch::fit(self, engine, samples)?;
        let batch = samples[0].1.shape()[0];
        // What a file that fixes the batch is freed to may hold the batch in other places.
        let mut few = Vec::new();
        // A small batch is run sooner than its graph is opened for shapes.
        if self.inputs.frozen_batch().is_none() && batch >= 8 * FEW {
            few = samples.iter().map(|(name, t)| (name.clone(), rebatch::rows(t, 0, FEW))).collect();
            few.extend(self.constants_at(FEW)?);
        }
        let mut feeds: Vec<Tensor> = Vec::new();
        let mut parts = Vec::new();
        let mut live: BTreeSet<String> = self.trained().map(str::to_owned).collect();
        for (name, sample) in samples {
            live.insert(name.clone());
            let dtype = self.inputs.dtype(&name);
            parts.push(Part { name, dtype, shape: sample.shape().to_vec() });
            feeds.push(sample);
        }
        let names = parts.iter().map(|p| p.name.clone());
        let mut feeds: Vec<(String, Tensor)> = names.zip(feeds).collect();
        feeds.extend(self.constants_at(batch)?);
        let fail = |source| TrainError::Batch { path: self.path.clone(), batch, source };
        let mut traced = trace(engine, &graph, &feeds, &few, &live).map_err(fail)?;
        let shape = traced.shape(&self.head.logits).unwrap_or_default().to_vec();
        let normalised = self.head.reshaped().and_then(|value| traced.shape(value));
        let layout = self
            .head
            .layout(&shape, normalised)
            .map_err(|source| TrainError::Head { path: self.path.clone(), source })?;
        if shape[0] != batch {
            return Err(TrainError::FrozenBatch { path: self.path.clone(), batch, found: shape[0], shape });
        }
        let mut site = None;
        if let Site::Value { name, .. } = &self.site {
            let shape = traced.shape(name).unwrap_or_default().to_vec();
            if shape.first() != Some(&batch) {
                let input = self.input.clone();
                return Err(TrainError::NoSite { path: self.path.clone(), input, found: Vec::new() });
            }
            inputs::open_site(&mut graph, &self.site, &shape);
            let none = |n: usize| {
                let (mut shape, mut flag) = (shape.clone(), vec![1; shape.len()]);
                (shape[0], flag[0]) = (n, n);
                let no = Tensor::from_f32s(DType::Bool, flag, vec![0.0; n]);
                [(fed::NOISE.to_owned(), Tensor::zeros(shape)), (fed::IS_NOISE.to_owned(), no)]
            };
            feeds.extend(none(batch));
            if !few.is_empty() {
                few.extend(none(FEW));
            }
            live.extend([fed::NOISE.to_owned(), fed::IS_NOISE.to_owned()]);
            traced = trace(engine, &graph, &feeds, &few, &live).map_err(fail)?;
            site = Some(shape);
        }
        let mut running = Vec::new();
        let all = batch_norm == BatchNorm::Batch && self.has_batch_norm();
        if all || self.has_live_batch_norm() {
            let fail = |reason: String| TrainError::BatchNorm { path: self.path.clone(), reason };
            if layout.predictions > 1 {
                return Err(fail("not supported for a model with several predictions a sample".into()));
            }
            if all && self.inputs.main.dims.as_ref().is_some_and(|d| d[0] == Some(batch)) && batch < 2 {
                return Err(fail(
                    "the file fixes the batch at one sample, which has no statistics; pass --batch-norm frozen".into(),
                ));
            }
            let weights = Tensor::f32([batch, 1], vec![1.0; batch]);
            let (mut written, moved) =
                batch_norm::write_out(&graph, &traced.values, fed::SAMPLE_WEIGHTS, batch, all).map_err(&fail)?;
            let sampled: Vec<String> = parts.iter().map(|p| p.name.clone()).collect();
            batch_norm::check_rows(engine, &graph, &feeds, &sampled, all).map_err(&fail)?;
            if let Some(r) = moved.iter().find(|r| !self.writable.contains(&r.name)) {
                return Err(fail(format!(
                    "statistics {:?} are no tensor of the main graph, so moved ones could not be written back",
                    r.name
                )));
            }
            written.inputs.push(Port::fixed(fed::SAMPLE_WEIGHTS, DType::F32, &[batch, 1]));
            live.insert(fed::SAMPLE_WEIGHTS.into());
            live.extend(moved.iter().map(|r| r.name.clone()));
            feeds.push((fed::SAMPLE_WEIGHTS.into(), weights));
            let fail = |source| TrainError::Batch { path: self.path.clone(), batch, source };
            // Statistics are written out for this number of samples.
            traced = trace(engine, &written, &feeds, &[], &live).map_err(fail)?;
            running = moved;
        }
        traced.pool_before_relu();
        let row = Row::new(parts, site.as_deref());
        Ok(BatchedNetwork { network: self, engine: engine.clone(), traced, running, row, batch, layout })
    }

    /// Inputs that are the same for every sample, at a batch size.
    pub fn constants_at(&self, batch: usize) -> Result<Vec<(String, Tensor)>, TrainError> {
        self.inputs.constants_at(&self.path, batch)
    }
}

fn dead_ends(graph: &Graph, input: &str) -> autodiff::DeadEnds {
    let outputs: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
    autodiff::dead_ends(&graph.nodes, &outputs, &BTreeSet::from([input.to_owned()]))
}
