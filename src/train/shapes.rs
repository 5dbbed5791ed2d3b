//! The shapes of all values at one batch, and what is computed from shapes alone.
//!
//! There are no shape rules in this program: the runtime says what shapes are. A run of the whole batch tells them, however a
//! model goes about it. Opening the graph tells most of them too, because the runtime infers them from those of the inputs;
//! that is taken where a run of a few samples finds what was inferred for a few samples.

use crate::{
    graph::{Attr, Attrs, Graph, Node, Port},
    runtime::{Engine, Ports, RuntimeError},
    tensor::{DType, Tensor},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Operators whose result depends on the shape of their input only.
pub(super) const SHAPE_ONLY: &[&str] = &["Shape", "Size"];

/// Begins the name of a value that holds the shape of another.
const SHAPE_OF: &str = "onnx-unlearn:shape/";

/// Times that a graph is opened for its shapes: what is folded after one time may tell more shapes the next.
const ROUNDS: usize = 4;

pub(super) type Feeds = [(String, Tensor)];

/// The graph with inputs of the types and shapes of `feeds`.
pub(super) fn with_inputs_of(graph: &Graph, feeds: &Feeds) -> Graph {
    let mut graph = graph.clone();
    for input in &mut graph.inputs {
        if let Some((_, t)) = feeds.iter().find(|(name, _)| *name == input.name) {
            *input = Port::fixed(input.name.clone(), t.dtype(), t.shape());
        }
    }
    graph
}

/// What is asked: all about the values that nodes of a graph make.
pub(super) struct Question<'g> {
    pub engine: Engine,
    pub graph: &'g Graph,
    /// Values that are the same for every batch.
    pub folded: &'g BTreeSet<String>,
    /// Those of them whose elements are asked for.
    pub wanted: &'g BTreeSet<String>,
}

/// What is known of the values.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    pub values: HashMap<String, (DType, Vec<usize>)>,
    pub known: HashMap<String, Arc<Tensor>>,
}

impl Question<'_> {
    /// What opening the graph tells.
    pub fn open(&self, feeds: &Feeds) -> Result<Ports, RuntimeError> {
        opened(&self.engine, &with_inputs_of(self.graph, feeds))
    }

    /// Answers from shapes that the runtime infers, if a run of `few` samples shows that it infers well. `ports` are what
    /// opening the graph has told.
    pub fn infer(&self, feeds: &Feeds, ports: &Ports, few: &Feeds) -> Option<Answer> {
        let answer = self.inferred(feeds, ports.clone())?;
        let ports = self.open(few).ok()?;
        let run = self.run(few, &ports).ok()?;
        (self.inferred(few, ports)? == run).then_some(answer)
    }

    /// Answers from a run. `ports` are what opening the graph has told.
    ///
    /// The run is asked for shapes, so that a value is dropped as soon as nothing reads it. The runtime begins with what the
    /// last output needs, which has to be the first value then.
    pub fn run(&self, feeds: &Feeds, ports: &Ports) -> Result<Answer, RuntimeError> {
        let mut probe = with_inputs_of(self.graph, feeds);
        let shape_of = |name: &String| format!("{SHAPE_OF}{name}");
        let made = self.graph.nodes.iter().rev().flat_map(|n| n.outputs.iter().rev());
        let made: Vec<&String> = made.filter(|name| ports.contains_key(*name)).collect();
        probe.nodes.extend(made.iter().copied().map(|name| Node {
            name: shape_of(name),
            op: "Shape".into(),
            domain: String::new(),
            inputs: vec![name.clone()],
            outputs: vec![shape_of(name)],
            attrs: Attrs::new(),
        }));
        probe.outputs = made.iter().copied().map(|name| Port::open(shape_of(name))).collect();
        probe.outputs.extend(made.iter().copied().filter(|name| self.wanted.contains(*name)).map(Port::open));
        let mut session = self.engine.plain_session("the model, to learn its shapes", &probe)?;
        let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(name, t)| (name.as_str(), t)).collect();
        let (mut values, mut known) = (HashMap::new(), HashMap::new());
        for (name, found) in session.outputs().into_iter().zip(session.run(&feeds)?) {
            if let Some(name) = name.strip_prefix(SHAPE_OF) {
                let shape = found.to_i64s().unwrap_or_default().iter().map(|&d| d as usize).collect();
                values.insert(name.to_owned(), (ports[name].0, shape));
            } else {
                known.insert(name, Arc::new(found));
            }
        }
        Ok(Answer { values, known })
    }

    /// Answers from opening the graph, and again with what could be folded then; `None` where that leaves something open.
    fn inferred(&self, feeds: &Feeds, mut ports: Ports) -> Option<Answer> {
        let mut graph = with_inputs_of(self.graph, feeds);
        let mut values = HashMap::new();
        let mut known = HashMap::new();
        for round in 0..ROUNDS {
            if round > 0 {
                ports = opened(&self.engine, &graph).ok()?;
            }
            let is_folded = |node: &Node| node.outputs.iter().any(|o| self.folded.contains(o));
            if ports.values().all(|(_, shape)| shape.is_some()) && !graph.nodes.iter().any(is_folded) {
                values.extend(ports.into_iter().filter_map(|(name, (dtype, shape))| Some((name, (dtype, shape?)))));
                return Some(Answer { values, known });
            }
            let fold = self.fold(&graph, feeds, &ports)?;
            graph.nodes.retain(|node| !node.outputs.iter().any(|o| fold.contains_key(o)));
            for (name, t) in fold {
                values.insert(name.clone(), (t.dtype(), t.shape().to_vec()));
                if self.wanted.contains(&name) {
                    known.insert(name.clone(), Arc::clone(&t));
                }
                graph.constants.insert(name, t);
            }
        }
        None
    }

    /// The folded values that can be computed by now; `None` where there are none.
    fn fold(&self, graph: &Graph, feeds: &Feeds, ports: &Ports) -> Option<BTreeMap<String, Arc<Tensor>>> {
        let fed = |name: &str| feeds.iter().find(|(fed, _)| fed == name).map(|(_, t)| t);
        let shape = |name: &str| match (graph.constants.get(name), fed(name)) {
            (Some(t), _) => Some(t.shape()),
            (None, Some(t)) => Some(t.shape()),
            // Of an open rank the runtime tells as little as of a single number.
            (None, None) => ports.get(name)?.1.as_deref().filter(|shape| !shape.is_empty()),
        };
        let mut found: BTreeMap<String, Arc<Tensor>> = BTreeMap::new();
        let mut part = Graph { opset: graph.opset, ..Graph::default() };
        let mut made: BTreeSet<&str> = BTreeSet::new();
        for node in &graph.nodes {
            if node.outputs.iter().any(|o| !o.is_empty() && !self.folded.contains(o)) {
                continue;
            }
            if node.domain.is_empty() && SHAPE_ONLY.contains(&node.op.as_str()) {
                if let Some(t) = shape(&node.inputs[0]).and_then(|shape| of_shape(node, shape)) {
                    found.insert(node.outputs[0].clone(), Arc::new(t));
                }
            } else if node.reads().all(|name| {
                let constant = graph.constants.contains_key(name) || found.contains_key(name);
                constant || made.contains(name) || fed(name).is_some()
            }) {
                made.extend(node.outputs.iter().map(String::as_str));
                part.nodes.push(node.clone());
            }
        }
        let read: BTreeSet<&str> = part.nodes.iter().flat_map(Node::reads).collect();
        for &name in &read {
            if let Some(t) = graph.constants.get(name).or_else(|| found.get(name)) {
                part.constants.insert(name.to_owned(), Arc::clone(t));
            } else if let Some(t) = fed(name) {
                part.constants.insert(name.to_owned(), Arc::new(t.clone()));
            }
        }
        part.outputs = made.iter().filter(|name| !name.is_empty()).map(|name| Port::open(*name)).collect();
        if !part.nodes.is_empty() {
            let mut session = self.engine.plain_session("what depends on shapes alone", &part).ok()?;
            let tensors = session.run(&[]).ok()?;
            found.extend(session.outputs().into_iter().zip(tensors.into_iter().map(Arc::new)));
        }
        (!found.is_empty()).then_some(found)
    }
}

/// What a `Shape` or `Size` node gives for a value of this shape.
fn of_shape(node: &Node, shape: &[usize]) -> Option<Tensor> {
    let dims: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    if node.op == "Size" {
        return Some(Tensor::i64([], vec![dims.iter().product()]));
    }
    let at = |name: &str, default: i64| match node.attrs.get(name) {
        None => Some(default),
        Some(&Attr::Int(i)) => Some((if i < 0 { i + dims.len() as i64 } else { i }).clamp(0, dims.len() as i64)),
        Some(_) => None,
    };
    let (start, end) = (at("start", 0)? as usize, at("end", dims.len() as i64)? as usize);
    Some(Tensor::ints(&dims[start..end.max(start)]))
}

/// Element types of all values that nodes of `graph` make, and their shapes in so far as opening it tells them.
fn opened(engine: &Engine, graph: &Graph) -> Result<Ports, RuntimeError> {
    let mut graph = graph.clone();
    let made = graph.nodes.iter().flat_map(|n| n.outputs.iter()).filter(|o| !o.is_empty());
    graph.outputs = made.map(Port::open).collect();
    engine.plain_session("the model, to learn its types", &graph)?.output_ports()
}
