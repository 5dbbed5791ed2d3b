//! The bias of the final layer, where the scores of classes can be masked without a change to the graph.

use super::{Head, Layout};
use crate::{
    graph::{Attr, Node},
    onnx::Model,
    tensor::Tensor,
};
use thiserror::Error;

/// What the score of a masked class is moved to. Low enough that no softmax or sigmoid leaves anything of it, the same number
/// in every float type (bfloat16 has steps of 64 there), and above the -10000 from which on a constant is taken for an
/// attention mask when the model is read again.
pub const MASKED_SCORE: f32 = -9984.0;

/// Operators that leave values, or their order within a sample, as they are.
const STEPPED_OVER: &[&str] =
    &["Cast", "Flatten", "Identity", "LogSoftmax", "Reshape", "Sigmoid", "Softmax", "Squeeze", "Unsqueeze"];

/// Why the scores of a model cannot be masked.
#[derive(Debug, Error)]
#[allow(missing_docs)] // The fields are what the message prints.
pub enum BiasError {
    #[error(
        "--drop-output mask: output {output:?} is one score that stands for both classes, so that no class has a bias of its \
         own; leave the flag out"
    )]
    OneScore { output: String },
    #[error(
        "--drop-output mask: the scores of output {output:?} come from {node}, {problem}; masking changes nothing but a stored \
         bias of the final layer with one entry a class; leave the flag out"
    )]
    Head { output: String, node: String, problem: String },
}

/// Name of the stored tensor that is added to the scores, one entry a class, and to nothing else.
///
/// The final layer is `Gemm`, `Conv` or `Add` of a constant, with nothing behind it but a softmax or sigmoids and what only
/// moves values.
pub fn output_bias(model: &Model, head: &Head, layout: Layout) -> Result<String, BiasError> {
    let output = head.output.clone();
    if layout.binary {
        return Err(BiasError::OneScore { output });
    }
    let graph = &model.graph;
    let producers = graph.producers();
    let mut at = head.output.as_str();
    let node = loop {
        let Some(node) = producers.get(at).map(|&i| &graph.nodes[i]) else {
            let problem = "which no node computes".to_owned();
            return Err(BiasError::Head { output, node: format!("{at:?}"), problem });
        };
        match node.input(0) {
            Some(input) if node.domain.is_empty() && STEPPED_OVER.contains(&node.op.as_str()) => at = input,
            _ => break node,
        }
    };
    found(model, node, layout).map_err(|problem| BiasError::Head { output, node: node.label(), problem })
}

fn found(model: &Model, node: &Node, layout: Layout) -> Result<String, String> {
    let graph = &model.graph;
    let beta =
        node.attrs.get("beta").is_none_or(|beta| matches!(beta, Attr::Float(b) if (*b - 1.0).abs() < f32::EPSILON));
    let name = match node.op.as_str() {
        _ if !node.domain.is_empty() => None,
        "Gemm" if !beta => return Err("which scales its bias (beta)".into()),
        "Gemm" | "Conv" => node.input(2),
        "Add" => node.inputs.iter().map(String::as_str).find(|name| graph.constants.contains_key(*name)),
        _ => None,
    };
    let Some(name) = name else { return Err("which adds no bias".into()) };
    let Some(tensor) = graph.constants.get(name) else {
        return Err(format!("whose bias {name:?} is computed, not stored"));
    };
    if !model.stored.iter().any(|stored| stored == name) {
        return Err(format!("whose bias {name:?} lies inside a function or a branch of the file"));
    }
    let reads = graph.nodes.iter().flat_map(Node::reads).filter(|read| *read == name).count();
    if reads + graph.outputs.iter().filter(|o| o.name == name).count() > 1 {
        return Err(format!("whose bias {name:?} is used elsewhere, too"));
    }
    if !tensor.dtype().is_float() {
        return Err(format!("whose bias {name:?} is stored as {}", tensor.dtype()));
    }
    if !along_classes(tensor, layout) {
        return Err(format!(
            "whose bias {name:?} of shape {:?} has not one entry for each of the {} classes",
            tensor.shape(),
            layout.classes
        ));
    }
    Ok(name.to_owned())
}

/// True for a bias with an entry a class, all along one axis: the last one, but for scores [batch, classes, 1, 1].
fn along_classes(bias: &Tensor, layout: Layout) -> bool {
    let last = bias.shape().last() == Some(&layout.classes) || layout.predictions == 1;
    bias.len() == layout.classes && bias.shape().contains(&layout.classes) && last
}

/// The bias with the entries of `classes` at [`MASKED_SCORE`], in its own element type.
pub fn masked(bias: &Tensor, classes: &[usize]) -> Tensor {
    let mut values = bias.to_f32s();
    for &class in classes {
        values[class] = MASKED_SCORE;
    }
    Tensor::from_f32s(bias.dtype(), bias.shape(), values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn the_masked_score_is_the_same_number_in_every_float_type() {
        for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
            let bias = Tensor::from_f32s(dtype, [1, 4], vec![0.5, -0.25, 2.0, 1.0]);
            let after = masked(&bias, &[0, 2]);
            assert_eq!((after.dtype(), after.shape()), (dtype, &[1, 4][..]));
            assert_eq!(after.to_f32s(), [MASKED_SCORE, -0.25, MASKED_SCORE, 1.0], "{dtype}");
        }
    }
}
