//! Finds the logits of a classifier: the value whose softmax is the prediction.

use crate::graph::{Graph, Port};
use serde::Serialize;
use thiserror::Error;

/// Where the logits are.
#[derive(Clone, Debug, Serialize)]
pub struct Head {
    /// The model output that was asked for.
    pub output: String,
    /// The value the loss is computed on. In a graph that was cut it is free of `behind`.
    pub logits: String,
    /// The final operator that was stepped over, such as `Softmax`.
    pub behind: Option<String>,
    /// True for a sigmoid a score: in the file, or because the user says so.
    #[serde(skip)]
    pub sigmoids: bool,
    /// Output of `behind` where nodes after it change the shape or the type: they stay, it is bypassed, and so are
    /// quantizers after it, whose range is that of probabilities.
    #[serde(skip)]
    bypassed: Vec<String>,
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
    /// True for scores that are independent of each other, a sigmoid each: a sample may have several classes.
    pub independent: bool,
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
    #[error("--multi-label: the model ends in {0}, whose classes exclude each other; leave the flag out")]
    Exclusive(String),
    #[error("--multi-label: the model has one score for two classes, which exclude each other; leave the flag out")]
    OneScore,
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

/// Operators that leave the values as they are: a Softmax before them is the final one.
const MOVES: &[&str] = &["Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze"];

/// Chooses the output and steps back over a final Softmax, LogSoftmax or Sigmoid. `multi_label` says that scores without
/// one of these are independent of each other.
pub fn find(graph: &Graph, wanted: Option<&str>, multi_label: bool) -> Result<Head, HeadError> {
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
    // What lies before nodes that only move values, and whether there were any.
    let (mut at, mut moved) = (output.clone(), false);
    let (mut bypassed, mut quantizers) = (Vec::new(), Vec::new());
    while let Some(node) = producers.get(at.as_str()).map(|&i| &graph.nodes[i]) {
        match node.op.as_str() {
            "Softmax" | "LogSoftmax" | "Sigmoid" if behind.is_none() => {
                behind = Some(node.op.clone());
                if moved {
                    bypassed = [quantizers, vec![at]].concat();
                    break;
                }
            }
            "Identity" => {}
            op if MOVES.contains(&op) && behind.is_none() => moved = true,
            "QuantizeLinear" | "DequantizeLinear" if behind.is_none() => {
                moved = true;
                quantizers.push(at.clone());
            }
            "ArgMax" | "TopK" | "Hardmax" => {
                return Err(HeadError::NotClassScores { output, op: node.op.clone(), node: node.name.clone() });
            }
            "SoftmaxCrossEntropyLoss" | "NegativeLogLikelihoodLoss" => {
                return Err(HeadError::Loss { output, op: node.op.clone(), node: node.name.clone() });
            }
            _ => break,
        }
        match node.input(0) {
            Some(input) => input.clone_into(&mut at),
            None => break,
        }
        if !moved {
            logits.clone_from(&at);
        }
    }
    match behind.as_deref() {
        Some(op) if multi_label && op != "Sigmoid" => Err(HeadError::Exclusive(op.to_owned())),
        op => Ok(Head { sigmoids: multi_label || op == Some("Sigmoid"), output, logits, behind, bypassed }),
    }
}

/// Makes the logits the only output, dropping what they do not need.
pub fn cut(graph: &mut Graph, head: &Head) {
    for node in graph.nodes.iter_mut().filter(|n| n.outputs.iter().any(|o| head.bypassed.contains(o))) {
        node.op = "Identity".into();
        node.attrs.clear();
        node.inputs.truncate(1);
    }
    graph.outputs = vec![Port::open(head.logits.clone())];
    graph.prune();
}

impl Head {
    /// How logits of this shape are read.
    pub fn layout(&self, shape: &[usize]) -> Result<Layout, HeadError> {
        let layout = |classes, predictions| Layout { classes, predictions, binary: false, independent: self.sigmoids };
        match *shape {
            [_] | [_, 1] | [_, 1, 1] | [_, 1, 1, 1] if self.sigmoids && self.behind.is_none() => {
                Err(HeadError::OneScore)
            }
            [_] | [_, 1] | [_, 1, 1] | [_, 1, 1, 1] => Ok(Layout { binary: true, independent: false, ..layout(2, 1) }),
            [_, classes] | [_, classes, 1] | [_, classes, 1, 1] | [_, 1, classes] => Ok(layout(classes, 1)),
            [_, predictions, classes] => Ok(layout(classes, predictions)),
            _ => Err(HeadError::Shape { value: self.logits.clone(), shape: shape.into() }),
        }
    }
}
