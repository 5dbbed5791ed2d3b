//! The gradient of one input by the rules, against differences of the graph as ONNX Runtime computes it.

use crate::{
    common::rules::{self, Feeds, Rules},
    slope::{ROUNDING, Samples, Slope, Usual, slope},
};
use onnx_unlearn::{
    data::Seeded,
    graph::Graph,
    runtime::{Engine, Session},
    tensor::Tensor,
};
use std::collections::BTreeSet;

/// Largest difference allowed, relative to the largest derivative along a direction.
const TOLERANCE: f64 = 3e-4;
/// Step of the differences in units of the root mean square of the input: the first at which nearly all of the output is
/// smooth.
const STEPS: [f64; 4] = [0.5, 0.1, 0.02, 0.004];
/// Inputs of up to so many elements are moved element by element, larger ones along random directions.
const ELEMENTS: usize = 24;
/// Number of random directions.
const DIRECTIONS: usize = 4;
/// Share of the outputs that have to be smooth for a point to do without another.
const ENOUGH: f64 = 0.5;
/// How far values are moved for other points, relative to each: off kinks and ties.
const NUDGE: f64 = 0.1;
/// What float32 rounding may do to a gradient, in units of the outputs.
const RULE_ROUNDING: f64 = 1e-6;

/// Rule against differences at one point.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// Largest difference, relative to the one allowed.
    pub error: f64,
    /// Share of the output elements that took part: those at which the graph is smooth.
    pub share: f64,
    /// True when there is no derivative to speak of, neither by the rule nor by the differences.
    pub flat: bool,
}

impl Compared {
    /// A comparison with NaN is false.
    pub fn agrees(&self) -> bool {
        self.error <= 1.0
    }

    fn shows_enough(&self) -> bool {
        self.share >= ENOUGH && !self.flat
    }
}

/// Compares at the given values; where those show little, beside them, and beside their tenth. What is smooth is decided
/// by the differences alone, so that a wrong rule cannot hide itself, and a disagreement counts wherever it is seen.
pub fn compare(engine: &Engine, graph: &Graph, feeds: &Feeds, name: &str) -> Result<Compared, String> {
    let mut forward = engine.session("the graph", graph).map_err(|e| e.to_string())?;
    let mut rules = Rules::new(engine, graph, feeds, &BTreeSet::from([name.to_owned()]), true)?;
    let mut best = at(&mut forward, &mut rules, feeds, name)?;
    for factor in [1.0, 0.1] {
        if !best.agrees() || best.shows_enough() {
            break;
        }
        let other = at(&mut forward, &mut rules, &beside(feeds, factor), name)?;
        let more = other.share > 0.0 && (best.share == 0.0 || (best.flat && !other.flat) || other.shows_enough());
        if !other.agrees() || more {
            best = other;
        }
    }
    Ok(best)
}

/// The values times a factor, each moved a little.
fn beside(feeds: &Feeds, factor: f64) -> Vec<(String, Tensor)> {
    let moved = |(name, t): &(String, Tensor)| {
        let Some(v) = t.as_f32() else { return (name.clone(), t.clone()) };
        let (size, noise) = (size(v), Seeded::new(3, name).normal(v.len()));
        let nudge = |(&x, n): (&f32, f32)| {
            let reach = if x == 0.0 { size } else { f64::from(x.abs()) };
            (factor * (f64::from(x) + NUDGE * reach * f64::from(n))) as f32
        };
        (name.clone(), Tensor::f32(t.shape(), v.iter().zip(noise).map(nudge).collect()))
    };
    feeds.iter().map(moved).collect()
}

/// With random seeds s on the smooth outputs, a direction d and the derivative J of the graph: the rule gives (s^T J) d,
/// the differences s^T (J d).
fn at(forward: &mut Session, rules: &mut Rules, feeds: &Feeds, name: &str) -> Result<Compared, String> {
    let x = feeds.iter().find(|(n, _)| n == name).and_then(|(_, t)| t.as_f32()).expect("a float input");
    let directions = directions(x);
    let Slopes { each, base, step } = slopes(forward, feeds, name, &directions)?;
    let (mut smooth, mut all, mut squares) = (0usize, 0usize, 0.0);
    let mut seeds = Vec::new();
    for (o, y) in base.iter().enumerate() {
        let mut seed = Seeded::new(7, &format!("output {o}")).normal(y.len());
        let values = floats(y);
        let size = largest(&values);
        if values.is_empty() {
            seed.fill(0.0); // Integers, which carry no gradient.
        }
        for (j, s) in seed.iter_mut().enumerate().take(values.len()) {
            if each.iter().all(|d| d[o].smooth[j]) {
                smooth += 1;
                squares += (f64::from(*s) * size).powi(2);
            } else {
                *s = 0.0;
            }
        }
        all += values.len();
        seeds.push(Tensor::f32(y.shape(), seed));
    }
    let found = rules.gradients(feeds, &seeds)?;
    let zeros = vec![0.0; x.len()];
    let g = found.get(name).and_then(|g| g.as_f32()).unwrap_or(&zeros);
    let mut pairs = Vec::new();
    for (direction, slopes) in directions.iter().zip(&each) {
        let by_rule = product(g, direction);
        // Where an output has a pole or an edge, the rule may multiply a seed of 0 by infinity.
        if by_rule.is_finite() || slopes.iter().all(|s| s.smooth.iter().all(|&s| s)) {
            pairs.push((by_rule, weighted(slopes, &seeds)));
        }
    }
    let rounding = (RULE_ROUNDING + ROUNDING / step) * squares.sqrt();
    let scale = pairs.iter().fold(0.0f64, |m, (_, d)| m.max(d.abs()));
    let worst = pairs.iter().map(|(a, b)| (a - b).abs()).fold(0.0, worse);
    let error = if worst == 0.0 { 0.0 } else { worst / (TOLERANCE * scale + rounding) };
    // No element of an output is no element that was left out.
    let share = if all == 0 { 1.0 } else { smooth as f64 / all as f64 };
    Ok(Compared { error, share: if pairs.is_empty() { 0.0 } else { share }, flat: scale <= rounding })
}

/// The larger of two errors; one that is not a number is larger than any.
fn worse(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

struct Slopes {
    /// Per direction, per output.
    each: Vec<Vec<Slope>>,
    /// The outputs where nothing has moved.
    base: Vec<Tensor>,
    step: f64,
}

/// Slopes at the first step at which nearly all of the output is smooth, else at the one with most of it.
fn slopes(forward: &mut Session, feeds: &Feeds, name: &str, directions: &[Vec<f32>]) -> Result<Slopes, String> {
    let base = rules::run(forward, feeds)?;
    let mut best = Slopes { each: Vec::new(), base: base.clone(), step: f64::NAN };
    let mut most = None;
    for h in STEPS {
        // Per output, per direction.
        let mut samples: Vec<Vec<Samples>> = base.iter().map(|_| Vec::new()).collect();
        for d in directions {
            let mut run = |step: f64| -> Result<Vec<Vec<f64>>, String> {
                let y = rules::run(forward, &moved(feeds, name, d, step))?;
                // Where a shape depends on the values there is no difference to take.
                Ok(y.iter().zip(&base).map(|(y, b)| if y.shape() == b.shape() { floats(y) } else { nan(b) }).collect())
            };
            let mut low = [run(-h)?, run(-h / 2.0)?, run(-h / 4.0)?];
            let mut high = [run(h / 4.0)?, run(h / 2.0)?, run(h)?];
            for (o, list) in samples.iter_mut().enumerate() {
                let [a, b, c] = low.each_mut().map(|y| std::mem::take(&mut y[o]));
                let [d, e, f] = high.each_mut().map(|y| std::mem::take(&mut y[o]));
                list.push([a, b, c, floats(&base[o]), d, e, f]);
            }
        }
        let usual: Vec<Usual> = samples.iter().map(|s| Usual::of(s, h)).collect();
        let along = |d: usize| samples.iter().zip(&usual).map(|(s, usual)| slope(&s[d], h, usual)).collect();
        let each: Vec<Vec<Slope>> = (0..directions.len()).map(along).collect();
        let flags = || each.iter().flatten().flat_map(|s| &s.smooth);
        let (smooth, all) = (flags().filter(|&&s| s).count(), flags().count());
        if most.is_none_or(|most| smooth > most) {
            most = Some(smooth);
            (best.each, best.step) = (each, h);
        }
        if smooth * 20 >= all * 19 {
            break;
        }
    }
    Ok(best)
}

/// The elements of a float output; none of another type, which has no derivative.
fn floats(t: &Tensor) -> Vec<f64> {
    t.as_f32().unwrap_or_default().iter().map(|&v| v.into()).collect()
}

fn nan(like: &Tensor) -> Vec<f64> {
    vec![f64::NAN; floats(like).len()]
}

/// The input moved along a direction.
fn moved(feeds: &Feeds, name: &str, direction: &[f32], step: f64) -> Vec<(String, Tensor)> {
    let mut feeds = feeds.to_vec();
    let (_, t) = feeds.iter_mut().find(|(n, _)| n == name).expect("a fed input");
    for (x, &d) in t.as_f32_mut().expect("a float input").iter_mut().zip(direction) {
        if d != 0.0 {
            *x = (f64::from(*x) + step * f64::from(d)) as f32;
        }
    }
    feeds
}

/// Directions to move an input in: every finite element by itself, or all of them at random.
fn directions(x: &[f32]) -> Vec<Vec<f32>> {
    let size = size(x) as f32;
    let finite = |k: &usize| x[*k].is_finite();
    if x.len() <= ELEMENTS {
        let one = |k: usize| (0..x.len()).map(|i| if i == k { size } else { 0.0 }).collect();
        return (0..x.len()).filter(finite).map(one).collect();
    }
    let random = |k: usize| {
        let normal = Seeded::new(5, &format!("direction {k}")).normal(x.len());
        normal.iter().enumerate().map(|(i, n)| if finite(&i) { size * n } else { 0.0 }).collect()
    };
    (0..DIRECTIONS).map(random).collect()
}

/// Root mean square of the finite values, 1 where all are zero.
fn size(values: &[f32]) -> f64 {
    let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).map(f64::from).collect();
    let size = (finite.iter().map(|v| v * v).sum::<f64>() / finite.len().max(1) as f64).sqrt();
    if size > 0.0 && size.is_finite() { size } else { 1.0 }
}

/// The largest of the finite values.
fn largest(values: &[f64]) -> f64 {
    values.iter().filter(|v| v.is_finite()).fold(0.0, |m, v| m.max(v.abs()))
}

/// The product of a gradient and a direction over the elements that move.
fn product(g: &[f32], d: &[f32]) -> f64 {
    g.iter().zip(d).filter(|(_, d)| **d != 0.0).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum()
}

/// The derivatives of all outputs, weighted with their seeds. Where there is no seed the derivative may be anything.
fn weighted(slopes: &[Slope], seeds: &[Tensor]) -> f64 {
    let of = |(slope, seed): (&Slope, &Tensor)| -> f64 {
        let seeds = seed.as_f32().unwrap_or_default().iter();
        slope.derivative.iter().zip(seeds).filter(|(_, s)| **s != 0.0).map(|(d, &s)| d * f64::from(s)).sum()
    };
    slopes.iter().zip(seeds).map(of).sum()
}
