//! The step graphs: forward nodes, their gradients and the optimizer in one graph.

use super::{
    batch_norm::Running,
    loss::{self, CrossEntropy},
    network::{Network, TrainError, Weights},
    optimizer::{self, Optimizer},
    stepper::{NoiseStepper, WeightStepper},
    trace::Traced,
};
use crate::{
    autodiff,
    graph::{Builder, Value},
    onnx,
    runtime::{Engine, State, Stepper},
    tensor::{DType, Tensor},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Names of what a step graph is fed; no name in a model starts like this by chance.
pub(super) mod fed {
    pub const TARGETS: &str = "onnx-unlearn:targets";
    pub const SAMPLE_WEIGHTS: &str = "onnx-unlearn:sample-weights";
    pub const RATE: &str = "onnx-unlearn:rate";
    pub const FLOOR: &str = "onnx-unlearn:floor";
    pub const LOSS: &str = "onnx-unlearn:loss";
    pub const HITS: &str = "onnx-unlearn:hits";
}

/// A network at a fixed batch size: what step graphs are written from.
pub struct BatchedNetwork<'n> {
    pub(super) network: &'n Network,
    pub(super) engine: Engine,
    pub(super) traced: Traced,
    pub(super) running: Vec<Running>,
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
        let feeds = [(fed::TARGETS, vec![self.batch, self.classes])];
        let stepper = self.stepper("the noise step", b, state, &feeds, &[fed::LOSS])?;
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
        let flat = reshaped(&mut b, &logits, &[self.batch, self.classes]);
        let hits = loss::hits(&mut b, &flat, &targets, &sample_weights);
        b.output_as(&hits, fed::HITS);
        let feeds = [
            (self.network.input.as_str(), shape),
            (fed::TARGETS, vec![self.batch, self.classes]),
            (fed::SAMPLE_WEIGHTS, vec![self.batch, 1]),
        ];
        let stepper = self.stepper("the training step", b, state, &feeds, &[fed::LOSS, fed::HITS])?;
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
    ) -> Result<HashMap<String, Value>, TrainError> {
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
        read: &[&str],
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
        Ok(session.stepper(state, &feeds, read)?)
    }
}

pub(super) fn reshaped(b: &mut Builder, v: &Value, shape: &[usize]) -> Value {
    if v.shape() == shape {
        return v.clone();
    }
    let target = b.constant(Tensor::ints(&shape.iter().map(|&d| d as i64).collect::<Vec<_>>()));
    b.op("Reshape", &[v, &target], &[], shape)
}
