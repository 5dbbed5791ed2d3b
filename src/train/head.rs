//! Finds the logits of a classifier: the value whose softmax is the prediction.

use crate::graph::{Graph, Port};
use serde::Serialize;
use thiserror::Error;

/// Where the logits are.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// The model output that was asked for.
    pub output: String,
    /// The value the loss is computed on.
    pub logits: String,
    /// The final operator that was stepped over, such as `Softmax`.
    pub behind: Option<String>,
}

/// Why no classifier head was found.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum HeadError {
    #[error("the model has no outputs, so there is no classifier head")]
    NoOutput,
    #[error("the model has several outputs ({}); say which one holds the class scores with --output NAME", .0.join(", "))]
    SeveralOutputs(Vec<String>),
    #[error("--output {wanted}: the model has no such output; it has {}", names.join(", "))]
    UnknownOutput { wanted: String, names: Vec<String> },
    #[error(
        "no classifier head: output {output:?} ends in {op} (node {node:?}), which gives independent scores or a class \
         number; a head of one score per class before Softmax is needed"
    )]
    NotClassScores { output: String, op: String, node: String },
    #[error(
        "no classifier head: {value:?} has shape {shape:?}; class scores are [batch, classes] or [batch, classes, 1, 1] \
         with at least two classes"
    )]
    Shape { value: String, shape: Vec<usize> },
}

/// Chooses the output and steps back over a final Softmax or LogSoftmax.
pub fn find(graph: &Graph, wanted: Option<&str>) -> Result<Head, HeadError> {
    let names: Vec<String> = graph.outputs.iter().map(|o| o.name.clone()).collect();
    let output = match (wanted, names.as_slice()) {
        (Some(w), _) if names.iter().any(|n| n == w) => w.to_owned(),
        (Some(w), _) => return Err(HeadError::UnknownOutput { wanted: w.into(), names }),
        (None, []) => return Err(HeadError::NoOutput),
        (None, [only]) => only.clone(),
        (None, _) => return Err(HeadError::SeveralOutputs(names)),
    };
    let producers = graph.producers();
    let mut logits = output.clone();
    let mut behind = None;
    while let Some(node) = producers.get(logits.as_str()).map(|&i| &graph.nodes[i]) {
        match node.op.as_str() {
            "Softmax" | "LogSoftmax" if behind.is_none() => behind = Some(node.op.clone()),
            "Identity" => {}
            "Sigmoid" | "ArgMax" | "TopK" | "Hardmax" => {
                return Err(HeadError::NotClassScores { output, op: node.op.clone(), node: node.name.clone() });
            }
            _ => break,
        }
        match node.input(0) {
            Some(input) => input.clone_into(&mut logits),
            None => break,
        }
    }
    Ok(Head { output, logits, behind })
}

/// Makes the logits the only output, dropping what they do not need.
pub fn cut(graph: &mut Graph, head: &Head) {
    graph.outputs = vec![Port::open(head.logits.clone())];
    graph.prune();
}

/// Number of classes of logits of this shape.
pub fn classes(value: &str, shape: &[usize]) -> Result<usize, HeadError> {
    match shape {
        [_, classes, rest @ ..] if *classes >= 2 && rest.len() <= 2 && rest.iter().all(|&d| d == 1) => Ok(*classes),
        _ => Err(HeadError::Shape { value: value.into(), shape: shape.into() }),
    }
}
