//! Says what is computed, and prints it: nodes over named values.

mod builder;
mod fuse;
pub mod native;
mod node;

pub use builder::{Builder, Forms, Value};
pub use node::{Attr, Attrs, Node, Subgraph};

use crate::tensor::{DType, Tensor};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Domain of the operators that the tool brings itself ([`native`]).
pub const NATIVE: &str = "dev.onnx-unlearn";

/// A graph input or output: name, element type and the length of every axis (`None` where the file leaves it open).
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Name of the value.
    pub name: String,
    /// Element type; `None` where the file does not say or the tool does not hold the type.
    pub dtype: Option<DType>,
    /// Length of every axis; the whole list is `None` where the rank is unknown.
    pub dims: Option<Vec<Option<usize>>>,
}

impl Port {
    /// A port whose shape is fully known.
    pub fn fixed(name: impl Into<String>, dtype: DType, shape: &[usize]) -> Self {
        Self { name: name.into(), dtype: Some(dtype), dims: Some(shape.iter().map(|&d| Some(d)).collect()) }
    }

    /// A port about which only the name is known: the runtime infers the rest.
    pub fn open(name: impl Into<String>) -> Self {
        Self { name: name.into(), dtype: None, dims: None }
    }
}

/// Nodes in topological order over named values, with constants (weights among them).
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Version of the `ai.onnx` operator set the nodes are spelled in.
    pub opset: i64,
    /// Values fed at every run.
    pub inputs: Vec<Port>,
    /// Values given back by every run.
    pub outputs: Vec<Port>,
    /// Operator calls, each after the nodes it reads from (graphs inside a node included).
    pub nodes: Vec<Node>,
    /// Named constants.
    pub constants: BTreeMap<String, Arc<Tensor>>,
}

impl Graph {
    /// Node that writes each value, as an index into [`Graph::nodes`].
    pub fn producers(&self) -> BTreeMap<&str, usize> {
        let pairs = self.nodes.iter().enumerate();
        pairs.flat_map(|(i, n)| n.outputs.iter().filter(|o| !o.is_empty()).map(move |o| (o.as_str(), i))).collect()
    }

    /// Puts every node after those it reads from; an order that is right already stays. Some converters write files
    /// that are out of order, and runtimes take them. Nodes that read in a circle are left for the runtime to refuse.
    pub fn sort(&mut self) {
        let producers = self.producers();
        let needs: Vec<Vec<usize>> =
            self.nodes.iter().map(|n| n.reads().filter_map(|name| producers.get(name).copied()).collect()).collect();
        let (mut order, mut seen) = (Vec::with_capacity(self.nodes.len()), vec![false; self.nodes.len()]);
        for root in 0..self.nodes.len() {
            // A node is entered once, and written when all it needs has been entered before it.
            let mut stack = vec![(root, 0)];
            while let Some((node, next)) = stack.pop() {
                if next == 0 && std::mem::replace(&mut seen[node], true) {
                    continue;
                }
                match needs[node].get(next) {
                    Some(&need) => {
                        stack.push((node, next + 1));
                        if !seen[need] {
                            stack.push((need, 0));
                        }
                    }
                    None => order.push(node),
                }
            }
        }
        if !order.is_sorted() {
            let mut nodes: Vec<Option<Node>> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
            self.nodes = order.into_iter().filter_map(|i| nodes[i].take()).collect();
        }
    }

    /// Drops nodes and constants that no output needs.
    pub fn prune(&mut self) {
        let mut live: std::collections::BTreeSet<String> = self.outputs.iter().map(|o| o.name.clone()).collect();
        let mut keep = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            if node.outputs.iter().any(|o| live.contains(o)) {
                keep[i] = true;
                live.extend(node.reads().map(str::to_owned));
            }
        }
        let mut keep = keep.into_iter();
        self.nodes.retain(|_| keep.next().unwrap_or(false));
        self.constants.retain(|name, _| live.contains(name));
    }
}

impl fmt::Display for Graph {
    /// One line a port, constant and node, so that graphs can be read and compared in tests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for p in &self.inputs {
            writeln!(f, "input {}", Show(p))?;
        }
        for (name, t) in &self.constants {
            write!(f, "const {name}: {}{:?}", t.dtype(), t.shape())?;
            match (t.len() <= 8, t.data()) {
                (true, crate::tensor::Data::F32(v)) => writeln!(f, " = {v:?}")?,
                (true, crate::tensor::Data::I64(v)) => writeln!(f, " = {v:?}")?,
                _ => writeln!(f)?,
            }
        }
        for node in &self.nodes {
            writeln!(f, "{node}")?;
        }
        for p in &self.outputs {
            writeln!(f, "output {}", Show(p))?;
        }
        Ok(())
    }
}

struct Show<'a>(&'a Port);

impl fmt::Display for Show<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.name)?;
        if let Some(t) = self.0.dtype {
            write!(f, ": {t}")?;
        }
        if let Some(dims) = &self.0.dims {
            let dims: Vec<String> = dims.iter().map(|d| d.map_or("?".into(), |d| d.to_string())).collect();
            write!(f, "[{}]", dims.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, inputs: &[&str]) -> Node {
        Node {
            name: name.into(),
            op: "Add".into(),
            domain: String::new(),
            inputs: inputs.iter().map(ToString::to_string).collect(),
            outputs: vec![name.into()],
            attrs: Attrs::new(),
        }
    }

    fn sorted(nodes: &[(&str, &[&str])]) -> Vec<String> {
        let mut graph = Graph { nodes: nodes.iter().map(|(n, i)| node(n, i)).collect(), ..Graph::default() };
        graph.sort();
        graph.nodes.into_iter().map(|n| n.name).collect()
    }

    #[test]
    fn nodes_come_after_what_they_read() {
        assert_eq!(sorted(&[("c", &["b", "a"]), ("a", &["x"]), ("b", &["a"])]), ["a", "b", "c"]);
        assert_eq!(sorted(&[("b", &["x"]), ("a", &["x"]), ("c", &["a", "b"])]), ["b", "a", "c"], "as in the file");
        assert_eq!(sorted(&[("a", &["b"]), ("b", &["a"])]).len(), 2, "a circle loses no node");
    }
}
