//! z = f(W_z x + R_z h' + b_z)      r = f(W_r x + R_r h' + b_r)
//! n = g(W_n x + Wb_n + s)          h = (1 - z) n + z h'            at every step, h' being the h before
//! s = R_n (r h') + Rb_n, or r (R_n h' + Rb_n) with `linear_before_reset`
//!
//! The gates are those of the operator in its order, its gate h called n here; a_z, a_r and a_n are what f and g read.

use super::{
    super::{Emit, OpError},
    Gradients,
    pass::{Pass, product, rows},
};
use crate::graph::Value;

pub(super) fn backward(e: &mut Emit<'_>, pass: &Pass) -> Result<Gradients, OpError> {
    if e.int("linear_before_reset", 0)? == 0 { reset_before(e, pass) } else { reset_after(e, pass) }
}

/// Factors of dh in every step, [T, B, H]: da_z = dh z, da_n = dh n, dh' = dh keep and what comes through the gates.
struct Factors {
    z: Value,
    n: Value,
    keep: Value,
}

/// da_z = dh (h' - n) f'(a_z)      da_n = dh (1 - z) g'(a_n)      dh' = dh z + ...
fn factors(e: &mut Emit<'_>, pass: &Pass, a_z: &Value, a_n: &Value) -> Result<Factors, OpError> {
    let [f, g] = [&pass.gates[0], &pass.gates[1]];
    let (z, n) = (f.value(e, a_z), g.value(e, a_n));
    let change = e.sub(&pass.before, &n);
    let one = e.num(1.0);
    let new = e.sub(&one, &z);
    let (to_z, to_n) = (f.back(e, a_z, &change)?, g.back(e, a_n, &new)?);
    Ok(Factors { z: pass.inside(e, &to_z), n: pass.inside(e, &to_n), keep: pass.carrying(e, &z) })
}

/// s = R_n (r h') + Rb_n
///
/// d(r h') = da_n R_n      da_r = d(r h') h' f'(a_r)      dh' = dh z + d(r h') r + da_z R_z + da_r R_r
fn reset_before(e: &mut Emit<'_>, pass: &Pass) -> Result<Gradients, OpError> {
    let f = &pass.gates[0];
    let hidden = pass.r.shape()[1] as i64;
    let r_zr = e.slice(&pass.r, &[0], &[0], &[2 * hidden], &[1]);
    let r_n = e.slice(&pass.r, &[0], &[2 * hidden], &[3 * hidden], &[1]);

    let bias = pass.bias.as_ref().map(|[wb, rb]| e.add(wb, rb));
    let x = product(e, &pass.x, &pass.w, bias.as_ref());
    let x = e.split(&x, 1, 3);
    let before = rows(e, &pass.before);
    let h = product(e, &before, &r_zr, None);
    let h = e.split(&h, 1, 2);
    let [a_z, a_r] = [0, 1].map(|gate| {
        let a = e.add(&x[gate], &h[gate]);
        pass.by_step(e, &a)
    });
    let r = f.value(e, &a_r);
    let reset = e.mul(&r, &pass.before);
    let reset = rows(e, &reset);
    let a_n = product(e, &reset, &r_n, Some(&x[2]));
    let a_n = pass.by_step(e, &a_n);
    let to = factors(e, pass, &a_z, &a_n)?;
    let to_r = f.back(e, &a_r, &pass.before)?;

    let [to_z, to_r, to_n, keep, r] = [&to.z, &to_r, &to.n, &to.keep, &r].map(|v| e.split(v, 0, pass.steps));
    let mut dh = pass.dh.clone();
    let (mut zrs, mut ns) = (Vec::new(), Vec::new());
    for t in pass.order().into_iter().rev() {
        let total = pass.arriving(e, t, &dh);
        let n = e.mul(&total, &to_n[t]);
        let dreset = e.matmul(&n, &r_n);
        let (z, gate_r) = (e.mul(&total, &to_z[t]), e.mul(&dreset, &to_r[t]));
        let zr = e.concat(&[&z, &gate_r], 2);
        let (through, by, kept) = (e.matmul(&zr, &r_zr), e.mul(&dreset, &r[t]), e.mul(&total, &keep[t]));
        dh = e.add(&through, &by);
        dh = e.add(&dh, &kept);
        zrs.push(zr);
        ns.push(n);
    }
    let [zr, n] = [zrs, ns].map(|parts| {
        let joined = pass.joined(e, parts);
        rows(e, &joined)
    });
    let da = e.concat(&[&zr, &n], 1);
    let (top, bottom) = (e.gemm(&zr, &before, true, false), e.gemm(&n, &reset, true, false));
    Ok(Gradients { wx: da.clone(), rh: da, r: e.concat(&[&top, &bottom], 0), h0: dh, c0: None, peepholes: None })
}

/// s = r q, q = R_n h' + Rb_n
///
/// da_r = da_n q f'(a_r)      dq = da_n r      dh' = dh z + da_z R_z + da_r R_r + dq R_n
/// So all that R has a share in is dh times a number known before.
fn reset_after(e: &mut Emit<'_>, pass: &Pass) -> Result<Gradients, OpError> {
    let f = &pass.gates[0];
    let [wb, rb] = [0, 1].map(|side| pass.bias.as_ref().map(|bias| bias[side].clone()));
    let x = product(e, &pass.x, &pass.w, wb.as_ref());
    let before = rows(e, &pass.before);
    let h = product(e, &before, &pass.r, rb.as_ref());
    let [x, h] = [&x, &h].map(|v| {
        let v = pass.by_step(e, v);
        e.split(&v, 2, 3)
    });
    let [a_z, a_r] = [0, 1].map(|gate| e.add(&x[gate], &h[gate]));
    let (r, q) = (f.value(e, &a_r), &h[2]);
    let s = e.mul(&r, q);
    let a_n = e.add(&x[2], &s);
    let to = factors(e, pass, &a_z, &a_n)?;
    let by_q = e.mul(&to.n, q);
    let to_r = f.back(e, &a_r, &by_q)?;
    let to_q = e.mul(&to.n, &r);
    let to_all = e.concat(&[&to.z, &to_r, &to_q], 2);

    let [to_all, keep] = [&to_all, &to.keep].map(|v| e.split(v, 0, pass.steps));
    let mut dh = pass.dh.clone();
    let (mut totals, mut das) = (Vec::new(), Vec::new());
    for t in pass.order().into_iter().rev() {
        let total = pass.arriving(e, t, &dh);
        let wide = e.concat(&[&total; 3], 2);
        let da = e.mul(&wide, &to_all[t]);
        let (through, kept) = (e.matmul(&da, &pass.r), e.mul(&total, &keep[t]));
        dh = e.add(&through, &kept);
        totals.push(total);
        das.push(da);
    }
    let (total, rh) = (pass.joined(e, totals), pass.joined(e, das));
    let n = e.mul(&total, &to.n);
    let zr = e.slice(&rh, &[2], &[0], &[2 * n.shape()[2] as i64], &[1]);
    let wx = e.concat(&[&zr, &n], 2);
    let (wx, rh) = (rows(e, &wx), rows(e, &rh));
    let r = e.gemm(&rh, &before, true, false);
    Ok(Gradients { wx, rh, r, h0: dh, c0: None, peepholes: None })
}
