//! Gives products of the tool's own the bias that is added behind them.

use super::super::{Graph, NATIVE, Value, native};
use std::collections::{HashMap, HashSet};

/// An addition that a product takes over.
struct Taken {
    product: usize,
    bias: String,
    /// The node whose result was added to.
    last: usize,
    add: usize,
}

/// Takes all that can be taken: the bias is an input or a constant, and nothing else reads the sum without it.
pub fn take(graph: &mut Graph, values: &HashMap<String, Value>) {
    let taken = find(graph, values);
    let mut gone: HashSet<usize> = HashSet::new();
    for Taken { product, bias, last, add } in taken {
        graph.nodes[product].inputs.push(bias);
        graph.nodes[last].outputs = std::mem::take(&mut graph.nodes[add].outputs);
        gone.insert(add);
    }
    let mut at = 0..;
    graph.nodes.retain(|_| !at.next().is_some_and(|i| gone.contains(&i)));
}

fn find(graph: &Graph, values: &HashMap<String, Value>) -> Vec<Taken> {
    let readers = super::readers(graph);
    let producers = graph.producers();
    let maker = |name: &str| producers.get(name).filter(|_| readers.get(name).is_some_and(|r| r.len() == 1)).copied();
    let shape = |name: &str| values.get(name).map(Value::shape);
    let mut all: Vec<Taken> = Vec::new();
    for (add, node) in graph.nodes.iter().enumerate().filter(|(_, n)| n.domain.is_empty() && n.op == "Add") {
        let [a, b] = node.inputs.as_slice() else { continue };
        for (sum, bias) in [(a, b), (b, a)] {
            let Some(last) = maker(sum).filter(|_| !producers.contains_key(bias.as_str())) else { continue };
            // A product of rows that had more axes is given these back.
            let mut at = Some(last);
            while let Some(node) = at.map(|i| &graph.nodes[i]).filter(|n| n.op == "Reshape" || n.op == "Identity") {
                at = node.input(0).and_then(maker);
            }
            let Some(product) =
                at.filter(|i| graph.nodes[*i].domain == NATIVE && graph.nodes[*i].op == native::PRODUCT)
            else {
                continue;
            };
            let columns = shape(&graph.nodes[product].outputs[0]).map(|s| &s[1..]);
            let fits = graph.nodes[product].inputs.len() == 2
                && shape(bias) == columns
                && shape(sum) == shape(&node.outputs[0])
                && shape(sum).and_then(<[usize]>::last) == columns.and_then(<[usize]>::last);
            if fits {
                all.push(Taken { product, bias: bias.clone(), last, add });
                break;
            }
        }
    }
    all
}
