//! Lets an optimizer write new weights over the old ones: it waits for whatever else reads them.
//!
//! The gradient of a weight needs the forward pass to be done, but not the gradient of the layer's input, which reads the
//! weight as well. So the optimizer's node is made to read the results of all readers that its gradient does not need.

use crate::graph::{Graph, NATIVE, Node, native};
use std::collections::BTreeSet;

/// True for a node that writes over the array that it reads first.
fn overwrites(node: &Node) -> bool {
    node.domain == NATIVE && node.op == native::ADAM
}

/// Makes every node that overwrites an array come after all that read it.
pub fn wait_for_readers(graph: &mut Graph) {
    let producers = graph.producers();
    let needs: Vec<Vec<usize>> =
        graph.nodes.iter().map(|n| n.reads().filter_map(|name| producers.get(name).copied()).collect()).collect();
    let mut waits = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate().filter(|(_, node)| overwrites(node)) {
        let before = all_before(i, &needs);
        let others = readers(graph, &node.inputs[0]).into_iter().filter(|&reader| reader != i && !before[reader]);
        let results = others.filter_map(|reader| graph.nodes[reader].outputs.iter().find(|o| !o.is_empty()).cloned());
        waits.push((i, results.collect::<Vec<_>>()));
    }
    for (i, results) in waits {
        graph.nodes[i].inputs.extend(results);
    }
    graph.sort();
}

/// Which nodes a node needs, directly or not.
fn all_before(node: usize, needs: &[Vec<usize>]) -> Vec<bool> {
    let mut before = vec![false; needs.len()];
    let mut open = needs[node].clone();
    while let Some(i) = open.pop() {
        if !std::mem::replace(&mut before[i], true) {
            open.extend(&needs[i]);
        }
    }
    before
}

/// Operators whose result is their first input in the same memory, whatever else they read.
const VIEWS: &[&str] = &["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"];

/// The nodes that bring an array together with anything but constants. What is made of it alone may be a view of the same
/// memory, and its readers read the array.
fn readers(graph: &Graph, array: &str) -> Vec<usize> {
    let mut views = BTreeSet::from([array]);
    let mut readers = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        if node.reads().any(|name| views.contains(name)) {
            let first = node.input(0).is_some_and(|name| views.contains(name));
            let alone = node.reads().all(|name| views.contains(name) || graph.constants.contains_key(name))
                || first && node.domain.is_empty() && VIEWS.contains(&node.op.as_str());
            let given = node.outputs.iter().any(|name| graph.outputs.iter().any(|o| o.name == *name));
            if alone && !given && !overwrites(node) {
                views.extend(node.outputs.iter().filter(|o| !o.is_empty()).map(String::as_str));
            } else {
                readers.push(i);
            }
        }
    }
    readers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::Builder,
        tensor::{DType, Tensor},
    };

    /// y = w x twice over, once by way of a view of w; `step` takes w and the first result for its gradient.
    #[test]
    fn an_optimizer_waits_for_what_its_gradient_does_not_need() {
        let mut b = Builder::new(18).with_native(true);
        let [w, x, m, v] = ["w", "x", "m", "v"].map(|name| b.input(name, DType::F32, &[2, 2]));
        let number = b.constant(Tensor::scalar(1.0));
        let gradient = b.op("MatMul", &[&x, &w], &[], &[2, 2]);
        let names = [&w, &gradient, &m, &v, &number, &number, &number].map(|v| v.name().to_owned());
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let next = b.raw(NATIVE, native::ADAM, &names, &[], &[vec![2, 2], vec![2, 2], vec![2, 2]]);
        // A view, although its shape is no constant.
        let shape = b.input("shape", DType::I64, &[2]);
        let view = b.op("Reshape", &[&w, &shape], &[], &[2, 2]);
        let turned = b.op("Transpose", &[&view], &[], &[2, 2]);
        let late = b.op("MatMul", &[&turned, &x], &[], &[2, 2]);
        b.output_as(&next[0], "w/next");
        b.output_as(&late, "late");
        let mut graph = b.finish();
        wait_for_readers(&mut graph);
        let at = |test: &dyn Fn(&Node) -> bool| graph.nodes.iter().position(test).expect("is there");
        let step = at(&overwrites);
        assert_eq!(graph.nodes[step].inputs[7..], [late.name().to_owned()], "{graph}");
        assert!(at(&|n| n.outputs[0] == late.name()) < step, "{graph}");
    }
}
