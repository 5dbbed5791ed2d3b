//! Compares the gradient graph of a network with central differences: node by node, and as a whole.
//!
//! A node by itself shows whether its rules are right, and names the culprit if not. The whole shows that the rules were
//! put together rightly. Differences are taken in float64 wherever ONNX Runtime can (see `wide`), because float32 leaves
//! too little behind a dozen layers, and because only very short steps stay on one side of every Relu and MaxPool.

mod alone;
mod node;
mod slope;
mod whole;
mod wide;

pub use whole::{Along, Direction, EndToEnd};

use super::{BatchedNetwork, Traced, TrainError, Weights};
use crate::{
    autodiff::{self, NotDifferentiable},
    graph::{Builder, Node, Value},
    ops::{self, Flow},
    runtime::Engine,
    tensor::{DType, Tensor},
};
use alone::Values;
use node::{Compared, Finding, Subject};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use whole::Whole;
use wide::Arithmetic;

/// What writes the gradient of one node: [`autodiff::backward`], or in tests something wrong on purpose.
pub type Backward<'a> = &'a dyn Fn(
    &mut Builder,
    &[Node],
    &HashMap<String, Arc<Tensor>>,
    &[(Value, Value)],
    &BTreeSet<String>,
    DType,
) -> Result<HashMap<String, Value>, NotDifferentiable>;

/// Loss of the batch and its gradients by the names of weights and input, at given weights:
/// [`Gradient::at`](super::Gradient::at), or in tests something wrong on purpose.
pub type Gradients<'a> = &'a mut dyn FnMut(&Weights) -> Result<(f32, BTreeMap<String, Tensor>), TrainError>;

/// How a check is made.
pub struct Settings<'a> {
    /// Largest error, relative to the usual size of the derivative.
    pub tolerance: f64,
    /// Standard normal numbers, the same ones for the same purpose.
    pub draw: &'a dyn Fn(&str, usize) -> Vec<f32>,
    /// Writes the gradients of a node.
    pub backward: Backward<'a>,
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Within the tolerance.
    Agrees,
    /// Differences show nothing at these values.
    NotComparable,
    /// Beyond the tolerance.
    Disagrees,
}

impl Outcome {
    /// Both together: the worse one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Disagrees, _) | (_, Self::Disagrees) => Self::Disagrees,
            (Self::NotComparable, _) | (_, Self::NotComparable) => Self::NotComparable,
            _ => Self::Agrees,
        }
    }
}

/// The gradient of one node with respect to one of its inputs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeCheck {
    /// Name of the node.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// The input.
    pub input: String,
    /// What the comparison came to.
    pub outcome: Outcome,
    /// Largest error, relative to the usual size of the derivative; absent where nothing was compared.
    pub error: Option<f64>,
    /// Share of the output elements that took part: those at which the operator is smooth.
    pub share: Option<f64>,
    /// `float64` or `float32`: what differences were taken in.
    pub differences: Option<String>,
    /// Why nothing was compared.
    pub reason: Option<String>,
}

/// What a whole check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checked {
    /// Every differentiated node with each of its inputs.
    pub nodes: Vec<NodeCheck>,
    /// The network as a whole.
    pub end_to_end: EndToEnd,
}

impl Checked {
    /// The gradient graph agrees when no node disagrees and the whole agrees. Nodes that cannot be compared by
    /// themselves do not change that: the whole has passed through them.
    pub fn outcome(&self) -> Outcome {
        if self.nodes.iter().any(|n| n.outcome == Outcome::Disagrees) {
            Outcome::Disagrees
        } else {
            self.end_to_end.outcome
        }
    }
}

/// Checks the gradient graph at `weights` on a batch with rows `x`, [batch, ...] or flat, whose labels are `targets`,
/// [predictions, classes]. `progress` hears how many of how many parts are done.
pub fn check(
    batched: &BatchedNetwork<'_>,
    settings: &Settings<'_>,
    weights: &Weights,
    x: &Tensor,
    targets: &Tensor,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Checked, TrainError> {
    let mut gradient = batched.gradient()?;
    let mut gradients = |weights: &Weights| gradient.at(weights, x, targets);
    check_gradients(batched, settings, weights, (x, targets), &mut gradients, progress)
}

/// [`check`] for gradients that come from elsewhere.
pub fn check_gradients(
    batched: &BatchedNetwork<'_>,
    settings: &Settings<'_>,
    weights: &Weights,
    (x, targets): (&Tensor, &Tensor),
    gradients: Gradients<'_>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Checked, TrainError> {
    let traced = &batched.traced;
    let opset = batched.network.graph.opset;
    let engine = batched.engine.on_cpu();
    let fed = batched.feeds(x.as_f32().unwrap_or_default());
    let values = values(&engine, traced, opset, weights, &fed)?;
    let native = |node| alone::native(&engine, traced, opset, node, &values);
    let native: Vec<Arithmetic> = traced.nodes.iter().map(native).collect();
    let mut wanted: BTreeSet<String> = weights.keys().cloned().collect();
    wanted.insert(batched.site().to_owned());
    let logits = [batched.network.head.logits.as_str()];
    let (active, _) = autodiff::reach(&traced.nodes, &logits, &wanted);
    let heard = autodiff::heard(&traced.nodes, &logits);

    let parts = traced.nodes.len() + 2 * whole::DIRECTIONS;
    let mut nodes = Vec::new();
    let mut estimated = false;
    for (i, (node, &arithmetic)) in traced.nodes.iter().zip(&native).enumerate() {
        let differentiable = |i: &usize| matches!(ops::find(node).and_then(|op| op.flow(*i)), Some(Flow::Vjp(_)));
        let wanted: BTreeSet<String> = (0..node.inputs.len())
            .filter(differentiable)
            .filter_map(|i| node.input(i))
            .filter(|name| active.contains(*name))
            .map(str::to_owned)
            .collect();
        let heard: Vec<String> = node.outputs.iter().filter(|o| heard.contains(o.as_str())).cloned().collect();
        if !wanted.is_empty() && !heard.is_empty() {
            estimated |= ops::is_estimated(node);
            let subject = Subject { engine: &engine, settings, opset, traced, node, arithmetic, wanted, heard };
            nodes.extend(subject.check(&values).into_iter().map(|(input, f)| row(node, input, f, settings.tolerance)));
        }
        progress(i + 1, parts);
    }
    let arithmetic: Vec<Arithmetic> =
        native.into_iter().map(|a| if a == Arithmetic::Float32 { Arithmetic::WrittenOut } else { a }).collect();
    let done = traced.nodes.len();
    let mut progress = |n| progress(done + n, parts);
    let end_to_end = Whole { batched, settings, fed: &fed, targets, gradients, estimated }.check(
        weights,
        arithmetic,
        &mut progress,
    )?;
    Ok(Checked { nodes, end_to_end })
}

fn row(node: &Node, input: String, finding: Finding, tolerance: f64) -> NodeCheck {
    let (node, operator) = (node.name.clone(), node.op.clone());
    match finding {
        Finding::Compared(Compared { error, share, dtype, .. }) => NodeCheck {
            node,
            operator,
            input,
            outcome: if error <= tolerance { Outcome::Agrees } else { Outcome::Disagrees },
            error: Some(error),
            share: Some(share),
            differences: Some(dtype.to_string()),
            reason: None,
        },
        Finding::NotComparable(reason) => NodeCheck {
            node,
            operator,
            input,
            outcome: Outcome::NotComparable,
            error: None,
            share: None,
            differences: None,
            reason: Some(reason),
        },
    }
}

/// Every value of the network for one batch.
fn values(
    engine: &Engine,
    traced: &Traced,
    opset: i64,
    weights: &Weights,
    fed: &[(String, Tensor)],
) -> Result<Values, TrainError> {
    let mut b = Builder::new(opset);
    for (name, t) in fed {
        b.input(name, t.dtype(), t.shape());
    }
    for (name, weight) in weights {
        b.named_constant(name, Arc::clone(weight));
    }
    traced.replay(&mut b, false);
    // Types that cannot be copied are those that no difference is taken of.
    let held = |name: &str| {
        let dtype = traced.values.get(name).map(|(dtype, _)| *dtype);
        matches!(dtype, Some(DType::F32 | DType::I64 | DType::I32 | DType::Bool | DType::U8 | DType::I8))
    };
    for name in traced.nodes.iter().flat_map(|n| &n.outputs).filter(|o| held(o)) {
        if let Some(value) = b.value(name).cloned() {
            b.output(&value);
        }
    }
    let mut session = engine.plain_session("the model, for the values of a batch", &b.finish())?;
    let mut values: Values = weights.iter().map(|(name, w)| (name.clone(), Arc::clone(w))).collect();
    values.extend(fed.iter().map(|(name, t)| (name.clone(), Arc::new(t.clone()))));
    let fed: Vec<(&str, &Tensor)> = fed.iter().map(|(name, t)| (name.as_str(), t)).collect();
    for (name, contents) in session.outputs().into_iter().zip(session.run(&fed)?) {
        values.insert(name, Arc::new(contents));
    }
    Ok(values)
}
