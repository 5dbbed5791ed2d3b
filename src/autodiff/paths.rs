//! Follows gradient paths without writing any gradient.

use crate::{
    graph::Node,
    ops::{self, Flow},
};
use std::collections::BTreeSet;

/// What wanted values lose to operators whose derivative is zero wherever it exists.
#[derive(Debug, Default)]
pub struct DeadEnds {
    /// Wanted values all of whose gradient paths pass such an operator.
    pub lost: BTreeSet<String>,
    /// The last of these operators on those paths, as messages name them: what comes after them learns.
    pub nodes: Vec<String>,
    /// True when one of `nodes` computes with the integers of a quantised model.
    pub quantised: bool,
}

/// Values from which a gradient path leads to `outputs`.
pub fn heard<'n>(nodes: &'n [Node], outputs: &[&'n str]) -> BTreeSet<&'n str> {
    back(nodes, outputs, |flow| matches!(flow, Flow::Vjp(_)))
}

/// Where the gradients of `outputs` with respect to `wanted` are zero although a path of differentiable and rounding
/// operators leads there. Values that have another path are not lost: what a rounding operator does not pass, the true
/// derivative does not hold either.
pub fn dead_ends(nodes: &[Node], outputs: &[&str], wanted: &BTreeSet<String>) -> DeadEnds {
    let heard = heard(nodes, outputs);
    let within = back(nodes, outputs, rounds_at_most);
    let lost: BTreeSet<String> =
        wanted.iter().filter(|w| within.contains(w.as_str()) && !heard.contains(w.as_str())).cloned().collect();
    let mut found = DeadEnds::default();
    let mut from: BTreeSet<&str> = lost.iter().map(String::as_str).collect();
    for node in nodes {
        let open =
            |i: &usize| node.input(*i).is_some_and(|n| from.contains(n)) && flow(node, *i).is_none_or(rounds_at_most);
        let touched: Vec<usize> = (0..node.inputs.len()).filter(open).collect();
        if touched.is_empty() {
            continue;
        }
        let ends = touched.iter().any(|&i| matches!(flow(node, i), Some(Flow::Zero)));
        if ends && node.outputs.iter().any(|o| heard.contains(o.as_str())) {
            found.nodes.push(node.label());
            found.quantised |= ops::is_quantised(node);
        }
        from.extend(node.outputs.iter().filter(|o| !o.is_empty()).map(String::as_str));
    }
    found.lost = lost;
    found
}

fn rounds_at_most(flow: Flow) -> bool {
    matches!(flow, Flow::Vjp(_) | Flow::Zero)
}

/// Values that reach `outputs` through inputs whose flow is `open`. What has no record is taken to be open: it is an
/// error of its own.
fn back<'n>(nodes: &'n [Node], outputs: &[&'n str], open: impl Fn(Flow) -> bool) -> BTreeSet<&'n str> {
    let mut found: BTreeSet<&str> = outputs.iter().copied().collect();
    for node in nodes.iter().rev() {
        if node.outputs.iter().any(|o| found.contains(o.as_str())) {
            let through = (0..node.inputs.len()).filter(|&i| flow(node, i).is_none_or(&open));
            found.extend(through.filter_map(|i| node.input(i)));
            if ops::find(node).is_none() {
                found.extend(node.captures());
            }
        }
    }
    found
}

fn flow(node: &Node, i: usize) -> Option<Flow> {
    ops::find(node).and_then(|op| op.flow(i))
}
