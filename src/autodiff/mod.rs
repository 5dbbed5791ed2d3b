//! Walks a graph backwards using the rules of [`ops`]. No operator is named here.

mod paths;

pub use paths::{DeadEnds, dead_ends, heard};

use crate::{
    graph::{Builder, Node, Value},
    ops::{self, Emit, Flow, OpError},
    tensor::{DType, Tensor},
};
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

/// A node the gradient has to pass and cannot, and why.
#[derive(Debug)]
pub struct Obstacle {
    /// The node as messages name it.
    pub node: String,
    /// The reason.
    pub reason: OpError,
}

/// Every node the gradient cannot pass.
#[derive(Debug)]
pub struct NotDifferentiable(pub Vec<Obstacle>);

impl fmt::Display for NotDifferentiable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} node(s) cannot be differentiated:", self.0.len())?;
        for o in &self.0 {
            write!(f, "\n  in node {}: {}", o.node, o.reason)?;
        }
        Ok(())
    }
}

impl std::error::Error for NotDifferentiable {}

/// The names among `nodes`' values through which a gradient of `outputs` reaches `wanted`, and the nodes that stand in
/// its way.
///
/// A value is on the way when it is wanted or is computed from such a value through an input with a rule. A node is in
/// the way only where a gradient arrives at it: one whose result no more than a shape or an index is computed from may
/// be of any kind.
pub fn reach(nodes: &[Node], outputs: &[&str], wanted: &BTreeSet<String>) -> (BTreeSet<String>, Vec<Obstacle>) {
    let heard = heard(nodes, outputs);
    let mut active = wanted.clone();
    let mut obstacles = Vec::new();
    for node in nodes.iter().filter(|n| n.outputs.iter().any(|o| heard.contains(o.as_str()))) {
        let touched: Vec<usize> =
            (0..node.inputs.len()).filter(|&i| node.input(i).is_some_and(|n| active.contains(n))).collect();
        if touched.is_empty() && !node.captures().any(|n| active.contains(n)) {
            continue;
        }
        let mut flows = false;
        let mut fail = |reason| obstacles.push(Obstacle { node: node.label(), reason });
        match ops::find(node) {
            None => {
                fail(ops::missing(node));
                flows = true; // What lies behind is looked at too, so that all obstacles are listed at once.
            }
            Some(op) => {
                for i in touched {
                    match op.flow(i) {
                        None => fail(OpError::NoFlow(i)),
                        Some(Flow::Vjp(_)) => flows = true,
                        Some(Flow::Constant | Flow::Zero) => {}
                    }
                }
                if flows && let Some((name, value)) = node.attrs.iter().find(|(k, _)| !op.attrs.contains(&k.as_str())) {
                    fail(OpError::UnknownAttribute { name: name.clone(), value: value.to_string() });
                }
            }
        }
        if flows {
            active.extend(node.outputs.iter().filter(|o| !o.is_empty()).cloned());
        }
    }
    (active, obstacles)
}

/// Writes the gradient of a scalar with respect to `wanted` into `graph`.
///
/// `nodes` are the forward nodes (already written), `known` the values that are constant in this graph, and `seeds` the
/// gradient of the scalar with respect to the values it was computed from. A wanted value that the scalar does not
/// depend on is absent from the result.
///
/// # Panics
/// When a rule gives a gradient of another shape than its input's: a mistake in the rule.
pub fn backward(
    graph: &mut Builder,
    nodes: &[Node],
    known: &HashMap<String, Arc<Tensor>>,
    seeds: &[(Value, Value)],
    wanted: &BTreeSet<String>,
    float: DType,
) -> Result<HashMap<String, Value>, NotDifferentiable> {
    let outputs: Vec<String> = seeds.iter().map(|(value, _)| value.name().to_owned()).collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    let (active, mut obstacles) = reach(nodes, &outputs, wanted);
    let mut parts: HashMap<String, Vec<Value>> = HashMap::new();
    for (value, gradient) in seeds {
        parts.entry(value.name().to_owned()).or_default().push(gradient.clone());
    }
    for node in nodes.iter().rev() {
        graph.set_scope(format!("{}/grad", node.name));
        let dys: Vec<Option<Value>> = node.outputs.iter().map(|o| total(graph, parts.get(o))).collect();
        if dys.iter().all(Option::is_none) {
            continue;
        }
        let Some(op) = ops::find(node) else { continue };
        for i in 0..node.inputs.len() {
            let Some(name) = node.input(i).filter(|n| active.contains(*n)) else { continue };
            let Some(Flow::Vjp(rule)) = op.flow(i) else { continue };
            let mut emit = Emit::new(graph, node, known, &dys, i, float);
            let result = match &dys[0] {
                Some(dy) => rule(&mut emit, dy),
                None => emit.y(0).map(|y| emit.zeros(y.shape())).and_then(|zero| rule(&mut emit, &zero)),
            };
            match result {
                Ok(dx) => parts.entry(name.to_owned()).or_default().push(dx),
                Err(reason) => obstacles.push(Obstacle { node: node.label(), reason }),
            }
        }
    }
    graph.set_scope("");
    if !obstacles.is_empty() {
        return Err(NotDifferentiable(obstacles));
    }
    for (name, list) in &parts {
        let shape = graph.value(name).map(|v| v.shape().to_vec());
        for dx in list {
            assert_eq!(shape.as_deref(), Some(dx.shape()), "gradient of {name:?} has the wrong shape");
        }
    }
    Ok(wanted.iter().filter_map(|w| total(graph, parts.get(w)).map(|g| (w.clone(), g))).collect())
}

/// The sum of all gradients that arrive at a value.
fn total(graph: &mut Builder, parts: Option<&Vec<Value>>) -> Option<Value> {
    ops::total(graph, parts?)
}
