//! Says what is computed, and prints it: nodes over named values.

mod builder;
mod node;

pub use builder::{Builder, Value};
pub use node::{Attr, Attrs, Node, Subgraph};

use crate::tensor::{DType, Tensor};
use std::{collections::BTreeMap, fmt, sync::Arc};

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
