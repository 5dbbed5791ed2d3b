//! h_t = f(a_t), a_t = W x_t + R h_(t-1) + b

use super::{
    super::{Emit, OpError},
    Gradients,
    pass::{Pass, rows},
};

/// da_t = dh_t f'(a_t)      dh_(t-1) = da_t R
///
/// In padded steps dh goes by: dh_(t-1) = dh_t.
pub(super) fn backward(e: &mut Emit<'_>, pass: &Pass) -> Result<Gradients, OpError> {
    let a = pass.sums(e);
    let one = e.num(1.0);
    let slope = pass.gates[0].back(e, &a, &one)?;
    let slope = e.expand(&slope, a.shape());
    let slope = pass.inside(e, &slope);

    let slopes = e.split(&slope, 0, pass.steps);
    let padded = pass.padded(e);
    let mut dh = pass.dh.clone();
    let mut das = Vec::new();
    for t in pass.order().into_iter().rev() {
        let total = pass.arriving(e, t, &dh);
        let da = e.mul(&total, &slopes[t]);
        dh = e.matmul(&da, &pass.r);
        if let Some(padded) = &padded {
            let by = e.mul(&total, &padded[t]);
            dh = e.add(&dh, &by);
        }
        das.push(da);
    }
    let da = pass.joined(e, das);
    let da = rows(e, &da);
    let before = rows(e, &pass.before);
    let r = e.gemm(&da, &before, true, false);
    Ok(Gradients { wx: da.clone(), rh: da, r, h0: dh, c0: None, peepholes: None })
}
