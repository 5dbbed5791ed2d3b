//! The step graphs: forward nodes, their gradients and the optimizer in one graph.

use super::{
    batch_norm::Running,
    head::Layout,
    in_place,
    inputs::{self, Row, Site},
    loss::{self, Loss},
    network::{Network, TrainError, Weights},
    optimizer::{self, Optimizer},
    shorter::Shorter,
    stepper::{NoiseStepper, Sizes, WeightStepper},
    trace::Traced,
};
use crate::{
    autodiff,
    graph::{Builder, Graph, Value},
    runtime::{Engine, RuntimeError, Session, State, Stepper},
    tensor::{DType, Tensor},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Names of what a step graph is fed; no name in a model starts like this by chance.
pub(super) mod fed {
    pub const TARGETS: &str = "onnx-unlearn:targets";
    pub const SAMPLE_WEIGHTS: &str = "onnx-unlearn:sample-weights";
    pub const RATE: &str = "onnx-unlearn:rate";
    pub const FLOOR: &str = "onnx-unlearn:floor";
    /// Sum of the sample weights of a batch that is fed in parts, and 1 with the last part.
    pub const TOTAL: &str = "onnx-unlearn:total";
    pub const LAST: &str = "onnx-unlearn:last";
    pub const LOSS: &str = "onnx-unlearn:loss";
    pub const HITS: &str = "onnx-unlearn:hits";
    /// Rows of several inputs.
    pub const SAMPLES: &str = "onnx-unlearn:samples";
    /// The noise, standardized.
    pub const Z: &str = "onnx-unlearn:z";
    /// The noise in the place of a value inside the graph, and for which samples.
    pub const NOISE: &str = "onnx-unlearn:noise";
    pub const IS_NOISE: &str = "onnx-unlearn:is-noise";

    /// True for what takes the place of a value, and is no input of the model.
    pub fn is_noise(name: &str) -> bool {
        name == NOISE || name == IS_NOISE
    }

    /// Ending of the name of what the graph computes at that place.
    pub const CLEAN: &str = "/onnx-unlearn:clean";
}

/// A network at a fixed batch size: what step graphs are written from.
pub struct BatchedNetwork<'n> {
    pub(super) network: &'n Network,
    pub(super) engine: Engine,
    pub(super) traced: Traced,
    pub(super) running: Vec<Running>,
    /// How the rows that a step is fed are made up.
    pub row: Row,
    /// Samples in a batch.
    pub batch: usize,
    /// How the logits are read.
    pub layout: Layout,
}

/// The range that noise lives in: x = center + spread * z for standardized noise z.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Mean of the values that the model is used to.
    pub center: f64,
    /// Their standard deviation.
    pub spread: f64,
}

impl Range {
    /// Of an input that is normalised outside the model.
    pub const NORMALISED: Self = Self { center: 0.0, spread: 1.0 };
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

/// What noise is learned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The largest error of the class: what UNSIR impairs with.
    Error,
    /// The smallest: images that the model takes for the class, whatever they look like.
    Likeness,
}

impl<'n> BatchedNetwork<'n> {
    /// Shape of the value that noise is learned for, batch first.
    pub fn noise_shape(&self) -> &[usize] {
        let name = match self.network.site {
            Site::Input => &self.network.input,
            Site::Value { ref name, .. } => name,
        };
        self.traced.shape(name).unwrap_or_default()
    }

    /// Bytes that a training step holds at most: every value and its gradient, and for each weight its gradient and what the
    /// optimizer reads and writes; in a step that takes a part of a batch, the sums of the gradients as well. The runtime
    /// reuses memory where it can, so a step takes less.
    pub fn memory(&self, optimizer: Optimizer, part: bool) -> usize {
        let weights = self.network.weight_elements();
        let arrays = match (optimizer.overwrites(self.engine.device().has_native()), part) {
            // The weight, two moments and the gradient.
            (true, false) => 4,
            // The sum of gradients before and after.
            (true, true) => 6,
            // The weight and two moments before and after, and the gradient.
            (false, false) => 7,
            // The sums before and after, and all that is kept in case that the part is not the last.
            (false, true) => 13,
        };
        size_of::<f32>() * (2 * self.values() + arrays * weights)
    }

    /// Elements of all values that the nodes compute from a batch.
    pub fn values(&self) -> usize {
        let size = |name: &String| self.traced.shape(name).map_or(0, |s| s.iter().product::<usize>());
        self.traced.nodes.iter().flat_map(|n| &n.outputs).map(size).sum()
    }

    /// Number of rows in the table that integers of an input look up, where that is what they are for.
    pub fn indices(&self, input: &str) -> Option<usize> {
        inputs::rows(&self.traced, input)
    }

    /// Rows of the loss: predictions of all samples.
    pub fn predictions(&self) -> usize {
        self.batch * self.layout.predictions
    }

    /// The step graph that learns standardized noise Z, [batch, ...], for the class given by the targets; weights stay
    /// fixed. `rows` are samples, flat, which give the inputs that are not noise.
    ///
    /// J(Z) = lambda mean_i ||Z_i||^2 - CE(f(center + spread Z), targets)
    /// (Tarun et al. 2023, equation of the noise matrix, where center is 0 and spread is 1), with + CE for
    /// [`Goal::Likeness`].
    pub fn noise_stepper(
        &self,
        weights: &Weights,
        goal: Goal,
        loss: NoiseLoss,
        range: Range,
        rows: &[f32],
    ) -> Result<NoiseStepper, TrainError> {
        let optimizer = Optimizer::ADAM;
        let shape = self.noise_shape().to_vec();
        let mut b = self.builder();
        let z = b.input(fed::Z, DType::F32, &shape);
        let site = self.place_noise(&mut b, &z, range, rows);
        let n = self.predictions();
        let targets = b.input(fed::TARGETS, DType::F32, &[n, self.layout.classes]);
        let equal = Tensor::f32([n, 1], vec![1.0; n]);
        let sample_weights = b.named_constant(fed::SAMPLE_WEIGHTS, Arc::new(equal));
        let mut state = self.running_inputs(&mut b);
        for (name, tensor) in weights.iter().filter(|(name, _)| !self.moves(name)) {
            b.named_constant(name, Arc::clone(tensor));
        }
        // Constant weights are better off in the file's form, unless the tool brings its own.
        let lower = b.is_native();
        self.traced.replay(&mut b, lower);
        let (logits, ce) = self.loss(&mut b, &targets, &sample_weights, None);
        let found = self.backward(&mut b, &logits, &ce, &BTreeSet::from([site.clone()]))?;
        let dx = found.get(&site).cloned();
        let dx = dx.ok_or_else(|| TrainError::NoInput { path: self.network.path.clone() })?;

        b.set_scope("noise");
        let samples = self.batch as f64;
        let share = if loss.per_element { samples * shape[1..].iter().product::<usize>() as f64 } else { samples };
        let number = |b: &mut Builder, v: f64| b.constant(Tensor::scalar(v as f32));
        let dz = match range {
            Range { spread: 1.0, .. } => dx,
            Range { spread, .. } => {
                let spread = number(&mut b, spread);
                b.op("Mul", &[&dx, &spread], &[], &shape)
            }
        };
        let squares = b.op("ReduceSumSquare", &[&z], &[("keepdims", 0i64.into())], &[]);
        let factor = number(&mut b, loss.penalty / share);
        let penalty = b.op("Mul", &[&squares, &factor], &[], &[]);
        let sign = if goal == Goal::Error { "Sub" } else { "Add" };
        let objective = b.op(sign, &[&penalty, &ce.loss], &[], &[]);
        let slope = number(&mut b, 2.0 * loss.penalty / share);
        let pull = b.op("Mul", &[&z, &slope], &[], &shape);
        let gradient = b.op(sign, &[&pull, &dz], &[], &shape);
        state.extend(Self::update(&mut b, &[(z, gradient)], optimizer, None));
        b.output_as(&objective, fed::LOSS);
        let feeds = vec![(fed::TARGETS.to_owned(), vec![n, self.layout.classes])];
        let graph = self.graph(b);
        let session = self.engine.session("the noise step", &graph)?;
        let stepper = StepGraph::new(session, state, feeds, &[fed::LOSS]).open(|name| self.initial(weights, name))?;
        Ok(NoiseStepper { stepper, optimizer, range, running: self.running.clone(), t: 0 })
    }

    /// The range that noise lives in: the one given, else what a batch of samples, flat `rows`, shows. Values with a mean of
    /// at most 1 and a standard deviation from 0.5 to 2 count as normalised.
    pub fn range(&self, weights: &Weights, given: Option<Range>, rows: &[f32]) -> Result<Range, TrainError> {
        if let Some(range) = given {
            return Ok(range);
        }
        let values = self.site_values(weights, rows)?;
        let n = values.len().max(1) as f64;
        let center = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let spread = (values.iter().map(|&v| (f64::from(v) - center).powi(2)).sum::<f64>() / n).sqrt();
        let normalised = center.abs() <= 1.0 && (0.5..=2.0).contains(&spread);
        // A constant value says nothing about the range.
        Ok(if normalised || spread.abs() == 0.0 { Range::NORMALISED } else { Range { center, spread } })
    }

    /// What noise would have to be for these samples, flat `rows`: their values in its place, standardized.
    pub fn standardized(&self, weights: &Weights, range: Range, rows: &[f32]) -> Result<Tensor, TrainError> {
        let standard = |v: f32| ((f64::from(v) - range.center) / range.spread) as f32;
        let values = self.site_values(weights, rows)?.into_iter().map(standard).collect();
        Ok(Tensor::f32(self.noise_shape(), values))
    }

    /// The values of a batch of samples in the place where noise is learned.
    fn site_values(&self, weights: &Weights, rows: &[f32]) -> Result<Vec<f32>, TrainError> {
        let Site::Value { name, .. } = &self.network.site else {
            return Ok(self.row.split(rows).swap_remove(0).1.to_f32s());
        };
        let mut b = self.builder();
        for (name, tensor) in self.row.split(rows) {
            b.named_constant(&name, Arc::new(tensor));
        }
        let shape = self.noise_shape().to_vec();
        b.named_constant(fed::NOISE, Arc::new(Tensor::zeros(shape.as_slice())));
        let mut flag = vec![1; shape.len()];
        flag[0] = self.batch;
        b.named_constant(fed::IS_NOISE, Arc::new(Tensor::from_f32s(DType::Bool, flag, vec![0.0; self.batch])));
        for (name, tensor) in weights {
            b.named_constant(name, Arc::clone(tensor));
        }
        self.traced.replay(&mut b, false);
        let clean = b.value(&format!("{name}{}", fed::CLEAN)).cloned().expect("the site has been opened");
        b.output(&clean);
        let mut session = self.engine.on_cpu().session("the values behind the input", &b.finish())?;
        Ok(session.run(&[])?.swap_remove(0).to_f32s())
    }

    /// Writes the noise into its place and the other inputs beside it, and gives the name of the value that it is.
    fn place_noise(&self, b: &mut Builder, z: &Value, range: Range, rows: &[f32]) -> String {
        b.set_scope(fed::NOISE);
        let shape = z.shape().to_vec();
        let mut x = z.clone();
        if range != Range::NORMALISED {
            let [spread, center] = [range.spread, range.center].map(|v| b.constant(Tensor::scalar(v as f32)));
            x = b.op("Mul", &[&x, &spread], &[], &shape);
            x = b.op("Add", &[&x, &center], &[], &shape);
        }
        let name = self.site().to_owned();
        b.alias(&name, &x);
        for (other, tensor) in self.row.split(rows).into_iter().filter(|(other, _)| *other != name) {
            b.named_constant(&other, Arc::new(tensor));
        }
        if let Site::Value { .. } = self.network.site {
            let mut flag = vec![1; shape.len()];
            flag[0] = self.batch;
            let yes = Tensor::from_f32s(DType::Bool, flag, vec![1.0; self.batch]);
            b.named_constant(fed::IS_NOISE, Arc::new(yes));
        }
        b.set_scope("");
        name
    }

    /// The step graph that trains `weights` on batches of `batch` samples. Where the network takes fewer at a time, their
    /// gradients are summed up inside the graph, and the weights move after the last of them.
    pub fn weight_stepper(
        &self,
        weights: &Weights,
        optimizer: Optimizer,
        clip_norm: Option<f64>,
        batch: usize,
    ) -> Result<WeightStepper<'n>, TrainError> {
        let graph = self.weight_graph(optimizer, clip_norm, batch)?;
        let names = graph.names.clone();
        let stepper = graph.open(|name| self.initial(weights, name))?;
        let sizes = Sizes {
            samples: batch,
            at_once: self.batch,
            row: self.row.len(),
            predictions: self.layout.predictions,
            classes: self.layout.classes,
        };
        let shorter = Shorter::new(self, optimizer, clip_norm).filter(|_| batch == self.batch);
        let (input, _) = self.row.input();
        Ok(WeightStepper::new(stepper, optimizer, input, names, self.running.clone(), sizes, shorter))
    }

    /// The same, not yet with weights.
    pub(super) fn weight_graph(
        &self,
        optimizer: Optimizer,
        clip_norm: Option<f64>,
        batch: usize,
    ) -> Result<StepGraph, TrainError> {
        let mut b = self.builder();
        self.row.declare(&mut b);
        let n = self.predictions();
        let targets = b.input(fed::TARGETS, DType::F32, &[n, self.layout.classes]);
        let sample_weights = b.input(fed::SAMPLE_WEIGHTS, DType::F32, &[n, 1]);
        let mut state = self.running_inputs(&mut b);
        // The runtime begins with all that the last node of a graph needs. With the weights nearest the loss last, every
        // gradient of a weight is used up before the one in front of it is made, and what it was made from can go.
        let place = self.traced.first_readers();
        let mut trained: Vec<String> = self.network.trained().map(str::to_owned).collect();
        trained.sort_by(|a, b| (place.get(a.as_str()), a).cmp(&(place.get(b.as_str()), b)));
        for name in &trained {
            b.input(name, DType::F32, self.network.graph.constants[name].shape());
        }
        self.traced.replay(&mut b, true);
        let total = (batch > self.batch).then(|| b.input(fed::TOTAL, DType::F32, &[]));
        let (logits, ce) = self.loss(&mut b, &targets, &sample_weights, total.as_ref());
        let mut found = self.backward(&mut b, &logits, &ce, &trained.iter().cloned().collect())?;
        b.set_scope("optimizer");
        let (names, mut gradients): (Vec<String>, Vec<Value>) =
            trained.into_iter().filter_map(|name| found.remove(&name).map(|gradient| (name, gradient))).unzip();
        let last = total.map(|_| Last::declare(&mut b));
        if let Some(last) = &last {
            for (name, gradient) in names.iter().zip(&mut gradients) {
                state.push(last.accumulate(&mut b, name, gradient));
            }
        }
        if let Some(limit) = clip_norm {
            optimizer::clip_global_norm(&mut b, &mut gradients, limit);
        }
        let mut updates = Vec::new();
        for (name, gradient) in names.iter().zip(gradients) {
            if let Some(w) = b.value(name).cloned() {
                updates.push((w, gradient));
            }
        }
        state.extend(Self::update(&mut b, &updates, optimizer, last.as_ref()));
        b.output_as(&ce.loss, fed::LOSS);
        b.output_as(&ce.hits, fed::HITS);
        let (input, shape) = self.row.input();
        let feeds = vec![
            (input, shape),
            (fed::TARGETS.to_owned(), vec![n, self.layout.classes]),
            (fed::SAMPLE_WEIGHTS.to_owned(), vec![n, 1]),
            (fed::TOTAL.to_owned(), vec![]),
            (fed::LAST.to_owned(), vec![]),
        ];
        let graph = self.graph(b);
        // Graphs for shorter batches run in turn with it.
        let session = self.engine.session_in_turn("the training step", &graph)?;
        Ok(StepGraph { names, ..StepGraph::new(session, state, feeds, &[fed::LOSS, fed::HITS]) })
    }

    /// Name of the value that noise takes the place of: the input, or a value behind it.
    pub fn site(&self) -> &str {
        match self.network.site {
            Site::Input => &self.network.input,
            Site::Value { .. } => fed::NOISE,
        }
    }

    /// What the traced nodes are fed for flat `rows` of [`Row::len`] elements, every sample counting the same.
    pub(super) fn feeds(&self, rows: &[f32]) -> Vec<(String, Tensor)> {
        let mut feeds = self.row.split(rows);
        if self.traced.values.contains_key(fed::SAMPLE_WEIGHTS) {
            feeds.push((fed::SAMPLE_WEIGHTS.into(), Tensor::f32([self.batch, 1], vec![1.0; self.batch])));
        }
        feeds
    }

    pub(super) fn builder(&self) -> Builder {
        self.engine.graph(self.network.graph.opset)
    }

    /// The weights, and beside them the stored statistics that would move with them.
    pub fn with_statistics(&self, weights: &Weights) -> Weights {
        let mut all = weights.clone();
        for r in &self.running {
            all.entry(r.name.clone()).or_insert_with(|| Arc::clone(&self.network.graph.constants[&r.name]));
        }
        all
    }

    /// Statistics that move are inputs of the step graph and state between steps.
    fn running_inputs(&self, b: &mut Builder) -> Vec<State> {
        let state = |r: &Running| {
            let shape = self.network.graph.constants[&r.name].shape().to_vec();
            b.input(&r.name, DType::F32, &shape);
            State { input: r.name.clone(), output: r.next.clone(), shape, initial: None, in_place: false }
        };
        self.running.iter().map(state).collect()
    }

    /// The first value of a state: that of the weights or statistics of this name, where there are some.
    fn initial(&self, weights: &Weights, name: &str) -> Option<Arc<Tensor>> {
        weights.get(name).or_else(|| self.network.graph.constants.get(name)).cloned()
    }

    fn moves(&self, name: &str) -> bool {
        self.running.iter().any(|r| r.name == name)
    }

    /// Writes what makes one row of scores of every prediction.
    pub(super) fn scores(&self, b: &mut Builder) -> Value {
        let logits = b.value(&self.network.head.logits).cloned().expect("the trace has found the logits");
        loss::scores(b, &logits, self.layout, self.predictions())
    }

    pub(super) fn loss(
        &self,
        b: &mut Builder,
        targets: &Value,
        sample_weights: &Value,
        total: Option<&Value>,
    ) -> (Value, Loss) {
        let logits = b.value(&self.network.head.logits).cloned().expect("the trace has found the logits");
        let loss = loss::of(b, &logits, self.layout, targets, sample_weights, total);
        (logits, loss)
    }

    pub(super) fn backward(
        &self,
        b: &mut Builder,
        logits: &Value,
        loss: &Loss,
        wanted: &BTreeSet<String>,
    ) -> Result<HashMap<String, Value>, TrainError> {
        let seeds = [(logits.clone(), loss.dlogits.clone())];
        autodiff::backward(b, &self.traced.nodes, &self.traced.known, &seeds, wanted, DType::F32)
            .map_err(|source| TrainError::NotDifferentiable { path: self.network.path.clone(), source })
    }

    /// Writes the optimizer for every (value, gradient) and gives the state that it keeps.
    fn update(b: &mut Builder, updates: &[(Value, Value)], optimizer: Optimizer, last: Option<&Last>) -> Vec<State> {
        let rate = b.input(fed::RATE, DType::F32, &[]);
        let floor = b.input(fed::FLOOR, DType::F32, &[]);
        let in_place = optimizer.overwrites(b.is_native());
        let go = last.map_or_else(|| b.constant(Tensor::scalar(1.0)), |last| last.number.clone());
        let mut states = Vec::new();
        for (w, gradient) in updates {
            let shape = w.shape().to_vec();
            let slots: Vec<Value> = optimizer
                .state()
                .iter()
                .map(|part| b.input(&format!("onnx-unlearn:{part}/{}", w.name()), DType::F32, &shape))
                .collect();
            let (next, moved) = optimizer.update(b, w, gradient, &slots, [&rate, &floor, &go]);
            let mut keep = |from: &Value, to: &Value| {
                let waits = last.filter(|_| !in_place);
                let to = &waits.map_or(to.clone(), |last| last.then(b, to, from));
                let output = format!("{}/next", from.name());
                b.output_as(to, &output);
                let (input, shape) = (from.name().to_owned(), shape.clone());
                states.push(State { input, output, shape, initial: None, in_place });
            };
            keep(w, &next);
            for (slot, value) in slots.iter().zip(&moved) {
                keep(slot, value);
            }
        }
        states
    }

    /// The finished graph of a step.
    fn graph(&self, mut b: Builder) -> Graph {
        for r in &self.running {
            let next = b.value(&r.next).cloned().expect("the statistics are written out with the graph");
            b.output(&next);
        }
        let mut graph = b.finish();
        in_place::wait_for_readers(&mut graph);
        graph
    }
}

/// A step graph that is open.
pub(super) struct StepGraph {
    session: Session,
    state: Vec<State>,
    feeds: Vec<(String, Vec<usize>)>,
    read: Vec<&'static str>,
    /// The weights that it trains.
    pub names: Vec<String>,
}

impl StepGraph {
    /// `feeds` are inputs that it may have, beside those of every step.
    fn new(session: Session, state: Vec<State>, mut feeds: Vec<(String, Vec<usize>)>, read: &[&'static str]) -> Self {
        feeds.extend([fed::RATE, fed::FLOOR].map(|name| (name.to_owned(), vec![])));
        let asked = session.inputs();
        feeds.retain(|(name, _)| asked.contains(name));
        Self { session, state, feeds, read: read.to_vec(), names: Vec::new() }
    }

    fn feeds(feeds: &[(String, Vec<usize>)]) -> Vec<(&str, Vec<usize>)> {
        feeds.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect()
    }

    /// Ready to step from these values of its state, by the name of the input; what has none begins with zeros.
    fn open(mut self, initial: impl Fn(&str) -> Option<Arc<Tensor>>) -> Result<Stepper, RuntimeError> {
        self.state.iter_mut().for_each(|s| s.initial = initial(&s.input));
        self.session.stepper(self.state, &Self::feeds(&self.feeds), &self.read)
    }

    /// Has `stepper` step its own state with this graph too, and gives the number of the graph.
    pub fn add_to(self, stepper: &mut Stepper) -> Result<usize, RuntimeError> {
        stepper.add(self.session, &Self::feeds(&self.feeds), &self.read)
    }
}

/// Tells the last part of a batch that is fed in parts.
struct Last {
    /// 1 with the last part, 0 with the others.
    number: Value,
    is_last: Value,
}

impl Last {
    fn declare(b: &mut Builder) -> Self {
        let number = b.input(fed::LAST, DType::F32, &[]);
        let half = b.constant(Tensor::scalar(0.5));
        let is_last = b.op("Greater", &[&number, &half], &[], &[]);
        Self { number, is_last }
    }

    /// `then` with the last part, `before` with the others.
    fn then(&self, b: &mut Builder, then: &Value, before: &Value) -> Value {
        let shape = before.shape().to_vec();
        b.op("Where", &[&self.is_last, then, before], &[], &shape)
    }

    /// Makes `gradient` the sum over the parts so far, which starts anew after the last one.
    fn accumulate(&self, b: &mut Builder, name: &str, gradient: &mut Value) -> State {
        let shape = gradient.shape().to_vec();
        let so_far = b.input(&format!("onnx-unlearn:sum/{name}"), DType::F32, &shape);
        *gradient = b.op("Add", &[&so_far, gradient], &[], &shape);
        let zero = b.constant(Tensor::scalar(0.0));
        let kept = self.then(b, &zero, gradient);
        let output = format!("{}/next", so_far.name());
        b.output_as(&kept, &output);
        // The sum so far is read by the addition alone, which is done by then.
        let in_place = b.is_native();
        State { input: so_far.name().to_owned(), output, shape, initial: None, in_place }
    }
}
