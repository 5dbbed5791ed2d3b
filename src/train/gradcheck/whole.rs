//! The whole network: the gradient of the loss against differences of the loss.

use super::{
    Gradients, Outcome, Settings,
    alone::STEP,
    slope::{dot, median, rms, worse},
    wide::{Arithmetic, Wide, direction},
};
use crate::{
    graph::Graph,
    runtime::{RuntimeError, Session},
    tensor::{DType, Data, Tensor},
    train::{BatchedNetwork, TrainError, Weights, loss, steps},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Directions the weights and the input are moved in.
pub(super) const DIRECTIONS: usize = 3;
/// Steps of the differences in float64, relative to each element, until one is certain enough.
/// The first are so short that hardly a Relu or MaxPool changes sides; the last are for gradients that all but vanish.
const STEPS_64: &[f64] = &[1e-6, 1e-7, 1e-4, 1e-2];
/// The same where part of the network is computed in float32.
const STEPS_32: &[f64] = &[1e-2, 1e-3, 1e-4];
/// What rounding may do to a difference of losses, in units of loss over step, in float64 and with parts in float32.
const ROUNDING_64: f64 = 1e-15;
const ROUNDING_32: f64 = 1.2e-7;
/// Differences as certain as this share of the tolerance need no other step.
const CERTAIN: f64 = 0.1;
/// Differences less certain than this, relative to the usual size of the derivative, show nothing.
const UNCERTAIN: f64 = 0.1;
/// How far weights are moved off a kink, relative to each.
const NUDGE: f32 = 0.01;
/// How far they are moved to see what float32 rounding does to the gradient, relative to each: about what a sum of some
/// hundred products is off by.
const SHAKE: f32 = 1e-6;
/// How often. One value that crosses a kink is a matter of chance.
const SHAKES: usize = 4;
/// The step of the input; that of the weights is [`STEP`].
const INPUT_STEP: &str = "onnx-unlearn:input-step";

/// The gradient of the whole network against differences of its loss.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndToEnd {
    /// What all comparisons come to.
    pub outcome: Outcome,
    /// `float64`, or `float32` where some operators are computed in it.
    pub arithmetic: &'static str,
    /// Operators that are computed in float32, because ONNX Runtime has no float64 kernel for them.
    pub float32_operators: BTreeSet<String>,
    /// True when the weights were moved by a hundredth, because the loss has a kink at those of the file.
    pub nudged: bool,
    /// Cross-entropy of the batch in nats, by the step graph.
    pub loss: f64,
    /// The same by the forward nodes that differences are taken of.
    pub forward_loss: f64,
    /// Along directions of all weights together.
    pub weights: Along,
    /// Along directions of the data input.
    pub input: Along,
    /// Where the weights disagree: the one that accounts for most of it. A node that is right by itself can still have
    /// got a gradient that belongs elsewhere.
    pub worst_weight: Option<String>,
}

impl EndToEnd {
    fn uncertainty(&self) -> f64 {
        self.weights.uncertainty.max(self.input.uncertainty)
    }
}

/// Derivatives along random directions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Along {
    /// Whether the median error is allowed.
    pub outcome: Outcome,
    /// The tolerance and three times the uncertainty.
    pub allowed: f64,
    /// Every direction.
    pub directions: Vec<Direction>,
    /// Median over the directions of |gradient - differences|, relative to the usual size of the derivative.
    pub median_error: f64,
    /// The largest.
    pub worst_error: f64,
    /// Median over the directions of how uncertain the differences are (kinks, curvature, rounding), in the same way.
    pub uncertainty: f64,
}

/// The derivative of the loss along one direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Direction {
    /// Product of gradient and direction.
    pub gradient: f64,
    /// Central differences of the loss.
    pub differences: f64,
}

/// The network with its session, ready to be compared at different weights.
pub(super) struct Whole<'a> {
    pub batched: &'a BatchedNetwork<'a>,
    pub settings: &'a Settings<'a>,
    /// What the network is fed beside its weights.
    pub fed: &'a [(String, Tensor)],
    pub targets: &'a Tensor,
    /// Loss and gradients by the names of weights and input, at given weights.
    pub gradients: Gradients<'a>,
    /// True where a gradient passes an estimator, which is not the derivative that differences show: nothing is claimed.
    pub estimated: bool,
}

impl Whole<'_> {
    /// Compares the gradients with differences of the loss. `arithmetic` says how each traced node is computed.
    ///
    /// Where the loss has a kink at these very weights (a bias of 0 before a Relu that nothing else reaches), weights that
    /// differ by a hundredth are tried, and the more certain of both counts.
    pub fn check(
        &mut self,
        weights: &Weights,
        mut arithmetic: Vec<Arithmetic>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<EndToEnd, TrainError> {
        let graph = graph(self.batched, weights, self.fed, &mut arithmetic);
        let mut session = self.batched.engine.on_cpu().session("the loss in float64", &graph)?;
        let nodes = self.batched.traced.nodes.iter().zip(&arithmetic);
        let float32: BTreeSet<String> =
            nodes.filter(|(_, a)| **a == Arithmetic::Float32).map(|(n, _)| n.op.clone()).collect();
        let first = self.at(weights, &mut session, &float32, progress)?;
        if first.outcome == Outcome::Disagrees || first.uncertainty() <= self.settings.tolerance {
            return Ok(first);
        }
        let nudged = self.moved(weights, "nudge", NUDGE);
        let mut second = self.at(&nudged, &mut session, &float32, progress)?;
        second.nudged = true;
        let better = second.outcome == Outcome::Disagrees || second.uncertainty() < first.uncertainty();
        Ok(if better { second } else { first })
    }

    /// Weights that differ from `weights` by `share` of their size, at random.
    fn moved(&self, weights: &Weights, what: &str, share: f32) -> Weights {
        let usual = usual(weights);
        let moved = |(name, w): (&String, &Arc<Tensor>)| {
            let noise = random(self.settings, what, name, w, usual);
            let sum = w.as_f32().unwrap_or_default().iter().zip(noise.as_f32().unwrap_or_default());
            (name.clone(), Arc::new(Tensor::f32(w.shape(), sum.map(|(w, n)| w + share * n).collect())))
        };
        weights.iter().map(moved).collect()
    }

    fn at(
        &mut self,
        weights: &Weights,
        session: &mut Session,
        float32: &BTreeSet<String>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<EndToEnd, TrainError> {
        let (loss, gradients) = (self.gradients)(weights)?;
        // In a deep network rounding alone moves some values across a kink, and the gradient with them.
        let shaken = (0..SHAKES).map(|k| {
            let moved = self.moved(weights, &format!("shake {k}"), SHAKE);
            Ok((self.gradients)(&moved)?.1)
        });
        let shaken = shaken.collect::<Result<Vec<_>, TrainError>>()?;
        let input = self.batched.site();
        let (steps, rounding) = if float32.is_empty() { (STEPS_64, ROUNDING_64) } else { (STEPS_32, ROUNDING_32) };
        let mut values: Weights = weights.clone();
        values.extend(self.fed.iter().map(|(name, t)| (name.clone(), Arc::new(t.clone()))));
        let usual = usual(weights);
        let direction = |k: usize| {
            let draw = |(name, value): (&String, &Arc<Tensor>)| {
                (name.clone(), random(self.settings, &format!("direction {k}"), name, value, usual))
            };
            values.iter().filter(|(name, _)| weights.contains_key(*name) || *name == input).map(draw).collect()
        };
        let mut bench = Bench {
            session,
            targets: self.targets,
            directions: (0..DIRECTIONS).map(direction).collect(),
            values: &values,
            gradients: &gradients,
            shaken: &shaken,
            tolerance: self.settings.tolerance,
            rounding,
            base: f64::NAN,
            usual,
        };
        bench.base = bench.loss(0, 0.0, 0.0)?;
        let forward_loss = bench.base;
        let names = weights.keys().map(String::as_str).collect();
        let mut weights = bench.along(true, &names, steps, progress)?;
        if self.estimated {
            weights.outcome = Outcome::NotComparable;
        }
        let worst_weight =
            if weights.outcome == Outcome::Disagrees { bench.worst_weight(&names, steps[0])? } else { None };
        let mut input = bench.along(false, &BTreeSet::from([input]), steps, &mut |n| progress(DIRECTIONS + n))?;
        if self.estimated {
            input.outcome = Outcome::NotComparable;
        }
        let loss = f64::from(loss);
        let apart = (loss - forward_loss).abs() / forward_loss.abs().max(1.0);
        let of_loss = if apart <= self.settings.tolerance { Outcome::Agrees } else { Outcome::Disagrees };
        Ok(EndToEnd {
            outcome: of_loss.and(weights.outcome).and(input.outcome),
            arithmetic: if float32.is_empty() { "float64" } else { "float32" },
            float32_operators: float32.clone(),
            nudged: false,
            loss,
            forward_loss,
            weights,
            input,
            worst_weight,
        })
    }
}

/// A random direction of one tensor, in which every element moves in proportion to its size: tables of very different
/// numbers stay what they are.
fn random(settings: &Settings<'_>, what: &str, name: &str, value: &Tensor, usual: f64) -> Tensor {
    let normal = (settings.draw)(&format!("end-to-end {what} {name}"), value.len());
    let moved = scales(value, usual).zip(normal).map(|(scale, n)| (scale * f64::from(n)) as f32);
    Tensor::f32(value.shape(), moved.collect())
}

/// What each element of a direction is scaled by: its size; that of the others where it is 0, and the usual one where
/// all are.
fn scales(value: &Tensor, usual: f64) -> impl Iterator<Item = f64> {
    let values = value.as_f32().unwrap_or_default();
    let size = [rms(values), usual, 1.0].into_iter().find(|s| *s > 0.0).unwrap_or(1.0);
    values.iter().map(move |v| if *v == 0.0 { size } else { f64::from(v.abs()) })
}

/// The usual size of a weight.
fn usual(weights: &Weights) -> f64 {
    median(weights.values().filter_map(|w| w.as_f32()).map(rms).filter(|r| *r > 0.0).collect())
}

/// The loss as a function of two numbers: how far weights and input have moved along one of the directions.
struct Bench<'v> {
    session: &'v mut Session,
    values: &'v Weights,
    targets: &'v Tensor,
    directions: Vec<BTreeMap<String, Tensor>>,
    gradients: &'v BTreeMap<String, Tensor>,
    /// The same at weights that differ by rounding.
    shaken: &'v [BTreeMap<String, Tensor>],
    tolerance: f64,
    rounding: f64,
    /// The loss where nothing has moved.
    base: f64,
    /// The usual size of a weight.
    usual: f64,
}

impl Bench<'_> {
    /// Gradient against differences along every direction, weights or input moving. Of several steps the one counts at
    /// which differences are most certain.
    fn along(
        &mut self,
        weights: bool,
        names: &BTreeSet<&str>,
        steps: &[f64],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Along, RuntimeError> {
        let flat = |name: &&str| self.gradients.get(*name).and_then(|g| g.as_f32());
        // Directions are independent, so the product with one is about as large as the scaled gradient is long.
        let square = |(s, g): (f64, &f32)| (s * f64::from(*g)).powi(2);
        let squares = |n: &&str| Some(scales(&self.values[*n], self.usual).zip(flat(n)?).map(square).sum::<f64>());
        let expected = names.iter().filter_map(squares).sum::<f64>().sqrt();
        let product = |gradients: &BTreeMap<String, Tensor>, d: &BTreeMap<String, Tensor>| -> f64 {
            names.iter().filter_map(|n| Some(dot(gradients.get(*n)?.as_f32()?, d[*n].as_f32()?))).sum()
        };
        let gradients: Vec<f64> = self.directions.iter().map(|d| product(self.gradients, d)).collect();
        // One that is no number is wrong, whatever rounding does.
        let rounding = |(d, own): (&BTreeMap<String, Tensor>, &f64)| {
            let others = self.shaken.iter().filter(|_| own.is_finite());
            others.map(|g| (product(g, d) - own).abs()).fold(0.0, worse)
        };
        let rounding: Vec<f64> = self.directions.iter().zip(&gradients).map(rounding).collect();
        let mut best: Option<Along> = None;
        for &h in steps {
            let mut slopes = Vec::new();
            for k in 0..self.directions.len() {
                slopes.push(self.slope(k, weights, h)?);
                progress(k + 1);
            }
            // No step makes differences say more than rounding leaves of the gradient.
            let enough = median(slopes.iter().map(|s| s.1).collect()) <= CERTAIN * median(rounding.clone());
            slopes.iter_mut().zip(&rounding).for_each(|(slope, rounding)| slope.1 += rounding);
            let found = judged(&gradients, &slopes, expected, self.tolerance);
            if best.as_ref().is_none_or(|b| found.uncertainty < b.uncertainty || b.uncertainty.is_nan()) {
                best = Some(found);
            }
            if enough || best.as_ref().is_some_and(|b| b.uncertainty <= CERTAIN * self.tolerance) {
                break;
            }
        }
        Ok(best.expect("there is a step"))
    }

    /// The weight that disagrees most when it moves alone along the first direction.
    fn worst_weight(&mut self, names: &BTreeSet<&str>, h: f64) -> Result<Option<String>, RuntimeError> {
        let all = self.directions[0].clone();
        for (name, direction) in &mut self.directions[0] {
            if names.contains(name.as_str()) {
                *direction = Tensor::zeros(direction.shape());
            }
        }
        let mut worst = (0.0, None);
        for &name in names {
            let still = self.directions[0].insert(name.to_owned(), all[name].clone());
            let (differences, _) = self.slope(0, true, h)?;
            self.directions[0].extend(still.map(|still| (name.to_owned(), still)));
            let g = self.gradients.get(name).and_then(|g| g.as_f32()).unwrap_or_default();
            let error = (dot(g, all[name].as_f32().unwrap_or_default()) - differences).abs();
            if error > worst.0 || (error.is_nan() && worst.0.is_finite()) {
                worst = (error, Some(name.to_owned()));
            }
        }
        self.directions[0] = all;
        Ok(worst.1)
    }

    /// Differences along direction `k`, extrapolated from steps h and h/2, and their uncertainty.
    fn slope(&mut self, k: usize, weights: bool, h: f64) -> Result<(f64, f64), RuntimeError> {
        let mut at = |h: f64| if weights { self.loss(k, h, 0.0) } else { self.loss(k, 0.0, h) };
        let (ll, l, r, rr) = (at(-h)?, at(-h / 2.0)?, at(h / 2.0)?, at(h)?);
        let (wide, narrow) = ((rr - ll) / (2.0 * h), (r - l) / h);
        let bend = |right: f64, left: f64, h: f64| (right + left - 2.0 * self.base) / (2.0 * h);
        // A kink between the steps sets the two differences apart. One at 0 itself does not, but it bends as much at half
        // the step as at the whole, where a smooth function bends half as much.
        let kink = 2.0 * bend(r, l, h / 2.0) - bend(rr, ll, h);
        let rounding = self.rounding * self.base.abs() / h;
        Ok(((4.0 * narrow - wide) / 3.0, (narrow - wide).abs() + kink.abs() + rounding))
    }

    fn loss(&mut self, k: usize, weights: f64, input: f64) -> Result<f64, RuntimeError> {
        let number = |v| Tensor::new(vec![], Data::F64(vec![v]));
        let (weights, input) = (number(weights), number(input));
        let named: Vec<(String, &Tensor)> = self.directions[k].iter().map(|(n, d)| (direction(n), d)).collect();
        let mut feeds = vec![(STEP, &weights), (INPUT_STEP, &input), (steps::fed::TARGETS, self.targets)];
        feeds.extend(self.values.iter().map(|(n, t)| (n.as_str(), t.as_ref())));
        feeds.extend(named.iter().map(|(n, d)| (n.as_str(), *d)));
        let outputs = self.session.run(&feeds)?;
        Ok(outputs.first().and_then(Tensor::to_scalar).unwrap_or(f64::NAN))
    }
}

/// What the products of gradient and directions and the slopes (with their uncertainty) come to.
fn judged(gradients: &[f64], slopes: &[(f64, f64)], expected: f64, tolerance: f64) -> Along {
    let pairs = gradients.iter().zip(slopes);
    let directions: Vec<Direction> =
        pairs.map(|(&gradient, &(differences, _))| Direction { gradient, differences }).collect();
    let scale = directions.iter().fold(expected, |m, d| m.max(d.differences.abs()));
    let errors: Vec<f64> = directions.iter().map(|d| (d.gradient - d.differences).abs() / scale).collect();
    let uncertainty = median(slopes.iter().map(|s| s.1).collect()) / scale;
    let median_error = median(errors.clone());
    let worst_error = errors.into_iter().fold(0.0, worse);
    // A gradient that is no number is wrong wherever there are differences. These show nothing where they are no numbers,
    // which makes the comparison false.
    let no_number = directions.iter().any(|d| d.differences.is_finite() && !d.gradient.is_finite());
    let certain = uncertainty <= UNCERTAIN;
    let allowed = tolerance + 3.0 * uncertainty;
    let outcome = match (certain, median_error <= allowed) {
        _ if no_number => Outcome::Disagrees,
        (false, _) => Outcome::NotComparable,
        (true, true) => Outcome::Agrees,
        (true, false) => Outcome::Disagrees,
    };
    Along { outcome, allowed, directions, median_error, worst_error, uncertainty }
}

/// The loss of a batch, weights and input moving along directions; float64 but for what has no kernel. Nodes that turn
/// out not to be writable in other operators are marked as float32.
fn graph(
    batched: &BatchedNetwork<'_>,
    weights: &Weights,
    fed: &[(String, Tensor)],
    arithmetic: &mut [Arithmetic],
) -> Graph {
    let mut wide = Wide::new(batched.network.graph.opset, &batched.traced);
    let step = wide.b.input(STEP, DType::F64, &[]);
    let input_step = wide.b.input(INPUT_STEP, DType::F64, &[]);
    for name in weights.keys() {
        wide.moving(name, &step);
    }
    for name in fed.iter().map(|(name, _)| name) {
        if name == batched.site() { wide.moving(name, &input_step) } else { wide.fed(name) }
    }
    let shape = [batched.predictions(), batched.layout.classes];
    let targets = wide.b.input(steps::fed::TARGETS, DType::F32, &shape);
    for (node, arithmetic) in batched.traced.nodes.iter().zip(arithmetic) {
        if wide.node(node, *arithmetic).is_none() {
            *arithmetic = Arithmetic::Float32;
            wide.node(node, *arithmetic);
        }
    }
    let logits = wide.double(&batched.network.head.logits).expect("the trace has found the logits");
    let targets = wide.cast(&targets, DType::F64);
    let equal = Tensor::new(vec![shape[0], 1], Data::F64(vec![1.0; shape[0]]));
    let equal = wide.b.constant(equal);
    let loss = loss::of(&mut wide.b, &logits, batched.layout, &targets, &equal, None);
    wide.b.output(&loss.loss);
    wide.b.finish()
}
