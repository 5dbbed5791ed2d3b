//! Losses, written into a step graph together with their gradient.

use crate::{
    graph::{Builder, Value},
    tensor::Tensor,
};

/// Mean cross-entropy of a batch and its gradient.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// The loss, rank 0, in nats.
    pub loss: Value,
    /// Gradient with respect to the logits, [batch, classes].
    pub dlogits: Value,
}

/// Softmax cross-entropy, weighted over the batch.
///
/// `logits` and `targets` are [batch, classes], rows of `targets` sum to 1; `weights` is [batch, 1].
///
/// loss = sum_i w_i * -(T_i . log softmax(z_i)) / sum w        dz = w * (softmax(z) - T) / sum w
///
/// Written out in elementary operators because the loss operators of ONNX have no CUDA kernel.
pub fn cross_entropy(graph: &mut Builder, logits: &Value, targets: &Value, weights: &Value) -> CrossEntropy {
    graph.set_scope("loss");
    let full = logits.shape().to_vec();
    let row = [full[0], 1];
    let axis1 = graph.constant(Tensor::ints(&[1]));
    let keep = [("keepdims", 1i64.into())];
    let max = graph.op("ReduceMax", &[logits, &axis1], &keep, &row);
    let z = graph.op("Sub", &[logits, &max], &[], &full);
    let exp = graph.op("Exp", &[&z], &[], &full);
    let sum = graph.op("ReduceSum", &[&exp, &axis1], &keep, &row);
    let log_sum = graph.op("Log", &[&sum], &[], &row);
    let log_p = graph.op("Sub", &[&z, &log_sum], &[], &full);
    let picked = graph.op("Mul", &[&log_p, targets], &[], &full);
    let each = graph.op("ReduceSum", &[&picked, &axis1], &keep, &row);
    let total = graph.op("ReduceSum", &[weights], &[("keepdims", 0i64.into())], &[]);
    let share = graph.op("Div", &[weights, &total], &[], &row);
    let weighted = graph.op("Mul", &[&each, &share], &[], &row);
    let negative = graph.op("ReduceSum", &[&weighted], &[("keepdims", 0i64.into())], &[]);
    let loss = graph.op("Neg", &[&negative], &[], &[]);
    let p = graph.op("Div", &[&exp, &sum], &[], &full);
    let error = graph.op("Sub", &[&p, targets], &[], &full);
    let dlogits = graph.op("Mul", &[&error, &share], &[], &full);
    graph.set_scope("");
    CrossEntropy { loss, dlogits }
}

/// Weighted number of samples whose largest logit is that of their target, rank 0. Shapes as for [`cross_entropy`].
pub fn hits(graph: &mut Builder, logits: &Value, targets: &Value, weights: &Value) -> Value {
    graph.set_scope("hits");
    let row = [logits.shape()[0], 1];
    let axis = [("axis", 1i64.into())];
    let found = graph.op("ArgMax", &[logits], &axis, &row);
    let meant = graph.op("ArgMax", &[targets], &axis, &row);
    let equal = graph.op("Equal", &[&found, &meant], &[], &row);
    let ones = graph.op("CastLike", &[&equal, weights], &[], &row);
    let counted = graph.op("Mul", &[&ones, weights], &[], &row);
    let sum = graph.op("ReduceSum", &[&counted], &[("keepdims", 0i64.into())], &[]);
    graph.set_scope("");
    sum
}
