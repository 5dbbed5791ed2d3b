//! Compares every gradient rule with central differences of the operator as ONNX Runtime computes it.

use crate::common::rules::{self, Rules};
use onnx_unlearn::{
    graph::{Attr, Graph, Node, Port},
    onnx, ops,
    runtime::{Device, Engine},
    tensor::{Data, Tensor},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Largest difference allowed between a rule and central differences, relative to the largest gradient element of the
/// input (or to 1 where all are smaller). float32 forward values and h = 0.04 leave about 5e-5.
const TOLERANCE: f64 = 3e-4;
/// Largest difference allowed between an operator and what stands for it in training, relative to the largest output.
const FORWARD: f32 = 2e-6;
/// Step of the five-point stencil, whose error is of order h^4. Kinked operators get inputs farther than 2h from a kink.
const H: f32 = 0.04;

/// One input of a case.
#[derive(Clone)]
pub enum In {
    /// Left out.
    None,
    /// A float input whose gradient is checked.
    Grad(Tensor),
    /// A float input computed from data whose gradient is not asked for.
    Data(Tensor),
    /// A constant of the model (a shape, axes, bounds, indices).
    Const(Tensor),
}

/// A node of the standard: operator, inputs, output, attributes.
pub type Written<'a> = (&'a str, &'a [&'a str], &'a str, &'a [(&'a str, Attr)]);

/// One node to check.
pub struct Case {
    op: &'static str,
    domain: &'static str,
    opset: i64,
    attrs: Vec<(&'static str, Attr)>,
    inputs: Vec<In>,
    outputs: Vec<usize>,
    by_hand: Vec<Node>,
    chain: Vec<Node>,
}

/// A case of operator `op` at opset 18.
pub fn case(op: &'static str) -> Case {
    Case {
        op,
        domain: "",
        opset: 18,
        attrs: Vec::new(),
        inputs: Vec::new(),
        outputs: vec![0],
        by_hand: Vec::new(),
        chain: Vec::new(),
    }
}

impl Case {
    /// The operator of that name which ONNX Runtime adds to the standard.
    pub fn microsoft(mut self) -> Self {
        self.domain = ops::MICROSOFT;
        self
    }
    pub fn opset(mut self, opset: i64) -> Self {
        self.opset = opset;
        self
    }
    pub fn attr(mut self, name: &'static str, value: impl Into<Attr>) -> Self {
        self.attrs.push((name, value.into()));
        self
    }
    pub fn outputs(self, n: usize) -> Self {
        self.outputs_at((0..n).collect())
    }
    /// Which outputs there are; the others are left out.
    pub fn outputs_at(mut self, outputs: Vec<usize>) -> Self {
        self.outputs = outputs;
        self
    }
    /// Leaves an output out.
    pub fn without_output(mut self, i: usize) -> Self {
        self.outputs.retain(|&o| o != i);
        self
    }
    /// An input whose gradient is checked.
    pub fn grad(mut self, t: Tensor) -> Self {
        self.inputs.push(In::Grad(t));
        self
    }
    /// A data input without gradient (an index that varies, a condition).
    pub fn data(mut self, t: Tensor) -> Self {
        self.inputs.push(In::Data(t));
        self
    }
    /// A constant of the model.
    pub fn constant(mut self, t: Tensor) -> Self {
        self.inputs.push(In::Const(t));
        self
    }
    /// A constant int64 list.
    pub fn ints(self, v: &[i64]) -> Self {
        self.constant(Tensor::ints(v))
    }
    /// An input left out.
    pub fn none(mut self) -> Self {
        self.inputs.push(In::None);
        self
    }

    /// What the operator computes, for one that ONNX Runtime runs on GPUs only: nodes in order, from x0, x1 ... to y0,
    /// y1 ...
    pub fn by_hand(mut self, nodes: &[Written<'_>]) -> Self {
        self.by_hand = written(nodes);
        self
    }

    /// Several nodes in the place of one, with lists between them, from x0, x1 ... to y0, y1 ...
    pub fn chain(mut self, nodes: &[Written<'_>]) -> Self {
        self.chain = written(nodes);
        self
    }

    fn label(&self) -> String {
        let shapes: Vec<String> =
            self.inputs.iter().map(|i| tensor(i).map_or("-".into(), |t| format!("{:?}", t.shape()))).collect();
        format!("{} opset {} {:?} on {}", self.op, self.opset, self.attrs, shapes.join(" "))
    }

    fn graph(&self) -> Graph {
        let mut graph = Graph { opset: self.opset, ..Graph::default() };
        let mut inputs = Vec::new();
        for (i, input) in self.inputs.iter().enumerate() {
            let name = format!("x{i}");
            match input {
                In::None => {
                    inputs.push(String::new());
                    continue;
                }
                In::Const(t) => _ = graph.constants.insert(name.clone(), Arc::new(t.clone())),
                In::Grad(t) | In::Data(t) => graph.inputs.push(Port::fixed(name.clone(), t.dtype(), t.shape())),
            }
            inputs.push(name);
        }
        let named = |i| if self.outputs.contains(&i) { format!("y{i}") } else { String::new() };
        let outputs: Vec<String> = (0..=self.outputs.iter().copied().max().unwrap_or(0)).map(named).collect();
        graph.outputs = outputs.iter().filter(|o| !o.is_empty()).map(Port::open).collect();
        if !self.chain.is_empty() {
            graph.nodes.clone_from(&self.chain);
            return graph;
        }
        graph.nodes.push(Node {
            name: "node".into(),
            op: self.op.into(),
            domain: self.domain.into(),
            inputs,
            outputs,
            attrs: self.attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        });
        graph
    }

    /// What is compared with: the operator as the runtime computes it, or what was written by hand.
    fn forward(&self) -> Graph {
        let mut graph = self.graph();
        if !self.by_hand.is_empty() {
            graph.nodes.clone_from(&self.by_hand);
        }
        graph
    }

    /// Checks every gradient input, element by element.
    pub fn check(self) {
        let label = self.label();
        let engine = engine();
        let graph = self.graph();
        let feeds = self.feeds();
        let mut forward = engine.session(&label, &self.forward()).unwrap_or_else(|e| panic!("{label}: {e}"));
        let outputs = run(&mut forward, &feeds, &label);
        same_when_lifted(&engine, &graph, &feeds, &outputs, &label);
        let seeds = output_seeds(&outputs);
        let gradients = self.gradients(&engine, graph, &feeds, &seeds, &label);

        for (i, input) in self.inputs.iter().enumerate() {
            let In::Grad(x) = input else { continue };
            let name = format!("x{i}");
            let got = gradients.get(&name).unwrap_or_else(|| panic!("{label}: no gradient reaches input {i}"));
            assert_eq!(got.shape(), x.shape(), "{label}: shape of the gradient of input {i}");
            let got = got.as_f32().expect("float gradient");
            let want = differences(&mut forward, &feeds, &name, &seeds, &label);
            let scale = want.iter().fold(1.0f64, |m, g| m.max(g.abs()));
            for (k, (&g, &w)) in got.iter().zip(&want).enumerate() {
                let error = (f64::from(g) - w).abs() / scale;
                assert!(error <= TOLERANCE, "{label}: input {i} element {k}: rule {g}, central differences {w}");
            }
        }
    }

    /// Checks the gradient of the sum of the outputs with respect to the first gradient input where differences say
    /// nothing: on a kink.
    pub fn check_on_kink(self, want: &[f32]) {
        let label = self.label();
        let engine = engine();
        let graph = self.graph();
        let feeds = self.feeds();
        let mut forward = engine.session(&label, &graph).unwrap_or_else(|e| panic!("{label}: {e}"));
        let ones = |y: &Tensor| Tensor::f32(y.shape(), vec![1.0; y.len()]);
        let seeds: Vec<Tensor> = run(&mut forward, &feeds, &label).iter().map(ones).collect();
        let gradients = self.gradients(&engine, graph, &feeds, &seeds, &label);
        let first = self.inputs.iter().position(|i| matches!(i, In::Grad(_))).expect("a gradient input");
        let got = gradients[&format!("x{first}")].as_f32().expect("float gradient");
        assert_eq!(got, want, "{label}: gradient of input {first}");
    }

    /// What is fed at every run.
    fn feeds(&self) -> Vec<(String, Tensor)> {
        let fed = |(i, input): (usize, &In)| match input {
            In::Grad(t) | In::Data(t) => Some((format!("x{i}"), t.clone())),
            In::None | In::Const(_) => None,
        };
        self.inputs.iter().enumerate().filter_map(fed).collect()
    }

    fn gradients(
        &self,
        engine: &Engine,
        graph: Graph,
        feeds: &[(String, Tensor)],
        seeds: &[Tensor],
        label: &str,
    ) -> BTreeMap<String, Tensor> {
        let wanted: BTreeSet<String> = (0..self.inputs.len())
            .filter(|&i| matches!(self.inputs[i], In::Grad(_)))
            .map(|i| format!("x{i}"))
            .collect();
        let lifted = onnx::lift(graph).unwrap_or_else(|e| panic!("{label}: {}", e[0]));
        let mut rules = Rules::new(engine, &lifted, feeds, &wanted, true).unwrap_or_else(|e| panic!("{label}: {e}"));
        let found = rules.gradients(feeds, seeds).unwrap_or_else(|e| panic!("{label}: {e}"));
        if rules.is_native() {
            // Devices without the tool's own operators compute the same.
            let plain = Rules::new(engine, &lifted, feeds, &wanted, false).and_then(|mut r| r.gradients(feeds, seeds));
            for (name, plain) in plain.unwrap_or_else(|e| panic!("{label}: {e}")) {
                for (a, b) in found[&name].to_f32s().iter().zip(plain.to_f32s()) {
                    assert!(
                        (a - b).abs() <= 1e-4 * b.abs().max(1.0),
                        "{label}: {name}: {a} in own operators, {b} without"
                    );
                }
            }
        }
        found
    }
}

fn written(nodes: &[Written<'_>]) -> Vec<Node> {
    let node = |(op, inputs, output, attrs): &Written<'_>| Node {
        name: (*output).into(),
        op: (*op).into(),
        domain: String::new(),
        inputs: inputs.iter().map(|s| (*s).to_owned()).collect(),
        outputs: vec![(*output).into()],
        attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
    };
    nodes.iter().map(node).collect()
}

fn tensor(input: &In) -> Option<&Tensor> {
    match input {
        In::None => None,
        In::Grad(t) | In::Data(t) | In::Const(t) => Some(t),
    }
}

fn run(session: &mut onnx_unlearn::runtime::Session, feeds: &[(String, Tensor)], label: &str) -> Vec<Tensor> {
    rules::run(session, feeds).unwrap_or_else(|e| panic!("{label}: {e}"))
}

/// What is written in another form for training computes the same.
fn same_when_lifted(engine: &Engine, graph: &Graph, feeds: &[(String, Tensor)], outputs: &[Tensor], label: &str) {
    let lifted = onnx::lift(graph.clone()).unwrap_or_else(|e| panic!("{label}: {}", e[0]));
    if lifted.nodes == graph.nodes {
        return;
    }
    let mut session = engine.session(label, &lifted).unwrap_or_else(|e| panic!("{label}: {e}\n{lifted}"));
    for (i, (a, b)) in outputs.iter().zip(run(&mut session, feeds, label)).enumerate() {
        assert_eq!(a.shape(), b.shape(), "{label}: output {i}");
        let (Some(a), Some(b)) = (a.as_f32(), b.as_f32()) else { continue };
        let scale = a.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        let furthest = a.iter().zip(b).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max);
        assert!(furthest <= FORWARD, "{label}: output {i} differs by {furthest} when lifted\n{lifted}");
    }
}

/// Random weights that make a scalar of the float outputs.
fn output_seeds(outputs: &[Tensor]) -> Vec<Tensor> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    outputs
        .iter()
        .map(|y| Tensor::f32(y.shape(), (0..y.len()).map(|_| rng.random_range(-1.0f32..1.0)).collect()))
        .collect()
}

fn scalar(outputs: &[Tensor], seeds: &[Tensor]) -> f64 {
    let dot = |y: &Tensor, s: &Tensor| -> f64 {
        let s = s.as_f32().expect("float seeds").iter().map(|&b| f64::from(b));
        match y.data() {
            Data::F32(y) => y.iter().zip(s).map(|(&a, b)| f64::from(a) * b).sum(),
            Data::F64(y) => y.iter().zip(s).map(|(&a, b)| a * b).sum(),
            _ => 0.0,
        }
    };
    outputs.iter().zip(seeds).map(|(y, s)| dot(y, s)).sum()
}

/// Five-point central differences of the weighted output sum, one element at a time.
fn differences(
    session: &mut onnx_unlearn::runtime::Session,
    feeds: &[(String, Tensor)],
    name: &str,
    seeds: &[Tensor],
    label: &str,
) -> Vec<f64> {
    let mut feeds = feeds.to_vec();
    let at = feeds.iter().position(|(n, _)| n == name).expect("a fed input");
    let n = feeds[at].1.len();
    let mut result = Vec::with_capacity(n);
    for k in 0..n {
        let original = feeds[at].1.as_f32().expect("float input")[k];
        let mut f = |delta: f32| -> f64 {
            feeds[at].1.as_f32_mut().expect("float input")[k] = original + delta;
            let outputs = run(session, &feeds, label);
            feeds[at].1.as_f32_mut().expect("float input")[k] = original;
            scalar(&outputs, seeds)
        };
        let slope = (f(-2.0 * H) - 8.0 * f(-H) + 8.0 * f(H) - f(2.0 * H)) / (12.0 * f64::from(H));
        result.push(slope);
    }
    result
}

/// Random values in low..high.
pub fn uniform(shape: &[usize], low: f32, high: f32, seed: u64) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    Tensor::f32(shape, (0..n).map(|_| rng.random_range(low..high)).collect())
}

/// Random values in -1..1.
pub fn any(shape: &[usize]) -> Tensor {
    uniform(shape, -1.0, 1.0, shape.iter().fold(17, |s, &d| s * 31 + d as u64))
}

/// Random values in 0.5..2, for divisors, roots and logarithms.
pub fn positive(shape: &[usize]) -> Tensor {
    uniform(shape, 0.5, 2.0, shape.iter().fold(19, |s, &d| s * 31 + d as u64))
}

/// Values on both sides of every kink, none closer than 0.2 to one.
pub fn off(kinks: &[f32], shape: &[usize], low: f32, high: f32) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(23);
    let n = shape.iter().product();
    let mut draw = || loop {
        let x = rng.random_range(low..high);
        if kinks.iter().all(|k| (x - k).abs() > 0.2) {
            return x;
        }
    };
    Tensor::f32(shape, (0..n).map(|_| draw()).collect())
}

/// Values that all differ by at least 0.2, shuffled: no window has two near maxima.
pub fn distinct(shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(29);
    let n: usize = shape.iter().product();
    let mut v: Vec<f32> = (0..n).map(|i| 0.2 * (i as f32 - n as f32 / 2.0)).collect();
    for i in (1..n).rev() {
        v.swap(i, rng.random_range(0..=i));
    }
    Tensor::f32(shape, v)
}

/// The runtime under test.
pub fn engine() -> Engine {
    crate::common::engine(Device::Cpu)
}
