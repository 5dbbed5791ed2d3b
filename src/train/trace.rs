//! A graph at one batch: which nodes vary with data and weights, and what everything else comes to.

use super::shapes::{Question, SHAPE_ONLY};
use crate::{
    graph::{Attr, Builder, Graph, Node, Value},
    ops::{self, Emit},
    runtime::{Engine, RuntimeError},
    tensor::{DType, Tensor},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// A graph at a fixed batch: what varies, with its shapes, and what turned out to be constant.
#[derive(Debug)]
pub struct Traced {
    /// Nodes whose results vary with the live values, in topological order.
    pub nodes: Vec<Node>,
    /// Element type and shape of every value.
    pub values: HashMap<String, (DType, Vec<usize>)>,
    /// Values that are the same for every batch of this size: constants of the file and folded shape arithmetic.
    pub known: HashMap<String, Arc<Tensor>>,
    /// True where the runtime inferred all shapes, and the graph was not run on a whole batch.
    pub inferred: bool,
}

/// Finds the shapes of all values of `graph` when it is fed `feeds`, and tells apart what varies with the `live` values (data
/// and trained weights) from what does not: everything computed from shapes alone is folded into the constants it gave.
///
/// `few` are feeds of some samples, where the graph takes any number of them; with none the graph is run on `feeds`.
pub fn trace(
    engine: &Engine,
    graph: &Graph,
    feeds: &[(String, Tensor)],
    few: &[(String, Tensor)],
    live: &BTreeSet<String>,
) -> Result<Traced, RuntimeError> {
    let mut varies = live.clone();
    let mut nodes = Vec::new();
    let mut folded = BTreeSet::new();
    for node in &graph.nodes {
        let outputs = node.outputs.iter().filter(|o| !o.is_empty()).cloned();
        let touched = node.reads().any(|i| varies.contains(i));
        if touched && !SHAPE_ONLY.contains(&node.op.as_str()) {
            varies.extend(outputs);
            nodes.push(node.clone());
        } else {
            folded.extend(outputs);
        }
    }
    // Only what a varying node reads has to be known.
    let read: BTreeSet<&str> = nodes.iter().flat_map(Node::reads).collect();
    let wanted = folded.iter().filter(|name| read.contains(name.as_str())).cloned().collect();

    let mut values: HashMap<String, (DType, Vec<usize>)> = HashMap::new();
    let mut known: HashMap<String, Arc<Tensor>> = HashMap::new();
    for (name, t) in &graph.constants {
        values.insert(name.clone(), (t.dtype(), t.shape().to_vec()));
        if !live.contains(name) {
            known.insert(name.clone(), Arc::clone(t));
        }
    }
    for (name, t) in feeds {
        values.insert(name.clone(), (t.dtype(), t.shape().to_vec()));
        if !live.contains(name) {
            known.insert(name.clone(), Arc::new(t.clone()));
        }
    }
    let mut inferred = false;
    if !graph.nodes.is_empty() {
        // On the CPU: this is bookkeeping, and a plain run shows every value as the file defines it.
        let question = Question { engine: engine.on_cpu(), graph, folded: &folded, wanted: &wanted };
        let ports = question.open(feeds)?;
        let answer = if few.is_empty() { None } else { question.infer(feeds, &ports, few) };
        inferred = answer.is_some();
        let answer = answer.map_or_else(|| question.run(feeds, &ports), Ok)?;
        values.extend(answer.values);
        known.extend(answer.known);
    }
    Ok(Traced { nodes, values, known, inferred })
}

impl Traced {
    /// Shape of a value.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.values.get(name).map(|(_, shape)| shape.as_slice())
    }

    /// Takes the maximum over windows before a Relu that nothing else reads in place of after it: the numbers and their
    /// gradients are the same, and the Relu has the smaller map to do. The value between the two keeps its name.
    pub(super) fn pool_before_relu(&mut self) {
        let is = |node: &Node, op: &str| node.domain.is_empty() && node.op == op;
        for pool in 0..self.nodes.len() {
            if !is(&self.nodes[pool], "MaxPool") || self.nodes[pool].output(1).is_some() {
                continue;
            }
            // Windows with gaps may read nothing but padding, and what a Relu makes of that is another number.
            let apart = |attr: &Attr| !matches!(attr, Attr::Ints(d) if d.iter().all(|&d| d == 1));
            if self.nodes[pool].attrs.get("dilations").is_some_and(apart) {
                continue;
            }
            let between = self.nodes[pool].inputs[0].clone();
            let relu = self.nodes[..pool].iter().position(|n| is(n, "Relu") && n.outputs[0] == between);
            let readers = self.nodes.iter().flat_map(Node::reads).filter(|name| **name == between).count();
            let (Some(relu), 1) = (relu, readers) else { continue };
            let [x, y] = [&self.nodes[relu].inputs[0], &self.nodes[pool].outputs[0]].map(Clone::clone);
            let Some(shape) = self.values.get(&y).cloned() else { continue };
            (self.nodes[relu].inputs[0], self.nodes[relu].outputs[0]) = (between.clone(), y);
            (self.nodes[pool].inputs[0], self.nodes[pool].outputs[0]) = (x, between.clone());
            self.nodes.swap(relu, pool);
            self.values.insert(between, shape);
        }
    }

    /// For every value that is read, the place of the first node that reads it.
    pub(super) fn first_readers(&self) -> HashMap<&str, usize> {
        let mut first = HashMap::new();
        for (i, node) in self.nodes.iter().enumerate() {
            node.reads().for_each(|name| _ = first.entry(name).or_insert(i));
        }
        first
    }

    /// Writes the constants and nodes into a step graph. Inputs of the step graph and trained weights have to be
    /// declared there before.
    ///
    /// With `lower`, operators that have a faster form for weights that change at every step are written in it. Weights
    /// that are constants are better off in the file's form, which the runtime lays out once. Operators that
    /// the graph avoids are written in another form where there is one.
    pub fn replay(&self, graph: &mut Builder, lower: bool) {
        self.nodes.iter().for_each(|node| graph.reserve(node));
        for node in &self.nodes {
            for input in node.reads() {
                if graph.value(input).is_none()
                    && let Some(tensor) = self.known.get(input)
                {
                    graph.named_constant(input, Arc::clone(tensor));
                }
            }
            let shapes: Vec<Vec<usize>> =
                node.outputs.iter().map(|o| self.shape(o).unwrap_or_default().to_vec()).collect();
            let value = if lower || graph.avoids(&node.op) { self.lowered(graph, node, &shapes) } else { None };
            match value {
                Some(value) => graph.alias(&node.outputs[0], &value),
                None => graph.forward(node.clone(), &shapes),
            }
        }
    }

    fn lowered(&self, graph: &mut Builder, node: &Node, shapes: &[Vec<usize>]) -> Option<Value> {
        // The other forms compute in float32.
        let float = self.values.get(node.output(0)?).is_some_and(|(dtype, _)| *dtype == DType::F32);
        let lower = ops::find(node).filter(|_| float)?.lower?;
        graph.set_scope(format!("{}/forward", node.name));
        let mut emit = Emit::new(graph, node, &self.known, &[], 0, DType::F32);
        // What the lowering does not cover is no error: the node itself is.
        lower(&mut emit, &shapes[0]).ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Attrs;

    fn node(op: &str, inputs: &[&str], outputs: &[&str], dilations: &[i64]) -> Node {
        let attrs = if dilations.is_empty() { Attrs::new() } else { [("dilations".into(), dilations.into())].into() };
        let names = |of: &[&str]| of.iter().map(|&name| name.to_owned()).collect();
        Node {
            name: op.into(),
            op: op.into(),
            domain: String::new(),
            inputs: names(inputs),
            outputs: names(outputs),
            attrs,
        }
    }

    fn spelled(nodes: Vec<Node>) -> (Vec<String>, Option<usize>) {
        let values = [("relu", 16), ("y", 4)].map(|(name, n)| (name.to_owned(), (DType::F32, vec![n])));
        let mut traced = Traced { nodes, values: values.into(), known: HashMap::new(), inferred: false };
        traced.pool_before_relu();
        let spell = |n: &Node| format!("{} {} -> {}", n.op, n.inputs.join(" "), n.outputs.join(" "));
        (traced.nodes.iter().map(spell).collect(), traced.shape("relu").map(|s| s[0]))
    }

    #[test]
    fn a_maximum_goes_before_a_relu_that_nothing_else_reads() {
        let nodes = |pool: Node| vec![node("Relu", &["x"], &["relu"], &[]), node("Neg", &["b"], &["c"], &[]), pool];
        let (spelling, between) = spelled(nodes(node("MaxPool", &["relu"], &["y"], &[1, 1])));
        assert_eq!(spelling, ["MaxPool x -> relu", "Neg b -> c", "Relu relu -> y"]);
        assert_eq!(between, Some(4), "the value between has the smaller shape");
        // Windows with gaps may read nothing; the places of maxima are those in the Relu's result.
        for pool in [node("MaxPool", &["relu"], &["y"], &[2, 1]), node("MaxPool", &["relu"], &["y", "at"], &[])] {
            assert_eq!(spelled(nodes(pool)).0[0], "Relu x -> relu");
        }
        let mut read = nodes(node("MaxPool", &["relu"], &["y"], &[]));
        read.push(node("Add", &["y", "relu"], &["z"], &[]));
        assert_eq!(spelled(read).0[0], "Relu x -> relu");
    }
}
