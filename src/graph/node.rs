//! One operator call and its attributes.

use crate::tensor::Tensor;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// One integer.
    Int(i64),
    /// One float.
    Float(f32),
    /// One string.
    Str(String),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A list of floats.
    Floats(Vec<f32>),
    /// A list of strings.
    Strs(Vec<String>),
    /// A constant array.
    Tensor(Tensor),
    /// A graph inside the node: a branch of `If`, the body of `Loop` or `Scan`.
    Graph(Subgraph),
    /// A kind the tool does not compute with (a type, a list of graphs): only its kind is kept.
    Other(&'static str),
}

/// A graph inside a node: handed to the runtime as it stands, never looked into outside `onnx`.
#[derive(Clone, Debug, PartialEq)]
pub struct Subgraph {
    /// The graph in the encoding of the file.
    pub bytes: Arc<[u8]>,
    /// Values of the surrounding graph that it reads, each once.
    pub captures: Vec<String>,
    /// Names it gives to values of its own, at any depth: a graph around it may not use them for others.
    pub defines: Vec<String>,
}

impl From<i64> for Attr {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}
impl From<f32> for Attr {
    fn from(v: f32) -> Self {
        Self::Float(v)
    }
}
impl From<&str> for Attr {
    fn from(v: &str) -> Self {
        Self::Str(v.into())
    }
}
impl From<Vec<i64>> for Attr {
    fn from(v: Vec<i64>) -> Self {
        Self::Ints(v)
    }
}
impl From<&[i64]> for Attr {
    fn from(v: &[i64]) -> Self {
        Self::Ints(v.to_vec())
    }
}
impl<const N: usize> From<[i64; N]> for Attr {
    fn from(v: [i64; N]) -> Self {
        Self::Ints(v.to_vec())
    }
}
impl<const N: usize> From<[f32; N]> for Attr {
    fn from(v: [f32; N]) -> Self {
        Self::Floats(v.to_vec())
    }
}
impl From<Tensor> for Attr {
    fn from(v: Tensor) -> Self {
        Self::Tensor(v)
    }
}

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(v) => write!(f, "{v}"),
            Self::Float(v) => write!(f, "{v:?}"),
            Self::Str(v) => write!(f, "{v:?}"),
            Self::Ints(v) => write!(f, "{v:?}"),
            Self::Floats(v) => write!(f, "{v:?}"),
            Self::Strs(v) => write!(f, "{v:?}"),
            Self::Tensor(t) => write!(f, "{}{:?}", t.dtype(), t.shape()),
            Self::Graph(g) => write!(f, "<subgraph reading {}>", g.captures.join(", ")),
            Self::Other(kind) => write!(f, "<{kind}>"),
        }
    }
}

/// Attributes by name.
pub type Attrs = BTreeMap<String, Attr>;

/// One operator call. An absent optional input or output is the empty name, as in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name for messages; never empty (nameless nodes are named after their first output).
    pub name: String,
    /// Operator, such as `Conv`.
    pub op: String,
    /// Operator domain; empty for `ai.onnx`.
    pub domain: String,
    /// Names of the values read.
    pub inputs: Vec<String>,
    /// Names of the values written.
    pub outputs: Vec<String>,
    /// Attributes.
    pub attrs: Attrs,
}

impl Node {
    /// Name of input `i`, `None` where it is left out.
    pub fn input(&self, i: usize) -> Option<&str> {
        self.inputs.get(i).map(String::as_str).filter(|s| !s.is_empty())
    }

    /// Name of output `i`, `None` where it is left out.
    pub fn output(&self, i: usize) -> Option<&str> {
        self.outputs.get(i).map(String::as_str).filter(|s| !s.is_empty())
    }

    /// Graphs inside the node.
    pub fn subgraphs(&self) -> impl Iterator<Item = &Subgraph> {
        self.attrs.values().filter_map(|a| if let Attr::Graph(g) = a { Some(g) } else { None })
    }

    /// Names of the values of the surrounding graph that the graphs inside the node read.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.subgraphs().flat_map(|g| g.captures.iter().map(String::as_str))
    }

    /// Names of all values the node depends on: its inputs, and what the graphs inside it read.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(String::as_str).filter(|s| !s.is_empty()).chain(self.captures())
    }

    /// How messages name the node: `"conv1" (Conv)`.
    pub fn label(&self) -> String {
        if self.domain.is_empty() {
            format!("{:?} ({})", self.name, self.op)
        } else {
            format!("{:?} ({}.{})", self.name, self.domain, self.op)
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = ", self.outputs.join(", "))?;
        if !self.domain.is_empty() {
            write!(f, "{}.", self.domain)?;
        }
        write!(f, "{}({})", self.op, self.inputs.join(", "))?;
        if !self.attrs.is_empty() {
            let attrs: Vec<String> = self.attrs.iter().map(|(k, v)| format!("{k}={v}")).collect();
            write!(f, " {{{}}}", attrs.join(", "))?;
        }
        Ok(())
    }
}
