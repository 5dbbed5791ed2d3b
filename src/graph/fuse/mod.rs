//! Joins elementwise operators into [`CHAIN`](native::CHAIN)s, so that large arrays are read and written once for all of
//! them. The numbers stay the same, but for the last digits of `Exp`, `Sigmoid` and `Erf`.
//!
//! Before that, products take the bias that follows them (`bias.rs`), and chains of the backward half compute again what the
//! forward half would have to keep for them (`again.rs`).
//!
//! A node joins the chain of a node it reads from where both have results of one shape and nothing outside the chain lies
//! between the two. Operators that ONNX Runtime itself joins with the product of matrices before or behind them are left to
//! it.

mod again;
mod bias;

use super::{Attr, Attrs, Graph, NATIVE, Node, Value, native};
use crate::{
    kernel::{
        Chain,
        chain::{Op, Spread, Step},
    },
    tensor::DType,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Operators whose first result is of the type of their first input.
const KEEP_TYPE: &[&str] = &[
    "Abs",
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Div",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Expand",
    "Flatten",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "MatMul",
    "MaxPool",
    "Mish",
    "Mul",
    "Neg",
    "Pad",
    "Pow",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tanh",
    "Transpose",
    "Unsqueeze",
];

/// Joins what can be joined in a graph whose values are these.
pub(super) fn fuse(graph: &mut Graph, values: &mut HashMap<String, Value>) {
    bias::take(graph, values);
    let again = again::compute(graph, values);
    join(graph, values, &again);
}

/// For every value, the nodes that read it; outputs of the graph are read by a node that is none.
fn readers(graph: &Graph) -> HashMap<&str, Vec<usize>> {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        node.reads().for_each(|name| readers.entry(name).or_default().push(i));
    }
    graph.outputs.iter().for_each(|o| readers.entry(&o.name).or_default().push(graph.nodes.len()));
    readers
}

/// Writes the chains.
fn join(graph: &mut Graph, values: &HashMap<String, Value>, apart: &HashSet<String>) {
    let readers = readers(graph);
    let mut chains: BTreeMap<usize, Node> = BTreeMap::new();
    let mut gone = vec![false; graph.nodes.len()];
    for members in groups(graph, values, apart).into_iter().filter(|m| m.len() > 1) {
        let inside: BTreeSet<usize> = members.iter().copied().collect();
        let leaves = |name: &str| readers.get(name).is_some_and(|r| r.iter().any(|i| !inside.contains(i)));
        let Some(chain) = joined(graph, values, &members, leaves) else { continue };
        for i in &members {
            gone[*i] = true;
        }
        chains.insert(members[members.len() - 1], chain);
    }
    if chains.is_empty() {
        return;
    }
    let old = std::mem::take(&mut graph.nodes);
    for (i, node) in old.into_iter().enumerate() {
        graph.nodes.extend(chains.remove(&i));
        graph.nodes.extend(Some(node).filter(|_| !gone[i]));
    }
    // A chain stands where its last node stood; what reads an earlier one may come before.
    graph.sort();
    graph.prune();
}

/// Which nodes go together, in order; most of the lists may be of one node, or empty. Nodes that write what is `apart` join no
/// others but such.
fn groups(graph: &Graph, values: &HashMap<String, Value>, apart: &HashSet<String>) -> Vec<Vec<usize>> {
    let floats = floats(graph);
    let producers = graph.producers();
    let by_product: Vec<bool> = by_products(graph, &producers);
    let mut found: Vec<Vec<usize>> = Vec::new();
    let mut group_of: Vec<Option<usize>> = vec![None; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        if by_product[i] || !joins(graph, node, values, &floats) {
            continue;
        }
        let shape = values[&node.outputs[0]].shape();
        let alone = apart.contains(&node.outputs[0]);
        let read = node.reads().filter(|name| !alone || apart.contains(*name));
        let near: BTreeSet<usize> = read.filter_map(|name| group_of[*producers.get(name)?]).collect();
        let g = found.len();
        found.push(vec![i]);
        group_of[i] = Some(g);
        // All of them run with this node, if none of them waits for another through something outside.
        for h in near.into_iter().rev() {
            let paths = Paths { graph, producers: &producers, group_of: &group_of, found: &found };
            if values[&graph.nodes[found[h][0]].outputs[0]].shape() != shape || paths.between(g, h) {
                continue;
            }
            let members = std::mem::take(&mut found[h]);
            for m in &members {
                group_of[*m] = Some(g);
            }
            found[g].extend(members);
            found[g].sort_unstable();
        }
    }
    found
}

/// What reads from what, with the nodes of a group taken together.
struct Paths<'g> {
    graph: &'g Graph,
    producers: &'g BTreeMap<&'g str, usize>,
    group_of: &'g [Option<usize>],
    found: &'g [Vec<usize>],
}

impl Paths<'_> {
    /// True where one of two groups reads from the other through something outside both.
    fn between(&self, g: usize, h: usize) -> bool {
        self.reads(g, h) || self.reads(h, g)
    }

    /// True where group `g` reads from group `h` through something outside both.
    fn reads(&self, g: usize, h: usize) -> bool {
        // What comes before the first node of a group cannot read from it.
        let first = self.found[h][0];
        let of = |node: &usize| {
            let names = self.graph.nodes[*node].reads();
            names.filter_map(|name| self.producers.get(name).copied()).collect::<Vec<usize>>()
        };
        let both = [Some(g), Some(h)];
        let mut stack: Vec<usize> = self.found[g].iter().flat_map(of).collect();
        stack.retain(|p| !both.contains(&self.group_of[*p]));
        let mut seen: HashSet<usize> = HashSet::new();
        while let Some(i) = stack.pop() {
            // The nodes of another group run together: what one of them reads, all wait for.
            let together = self.group_of[i].map_or(std::slice::from_ref(&i), |k| self.found[k].as_slice());
            if !seen.insert(together[0]) || together.iter().all(|m| *m < first) {
                continue;
            }
            for p in together.iter().flat_map(of) {
                match self.group_of[p] {
                    Some(k) if k == h => return true,
                    Some(k) if k == g => {}
                    _ => stack.push(p),
                }
            }
        }
        false
    }
}

/// Names of the values that are known to hold float32.
fn floats(graph: &Graph) -> HashSet<&str> {
    let inputs = graph.inputs.iter().filter(|p| p.dtype == Some(DType::F32)).map(|p| p.name.as_str());
    let constants = graph.constants.iter().filter(|(_, t)| t.dtype() == DType::F32).map(|(name, _)| name.as_str());
    let mut known: HashSet<&str> = inputs.chain(constants).collect();
    for node in &graph.nodes {
        let keeps = node.domain.is_empty() && KEEP_TYPE.contains(&node.op.as_str());
        let first = node.input(0).is_some_and(|name| known.contains(name));
        let chosen = node.op == "Where" && node.domain.is_empty() && node.input(1).is_some_and(|n| known.contains(n));
        if node.domain == NATIVE || (keeps && first) || chosen {
            let all = node.domain == NATIVE || node.op == "Split";
            known.extend(node.outputs.iter().take(if all { usize::MAX } else { 1 }).map(String::as_str));
        }
    }
    known
}

/// Marks what ONNX Runtime joins with a product of matrices: a bias or a factor behind it, a factor before it.
fn by_products(graph: &Graph, producers: &BTreeMap<&str, usize>) -> Vec<bool> {
    let product = |node: &Node| node.domain.is_empty() && (node.op == "MatMul" || node.op == "Gemm");
    let mut marked: Vec<bool> = graph
        .nodes
        .iter()
        .map(|node| {
            let behind = |name: &str| producers.get(name).is_some_and(|p| product(&graph.nodes[*p]));
            matches!(node.op.as_str(), "Add" | "Mul" | "Div")
                && node.reads().any(behind)
                && node.reads().any(|name| graph.constants.get(name).is_some_and(|t| t.shape().len() <= 1))
                || node.op == "Add" && node.reads().any(behind) && node.reads().any(|n| is_port(graph, n))
        })
        .collect();
    for node in graph.nodes.iter().filter(|n| product(n)) {
        for p in node.reads().filter_map(|name| producers.get(name).copied()) {
            let by = &graph.nodes[p];
            let factor = |name: &str| graph.constants.get(name).is_some_and(|t| t.len() == 1);
            marked[p] |= matches!(by.op.as_str(), "Mul" | "Div") && by.reads().any(factor);
        }
    }
    marked
}

fn is_port(graph: &Graph, name: &str) -> bool {
    graph.inputs.iter().any(|p| p.name == name && p.dims.as_ref().is_some_and(|d| d.len() <= 1))
}

/// The operator of a chain that a node is.
fn operator(node: &Node) -> Option<Op> {
    let op = match node.op.as_str() {
        "Add" => Op::Add,
        "Sub" => Op::Sub,
        "Mul" => Op::Mul,
        "Div" => Op::Div,
        "Neg" => Op::Neg,
        "Abs" => Op::Abs,
        "Sqrt" => Op::Sqrt,
        "Reciprocal" => Op::Reciprocal,
        "Relu" => Op::Relu,
        "HardSigmoid" => Op::HardSigmoid,
        "Clip" => Op::Clip,
        "Exp" => Op::Exp,
        "Sigmoid" => Op::Sigmoid,
        "Erf" => Op::Erf,
        _ => return None,
    };
    node.domain.is_empty().then_some(op)
}

/// True for an elementwise operator of float32 whose inputs are spread over its result in a way that a chain knows.
fn joins(graph: &Graph, node: &Node, values: &HashMap<String, Value>, floats: &HashSet<&str>) -> bool {
    let Some(op) = operator(node) else { return false };
    let Some(result) = node.output(0).and_then(|name| values.get(name)) else { return false };
    let bounds = |name: &str| graph.constants.get(name).is_some_and(|t| t.len() == 1);
    result.len() > 1
        && (op != Op::Clip || node.inputs.iter().skip(1).all(|name| name.is_empty() || bounds(name)))
        && node.reads().all(|name| {
            floats.contains(name) && values.get(name).is_some_and(|v| spread(v.shape(), result.shape()).is_some())
        })
}

/// How a value of shape `from` is spread over one of shape `to`, where it repeats along the first axes and is the same along
/// the last ones.
fn spread(from: &[usize], to: &[usize]) -> Option<Spread> {
    let added = to.len().checked_sub(from.len())?;
    let whole = |i: usize| i >= added && from[i - added] == to[i];
    let spreads = |i: usize| i < added || from[i - added] == 1;
    // Axes of length 1 are the same either way.
    let mut axes = (0..to.len()).filter(|i| to[*i] != 1);
    let begin = axes.find(|i| whole(*i)).unwrap_or(0);
    let end = (begin..to.len()).find(|i| to[*i] != 1 && !whole(*i)).unwrap_or(to.len());
    let repeats = (0..begin).chain(end..to.len()).all(|i| to[i] == 1 || spreads(i));
    let count = |axes: std::ops::Range<usize>| to[axes].iter().product::<usize>();
    repeats.then(|| Spread { inner: count(end..to.len()), period: count(begin..end) })
}

/// The nodes as one; `leaves` tells which of their results are read elsewhere.
fn joined(
    graph: &Graph,
    values: &HashMap<String, Value>,
    members: &[usize],
    leaves: impl Fn(&str) -> bool,
) -> Option<Node> {
    let nodes: Vec<&Node> = members.iter().map(|i| &graph.nodes[*i]).collect();
    let shape = values[&nodes[0].outputs[0]].shape();
    let written: BTreeMap<&str, usize> = nodes.iter().enumerate().map(|(k, n)| (n.outputs[0].as_str(), k)).collect();
    let (mut inputs, mut spreads): (Vec<&str>, Vec<Spread>) = (Vec::new(), Vec::new());
    let mut numbers: Vec<f32> = Vec::new();
    let number = |numbers: &mut Vec<f32>, v: f32| {
        let at = numbers.iter().position(|n| n.to_bits() == v.to_bits());
        at.unwrap_or_else(|| {
            numbers.push(v);
            numbers.len() - 1
        })
    };
    // Where an operand is: its number follows when all inputs and constants are known.
    let mut steps: Vec<(Op, Vec<Operand>)> = Vec::new();
    for node in &nodes {
        let op = operator(node)?;
        let mut from = Vec::new();
        for i in 0..op.operands() {
            let Some(name) = node.input(i) else {
                from.push(Operand::Number(number(&mut numbers, left_out(node, op, i)?)));
                continue;
            };
            from.push(if let Some(k) = written.get(name) {
                Operand::Result(*k)
            } else if let Some(v) = graph.constants.get(name).and_then(|t| t.to_scalar()) {
                Operand::Number(number(&mut numbers, v as f32))
            } else {
                let at = inputs.iter().position(|n| *n == name).unwrap_or(inputs.len());
                if at == inputs.len() {
                    inputs.push(name);
                    spreads.push(spread(values[name].shape(), shape)?);
                }
                Operand::Input(at)
            });
        }
        steps.push((op, from));
    }
    let place = |o: &Operand| match o {
        Operand::Input(i) => *i,
        Operand::Number(i) => inputs.len() + i,
        Operand::Result(k) => inputs.len() + numbers.len() + k,
    };
    let step = |(op, from): &(Op, Vec<Operand>)| {
        let mut places = [0; 3];
        places.iter_mut().zip(from).for_each(|(to, o)| *to = place(o));
        Step { op: *op, from: places }
    };
    let steps: Vec<Step> = steps.iter().map(step).collect();
    let kept: Vec<usize> = (0..nodes.len()).filter(|k| leaves(&nodes[*k].outputs[0])).collect();
    let outputs = kept.iter().map(|k| inputs.len() + numbers.len() + k).collect();
    // Nothing to read from but constants is the runtime's to fold.
    if inputs.is_empty() || kept.is_empty() {
        return None;
    }
    let chain = Chain { inputs: spreads, numbers, steps, outputs };
    let dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    let mut attrs = Attrs::new();
    attrs.insert(native::STEPS.into(), chain.to_numbers().into());
    attrs.insert(native::NUMBERS.into(), Attr::Floats(chain.numbers));
    attrs.insert(native::SHAPE.into(), dims.into());
    Some(Node {
        name: nodes[nodes.len() - 1].name.clone(),
        op: native::CHAIN.into(),
        domain: NATIVE.into(),
        inputs: inputs.into_iter().map(str::to_owned).collect(),
        outputs: kept.iter().map(|k| nodes[*k].outputs[0].clone()).collect(),
        attrs,
    })
}

/// Where a step's operand comes from.
enum Operand {
    Input(usize),
    Number(usize),
    Result(usize),
}

/// Operand `i` of a node that has no such input: an attribute, or a bound that is open.
fn left_out(node: &Node, op: Op, i: usize) -> Option<f32> {
    let attr = |name: &str, default: f32| match node.attrs.get(name) {
        Some(Attr::Float(v)) => *v,
        _ => default,
    };
    match (op, i) {
        (Op::HardSigmoid, 1) => Some(attr("alpha", 0.2)),
        (Op::HardSigmoid, 2) => Some(attr("beta", 0.5)),
        (Op::Clip, 1) => Some(f32::NEG_INFINITY),
        (Op::Clip, 2) => Some(f32::INFINITY),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Builder, *};

    /// Operators of the finished graph, in order.
    fn finished(dtype: DType, write: impl Fn(&mut Builder, &Value) -> Value) -> Vec<String> {
        let mut b = Builder::new(18).with_native(true);
        let x = b.input("x", dtype, &[2, 3]);
        let y = write(&mut b, &x);
        b.output(&y);
        b.finish().nodes.into_iter().map(|n| n.op).collect()
    }

    #[test]
    fn what_is_joined() {
        let unary = |b: &mut Builder, op: &str, x: &Value| b.op(op, &[x], &[], &[2, 3]);
        let both = |b: &mut Builder, op: &str, x: &Value, y: &Value| b.op(op, &[x, y], &[], &[2, 3]);
        let branches = |b: &mut Builder, x: &Value| {
            let (neg, abs) = (unary(b, "Neg", x), unary(b, "Abs", x));
            both(b, "Mul", &neg, &abs)
        };
        assert_eq!(finished(DType::F32, branches), ["Chain"]);
        assert_eq!(finished(DType::I64, branches).len(), 3, "integers are left alone");
        // Softmax lies between Neg and Add: no chain can hold both.
        let around = |b: &mut Builder, x: &Value| {
            let neg = unary(b, "Neg", x);
            let softmax = unary(b, "Softmax", &neg);
            let sum = both(b, "Add", &neg, &softmax);
            unary(b, "Relu", &sum)
        };
        assert_eq!(finished(DType::F32, around), ["Neg", "Softmax", "Chain"]);
        // The same through another chain: the two would wait for each other.
        let crossed = |b: &mut Builder, x: &Value| {
            let first = unary(b, "Neg", x);
            let softmax = unary(b, "Softmax", &first);
            let second = unary(b, "Neg", &softmax);
            let back = unary(b, "Softmax", &second);
            let (one, two) = (both(b, "Add", &first, &back), both(b, "Sub", &second, &back));
            both(b, "Mul", &one, &two)
        };
        assert_eq!(finished(DType::F32, crossed), ["Neg", "Softmax", "Neg", "Softmax", "Chain"]);
    }

    #[test]
    fn how_inputs_are_spread() {
        let of = |from: &[usize], to: &[usize]| spread(from, to).map(|s| (s.inner, s.period));
        assert_eq!(of(&[2, 3, 4], &[2, 3, 4]), Some((1, 24)), "whole");
        assert_eq!(of(&[], &[2, 3, 4]), Some((24, 1)), "a number");
        assert_eq!(of(&[4], &[2, 3, 4]), Some((1, 4)), "along the last axis");
        assert_eq!(of(&[2, 3, 1], &[2, 3, 4]), Some((4, 6)), "along the first axes");
        assert_eq!(of(&[1, 3, 1], &[2, 3, 4]), Some((4, 3)), "channels");
        assert_eq!(of(&[2, 1, 4], &[2, 3, 4]), None, "in two places");
        assert_eq!(of(&[1, 1, 4], &[1, 3, 4]), Some((1, 4)), "axes of length 1 do not count");
    }

    /// What the Softmax reads is written down in any case, so that the mask is made of it where it is needed.
    #[test]
    fn what_is_computed_again() {
        let masked = |b: &mut Builder, x: &Value| {
            let [y, sum] = ["Relu", "Exp"].map(|op| b.op(op, &[x], &[], &[2, 3]));
            let y = b.op("Add", &[&y, &sum], &[], &[2, 3]);
            let mask = b.op("HardSigmoid", &[&y], &[], &[2, 3]);
            let softmax = b.op("Softmax", &[&y], &[], &[2, 3]);
            b.op("Mul", &[&softmax, &mask], &[], &[2, 3])
        };
        let mut b = Builder::new(18).with_native(true);
        let x = b.input("x", DType::F32, &[2, 3]);
        let out = masked(&mut b, &x);
        b.output(&out);
        let nodes = b.finish().nodes;
        let chains: Vec<usize> = nodes.iter().filter(|n| n.op == native::CHAIN).map(|n| n.outputs.len()).collect();
        assert_eq!(nodes.iter().map(|n| n.op.as_str()).collect::<Vec<_>>(), ["Chain", "Softmax", "Chain"]);
        assert_eq!(chains, [1, 1], "no mask is written down");
    }
}
