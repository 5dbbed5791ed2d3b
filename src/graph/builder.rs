//! Writes graphs node by node. Every value knows its shape, and the same computation is never written twice.

use super::{Attr, Attrs, Graph, Node, Port, fuse::fuse};
use crate::tensor::{DType, Tensor};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// A value of a graph under construction: its name and shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    name: Arc<str>,
    shape: Arc<[usize]>,
}

impl Value {
    /// Name in the graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A value of the same shape.
    pub(super) fn like(&self, name: &str) -> Self {
        Self { name: name.into(), shape: Arc::clone(&self.shape) }
    }

    /// Length of every axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when an axis has length 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// In which form what is computed is to be written, both in the words of `ops`.
pub type Forms = BTreeMap<String, String>;

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
    values: HashMap<String, Value>,
    written: HashMap<String, Vec<Value>>,
    counters: BTreeMap<String, usize>,
    reserved: HashSet<String>,
    scope: String,
    avoided: &'static [&'static str],
    native: bool,
    forms: Arc<Forms>,
}

impl Builder {
    /// An empty graph whose nodes are spelled in `opset`.
    pub fn new(opset: i64) -> Self {
        Self { graph: Graph { opset, ..Graph::default() }, ..Self::default() }
    }

    /// The same without these operators, which the device does not compute rightly.
    #[must_use]
    pub fn avoiding(self, operators: &'static [&'static str]) -> Self {
        Self { avoided: operators, ..self }
    }

    /// The same for a device that runs the operators of [`native`](super::native).
    #[must_use]
    pub fn with_native(self, native: bool) -> Self {
        Self { native, ..self }
    }

    /// The same with these forms in place of those that rules choose.
    #[must_use]
    pub fn with_forms(self, forms: Arc<Forms>) -> Self {
        Self { forms, ..self }
    }

    /// The form that it was told for this.
    pub fn form(&self, of: &str) -> Option<&str> {
        self.forms.get(of).map(String::as_str)
    }

    /// True where operators of [`native`](super::native) may be written.
    pub fn is_native(&self) -> bool {
        self.native
    }

    /// True for an operator that is not to be written.
    pub fn avoids(&self, operator: &str) -> bool {
        self.avoided.contains(&operator)
    }

    /// Version of the operator set.
    pub fn opset(&self) -> i64 {
        self.graph.opset
    }

    /// Prefix for the names of values written from here on, such as `conv1/grad`.
    pub fn set_scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// Keeps clear of the names inside the graphs of a node that is added later.
    pub fn reserve(&mut self, node: &Node) {
        self.reserved.extend(node.subgraphs().flat_map(|g| g.defines.iter().cloned()));
    }

    /// Adds a graph input.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Value {
        self.graph.inputs.push(Port::fixed(name, dtype, shape));
        self.declare(name, shape)
    }

    /// Adds a constant under a name of the caller's.
    pub fn named_constant(&mut self, name: &str, tensor: Arc<Tensor>) -> Value {
        let value = self.declare(name, tensor.shape());
        self.graph.constants.insert(name.into(), tensor);
        value
    }

    /// Adds a constant; equal small constants are shared.
    pub fn constant(&mut self, tensor: Tensor) -> Value {
        let key = (tensor.len() <= 64).then(|| format!("const {:?} {:?}", tensor.shape(), tensor.data()));
        if let Some(v) = key.as_ref().and_then(|k| self.written.get(k)) {
            return v[0].clone();
        }
        let name = self.fresh("const");
        let value = self.named_constant(&name, Arc::new(tensor));
        if let Some(key) = key {
            self.written.insert(key, vec![value.clone()]);
        }
        value
    }

    /// Adds a forward node as it stands; `shapes` are those of its outputs.
    pub fn forward(&mut self, node: Node, shapes: &[Vec<usize>]) {
        for (name, shape) in node.outputs.iter().zip(shapes).filter(|(n, _)| !n.is_empty()) {
            self.declare(name, shape);
        }
        if let [output] = node.outputs.as_slice()
            && node.subgraphs().next().is_none()
        {
            let value = self.values[output].clone();
            self.written
                .entry(key(&node.op, &node.domain, &node.inputs, &node.attrs, 1))
                .or_insert_with(|| vec![value]);
        }
        self.graph.nodes.push(node);
    }

    /// Gives `value` the name that later nodes read it by.
    pub fn alias(&mut self, name: &str, value: &Value) {
        let shape = value.shape().to_vec();
        self.declare(name, &shape);
        self.graph.nodes.push(identity(value.name(), name));
    }

    /// Writes a node with one output of the given shape, or hands back the value if this very node is there already.
    pub fn op(&mut self, op: &str, inputs: &[&Value], attrs: &[(&str, Attr)], shape: &[usize]) -> Value {
        let inputs: Vec<&str> = inputs.iter().map(|v| v.name()).collect();
        self.raw("", op, &inputs, attrs, &[shape.to_vec()]).remove(0)
    }

    /// Writes a node with several outputs, or with inputs left out (empty names), or of another domain; like [`Self::op`]
    /// it writes no node twice.
    pub fn raw(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        attrs: &[(&str, Attr)],
        shapes: &[Vec<usize>],
    ) -> Vec<Value> {
        let inputs: Vec<String> = inputs.iter().map(|s| (*s).to_owned()).collect();
        let attrs: Attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let key = key(op, domain, &inputs, &attrs, shapes.len());
        if let Some(values) = self.written.get(&key) {
            return values.clone();
        }
        let outputs: Vec<Value> = shapes
            .iter()
            .map(|shape| {
                let name = self.fresh(op);
                self.declare(&name, shape)
            })
            .collect();
        self.written.insert(key, outputs.clone());
        self.graph.nodes.push(Node {
            name: outputs[0].name().to_owned(),
            op: op.to_owned(),
            domain: domain.to_owned(),
            inputs,
            outputs: outputs.iter().map(|v| v.name().to_owned()).collect(),
            attrs,
        });
        outputs
    }

    /// A value by name.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// The node that writes a value.
    pub fn writer(&self, name: &str) -> Option<&Node> {
        self.graph.nodes.iter().rev().find(|n| n.outputs.iter().any(|o| o == name))
    }

    /// A constant by name.
    pub fn known(&self, name: &str) -> Option<&Tensor> {
        self.graph.constants.get(name).map(AsRef::as_ref)
    }

    /// Makes `value` a graph output under its own name.
    pub fn output(&mut self, value: &Value) {
        if !self.graph.outputs.iter().any(|o| o.name == value.name()) {
            self.graph.outputs.push(Port::open(value.name()));
        }
    }

    /// Makes `value` a graph output under another name.
    pub fn output_as(&mut self, value: &Value, name: &str) {
        self.alias(name, value);
        self.graph.outputs.push(Port::open(name));
    }

    /// The finished graph, without what no output needs; elementwise operators are chains where the device has these.
    pub fn finish(mut self) -> Graph {
        self.graph.prune();
        if self.native {
            fuse(&mut self.graph, &mut self.values);
        }
        self.graph
    }

    fn declare(&mut self, name: &str, shape: &[usize]) -> Value {
        let value = Value { name: name.into(), shape: shape.into() };
        self.values.insert(name.to_owned(), value.clone());
        value
    }

    fn fresh(&mut self, op: &str) -> String {
        let base = if self.scope.is_empty() { op.to_owned() } else { format!("{}/{op}", self.scope) };
        loop {
            let n = self.counters.entry(base.clone()).or_insert(0);
            *n += 1;
            let name = if *n == 1 { base.clone() } else { format!("{base}_{n}") };
            if !self.values.contains_key(&name) && !self.reserved.contains(&name) {
                return name;
            }
        }
    }
}

fn identity(from: &str, to: &str) -> Node {
    Node {
        name: to.to_owned(),
        op: "Identity".into(),
        domain: String::new(),
        inputs: vec![from.to_owned()],
        outputs: vec![to.to_owned()],
        attrs: Attrs::new(),
    }
}

fn key(op: &str, domain: &str, inputs: &[String], attrs: &Attrs, outputs: usize) -> String {
    format!("{domain}.{op}({inputs:?}) {attrs:?} {outputs}")
}
