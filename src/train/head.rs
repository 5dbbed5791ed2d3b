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

impl Head {
    /// True for scores that are independent of each other, each behind a sigmoid of its own.
    pub fn independent(&self) -> bool {
        self.behind.as_deref() == Some("Sigmoid")
    }
}

/// How the logits of a batch are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of classes.
    pub classes: usize,
    /// Predictions for a sample.
    pub predictions: usize,
    /// True for one logit that decides between class 0 and class 1.
    pub binary: bool,
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
        "no classifier head: output {output:?} ends in {op} (node {node:?}), which gives a class number; a head of one score per class before Softmax is needed"
    )]
    NotClassScores { output: String, op: String, node: String },
    #[error(
        "no classifier head: output {output:?} is the loss of a training graph ({op}, node {node:?}); name the output that \
         holds the class scores with --output NAME, or, where there is none, export the model without the loss"
    )]
    Loss { output: String, op: String, node: String },
    #[error(
        "no classifier head: {value:?} has shape {shape:?}; class scores are [batch, classes], [batch, classes, 1, 1], \
         [batch, steps, classes] (a prediction a step) or [batch, 1] (one logit for two classes)"
    )]
    Shape { value: String, shape: Vec<usize> },
}

/// Chooses the output and steps back over a final Softmax, LogSoftmax or Sigmoid.
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
            "Softmax" | "LogSoftmax" | "Sigmoid" if behind.is_none() => behind = Some(node.op.clone()),
            "Identity" => {}
            "ArgMax" | "TopK" | "Hardmax" => {
                return Err(HeadError::NotClassScores { output, op: node.op.clone(), node: node.name.clone() });
            }
            "SoftmaxCrossEntropyLoss" | "NegativeLogLikelihoodLoss" => {
                return Err(HeadError::Loss { output, op: node.op.clone(), node: node.name.clone() });
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

/// How logits of this shape are read.
pub fn layout(value: &str, shape: &[usize]) -> Result<Layout, HeadError> {
    let plain = |classes| Layout { classes, predictions: 1, binary: false };
    match *shape {
        [_] | [_, 1] | [_, 1, 1] | [_, 1, 1, 1] => Ok(Layout { classes: 2, predictions: 1, binary: true }),
        [_, classes] | [_, classes, 1] | [_, classes, 1, 1] | [_, 1, classes] => Ok(plain(classes)),
        [_, predictions, classes] => Ok(Layout { classes, predictions, binary: false }),
        _ => Err(HeadError::Shape { value: value.into(), shape: shape.into() }),
    }
}
