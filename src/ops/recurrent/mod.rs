//! Recurrent layers: backpropagation through time, written out step by step.
//!
//! ONNX Runtime has no gradient operator for these, and no loop is needed: the number of steps is known. The forward node
//! stays as it is, the runtime's own kernel being the fastest way to the outputs, and its output Y holds the state before
//! every step. So the gates of all steps are computed again in one product each for W and R instead of step by step, and
//! so is everything about them that does not depend on dy. What is left to a step of the way back is linear in the
//! gradients of the states: a few products with numbers computed before, and one matrix product with R. The gradients of
//! W, R and x are products over all steps again. Writing the forward pass out and leaving the gradient to the rules of
//! its parts would be as exact, but has the way there step by step too, and a product for each step's share of dW and dR.
//!
//! A sequence shorter than the batch's has its state carried through the padded steps and zeros in Y there. ONNX Runtime
//! gives zeros as last states of an empty sequence, so nothing flows back from those.
//!
//! Shapes: steps T, batch B, inputs I, units H, gates G, directions D, and x [T, B, I], W [D, G H, I], R [D, G H, H],
//! b [D, 2 G H], initial states [D, B, H], Y [T, D, B, H]. Each direction is worked on by itself, without its axis. The
//! equations are those of the operators' definitions.

mod gate;
mod gru;
mod lstm;
mod pass;
mod rnn;

use super::{
    Emit,
    Flow::{Constant, Vjp},
    Op, OpError,
};
use crate::graph::Value;
use pass::Pass;

pub(super) const OPS: &[Op] = &[
    Op::new(
        "RNN",
        &["activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size"],
        &[Vjp(rnn), Vjp(rnn), Vjp(rnn), Vjp(rnn), Constant, Vjp(rnn)],
    ),
    Op::new(
        "GRU",
        &[
            "activation_alpha",
            "activation_beta",
            "activations",
            "clip",
            "direction",
            "hidden_size",
            "linear_before_reset",
        ],
        &[Vjp(gru), Vjp(gru), Vjp(gru), Vjp(gru), Constant, Vjp(gru)],
    ),
    Op::new(
        "LSTM",
        &["activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "input_forget"],
        &[Vjp(lstm), Vjp(lstm), Vjp(lstm), Vjp(lstm), Constant, Vjp(lstm), Vjp(lstm), Vjp(lstm)],
    ),
];

fn rnn(e: &mut Emit<'_>, _: &Value) -> Result<Value, OpError> {
    gradient(e, &["tanh"], rnn::backward)
}

fn gru(e: &mut Emit<'_>, _: &Value) -> Result<Value, OpError> {
    gradient(e, &["sigmoid", "tanh"], gru::backward)
}

fn lstm(e: &mut Emit<'_>, _: &Value) -> Result<Value, OpError> {
    gradient(e, &["sigmoid", "tanh", "tanh"], lstm::backward)
}

/// What comes out of the way back through one direction.
struct Gradients {
    /// Gradient of x W^T, [T B, G H].
    wx: Value,
    /// Gradient of h R^T, [T B, G H]. A bias stands beside each of the two and has the same gradient.
    rh: Value,
    /// Gradient of R, [G H, H].
    r: Value,
    /// Gradients of the initial states, [1, B, H].
    h0: Value,
    c0: Option<Value>,
    /// Gradient of the peepholes, [3 H].
    peepholes: Option<Value>,
}

/// a_t = W x_t + Wb + R h_(t-1) + Rb for all gates, da_t what `backward` finds
/// dx_t = da_t W      dW = sum_t da_t^T x_t      dR = sum_t da_t^T h_(t-1)      dWb = dRb = sum_t da_t
fn gradient(
    e: &mut Emit<'_>,
    functions: &[&str],
    backward: fn(&mut Emit<'_>, &Pass) -> Result<Gradients, OpError>,
) -> Result<Value, OpError> {
    let at = e.at();
    let mut parts = Vec::new();
    for pass in pass::read(e, functions)? {
        let d = backward(e, &pass)?;
        let part = match at {
            0 => Some(e.gemm(&d.wx, &pass.w, false, false)),
            1 => Some(e.gemm(&d.wx, &pass.x, true, false)),
            2 => Some(d.r),
            3 => {
                let (wb, rb) = (e.reduce_sum(&d.wx, &[0], false), e.reduce_sum(&d.rh, &[0], false));
                Some(e.concat(&[&wb, &rb], 0))
            }
            5 => Some(d.h0),
            6 => d.c0,
            _ => d.peepholes,
        };
        parts.push(part.ok_or(OpError::NoFlow(at))?);
    }
    let target = e.x(at)?.shape().to_vec();
    let whole = match (at, parts.as_slice()) {
        // x is the only input that both directions read.
        (0, [one, other]) => e.add(one, other),
        _ => e.concat(&parts.iter().collect::<Vec<_>>(), 0),
    };
    Ok(e.reshape(&whole, &target))
}
