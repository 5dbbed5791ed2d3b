//! Losses, written into a step graph together with their gradient.

use super::head::Layout;
use crate::{
    graph::{Builder, Value},
    tensor::Tensor,
};

/// The loss of a batch.
#[derive(Clone, Debug)]
pub struct Loss {
    /// Its mean, rank 0, in nats.
    pub loss: Value,
    /// Gradient with respect to the logits, in their shape.
    pub dlogits: Value,
    /// Weighted number of predictions whose largest score is that of a class of their target, rank 0; where targets are no
    /// labels, the sum of their shares of that class.
    pub hits: Value,
}

/// The loss of logits in any layout. `targets` [batch * predictions, classes] are 1 for the classes that are there (several
/// only where scores are independent) and 0 for the others, or shares of the classes. Rows of `weights`
/// [batch * predictions, 1] count; `total` is the sum of the weights where this is only a part of a batch.
///
/// One logit z for two classes is softmax over (0, z), since sigmoid(z) = exp z / (exp 0 + exp z).
pub fn of(
    graph: &mut Builder,
    logits: &Value,
    layout: Layout,
    targets: &Value,
    weights: &Value,
    total: Option<&Value>,
) -> Loss {
    graph.set_scope("logits");
    let rows = targets.shape()[0];
    let scores = scores(graph, logits, layout, rows);
    let sum = |graph: &mut Builder| graph.op("ReduceSum", &[weights], &[("keepdims", 0i64.into())], &[]);
    let total = total.cloned().unwrap_or_else(|| sum(graph));
    let share = graph.op("Div", &[weights, &total], &[], &[rows, 1]);
    let (loss, dscores) = if layout.independent {
        binary_cross_entropy(graph, &scores, targets, &share)
    } else {
        cross_entropy(graph, &scores, targets, &share)
    };
    graph.set_scope("logits/grad");
    let dscores = if layout.binary {
        let [from, to] = [1i64, 2].map(|v| graph.constant(Tensor::ints(&[v])));
        graph.op("Slice", &[&dscores, &from, &to, &from], &[], &[rows, 1])
    } else {
        dscores
    };
    let dlogits = reshaped(graph, &dscores, logits.shape());
    let hits = hits(graph, &scores, targets, weights);
    Loss { loss, dlogits, hits }
}

/// Logits in any layout as one row of `layout.classes` scores a prediction, `rows` of them.
pub fn scores(graph: &mut Builder, logits: &Value, layout: Layout, rows: usize) -> Value {
    if layout.binary {
        let column = reshaped(graph, logits, &[rows, 1]);
        let zeros = graph.op("Sub", &[&column, &column], &[], &[rows, 1]);
        graph.op("Concat", &[&zeros, &column], &[("axis", 1i64.into())], &[rows, 2])
    } else {
        reshaped(graph, logits, &[rows, layout.classes])
    }
}

fn reshaped(b: &mut Builder, v: &Value, shape: &[usize]) -> Value {
    if v.shape() == shape {
        return v.clone();
    }
    let target = b.constant(Tensor::ints(&shape.iter().map(|&d| d as i64).collect::<Vec<_>>()));
    b.op("Reshape", &[v, &target], &[], shape)
}

/// Sigmoid cross-entropy of scores that are independent of each other, summed over the classes and weighted over the batch.
///
/// loss = sum_i s_i * sum_c (softplus(z_ic) - T_ic z_ic)        dz = s * (sigmoid(z) - T)        s = w / sum w
fn binary_cross_entropy(graph: &mut Builder, logits: &Value, targets: &Value, share: &Value) -> (Value, Value) {
    graph.set_scope("loss");
    let full = logits.shape().to_vec();
    let row = [full[0], 1];
    let softplus = graph.op("Softplus", &[logits], &[], &full);
    let picked = graph.op("Mul", &[logits, targets], &[], &full);
    let each = graph.op("Sub", &[&softplus, &picked], &[], &full);
    let axis1 = graph.constant(Tensor::ints(&[1]));
    let each = graph.op("ReduceSum", &[&each, &axis1], &[("keepdims", 1i64.into())], &row);
    let weighted = graph.op("Mul", &[&each, share], &[], &row);
    let loss = graph.op("ReduceSum", &[&weighted], &[("keepdims", 0i64.into())], &[]);
    let p = graph.op("Sigmoid", &[logits], &[], &full);
    let error = graph.op("Sub", &[&p, targets], &[], &full);
    let dlogits = graph.op("Mul", &[&error, share], &[], &full);
    graph.set_scope("");
    (loss, dlogits)
}

/// Softmax cross-entropy, weighted over the batch; gives the loss, rank 0, in nats, and its gradient.
///
/// `logits` and `targets` are [batch, classes], rows of `targets` that count sum to 1; `share` is [batch, 1].
///
/// loss = sum_i s_i * -(T_i . log softmax(z_i))        dz = s * (softmax(z) - T)        s = w / sum w
///
/// Written out in elementary operators because the loss operators of ONNX have no CUDA kernel.
fn cross_entropy(graph: &mut Builder, logits: &Value, targets: &Value, share: &Value) -> (Value, Value) {
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
    let weighted = graph.op("Mul", &[&each, share], &[], &row);
    let negative = graph.op("ReduceSum", &[&weighted], &[("keepdims", 0i64.into())], &[]);
    let loss = graph.op("Neg", &[&negative], &[], &[]);
    let p = graph.op("Div", &[&exp, &sum], &[], &full);
    let error = graph.op("Sub", &[&p, targets], &[], &full);
    let dlogits = graph.op("Mul", &[&error, share], &[], &full);
    graph.set_scope("");
    (loss, dlogits)
}

/// Weighted number of predictions whose largest logit is that of a class of their target, rank 0. Shapes as for
/// [`cross_entropy`].
fn hits(graph: &mut Builder, logits: &Value, targets: &Value, weights: &Value) -> Value {
    graph.set_scope("hits");
    let row = [logits.shape()[0], 1];
    let axis = [("axis", 1i64.into())];
    let found = graph.op("ArgMax", &[logits], &axis, &row);
    // 1 where that class is there, for one-hot and multi-hot targets alike.
    let ones = graph.op("GatherElements", &[targets, &found], &axis, &row);
    let counted = graph.op("Mul", &[&ones, weights], &[], &row);
    let sum = graph.op("ReduceSum", &[&counted], &[("keepdims", 0i64.into())], &[]);
    graph.set_scope("");
    sum
}
