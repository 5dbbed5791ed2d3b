//! Which axis of a stored tensor counts the outputs of its layer.

use crate::graph::{Attr, Graph, Node};

/// The axis of the output channels of a constant with at least two axes, as the first node that reads it has them: of a
/// convolution or a recurrent layer the first axis (behind the directions), of a product the one that is not summed over;
/// of anything else, such as a table of rows, the first.
pub fn output_axis(graph: &Graph, name: &str) -> usize {
    let reader = graph.nodes.iter().find_map(|n| Some((n, n.inputs.iter().position(|i| i == name)?)));
    let rank = graph.constants.get(name).map_or(0, |t| t.shape().len());
    reader.map_or(0, |(node, place)| of_reader(node, place, rank))
}

fn of_reader(node: &Node, place: usize, rank: usize) -> usize {
    let set = |attr: &str| node.attrs.get(attr).is_some_and(|a| *a != Attr::Int(0));
    match (node.op.as_str(), place) {
        ("ConvTranspose", 1) | ("LSTM" | "GRU" | "RNN", 1 | 2) => 1,
        ("Gemm", 1) => usize::from(!set("transB")),
        ("Gemm", 0) => usize::from(set("transA")),
        ("MatMul", 1) => rank.saturating_sub(1),
        ("MatMul", 0) => rank.saturating_sub(2),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{graph::Attrs, tensor::Tensor};
    use std::sync::Arc;

    #[test]
    fn the_axis_that_is_not_summed_over() {
        let axis = |op: &str, place: usize, attrs: &[(&str, i64)], rank: usize| {
            let mut inputs = vec!["x".to_owned(); place];
            inputs.push("w".into());
            let attrs: Attrs = attrs.iter().map(|(k, v)| ((*k).to_owned(), Attr::Int(*v))).collect();
            let outputs = vec!["y".to_owned()];
            let node = Node { name: "n".into(), op: op.into(), domain: String::new(), inputs, outputs, attrs };
            let w = Arc::new(Tensor::zeros(vec![2; rank]));
            let graph = Graph { nodes: vec![node], constants: [("w".to_owned(), w)].into(), ..Graph::default() };
            output_axis(&graph, "w")
        };
        assert_eq!((axis("Conv", 1, &[], 4), axis("ConvTranspose", 1, &[], 4)), (0, 1));
        assert_eq!((axis("Gemm", 1, &[("transB", 1)], 2), axis("Gemm", 1, &[], 2)), (0, 1));
        assert_eq!((axis("MatMul", 1, &[], 2), axis("MatMul", 1, &[], 3), axis("MatMul", 0, &[], 3)), (1, 2, 1));
        assert_eq!((axis("LSTM", 2, &[], 3), axis("Gather", 0, &[], 2)), (1, 0));
    }
}
