//! A classifier made ready for training: the graph up to the logits, its weights, and the step graphs made from them.

use super::{
    batch_norm::{self, Running},
    head::{self, Head, HeadError},
    loss::{self, CrossEntropy},
    optimizer::{self, Optimizer},
    trace::{Traced, trace},
    weights::{self, Stored},
};
use crate::{
    autodiff::{self, NotDifferentiable},
    graph::{Builder, Graph, Value},
    onnx::{self, LiftError, Model},
    runtime::{Engine, RuntimeError, State, Stepper},
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

/// Names of what a step graph is fed; no name in a model starts like this by chance.
mod fed {
    pub const TARGETS: &str = "onnx-unlearn:targets";
    pub const SAMPLE_WEIGHTS: &str = "onnx-unlearn:sample-weights";
    pub const RATE: &str = "onnx-unlearn:rate";
    pub const FLOOR: &str = "onnx-unlearn:floor";
    pub const LOSS: &str = "onnx-unlearn:loss";
}

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
    graph: Graph,
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
        let stored = weights::sort(&graph, &input)
            .map_err(|source| TrainError::NotDifferentiable { path: path.clone(), source })?;
        let own: BTreeSet<&String> = model.stored.iter().collect();
        // Constants that only the lifted copy has (axes, bounds) are no business of the user's.
        let stored: Vec<Stored> = stored.into_iter().filter(|s| own.contains(&s.name)).collect();
        Ok(Self { path, input, head, stored, graph })
    }

    /// Names of the weights.
    pub fn trained(&self) -> impl Iterator<Item = &str> {
        self.stored.iter().filter(|s| s.frozen.is_none()).map(|s| s.name.as_str())
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
            graph.inputs.push(crate::graph::Port::fixed(fed::SAMPLE_WEIGHTS, DType::F32, &[batch, 1]));
            live.insert(fed::SAMPLE_WEIGHTS.into());
            live.extend(moved.iter().map(|r| r.name.clone()));
            traced = run(&graph, &[feeds[0], (fed::SAMPLE_WEIGHTS, &weights)], &live)?;
            running = moved;
        }
        Ok(BatchedNetwork { network: self, engine: engine.clone(), traced, running, batch, classes })
    }
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

/// A network at a fixed batch size: what step graphs are written from.
pub struct BatchedNetwork<'n> {
    network: &'n Network,
    engine: Engine,
    traced: Traced,
    running: Vec<Running>,
    /// Samples in a batch.
    pub batch: usize,
    /// Number of classes.
    pub classes: usize,
}

/// How noise is learned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseLoss {
    /// lambda: weight of the penalty on the size of the noise.
    pub penalty: f64,
    /// True when the penalty is the mean of squares over a sample instead of their sum, so that lambda means the same
    /// at every resolution.
    pub per_element: bool,
}

impl BatchedNetwork<'_> {
    /// Shape of the data input, batch first.
    pub fn input_shape(&self) -> &[usize] {
        self.traced.shape(&self.network.input).unwrap_or_default()
    }

    /// The step graph that learns noise Z, [batch, ...], for the class given by the targets; weights stay fixed.
    ///
    /// J(Z) = lambda mean_i ||Z_i||^2 - CE(f(Z), targets)        (Tarun et al. 2023, equation of the noise matrix)
    pub fn noise_stepper(
        &self,
        weights: &Weights,
        optimizer: Optimizer,
        loss: NoiseLoss,
    ) -> Result<NoiseStepper, TrainError> {
        let shape = self.input_shape().to_vec();
        let mut b = self.builder();
        let z = b.input(&self.network.input, DType::F32, &shape);
        let targets = b.input(fed::TARGETS, DType::F32, &[self.batch, self.classes]);
        let equal = Tensor::f32([self.batch, 1], vec![1.0; self.batch]);
        let sample_weights = b.named_constant(fed::SAMPLE_WEIGHTS, Arc::new(equal));
        let mut state = self.running_inputs(&mut b, weights);
        for (name, tensor) in weights.iter().filter(|(name, _)| !self.moves(name)) {
            b.named_constant(name, Arc::clone(tensor));
        }
        self.traced.replay(&mut b, false);
        let (logits, ce) = self.loss(&mut b, &targets, &sample_weights);
        let wanted = BTreeSet::from([self.network.input.clone()]);
        let dz = self.backward(&mut b, &logits, &ce, &wanted)?;
        let dz = dz
            .get(&self.network.input)
            .cloned()
            .ok_or_else(|| TrainError::NoInput { path: self.network.path.clone() })?;

        b.set_scope("noise");
        let samples = self.batch as f64;
        let share = if loss.per_element { samples * shape[1..].iter().product::<usize>() as f64 } else { samples };
        let number = |b: &mut Builder, v: f64| b.constant(Tensor::scalar(v as f32));
        let squares = b.op("ReduceSumSquare", &[&z], &[("keepdims", 0i64.into())], &[]);
        let factor = number(&mut b, loss.penalty / share);
        let penalty = b.op("Mul", &[&squares, &factor], &[], &[]);
        let objective = b.op("Sub", &[&penalty, &ce.loss], &[], &[]);
        let slope = number(&mut b, 2.0 * loss.penalty / share);
        let pull = b.op("Mul", &[&z, &slope], &[], &shape);
        let gradient = b.op("Sub", &[&pull, &dz], &[], &shape);
        state.extend(Self::update(&mut b, &[(z, gradient, None)], optimizer));
        b.output_as(&objective, fed::LOSS);
        let stepper = self.stepper("the noise step", b, state, &[(fed::TARGETS, vec![self.batch, self.classes])])?;
        Ok(NoiseStepper { stepper, optimizer, input: self.network.input.clone(), running: self.running.clone(), t: 0 })
    }

    /// The step graph that trains `weights` on batches of samples.
    pub fn weight_stepper(
        &self,
        weights: &Weights,
        optimizer: Optimizer,
        clip_norm: Option<f64>,
    ) -> Result<WeightStepper, TrainError> {
        let mut b = self.builder();
        let shape = self.input_shape().to_vec();
        b.input(&self.network.input, DType::F32, &shape);
        let targets = b.input(fed::TARGETS, DType::F32, &[self.batch, self.classes]);
        let sample_weights = b.input(fed::SAMPLE_WEIGHTS, DType::F32, &[self.batch, 1]);
        let mut state = self.running_inputs(&mut b, weights);
        let trained: BTreeSet<String> = self.network.trained().map(str::to_owned).collect();
        for name in &trained {
            b.input(name, DType::F32, weights[name].shape());
        }
        self.traced.replay(&mut b, true);
        let (logits, ce) = self.loss(&mut b, &targets, &sample_weights);
        let found = self.backward(&mut b, &logits, &ce, &trained)?;
        let mut pairs: Vec<(String, Value)> = found.into_iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0)); // Equal runs have to write equal graphs.
        b.set_scope("optimizer");
        let (names, mut gradients): (Vec<String>, Vec<Value>) = pairs.into_iter().unzip();
        if let Some(limit) = clip_norm {
            optimizer::clip_global_norm(&mut b, &mut gradients, limit);
        }
        let mut updates = Vec::new();
        for (name, gradient) in names.iter().zip(gradients) {
            if let Some(w) = b.value(name).cloned() {
                updates.push((w, gradient, Some(Arc::clone(&weights[name]))));
            }
        }
        state.extend(Self::update(&mut b, &updates, optimizer));
        b.output_as(&ce.loss, fed::LOSS);
        let feeds = [
            (self.network.input.as_str(), shape),
            (fed::TARGETS, vec![self.batch, self.classes]),
            (fed::SAMPLE_WEIGHTS, vec![self.batch, 1]),
        ];
        let stepper = self.stepper("the training step", b, state, &feeds)?;
        let running = self.running.clone();
        Ok(WeightStepper { stepper, optimizer, input: self.network.input.clone(), names, running, t: 0 })
    }

    /// The gradient of the mean cross-entropy of one batch with respect to every weight and the input, and the loss.
    ///
    /// Not used by `forget`; it shows what a step is made of, for tests and for checking a model.
    pub fn gradients(
        &self,
        weights: &Weights,
        x: &Tensor,
        targets: &Tensor,
    ) -> Result<(f32, BTreeMap<String, Tensor>), TrainError> {
        let mut b = self.builder();
        b.input(&self.network.input, DType::F32, x.shape());
        let t = b.input(fed::TARGETS, DType::F32, targets.shape());
        let equal = Tensor::f32([self.batch, 1], vec![1.0; self.batch]);
        let sample_weights = b.named_constant(fed::SAMPLE_WEIGHTS, Arc::new(equal));
        let mut wanted: BTreeSet<String> = self.network.trained().map(str::to_owned).collect();
        for name in &wanted {
            b.input(name, DType::F32, weights[name].shape());
        }
        wanted.insert(self.network.input.clone());
        self.traced.replay(&mut b, true);
        let (logits, ce) = self.loss(&mut b, &t, &sample_weights);
        let found = self.backward(&mut b, &logits, &ce, &wanted)?;
        for (name, gradient) in &found {
            b.output_as(gradient, &format!("onnx-unlearn:d/{name}"));
        }
        b.output_as(&ce.loss, fed::LOSS);
        let mut session = self.engine.session("the gradients", &onnx::export(&b.finish()))?;
        let mut feeds: Vec<(&str, &Tensor)> = vec![(&self.network.input, x), (fed::TARGETS, targets)];
        feeds.extend(weights.iter().map(|(name, w)| (name.as_str(), w.as_ref())));
        let asked = session.inputs();
        feeds.retain(|(name, _)| asked.iter().any(|a| a == name));
        let names = session.outputs();
        let mut loss = f32::NAN;
        let mut gradients = BTreeMap::new();
        for (name, value) in names.into_iter().zip(session.run(&feeds)?) {
            match name.strip_prefix("onnx-unlearn:d/") {
                Some(name) => _ = gradients.insert(name.to_owned(), value),
                None => loss = value.to_scalar().unwrap_or(f64::NAN) as f32,
            }
        }
        Ok((loss, gradients))
    }

    fn builder(&self) -> Builder {
        Builder::new(self.network.graph.opset)
    }

    /// Statistics that move are inputs of the step graph and state between steps.
    fn running_inputs(&self, b: &mut Builder, weights: &Weights) -> Vec<State> {
        self.running
            .iter()
            .map(|r| {
                let initial = weights.get(&r.name).unwrap_or(&self.network.graph.constants[&r.name]);
                b.input(&r.name, DType::F32, initial.shape());
                State {
                    input: r.name.clone(),
                    output: r.next.clone(),
                    shape: initial.shape().to_vec(),
                    initial: Some(Arc::clone(initial)),
                }
            })
            .collect()
    }

    fn moves(&self, name: &str) -> bool {
        self.running.iter().any(|r| r.name == name)
    }

    fn loss(&self, b: &mut Builder, targets: &Value, sample_weights: &Value) -> (Value, CrossEntropy) {
        let logits = b.value(&self.network.head.logits).cloned().expect("the trace has found the logits");
        b.set_scope("logits");
        let flat_shape = [self.batch, self.classes];
        let flat = reshaped(b, &logits, &flat_shape);
        let ce = loss::cross_entropy(b, &flat, targets, sample_weights);
        (logits, ce)
    }

    fn backward(
        &self,
        b: &mut Builder,
        logits: &Value,
        ce: &CrossEntropy,
        wanted: &BTreeSet<String>,
    ) -> Result<std::collections::HashMap<String, Value>, TrainError> {
        let seed = reshaped(b, &ce.dlogits, logits.shape());
        let seeds = [(logits.clone(), seed)];
        autodiff::backward(b, &self.traced.nodes, &self.traced.known, &seeds, wanted, DType::F32)
            .map_err(|source| TrainError::NotDifferentiable { path: self.network.path.clone(), source })
    }

    /// Writes the optimizer for every (value, gradient, first value) and gives the state that it keeps.
    fn update(b: &mut Builder, updates: &[(Value, Value, Option<Arc<Tensor>>)], optimizer: Optimizer) -> Vec<State> {
        let rate = b.input(fed::RATE, DType::F32, &[1]);
        let floor = b.input(fed::FLOOR, DType::F32, &[1]);
        let mut states = Vec::new();
        for (w, gradient, initial) in updates {
            let shape = w.shape().to_vec();
            let slots: Vec<Value> = optimizer
                .state()
                .iter()
                .map(|part| b.input(&format!("onnx-unlearn:{part}/{}", w.name()), DType::F32, &shape))
                .collect();
            let (next, moved) = optimizer.update(b, w, gradient, &slots, &rate, &floor);
            let mut keep = |from: &Value, to: &Value, initial: Option<Arc<Tensor>>| {
                let output = format!("{}/next", from.name());
                b.output_as(to, &output);
                states.push(State { input: from.name().to_owned(), output, shape: shape.clone(), initial });
            };
            keep(w, &next, initial.clone());
            for (slot, value) in slots.iter().zip(&moved) {
                keep(slot, value, None);
            }
        }
        states
    }

    fn stepper(
        &self,
        what: &str,
        mut b: Builder,
        state: Vec<State>,
        feeds: &[(&str, Vec<usize>)],
    ) -> Result<Stepper, TrainError> {
        for r in &self.running {
            let next = b.value(&r.next).cloned().expect("the statistics are written out with the graph");
            b.output(&next);
        }
        let graph = b.finish();
        let mut feeds = feeds.to_vec();
        for name in [fed::RATE, fed::FLOOR] {
            feeds.push((name, vec![1]));
        }
        let bytes = onnx::export(&graph);
        let session = self.engine.session(what, &bytes)?;
        let asked = session.inputs();
        feeds.retain(|(name, _)| asked.iter().any(|a| a == name));
        Ok(session.stepper(state, &feeds, &[fed::LOSS])?)
    }
}

fn reshaped(b: &mut Builder, v: &Value, shape: &[usize]) -> Value {
    if v.shape() == shape {
        return v.clone();
    }
    let target = b.constant(Tensor::ints(&shape.iter().map(|&d| d as i64).collect::<Vec<_>>()));
    b.op("Reshape", &[v, &target], &[], shape)
}

/// Learns noise, step by step.
pub struct NoiseStepper {
    stepper: Stepper,
    optimizer: Optimizer,
    input: String,
    running: Vec<Running>,
    t: usize,
}

impl NoiseStepper {
    /// Starts anew from `noise`, [batch, ...], for the classes given one-hot in `targets`, [batch, classes].
    pub fn restart(&mut self, noise: &Arc<Tensor>, targets: &[f32]) -> Result<(), RuntimeError> {
        self.t = 0;
        let z = format!("{}/next", self.input);
        self.stepper.set_state(&z, Some(noise))?;
        for part in self.optimizer.state() {
            self.stepper.set_state(&format!("onnx-unlearn:{part}/{}/next", self.input), None)?;
        }
        self.stepper.feed(fed::TARGETS).copy_from_slice(targets);
        Ok(())
    }

    /// One step at learning rate `lr`; gives J before the step.
    pub fn step(&mut self, lr: f64) -> Result<f32, RuntimeError> {
        self.t += 1;
        set_schedule(&mut self.stepper, self.optimizer, self.t, lr);
        Ok(self.stepper.step()?[0])
    }

    /// The noise as it is now.
    pub fn noise(&self) -> Result<Tensor, RuntimeError> {
        self.stepper.state(&format!("{}/next", self.input))
    }

    /// The running statistics as they are now; empty when BatchNormalization is frozen.
    pub fn statistics(&self) -> Result<Weights, RuntimeError> {
        self.running.iter().map(|r| Ok((r.name.clone(), Arc::new(self.stepper.state(&r.next)?)))).collect()
    }
}

/// Trains weights, step by step.
pub struct WeightStepper {
    stepper: Stepper,
    optimizer: Optimizer,
    input: String,
    names: Vec<String>,
    running: Vec<Running>,
    t: usize,
}

impl WeightStepper {
    /// The batch of the next step: samples, one-hot targets [batch, classes] and sample weights [batch].
    pub fn feed(&mut self, x: &[f32], targets: &[f32], sample_weights: &[f32]) {
        self.stepper.feed(&self.input).copy_from_slice(x);
        self.stepper.feed(fed::TARGETS).copy_from_slice(targets);
        self.stepper.feed(fed::SAMPLE_WEIGHTS).copy_from_slice(sample_weights);
    }

    /// One step at learning rate `lr`; gives the loss before the step.
    pub fn step(&mut self, lr: f64) -> Result<f32, RuntimeError> {
        self.t += 1;
        set_schedule(&mut self.stepper, self.optimizer, self.t, lr);
        Ok(self.stepper.step()?[0])
    }

    /// The weights and running statistics as they are now.
    pub fn weights(&self) -> Result<Weights, RuntimeError> {
        let mut weights = Weights::new();
        for name in &self.names {
            weights.insert(name.clone(), Arc::new(self.stepper.state(&format!("{name}/next"))?));
        }
        for r in &self.running {
            weights.insert(r.name.clone(), Arc::new(self.stepper.state(&r.next)?));
        }
        Ok(weights)
    }

    /// Forgets what the optimizer remembers, as a new optimizer on the same weights would.
    pub fn fresh_optimizer(&mut self) -> Result<(), RuntimeError> {
        self.t = 0;
        for name in &self.names {
            for part in self.optimizer.state() {
                self.stepper.set_state(&format!("onnx-unlearn:{part}/{name}/next"), None)?;
            }
        }
        Ok(())
    }
}

fn set_schedule(stepper: &mut Stepper, optimizer: Optimizer, t: usize, lr: f64) {
    let schedule = optimizer.schedule(t, lr);
    stepper.feed(fed::RATE)[0] = schedule.rate;
    stepper.feed(fed::FLOOR)[0] = schedule.floor;
}
