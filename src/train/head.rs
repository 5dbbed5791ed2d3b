//! Finds the logits of a classifier: the value whose softmax is the prediction.

use crate::{
    graph::{Attr, Graph, Node, Port},
    tensor::Tensor,
};
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
    /// What `behind` is taken over, unless it is a Sigmoid.
    #[serde(skip)]
    softmax: Option<Softmax>,
}

/// A final Softmax or LogSoftmax.
#[derive(Clone, Debug)]
struct Softmax {
    /// The node, as messages name it.
    node: String,
    /// What it is applied to.
    input: String,
    axis: i64,
    /// Before opset 13 it is taken over all axes from `axis` on, as if they were one.
    flattens: bool,
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
        "no classifier head: {softmax}, but {scores}; export the model with a single softmax over all classes of a \
         prediction, and its output as [batch, classes] or [batch, steps, classes]"
    )]
    Groups { softmax: String, scores: String },
    #[error(
        "no classifier head: {value:?} has shape {shape:?}, which holds no scores; export the model with at least one \
         score in every axis"
    )]
    Empty { value: String, shape: Vec<usize> },
    #[error(
        "no classifier head: {value:?} has shape {shape:?}; class scores are [batch, classes], [batch, classes, 1, 1], \
         [batch, steps, classes] (a prediction a step) or [batch, 1] (one logit for two classes)"
    )]
    Shape { value: String, shape: Vec<usize> },
}

/// Operators that leave the values as they are: a Softmax before them is the final one.
const MOVES: &[&str] = &["Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze"];

/// By how much probabilities may fail to sum to 1: those of bfloat16 have 8 bits.
const ROUNDED: f32 = 0.05;

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
    let mut softmax = None;
    while let Some(node) = producers.get(at.as_str()).map(|&i| &graph.nodes[i]) {
        // The second output of this loss is what LogSoftmax makes of its first input.
        let log_prob = node.op == "SoftmaxCrossEntropyLoss" && node.output(1) == Some(at.as_str());
        match if log_prob { "LogSoftmax" } else { node.op.as_str() } {
            op @ ("Softmax" | "LogSoftmax" | "Sigmoid") if behind.is_none() => {
                behind = Some(op.to_owned());
                if op != "Sigmoid" {
                    softmax = Some(Softmax::of(node, graph.opset, log_prob));
                }
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
        op => Ok(Head { sigmoids: multi_label || op == Some("Sigmoid"), output, logits, behind, bypassed, softmax }),
    }
}

/// Makes the logits the only output, dropping what they do not need.
pub fn cut(graph: &mut Graph, head: &Head) {
    for node in graph.nodes.iter_mut().filter(|n| n.outputs.iter().any(|o| head.bypassed.contains(o))) {
        node.op = "Identity".into();
        node.attrs.clear();
        node.inputs.truncate(1);
        node.outputs.retain(|o| head.bypassed.contains(o));
    }
    graph.outputs = vec![Port::open(head.logits.clone())];
    graph.prune();
}

impl Softmax {
    fn of(node: &Node, opset: i64, log_prob: bool) -> Self {
        let flattens = opset < 13 && !log_prob;
        let axis = match node.attrs.get("axis") {
            _ if log_prob => 1,
            Some(Attr::Int(axis)) => *axis,
            _ if flattens => 1,
            _ => -1,
        };
        Self { node: node.label(), input: node.input(0).unwrap_or_default().into(), axis, flattens }
    }

    /// True where it is taken over `classes` scores that lie side by side in an array of this shape. No operator of
    /// [`MOVES`] changes what lies beside what.
    fn is_over(&self, classes: usize, shape: &[usize]) -> bool {
        let axis = if self.axis < 0 { self.axis + shape.len() as i64 } else { self.axis };
        match usize::try_from(axis).ok().and_then(|axis| shape.get(axis..)) {
            Some(from) if self.flattens => from.iter().product::<usize>() == classes,
            Some([length, after @ ..]) => *length == classes && after.iter().all(|&n| n == 1),
            _ => false,
        }
    }
}

fn read_as(value: &str, shape: &[usize], layout: Layout) -> String {
    format!("{value:?} of shape {shape:?} is read as {} classes a prediction", layout.classes)
}

impl Head {
    /// The value that a final Softmax is applied to, where nodes behind it may have changed its shape.
    pub fn reshaped(&self) -> Option<&str> {
        self.softmax.as_ref().filter(|_| !self.bypassed.is_empty()).map(|s| s.input.as_str())
    }

    /// How logits of this shape are read. `normalised` is the shape of [`Self::reshaped`], as far as it is known.
    ///
    /// Fails where these are no class scores, or where a final Softmax is taken over other groups of scores than the
    /// classes of a prediction.
    pub fn layout(&self, shape: &[usize], normalised: Option<&[usize]>) -> Result<Layout, HeadError> {
        let layout = self.shaped(shape)?;
        let normalised = if self.reshaped().is_some() { normalised } else { Some(shape) };
        match (&self.softmax, normalised) {
            (Some(softmax), Some(normalised)) if !softmax.is_over(layout.classes, normalised) => {
                let over = if softmax.flattens { " and those after it" } else { "" };
                Err(HeadError::Groups {
                    softmax: format!(
                        "node {} is taken over axis {}{over} of shape {normalised:?}",
                        softmax.node, softmax.axis
                    ),
                    scores: read_as(&self.logits, shape, layout),
                })
            }
            _ => Ok(layout),
        }
    }

    /// How the scores of a run are read. Where nodes behind a final Softmax have changed the shape it is taken over, the
    /// sum of its probabilities tells whether they are those of the classes; quantized ones need not sum to 1.
    pub fn layout_of(&self, scores: &Tensor) -> Result<Layout, HeadError> {
        let layout = self.layout(scores.shape(), None)?;
        let Some(softmax) = self.softmax.as_ref().filter(|_| self.bypassed.len() == 1) else { return Ok(layout) };
        let probability = |v: &f32| if self.behind.as_deref() == Some("LogSoftmax") { v.exp() } else { *v };
        let values = scores.to_f32s();
        let sums = values.chunks(layout.classes).map(|row| row.iter().map(probability).sum::<f32>());
        // What is not finite says nothing.
        match sums.into_iter().find(|sum| (sum - 1.0).abs() > ROUNDED) {
            None => Ok(layout),
            Some(sum) => Err(HeadError::Groups {
                softmax: format!("what node {} makes of its scores sums to {sum}", softmax.node),
                scores: read_as(&self.output, scores.shape(), layout),
            }),
        }
    }

    fn shaped(&self, shape: &[usize]) -> Result<Layout, HeadError> {
        if shape.contains(&0) {
            return Err(HeadError::Empty { value: self.logits.clone(), shape: shape.into() });
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Attrs;

    /// The head of `x`, the operators one after the other, `y`.
    fn head(opset: i64, ops: &[&str], axis: Option<i64>) -> Head {
        let node = |(i, op): (usize, &&str)| Node {
            name: format!("node{i}"),
            op: (*op).into(),
            domain: String::new(),
            inputs: vec![format!("v{i}")],
            outputs: vec![format!("v{}", i + 1)],
            attrs: axis
                .filter(|_| op.ends_with("max"))
                .map(|a| ("axis".to_owned(), Attr::Int(a)))
                .into_iter()
                .collect(),
        };
        let outputs = vec![Port::open(format!("v{}", ops.len()))];
        let graph = Graph { opset, nodes: ops.iter().enumerate().map(node).collect(), outputs, ..Graph::default() };
        find(&graph, None, false).expect("a head")
    }

    #[test]
    fn a_softmax_is_taken_over_the_classes() {
        let read = |opset, op, axis, normalised: &[usize], scores: &[usize]| {
            let head = head(opset, &[op, "Reshape"], axis);
            assert_eq!((head.logits.as_str(), head.reshaped()), ("v2", Some("v0")));
            head.layout(scores, Some(normalised)).map(|l| (l.predictions, l.classes)).map_err(|e| e.to_string())
        };
        for op in ["Softmax", "LogSoftmax"] {
            for opset in [12, 13] {
                assert_eq!(read(opset, op, Some(-1), &[2, 3, 4], &[2, 3, 4]), Ok((3, 4)));
                assert_eq!(read(opset, op, Some(2), &[2, 3, 4], &[2, 3, 4]), Ok((3, 4)));
                assert_eq!(read(opset, op, Some(1), &[2, 4, 1, 1], &[2, 4]), Ok((1, 4)));
                assert_eq!(read(opset, op, Some(1), &[6, 4], &[2, 3, 4]), Ok((3, 4)));
                for (axis, normalised, scores) in [
                    (-1, &[2, 3, 4], &[2usize, 12][..]),
                    (2, &[2, 3, 4], &[2, 4, 3]),
                    (1, &[2, 4, 4], &[2, 4, 4]),
                    (0, &[2, 2, 2], &[2, 4]),
                    (3, &[2, 3, 4], &[2, 3, 4]),
                    (-4, &[2, 3, 4], &[2, 3, 4]),
                ] {
                    let said = read(opset, op, Some(axis), normalised, scores).expect_err("a refusal");
                    assert!(said.contains(&format!("node \"node0\" ({op}) is taken over axis {axis}")), "{said}");
                    assert!(
                        said.contains(&format!("of shape {normalised:?}, but \"v2\" of shape {scores:?}")),
                        "{said}"
                    );
                }
            }
            // All axes from the second on, or the last one.
            assert_eq!(read(12, op, None, &[2, 3, 4], &[2, 12]), Ok((1, 12)));
            assert!(read(12, op, None, &[2, 3, 4], &[2, 3, 4]).is_err_and(|e| e.contains("axis 1 and those after it")));
            assert_eq!(read(13, op, None, &[2, 3, 4], &[2, 3, 4]), Ok((3, 4)));
            assert!(read(13, op, None, &[2, 3, 4], &[2, 12]).is_err());
        }
        // A sigmoid has no axis.
        let sigmoid = head(13, &["Sigmoid", "Reshape"], None);
        assert!(sigmoid.reshaped().is_none() && sigmoid.layout(&[2, 12], None).is_ok());
    }

    #[test]
    fn a_softmax_with_nothing_behind_it_has_the_shape_of_the_scores() {
        let last = head(13, &["Identity", "Softmax", "Identity"], Some(-1));
        assert_eq!((last.logits.as_str(), last.reshaped()), ("v0", None));
        assert!(last.layout(&[2, 3, 4], None).is_ok());
        assert!(head(13, &["Softmax"], Some(1)).layout(&[2, 4, 4], None).is_err());
        // Of one score alone it makes 1, whatever the score.
        assert!(head(13, &["Softmax"], Some(1)).layout(&[2, 1], None).is_err());
    }

    #[test]
    fn the_sums_of_probabilities_tell_the_groups() {
        let thirds = |shape: &[usize]| Tensor::f32(shape, vec![1.0 / 3.0; 12]);
        let softmax = head(13, &["Softmax", "Reshape"], None);
        assert!(softmax.layout_of(&thirds(&[2, 2, 3])).is_ok());
        let said = softmax.layout_of(&thirds(&[2, 6])).expect_err("a refusal").to_string();
        assert!(said.contains("(Softmax) makes of its scores sums to 2, but \"v2\" of shape [2, 6]"), "{said}");
        let logarithms = |shape: &[usize]| Tensor::f32(shape, vec![(1.0f32 / 3.0).ln(); 12]);
        let log = head(13, &["LogSoftmax", "Reshape"], None);
        assert!(log.layout_of(&logarithms(&[2, 2, 3])).is_ok() && log.layout_of(&logarithms(&[2, 6])).is_err());
        // Quantized, a third may be 0; what is not finite says nothing.
        let quantized = head(13, &["Softmax", "QuantizeLinear", "DequantizeLinear"], None);
        assert!(quantized.layout_of(&Tensor::f32([2, 3], vec![0.0; 6])).is_ok());
        assert!(softmax.layout_of(&Tensor::f32([2, 3], vec![f32::NAN; 6])).is_ok());
    }

    #[test]
    fn an_axis_without_elements_holds_no_scores() {
        for shape in [&[0, 3][..], &[2, 0], &[2, 0, 1, 1], &[2, 0, 4], &[0]] {
            let said = head(13, &["MatMul"], None).layout(shape, None).expect_err("a refusal").to_string();
            assert!(said.contains(&format!("\"v1\" has shape {shape:?}, which holds no scores")), "{said}");
        }
    }

    #[test]
    fn of_a_loss_only_the_second_output_holds_scores() {
        let loss = Node {
            name: "loss".into(),
            op: "SoftmaxCrossEntropyLoss".into(),
            domain: String::new(),
            inputs: vec!["z".into(), "t".into()],
            outputs: vec!["l".into(), "p".into()],
            attrs: Attrs::new(),
        };
        let flat = Node { op: "Flatten".into(), inputs: vec!["p".into()], outputs: vec!["f".into()], ..loss.clone() };
        let graph = Graph {
            opset: 12,
            nodes: vec![loss, flat],
            outputs: ["l", "p", "f"].map(Port::open).into(),
            ..Graph::default()
        };
        assert!(matches!(find(&graph, Some("l"), false), Err(HeadError::Loss { .. })));
        let plain = find(&graph, Some("p"), false).expect("a head");
        assert_eq!((plain.logits.as_str(), plain.behind.as_deref()), ("z", Some("LogSoftmax")));
        assert!(plain.layout(&[2, 3], None).is_ok() && plain.layout(&[2, 3, 4], None).is_err());
        let moved = find(&graph, Some("f"), false).expect("a head");
        assert_eq!((moved.logits.as_str(), moved.reshaped()), ("f", Some("z")));
        assert!(moved.layout(&[2, 3], Some(&[2, 3, 1])).is_ok() && moved.layout(&[2, 6], Some(&[2, 3, 2])).is_err());
        let mut cut_at = graph;
        cut(&mut cut_at, &moved);
        assert_eq!(
            (cut_at.nodes[0].op.as_str(), cut_at.nodes[0].outputs.as_slice()),
            ("Identity", &["p".to_owned()][..])
        );
    }
}
