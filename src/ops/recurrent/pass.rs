//! One direction of a recurrent layer: what its way back starts from.

use super::{
    super::{Emit, OpError},
    gate::{self, Gate},
};
use crate::{
    graph::{Attr, Value},
    tensor::{Data, Tensor},
};

/// One direction of a layer, without the axis of directions.
pub(super) struct Pass {
    /// Number of steps T.
    pub steps: usize,
    /// Activation functions, in the order of the operator's definition.
    pub gates: Vec<Gate>,
    /// [T B, I]
    pub x: Value,
    /// [G H, I]
    pub w: Value,
    /// [G H, H]
    pub r: Value,
    /// Wb and Rb, [G H] each.
    pub bias: Option<[Value; 2]>,
    /// [3 H]
    pub peepholes: Option<Value>,
    /// State before each step, [T, B, H].
    pub before: Value,
    /// Cell state before the first step, [1, B, H].
    pub c0: Value,
    /// Gradients of the last states, [1, B, H].
    pub dh: Value,
    pub dc: Value,
    /// Where sequences of the batch end before the last step.
    pub mask: Option<Mask>,
    reverse: bool,
    /// Gradient of Y at each step, [1, B, H].
    dy: Option<Vec<Value>>,
}

/// Which steps belong to a sequence: 1 or 0, [T, B, 1].
#[derive(Clone)]
pub(super) struct Mask {
    inside: Value,
    padded: Value,
}

/// The directions of the node; `functions` are its default activation functions.
pub(super) fn read(e: &mut Emit<'_>, functions: &[&str]) -> Result<Vec<Pass>, OpError> {
    let reverse: &[bool] = match e.str("direction", "forward")?.as_str() {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        other => {
            return Err(OpError::Attribute {
                name: "direction".into(),
                expected: "forward, reverse or bidirectional".into(),
                got: format!("{other:?}"),
            });
        }
    };
    let mut gates = gate::read(e, functions, reverse.len())?.into_iter();
    let mask = Mask::read(e)?;
    let mut passes = Vec::new();
    for (d, &reverse) in reverse.iter().enumerate() {
        let gates = gates.by_ref().take(functions.len()).collect();
        passes.push(Pass::read(e, d, reverse, gates, mask.clone())?);
    }
    Ok(passes)
}

impl Pass {
    fn read(e: &mut Emit<'_>, d: usize, reverse: bool, gates: Vec<Gate>, mask: Option<Mask>) -> Result<Self, OpError> {
        let (x, w, r, y) = (e.x(0)?, e.x(1)?, e.x(2)?, e.y(0)?);
        let (steps, batch, hidden) = (y.shape()[0], y.shape()[2], y.shape()[3]);
        let input = |e: &mut Emit<'_>, i: usize| -> Result<Option<Value>, OpError> {
            if !e.has(i) {
                return Ok(None);
            }
            let x = e.x(i)?;
            Ok(Some(pick(e, &x, 0, d)))
        };
        if steps == 0 {
            return Err(OpError::Unsupported("the sequence has no steps".into()));
        }
        let state = [1, batch, hidden];
        let initial = |e: &mut Emit<'_>, i: usize| -> Result<Value, OpError> {
            Ok(match input(e, i)? {
                Some(given) => e.reshape(&given, &state),
                None => e.zeros(&state),
            })
        };
        let bias = input(e, 3)?.map(|b| halves(e, &b));
        let (h0, c0, peepholes) = (initial(e, 5)?, initial(e, 6)?, input(e, 7)?);
        let mut dy = e.dy(0).cloned().map(|dy| pick(e, &dy, 1, d));
        let [dh, dc] = [1, 2].map(|output| match e.dy(output).cloned() {
            Some(dy) => {
                let dy = pick(e, &dy, 0, d);
                e.reshape(&dy, &state)
            }
            None => e.zeros(&state),
        });
        let mut pass = Self {
            steps,
            gates,
            x: rows(e, &x),
            w: pick(e, &w, 0, d),
            r: pick(e, &r, 0, d),
            bias,
            peepholes,
            before: h0.clone(),
            c0,
            dh,
            dc,
            mask: None,
            reverse,
            dy: None,
        };
        let mut y = pick(e, &y, 1, d);
        if let Some(mask) = mask {
            // Y holds zeros in padded steps; backwards in time those come first and carry the initial state.
            let carried = e.mul(&mask.padded, &h0);
            y = e.add(&y, &carried);
            dy = dy.map(|dy| e.mul(&dy, &mask.inside));
            let some = e.slice(&mask.inside, &[0], &[0], &[1], &[1]);
            (pass.dh, pass.dc) = (e.mul(&pass.dh, &some), e.mul(&pass.dc, &some));
            pass.mask = Some(mask);
        }
        pass.before = pass.earlier(e, &y, &h0);
        pass.dy = dy.map(|dy| e.split(&dy, 0, steps));
        Ok(pass)
    }

    /// The steps in the order in which they are computed.
    pub fn order(&self) -> Vec<usize> {
        if self.reverse { (0..self.steps).rev().collect() } else { (0..self.steps).collect() }
    }

    /// The state before each step, given that after each step, [T, B, H], and the initial one.
    pub fn earlier(&self, e: &mut Emit<'_>, states: &Value, initial: &Value) -> Value {
        let last = self.steps as i64;
        if last == 1 {
            return initial.clone();
        }
        if self.reverse {
            let later = e.slice(states, &[0], &[1], &[last], &[1]);
            e.concat(&[&later, initial], 0)
        } else {
            let sooner = e.slice(states, &[0], &[0], &[last - 1], &[1]);
            e.concat(&[initial, &sooner], 0)
        }
    }

    /// Gradient of the state after step t: `dh` from the steps after it and its share of Y.
    pub fn arriving(&self, e: &mut Emit<'_>, t: usize, dh: &Value) -> Value {
        match &self.dy {
            Some(dy) => e.add(&dy[t], dh),
            None => dh.clone(),
        }
    }

    /// Zeros in padded steps.
    pub fn inside(&self, e: &mut Emit<'_>, v: &Value) -> Value {
        self.mask.as_ref().map_or_else(|| v.clone(), |mask| e.mul(v, &mask.inside))
    }

    /// Ones in padded steps: for factors by which a state is carried on.
    pub fn carrying(&self, e: &mut Emit<'_>, v: &Value) -> Value {
        let Some(mask) = &self.mask else { return v.clone() };
        let inside = e.mul(v, &mask.inside);
        e.add(&inside, &mask.padded)
    }

    /// For each step 1 where it is padded, [1, B, 1]; `None` where no step is.
    pub fn padded(&self, e: &mut Emit<'_>) -> Option<Vec<Value>> {
        self.mask.as_ref().map(|mask| e.split(&mask.padded, 0, self.steps))
    }

    /// x W^T + Wb + Rb + h R^T of all steps, [T, B, G H].
    pub fn sums(&self, e: &mut Emit<'_>) -> Value {
        let bias = self.bias.as_ref().map(|[wb, rb]| e.add(wb, rb));
        let x = product(e, &self.x, &self.w, bias.as_ref());
        let before = rows(e, &self.before);
        let sums = product(e, &before, &self.r, Some(&x));
        self.by_step(e, &sums)
    }

    /// Rows under the shape [T, B, ...].
    pub fn by_step(&self, e: &mut Emit<'_>, v: &Value) -> Value {
        e.reshape(v, &[self.steps, v.shape()[0] / self.steps, v.shape()[1]])
    }

    /// One value of all steps, [T, B, ...], from one each; the last computed comes first.
    pub fn joined(&self, e: &mut Emit<'_>, mut backwards: Vec<Value>) -> Value {
        if !self.reverse {
            backwards.reverse();
        }
        e.concat(&backwards.iter().collect::<Vec<_>>(), 0)
    }
}

impl Mask {
    /// `None` where all sequences are known to be as long as the batch's.
    fn read(e: &mut Emit<'_>) -> Result<Option<Self>, OpError> {
        let steps = e.x(0)?.shape()[0];
        let full = |lengths: Vec<i64>| lengths.iter().all(|&n| n == steps as i64);
        if !e.has(4) || e.known_ints(4).is_ok_and(|known| known.is_some_and(full)) {
            return Ok(None);
        }
        let lengths = e.x(4)?;
        let (batch, shape) = (lengths.len(), [steps, lengths.len(), 1]);
        let ends = e.reshape(&lengths, &[1, batch, 1]);
        let [from, to, by] = [0, steps as i32, 1].map(|v| e.graph.constant(Tensor::new(vec![], Data::I32(vec![v]))));
        let clock = e.op("Range", &[&from, &to, &by], &[], &[steps]);
        let clock = e.reshape(&clock, &[steps, 1, 1]);
        let running = e.op("Less", &[&clock, &ends], &[], &shape);
        let (one, zero) = (e.num(1.0), e.num(0.0));
        Ok(Some(Self { inside: e.select(&running, &one, &zero), padded: e.select(&running, &zero, &one) }))
    }
}

/// Element `i` of an axis, without the axis.
fn pick(e: &mut Emit<'_>, v: &Value, axis: usize, i: usize) -> Value {
    let mut shape = v.shape().to_vec();
    shape.remove(axis);
    let one = e.slice(v, &[axis], &[i as i64], &[i as i64 + 1], &[1]);
    e.reshape(&one, &shape)
}

fn halves(e: &mut Emit<'_>, v: &Value) -> [Value; 2] {
    let half = v.len() as i64 / 2;
    [(0, half), (half, 2 * half)].map(|(from, to)| e.slice(v, &[0], &[from], &[to], &[1]))
}

/// All axes but the last in one.
pub(super) fn rows(e: &mut Emit<'_>, v: &Value) -> Value {
    let last = v.shape()[v.rank() - 1];
    let rows = v.shape()[..v.rank() - 1].iter().product();
    e.reshape(v, &[rows, last])
}

/// a b^T + c
pub(super) fn product(e: &mut Emit<'_>, a: &Value, b: &Value, c: Option<&Value>) -> Value {
    let inputs: Vec<&Value> = [a, b].into_iter().chain(c).collect();
    e.op("Gemm", &inputs, &[("transB", Attr::Int(1))], &[a.shape()[0], b.shape()[0]])
}
