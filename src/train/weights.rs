//! Tells weights from constants, by rule and with a reason for everything that stays frozen.

use super::inputs::Choice;
use crate::{
    autodiff::{self, NotDifferentiable},
    graph::{Graph, Node},
    tensor::Tensor,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use wildmatch::WildMatch;

/// Operators whose constant operands may be numbers of the architecture rather than weights.
const ARITHMETIC: &[&str] = &["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Mean", "Where"];

/// Operators that move elements.
const MOVES: &[&str] = &["Cast", "Transpose", "Reshape", "Identity", "Flatten", "Squeeze", "Unsqueeze", "Concat"];

/// Operators that repeat, leave out or overwrite elements.
const EDITS: &[&str] =
    &["CastLike", "Expand", "Tile", "Slice", "Split", "Pad", "Gather", "ScatterND", "ScatterElements"];

/// Operators that see nothing of the elements.
const LOOKS: &[&str] = &["Shape", "Size"];

/// Operators that only look at their operands.
const COMPARISONS: &[&str] = &["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"];

/// An additive mask holds numbers this low where attention is switched off; no bias does.
const MASKED: f32 = -1e4;

/// Masks of shifted windows hold no more than this, but nothing else beside zeros.
const MASKED_WINDOW: f32 = -100.0;

/// Why weights are frozen whose gradient is zero because of rounding.
pub const BEFORE_ROUNDING: &str = "lies before rounding operators, whose derivative is zero";

/// Why tensors are frozen that other outputs need, or none.
pub const NOT_USED: &str = "not used for the logits";

/// A float constant of the model and what training does with it.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// Name in the file.
    pub name: String,
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// Why it is not trained; `None` for a weight.
    pub frozen: Option<&'static str>,
}

/// Why a weight that the file holds inside a function or a branch stays as it is.
const ENCLOSED: &str = "inside a function or a branch of the file, where new values cannot be written";

/// Why whole numbers that are compared are no weights: windowed attention numbers its regions like this.
const REGIONS: &str = "whole numbers that a mask is made of by comparing them";

/// What the user decides about weights: patterns of names.
pub struct Rules {
    freeze: Vec<WildMatch>,
    train: Vec<WildMatch>,
}

impl Rules {
    /// Fails with the flag and the pattern that no name in `stored` fits.
    pub fn new(choice: &Choice, stored: &BTreeSet<&String>) -> Result<Self, (&'static str, String)> {
        let patterns = |flag, given: &[String]| {
            let pattern = |text: &String| {
                let pattern = WildMatch::new(text);
                if stored.iter().any(|name| pattern.matches(name)) { Ok(pattern) } else { Err((flag, text.clone())) }
            };
            given.iter().map(pattern).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { freeze: patterns("--freeze", &choice.freeze)?, train: patterns("--train", &choice.train)? })
    }

    /// The verdict on a tensor after that of the rules. What is both frozen and trained by hand is frozen.
    fn decide(&self, name: &str, by_rule: Option<&'static str>) -> Option<&'static str> {
        let any = |patterns: &[WildMatch]| patterns.iter().any(|p| p.matches(name));
        if any(&self.freeze) {
            return Some("frozen by --freeze");
        }
        by_rule.filter(|_| !any(&self.train))
    }
}

/// The float constants of a graph, sorted.
pub struct Sorted {
    /// Every float constant.
    pub stored: Vec<Stored>,
    /// Rounding operators, as messages name them, that keep weights from learning.
    pub dead_ends: Vec<String>,
}

/// Sorts the float constants of a graph whose only output are the logits. `input` is the data input, `enclosed` names
/// constants that cannot be written back.
pub fn sort(
    graph: &Graph,
    input: &str,
    enclosed: &BTreeSet<String>,
    rules: &Rules,
) -> Result<Sorted, NotDifferentiable> {
    let raw = raw_data(graph, input);
    let consumers = consumers(graph);
    let regions = Regions::new(graph, &consumers);
    let mut verdicts: BTreeMap<&str, Option<&'static str>> = BTreeMap::new();
    for (name, tensor) in &graph.constants {
        if tensor.dtype().is_float() {
            let by_rule = constant_by_rule(graph, name, tensor, &consumers, &raw)
                .or_else(|| regions.hold(name, tensor).then_some(REGIONS));
            verdicts.insert(name, rules.decide(name, by_rule));
        }
    }
    let candidates = verdicts.iter().filter(|(name, why)| why.is_none() && !enclosed.contains(**name));
    let wanted: BTreeSet<String> = candidates.map(|(name, _)| (*name).to_owned()).chain([input.to_owned()]).collect();
    let outputs: Vec<&str> = graph.outputs.iter().map(|o| o.name.as_str()).collect();
    let (_, obstacles) = autodiff::reach(&graph.nodes, &outputs, &wanted);
    if !obstacles.is_empty() {
        return Err(NotDifferentiable(obstacles));
    }
    let heard = autodiff::heard(&graph.nodes, &outputs);
    let ends = autodiff::dead_ends(&graph.nodes, &outputs, &wanted);
    let stored = |name: &str, mut frozen: Option<&'static str>| {
        if frozen.is_none() && !heard.contains(name) {
            frozen = Some(if ends.lost.contains(name) {
                BEFORE_ROUNDING
            } else {
                "no gradient reaches it (statistics, a bound, or not used for the logits)"
            });
        }
        if frozen.is_none() && enclosed.contains(name) {
            frozen = Some(ENCLOSED);
        }
        Stored { name: name.to_owned(), shape: graph.constants[name].shape().to_vec(), frozen }
    };
    let stored = verdicts.iter().map(|(name, why)| stored(name, *why)).collect();
    Ok(Sorted { stored, dead_ends: ends.nodes })
}

/// Why a float constant is a number of the architecture, `None` if it is a weight.
fn constant_by_rule(
    graph: &Graph,
    name: &str,
    tensor: &Tensor,
    consumers: &BTreeMap<&str, Vec<usize>>,
    raw: &BTreeSet<&str>,
) -> Option<&'static str> {
    let nodes = consumers.get(name).map(|list| list.iter().map(|&i| &graph.nodes[i]).collect::<Vec<_>>());
    let nodes = nodes.unwrap_or_default();
    if nodes.is_empty() {
        return Some(NOT_USED);
    }
    let compared = |n: &&Node| COMPARISONS.contains(&n.op.as_str());
    let arithmetic = nodes.iter().all(|n| ARITHMETIC.contains(&n.op.as_str()) || compared(n));
    if tensor.len() <= 1 && (arithmetic || nodes.iter().all(|n| n.op == "Expand")) {
        return Some(if arithmetic { "a single number in arithmetic" } else { "a single number, repeated" });
    }
    let zeros = tensor.as_f32().is_some_and(|v| v.iter().all(|x| x.abs() == 0.0));
    if zeros && nodes.iter().all(|n| starts_from(n, name)) {
        return Some("an initial state of zeros");
    }
    let scales_input = |n: &&Node| n.inputs.iter().any(|i| raw.contains(i.as_str()));
    if arithmetic && nodes.iter().any(scales_input) {
        return Some("scales the input");
    }
    if nodes.iter().all(|n| n.op == "InstanceNormalization") && neutral(tensor, &nodes, name) {
        return Some("factors of one or offsets of zero that a normalisation without weights is given");
    }
    if nodes.iter().all(|n| n.op == "STFT" && n.input(2) == Some(name)) {
        return Some("the window of a transform");
    }
    if tensor.as_f32().is_some_and(is_mask) {
        return Some("a mask");
    }
    None
}

fn is_mask(values: &[f32]) -> bool {
    let lowest = values.iter().copied().fold(0.0, f32::min);
    let window = || values.contains(&0.0) && values.iter().all(|&x| x == 0.0 || x <= lowest);
    lowest <= MASKED || (lowest <= MASKED_WINDOW && window())
}

/// True for scales that are all 1 or biases that are all 0. GroupNormalization is exported as InstanceNormalization with
/// such numbers, and its weights behind it.
fn neutral(tensor: &Tensor, nodes: &[&Node], name: &str) -> bool {
    let only_at = |i| nodes.iter().all(|n| n.input(i) == Some(name) && n.input(3 - i) != Some(name));
    let all = |value: f32| tensor.as_f32().is_some_and(|v| v.iter().all(|x| (x - value).abs() == 0.0));
    (only_at(1) && all(1.0)) || (only_at(2) && all(0.0))
}

/// True for a recurrent layer that reads the value as initial state and nowhere else.
fn starts_from(node: &Node, value: &str) -> bool {
    let at = |i| node.input(i) == Some(value);
    ["RNN", "GRU", "LSTM"].contains(&node.op.as_str()) && (0..node.inputs.len()).all(|i| !at(i) || i == 5 || i == 6)
}

/// Values computed from the data input by arithmetic with constants and by moving elements only: the input, scaled.
fn raw_data<'g>(graph: &'g Graph, input: &'g str) -> BTreeSet<&'g str> {
    let mut raw = BTreeSet::from([input]);
    for node in &graph.nodes {
        let touched = node.inputs.iter().any(|i| raw.contains(i.as_str()));
        let rest_known = node.inputs.iter().all(|i| raw.contains(i.as_str()) || graph.constants.contains_key(i));
        if touched && rest_known && is_one_of(node, &[ARITHMETIC, MOVES]) {
            raw.extend(node.outputs.iter().map(String::as_str));
        }
    }
    raw
}

fn is_one_of(node: &Node, lists: &[&[&str]]) -> bool {
    lists.iter().any(|list| list.contains(&node.op.as_str()))
}

/// Tells whole numbers that a mask is made of, as those of shifted windows, from weights that happen to be whole.
///
/// All ways from such numbers lead, by arithmetic and moves among constants alone, into comparisons; what Where picks from
/// them may also be added to scores. Numbers with any other way are weights, compared or not: ternary ones are.
struct Regions<'g> {
    graph: &'g Graph,
    consumers: &'g BTreeMap<&'g str, Vec<usize>>,
    /// Values computed from constants alone.
    fixed: BTreeSet<&'g str>,
}

impl<'g> Regions<'g> {
    fn new(graph: &'g Graph, consumers: &'g BTreeMap<&'g str, Vec<usize>>) -> Self {
        let mut fixed: BTreeSet<&str> = graph.constants.keys().map(String::as_str).collect();
        for node in &graph.nodes {
            if node.reads().all(|i| fixed.contains(i)) {
                fixed.extend(node.outputs.iter().map(String::as_str));
            }
        }
        Self { graph, consumers, fixed }
    }

    fn hold(&self, name: &'g str, tensor: &Tensor) -> bool {
        tensor.as_f32().is_some_and(|v| v.iter().all(|x| x.fract() == 0.0)) && self.only_compared(name)
    }

    fn only_compared(&self, name: &'g str) -> bool {
        let mut compared = false;
        // Values on the ways, and whether Where has picked from them.
        let mut open = vec![(name, false)];
        let mut seen = BTreeSet::from([(name, false)]);
        while let Some((value, picked)) = open.pop() {
            for &i in self.consumers.get(value).into_iter().flatten() {
                let node = &self.graph.nodes[i];
                if is_one_of(node, &[COMPARISONS]) {
                    compared = true;
                } else if node.reads().all(|i| self.fixed.contains(i)) && is_one_of(node, &[ARITHMETIC, MOVES, EDITS]) {
                    let picked = picked || node.op == "Where";
                    let further = node.outputs.iter().map(|o| (o.as_str(), picked));
                    open.extend(further.filter(|&o| seen.insert(o)));
                } else if !(is_one_of(node, &[LOOKS]) || (picked && node.op == "Add")) {
                    return false;
                }
            }
        }
        compared
    }
}

fn consumers(graph: &Graph) -> BTreeMap<&str, Vec<usize>> {
    let mut map: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        for input in node.reads() {
            map.entry(input).or_default().push(i);
        }
    }
    map
}
