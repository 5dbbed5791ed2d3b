//! i = f(W_i x + R_i h' + b_i + P_i c')      u = f(W_f x + R_f h' + b_f + P_f c')      n = g(W_c x + R_c h' + b_c)
//! c = u c' + i n      o = f(W_o x + R_o h' + b_o + P_o c)      h = o k(c)
//! at every step, h' and c' being those before; u = 1 - i with `input_forget`.
//!
//! The gates are those of the operator, its forget gate called u, its cell gate n and its function h called k here;
//! a_i, a_o, a_u and a_n are what the functions read. Their order in W, R and b is i, o, u, n, in P i, o, u.

use super::{
    super::{Emit, OpError},
    Gradients,
    pass::{Pass, rows},
};
use crate::graph::Value;

/// da_o = dh k(c) f'(a_o)              dc = dc_later + dh o k'(c) + da_o P_o
/// da_i = dc n f'(a_i)                 da_u = dc c' f'(a_u)                  da_n = dc i g'(a_n)
/// dc' = dc u + da_i P_i + da_u P_u    dh' = da R                            dP = sum of da c', of da c for o
///
/// Everything is dh or dc times a number known before, so that peepholes cost nothing on the way back.
pub(super) fn backward(e: &mut Emit<'_>, pass: &Pass) -> Result<Gradients, OpError> {
    let [f, g, k] = [&pass.gates[0], &pass.gates[1], &pass.gates[2]];
    let joint = e.int("input_forget", 0)? != 0;
    let peepholes = pass.peepholes.as_ref().map(|p| e.split(p, 0, 3));
    let sums = pass.sums(e);
    let sums = e.split(&sums, 2, 4);
    let c = cells(e, pass, &sums, peepholes.as_deref(), joint);
    let earlier = pass.earlier(e, &c, &pass.c0);

    let seen = [&earlier, &c, &earlier];
    let mut a = sums;
    for (gate, p) in peepholes.iter().flatten().enumerate() {
        let seen = e.mul(seen[gate], p);
        a[gate] = e.add(&a[gate], &seen);
    }
    let [i, o, n] = [(f, 0), (f, 1), (g, 3)].map(|(function, gate)| function.value(e, &a[gate]));
    let one = e.num(1.0);
    let u = if joint { e.sub(&one, &i) } else { f.value(e, &a[2]) };
    let out = k.value(e, &c);

    let by_i = if joint { e.sub(&n, &earlier) } else { n };
    let to_i = f.back(e, &a[0], &by_i)?;
    let to_o = f.back(e, &a[1], &out)?;
    let to_u = if joint { e.zeros(u.shape()) } else { f.back(e, &a[2], &earlier)? };
    let to_n = g.back(e, &a[3], &i)?;
    let mut to_c = k.back(e, &c, &o)?;
    let mut keep = u;
    if let Some(p) = &peepholes {
        let seen = [&to_i, &to_o, &to_u].into_iter().zip(p).map(|(to, p)| e.mul(to, p)).collect::<Vec<_>>();
        to_c = e.add(&to_c, &seen[1]);
        keep = e.add(&keep, &seen[0]);
        keep = e.add(&keep, &seen[2]);
    }
    let to_all = e.concat(&[&to_i, &to_o, &to_u, &to_n], 2);
    let (to_all, to_c, keep) = (pass.inside(e, &to_all), pass.inside(e, &to_c), pass.carrying(e, &keep));

    let [to_all, to_c, keep] = [&to_all, &to_c, &keep].map(|v| e.split(v, 0, pass.steps));
    let padded = pass.padded(e);
    let (mut dh, mut dc) = (pass.dh.clone(), pass.dc.clone());
    let mut das = Vec::new();
    for t in pass.order().into_iter().rev() {
        let total = pass.arriving(e, t, &dh);
        let share = e.mul(&total, &to_c[t]);
        let cell = e.add(&share, &dc);
        let wide = e.concat(&[&cell, &total, &cell, &cell], 2);
        let da = e.mul(&wide, &to_all[t]);
        dh = e.matmul(&da, &pass.r);
        if let Some(padded) = &padded {
            let by = e.mul(&total, &padded[t]);
            dh = e.add(&dh, &by);
        }
        dc = e.mul(&cell, &keep[t]);
        das.push(da);
    }
    let da = pass.joined(e, das);
    let dp = peepholes.map(|_| {
        let three = e.slice(&da, &[2], &[0], &[3 * c.shape()[2] as i64], &[1]);
        let seen = e.concat(&seen, 2);
        let dp = e.mul(&three, &seen);
        e.reduce_sum(&dp, &[0, 1], false)
    });
    let (da, before) = (rows(e, &da), rows(e, &pass.before));
    let r = e.gemm(&da, &before, true, false);
    Ok(Gradients { wx: da.clone(), rh: da, r, h0: dh, c0: Some(dc), peepholes: dp })
}

/// The cell states after each step, [T, B, H]. Without peepholes only c = u c' + (i n) is left to do step by step.
fn cells(e: &mut Emit<'_>, pass: &Pass, sums: &[Value], peepholes: Option<&[Value]>, joint: bool) -> Value {
    let [f, g] = [&pass.gates[0], &pass.gates[1]];
    let one = e.num(1.0);
    let n = g.value(e, &sums[3]);
    let mut c = pass.c0.clone();
    let mut cells = Vec::new();
    if let Some([p_i, _, p_u]) = peepholes {
        let [a_i, a_u, n] = [&sums[0], &sums[2], &n].map(|v| e.split(v, 0, pass.steps));
        let padded = pass.padded(e);
        for t in pass.order() {
            let gate = |e: &mut Emit<'_>, a: &Value, p: &Value| {
                let seen = e.mul(&c, p);
                let a = e.add(a, &seen);
                f.value(e, &a)
            };
            let i = gate(e, &a_i[t], p_i);
            let u = if joint { e.sub(&one, &i) } else { gate(e, &a_u[t], p_u) };
            let (kept, new) = (e.mul(&u, &c), e.mul(&i, &n[t]));
            let mut next = e.add(&kept, &new);
            if let Some(padded) = &padded {
                let back = e.sub(&c, &next);
                let back = e.mul(&back, &padded[t]);
                next = e.add(&next, &back);
            }
            c = next;
            cells.push(c.clone());
        }
    } else {
        let i = f.value(e, &sums[0]);
        let u = if joint { e.sub(&one, &i) } else { f.value(e, &sums[2]) };
        let new = e.mul(&i, &n);
        let (keep, new) = (pass.carrying(e, &u), pass.inside(e, &new));
        let [keep, new] = [&keep, &new].map(|v| e.split(v, 0, pass.steps));
        for t in pass.order() {
            let kept = e.mul(&keep[t], &c);
            c = e.add(&kept, &new[t]);
            cells.push(c.clone());
        }
    }
    cells.reverse();
    pass.joined(e, cells)
}
