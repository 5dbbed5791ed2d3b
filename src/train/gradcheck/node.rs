//! One node by itself: its rules against differences of what ONNX Runtime computes, at the values of a real batch.

use super::{
    Settings,
    alone::{self, Moving, Values},
    slope::{Slope, dot, rms, worse},
    wide::{Arithmetic, live},
};
use crate::{
    autodiff::NotDifferentiable,
    graph::{Builder, Node},
    runtime::{Engine, RuntimeError, Session},
    tensor::{DType, Tensor},
    train::Traced,
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};
use thiserror::Error;

/// Directions an input is moved in.
const DIRECTIONS: usize = 3;
/// Step of the differences, in units of the root mean square of the input, in float64.
const STEPS_64: &[f64] = &[1e-6];
/// The same in float32, the widest at which most of the output is smooth. For a linear operator the first is exact.
const STEPS_32: &[f64] = &[0.5, 0.1, 0.02, 0.004];
/// Share of the outputs that have to be smooth before a point is taken without trying another.
const ENOUGH: f64 = 0.5;
/// What float32 rounding may do to a gradient, in units of the output it stands for: 32 roundings.
const RULE_ROUNDING: f64 = 4e-6;
/// What it may do to a difference of outputs in float32, in units of output over step.
const DIFFERENCE_ROUNDING: f64 = 2.4e-7;
/// The error that rounding alone may come to: derivatives so small that it would be more count as larger ones.
const RESOLVED: f64 = 1e-3;
/// How far values are moved so that ties break, relative to each.
const NUDGE: f64 = 0.1;

/// What became of one input of one node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Finding {
    /// Rule and differences were compared.
    Compared(Compared),
    /// They could not be, and why.
    NotComparable(String),
}

/// Rule against differences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Compared {
    /// Largest difference over the directions, relative to the usual size of the derivative.
    pub error: f64,
    /// Share of the output elements that took part: those at which the operator is smooth.
    pub share: f64,
    /// Element type of the differences.
    pub dtype: DType,
    /// True when there is no derivative to speak of, neither by the rule nor by the differences.
    flat: bool,
}

/// Where the inputs of a node are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    /// The values of the batch.
    Batch,
    /// Those, each moved a little, so that ties break and zeros leave the kink.
    Nudged,
    /// Random values of the same size.
    Random,
}

/// One node of a traced network.
pub(super) struct Subject<'a> {
    pub engine: &'a Engine,
    pub settings: &'a Settings<'a>,
    pub opset: i64,
    pub traced: &'a Traced,
    pub node: &'a Node,
    /// How ONNX Runtime computes this operator.
    pub arithmetic: Arithmetic,
    /// Inputs whose gradient the step graph computes.
    pub wanted: BTreeSet<String>,
    /// Outputs through which a gradient arrives.
    pub heard: Vec<String>,
}

/// Why a node could not be evaluated.
#[derive(Debug, Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error(transparent)]
    Rule(#[from] NotDifferentiable),
    #[error("{name:?} has element type {dtype}, which has no differences")]
    Type { name: String, dtype: String },
    #[error("the node cannot be written by itself")]
    Alone,
}

impl Subject<'_> {
    /// Checks every wanted input, each by itself. `values` holds every value of the batch.
    pub fn check(&self, values: &Values) -> Vec<(String, Finding)> {
        let each = |f: &mut dyn FnMut(&str) -> Finding| self.wanted.iter().map(|n| (n.clone(), f(n))).collect();
        match self.gradient() {
            Ok(mut gradient) => each(&mut |name| self.input(name, values, &mut gradient)),
            Err(e) => each(&mut |_| Finding::NotComparable(e.to_string())),
        }
    }

    /// The first point that shows enough decides; a disagreement at smooth outputs counts wherever it is seen.
    fn input(&self, name: &str, values: &Values, gradient: &mut Session) -> Finding {
        let mut best: Option<Compared> = None;
        let mut reason = String::new();
        for point in [Point::Batch, Point::Nudged, Point::Random] {
            let real = point == Point::Batch;
            let found = match self.compare(name, &self.at(point, values), gradient) {
                Ok(found) => found,
                Err(e) if real => return Finding::NotComparable(e.to_string()),
                Err(_) => continue,
            };
            let agrees = found.error <= self.settings.tolerance;
            if !found.error.is_finite() {
                // Values that were made up can lie where the operator is not defined; those of the batch are real.
                if real {
                    return Finding::Compared(found);
                }
            } else if found.share == 0.0 || found.flat {
                if real {
                    let kinks = "every output is on a kink or a jump";
                    reason = if found.flat { "no gradient flows at these values" } else { kinks }.into();
                }
            } else if !agrees || found.share >= ENOUGH {
                return Finding::Compared(found);
            } else if best.is_none_or(|b| b.share < found.share) {
                best = Some(found);
            }
        }
        best.map_or(Finding::NotComparable(reason), Finding::Compared)
    }

    /// The values of the live inputs at a point.
    fn at(&self, point: Point, values: &Values) -> Values {
        let moved = |name: &str, value: &Arc<Tensor>| {
            let Some(v) = value.as_f32().filter(|_| point != Point::Batch && self.wanted.contains(name)) else {
                return Arc::clone(value);
            };
            let size = size(v);
            let noise = self.draw(&format!("{point:?}"), name, v.len());
            let nudge = |(&x, n): (&f32, f32)| {
                let reach = if x == 0.0 { size } else { f64::from(x.abs()) };
                (f64::from(x) + NUDGE * reach * f64::from(n)) as f32
            };
            let v = match point {
                Point::Random => noise.iter().map(|n| (size * f64::from(*n)) as f32).collect(),
                Point::Batch | Point::Nudged => v.iter().zip(noise).map(nudge).collect(),
            };
            Arc::new(Tensor::f32(value.shape(), v))
        };
        let names = live(self.node, self.traced).into_iter();
        names.filter_map(|name| Some((name.to_owned(), moved(name, values.get(name)?)))).collect()
    }

    /// Rule against differences for one input at given values.
    ///
    /// With random seeds s on the smooth outputs, d a random direction and J the derivative of the node:
    ///
    /// the rule gives (s^T J) d, the differences s^T (J d)
    fn compare(&self, name: &str, at: &Values, gradient: &mut Session) -> Result<Compared, Failed> {
        let x = at.get(name).and_then(|t| t.as_f32()).ok_or_else(|| self.not_float(name))?;
        let size = size(x);
        let direction = |k| {
            let normal = self.draw(&format!("direction {k}"), name, x.len());
            Tensor::f32(self.shape(name), normal.iter().map(|n| (size * f64::from(*n)) as f32).collect())
        };
        let directions: Vec<Tensor> = (0..DIRECTIONS).map(direction).collect();
        let mut forward = self.forward(name, at)?;
        let single = self.arithmetic == Arithmetic::Float32;
        let slopes = forward.slopes(&directions, if single { STEPS_32 } else { STEPS_64 })?;

        // Outputs that bend or jump get no seed.
        let mut seeds = Vec::new();
        let (mut smooth, mut all, mut output) = (0usize, 0usize, 0.0);
        for (o, base) in slopes.base.iter().enumerate() {
            let mut seed = self.draw(&format!("seed {o}"), name, base.len());
            for (j, s) in seed.iter_mut().enumerate() {
                if slopes.each.iter().all(|k| k[o].smooth[j]) {
                    smooth += 1;
                    output += (f64::from(*s) * base[j]).powi(2);
                } else {
                    *s = 0.0;
                }
            }
            all += base.len();
            seeds.push(Tensor::f32(self.shape(&self.heard[o]), seed));
        }
        let g = self.gradient_at(gradient, at, &seeds, name)?;
        let g = g.as_f32().ok_or_else(|| self.not_float(name))?;
        let by_rule = directions.iter().map(|d| dot(g, d.as_f32().unwrap_or_default()));
        let by_differences: Vec<f64> = slopes.each.iter().map(|k| weighted(k, &seeds)).collect();

        let rounding = if single { RULE_ROUNDING + DIFFERENCE_ROUNDING / slopes.step } else { RULE_ROUNDING };
        let rounding = rounding * output.sqrt();
        // Directions are independent, so the product with one is about as large as the scaled gradient is long.
        let scale = by_differences.iter().fold(size * dot(g, g).sqrt(), |m, d| m.max(d.abs()));
        let worst = by_rule.zip(&by_differences).map(|(a, b)| (a - b).abs()).fold(0.0, worse);
        Ok(Compared {
            error: if worst == 0.0 { 0.0 } else { worst / (scale + rounding / RESOLVED) },
            share: smooth as f64 / all.max(1) as f64,
            dtype: self.arithmetic.dtype(),
            flat: scale <= rounding,
        })
    }

    fn draw(&self, what: &str, name: &str, n: usize) -> Vec<f32> {
        (self.settings.draw)(&format!("{what} {} {name}", self.node.name), n)
    }

    fn shape(&self, name: &str) -> &[usize] {
        self.traced.shape(name).unwrap_or_default()
    }

    fn not_float(&self, name: &str) -> Failed {
        let dtype = self.traced.values.get(name).map_or("unknown".into(), |(dtype, _)| dtype.to_string());
        Failed::Type { name: name.to_owned(), dtype }
    }

    /// The node with one input that moves.
    fn forward<'v>(&self, name: &str, at: &'v Values) -> Result<Moving<'v>, Failed> {
        for output in &self.heard {
            if self.traced.values.get(output).is_none_or(|(dtype, _)| *dtype != DType::F32) {
                return Err(self.not_float(output));
            }
        }
        let graph = alone::graph(self.opset, self.traced, self.node, Some(name), &self.heard, self.arithmetic);
        let what = format!("node {}", self.node.label());
        let session = self.engine.plain_session(&what, &graph.ok_or(Failed::Alone)?)?;
        Ok(Moving::new(session, at, name))
    }

    /// The node as it stands in a step graph, with the gradients of its wanted inputs. Seeds are fed.
    fn gradient(&self) -> Result<Session, Failed> {
        let inputs = || (0..self.node.inputs.len()).filter_map(|i| self.node.input(i));
        let known: HashMap<_, _> =
            inputs().filter_map(|n| Some((n.to_owned(), Arc::clone(self.traced.known.get(n)?)))).collect();
        let alone =
            Traced { nodes: vec![self.node.clone()], values: self.traced.values.clone(), known, inferred: false };
        let mut b = Builder::new(self.opset);
        for name in live(self.node, self.traced) {
            let (dtype, shape) = &self.traced.values[name];
            b.input(name, *dtype, shape);
        }
        alone.replay(&mut b, true);
        let mut seeds = Vec::new();
        for (o, name) in self.heard.iter().enumerate() {
            if let Some(y) = b.value(name).cloned() {
                seeds.push((y, b.input(&seed(o), DType::F32, self.shape(name))));
            }
        }
        let backward = self.settings.backward;
        let found = backward(&mut b, &alone.nodes, &alone.known, &seeds, &self.wanted, DType::F32)?;
        for (name, value) in &found {
            b.output_as(value, &gradient_of(name));
        }
        Ok(self.engine.session(&format!("the gradient of node {}", self.node.label()), &b.finish())?)
    }

    /// The gradient of one input; zeros where the rule gives none.
    fn gradient_at(&self, session: &mut Session, at: &Values, seeds: &[Tensor], name: &str) -> Result<Tensor, Failed> {
        let named: Vec<String> = (0..seeds.len()).map(seed).collect();
        let mut feeds: Vec<(&str, &Tensor)> = at.iter().map(|(n, t)| (n.as_str(), t.as_ref())).collect();
        feeds.extend(named.iter().map(String::as_str).zip(seeds));
        let asked: BTreeSet<String> = session.inputs().into_iter().collect();
        feeds.retain(|(name, _)| asked.contains(*name));
        let names = session.outputs();
        let mut found = names.into_iter().zip(session.run(&feeds)?);
        let wanted = gradient_of(name);
        Ok(found.find(|(n, _)| *n == wanted).map_or_else(|| Tensor::zeros(self.shape(name)), |(_, g)| g))
    }
}

/// The derivatives of all outputs, weighted with their seeds. Where there is no seed the derivative may be anything.
fn weighted(slopes: &[Slope], seeds: &[Tensor]) -> f64 {
    let of = |(slope, seed): (&Slope, &Tensor)| -> f64 {
        let seeds = seed.as_f32().unwrap_or_default().iter();
        slope.derivative.iter().zip(seeds).filter(|(_, s)| **s != 0.0).map(|(d, &s)| d * f64::from(s)).sum()
    };
    slopes.iter().zip(seeds).map(of).sum()
}

fn seed(o: usize) -> String {
    format!("onnx-unlearn:seed/{o}")
}

fn gradient_of(name: &str) -> String {
    format!("onnx-unlearn:d/{name}")
}

/// Root mean square of the values, 1 where all are zero.
fn size(values: &[f32]) -> f64 {
    let size = rms(values);
    if size > 0.0 && size.is_finite() { size } else { 1.0 }
}
