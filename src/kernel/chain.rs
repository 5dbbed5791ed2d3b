//! Chains of elementwise operators in one pass: what one hands to the next stays in a core's nearest cache.
//!
//! Every operator rounds as the one it stands for, so that a chain gives the same numbers as its parts; `Exp`, `Sigmoid`
//! and `Erf` come from polynomials of their own.

use super::{
    isa::Isa,
    pool::{Pool, chunks_of_each},
};
use std::cell::RefCell;

/// Floats that go through the whole chain at a time.
const BLOCK: usize = 512;
/// Floats that a task takes: a task is long beside handing it out.
const RUN: usize = 1 << 14;

/// What a step computes from its operands a, b and c.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// a + b
    Add,
    /// a - b
    Sub,
    /// a * b
    Mul,
    /// a / b
    Div,
    /// -a
    Neg,
    /// |a|
    Abs,
    /// The square root of a.
    Sqrt,
    /// 1 / a
    Reciprocal,
    /// a where it is positive, 0 elsewhere.
    Relu,
    /// b * a + c, from 0 to 1.
    HardSigmoid,
    /// a, from b to c.
    Clip,
    /// e to the a.
    Exp,
    /// 1 / (1 + e to the -a).
    Sigmoid,
    /// The error function of a.
    Erf,
}

const OPS: [Op; 14] = [
    Op::Add,
    Op::Sub,
    Op::Mul,
    Op::Div,
    Op::Neg,
    Op::Abs,
    Op::Sqrt,
    Op::Reciprocal,
    Op::Relu,
    Op::HardSigmoid,
    Op::Clip,
    Op::Exp,
    Op::Sigmoid,
    Op::Erf,
];

impl Op {
    /// Number of operands.
    pub fn operands(self) -> usize {
        match self {
            Self::Add | Self::Sub | Self::Mul | Self::Div => 2,
            Self::HardSigmoid | Self::Clip => 3,
            _ => 1,
        }
    }
}

/// How an input is spread over the results: result i reads element `i / inner % period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Neighbouring results that read the same element.
    pub inner: usize,
    /// Elements of the input.
    pub period: usize,
}

/// One operator of a chain. Operands are numbered: the inputs, the constants, then the results of the steps before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is computed.
    pub op: Op,
    /// From what; operands that the operator does not have are 0.
    pub from: [usize; 3],
}

/// Elementwise operators over arrays of one length.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// How each input is spread.
    pub inputs: Vec<Spread>,
    /// Constants.
    pub numbers: Vec<f32>,
    /// The operators, each after those whose results it reads.
    pub steps: Vec<Step>,
    /// Which operands are handed out.
    pub outputs: Vec<usize>,
}

impl Chain {
    /// Everything but the constants as a list of numbers.
    pub fn to_numbers(&self) -> Vec<i64> {
        let mut list = vec![self.inputs.len() as i64, self.steps.len() as i64];
        list.extend(self.inputs.iter().flat_map(|s| [s.inner as i64, s.period as i64]));
        for step in &self.steps {
            list.push(OPS.iter().position(|op| *op == step.op).unwrap_or_default() as i64);
            list.extend(step.from.map(|v| v as i64));
        }
        list.extend(self.outputs.iter().map(|v| *v as i64));
        list
    }

    /// The chain that [`Chain::to_numbers`] has written down; `None` for a list that is none.
    pub fn from_numbers(list: &[i64], numbers: Vec<f32>) -> Option<Self> {
        let list: Vec<usize> = list.iter().map(|v| usize::try_from(*v).ok()).collect::<Option<_>>()?;
        let (&[inputs, steps], rest) = list.split_first_chunk::<2>()?;
        let (spreads, rest) = rest.split_at_checked(inputs.checked_mul(2)?)?;
        let (codes, outputs) = rest.split_at_checked(steps.checked_mul(4)?)?;
        let inputs: Vec<Spread> =
            spreads.as_chunks::<2>().0.iter().map(|&[inner, period]| Spread { inner, period }).collect();
        let step = |&[op, a, b, c]: &[usize; 4]| Some(Step { op: *OPS.get(op)?, from: [a, b, c] });
        let steps: Vec<Step> = codes.as_chunks::<4>().0.iter().map(step).collect::<Option<_>>()?;
        let first = inputs.len() + numbers.len();
        let known = steps.iter().enumerate().all(|(k, s)| s.from[..s.op.operands()].iter().all(|r| *r < first + k));
        let whole = inputs.iter().all(|s| s.inner > 0 && s.period > 0);
        let written = outputs.iter().all(|r| (first..first + steps.len()).contains(r));
        (known && whole && written).then(|| Self { inputs, numbers, steps, outputs: outputs.to_vec() })
    }

    /// Writes all outputs, which are of one length.
    ///
    /// # Panics
    /// When their number is not that of the chain's, their lengths differ, or an input is too short.
    pub fn run(&self, isa: Isa, pool: &dyn Pool, inputs: &[&[f32]], outputs: Vec<&mut [f32]>) {
        assert_eq!((inputs.len(), outputs.len()), (self.inputs.len(), self.outputs.len()), "arrays of a chain");
        let len = outputs.first().map_or(0, |o| o.len());
        assert!(outputs.iter().all(|o| o.len() == len), "results of different lengths");
        for (input, spread) in inputs.iter().zip(&self.inputs) {
            assert!(input.len() >= spread.period.min(len), "an input of {} elements", input.len());
        }
        thread_local! {
            /// A block for every operand, kept from task to task.
            static OPERANDS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        chunks_of_each(pool, outputs, RUN, |i, outputs| {
            OPERANDS.with_borrow_mut(|blocks| match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => x86::part512(self, i * RUN, inputs, outputs, blocks),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => x86::part256(self, i * RUN, inputs, outputs, blocks),
                _ => part(self, i * RUN, inputs, outputs, blocks),
            });
        });
    }
}

/// The results from `first` on.
// Inlined so that it is compiled for the instructions of its callers, as is what it calls.
#[allow(clippy::inline_always)]
#[inline(always)]
fn part(chain: &Chain, first: usize, inputs: &[&[f32]], outputs: &mut [&mut [f32]], blocks: &mut Vec<f32>) {
    let constants = inputs.len() + chain.numbers.len();
    blocks.resize(BLOCK * (constants + chain.steps.len()), 0.0);
    let numbers = blocks[BLOCK * inputs.len()..].chunks_exact_mut(BLOCK).zip(&chain.numbers);
    numbers.for_each(|(block, v)| block.fill(*v));
    let len = outputs.first().map_or(0, |o| o.len());
    for at in (0..len).step_by(BLOCK) {
        let n = BLOCK.min(len - at);
        for ((block, input), s) in blocks.chunks_exact_mut(BLOCK).zip(inputs).zip(&chain.inputs) {
            spread(input, *s, first + at, &mut block[..n]);
        }
        for (k, step) in chain.steps.iter().enumerate() {
            let (before, to) = blocks.split_at_mut(BLOCK * (constants + k));
            let [a, b, c] = step.from.map(|r| &before[BLOCK * r..][..n]);
            apply(step.op, a, b, c, &mut to[..n]);
        }
        for (to, r) in outputs.iter_mut().zip(&chain.outputs) {
            to[at..at + n].copy_from_slice(&blocks[BLOCK * r..][..n]);
        }
    }
}

/// What the results from `first` on read of an input.
#[allow(clippy::inline_always)]
#[inline(always)]
fn spread(input: &[f32], s: Spread, first: usize, block: &mut [f32]) {
    let mut at = 0;
    while at < block.len() {
        let (element, behind) = ((first + at) / s.inner % s.period, (first + at) % s.inner);
        if s.inner == 1 {
            let n = (block.len() - at).min(s.period - element);
            block[at..at + n].copy_from_slice(&input[element..element + n]);
            at += n;
        } else {
            let n = (block.len() - at).min(s.inner - behind);
            block[at..at + n].fill(input[element]);
            at += n;
        }
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn apply(op: Op, a: &[f32], b: &[f32], c: &[f32], to: &mut [f32]) {
    match op {
        Op::Add => two(to, a, b, |a, b| a + b),
        Op::Sub => two(to, a, b, |a, b| a - b),
        Op::Mul => two(to, a, b, |a, b| a * b),
        Op::Div => two(to, a, b, |a, b| a / b),
        Op::Neg => one(to, a, |a| -a),
        Op::Abs => one(to, a, f32::abs),
        Op::Sqrt => one(to, a, f32::sqrt),
        Op::Reciprocal => one(to, a, f32::recip),
        // What is no number stays none.
        Op::Relu => one(to, a, |a| if a < 0.0 { 0.0 } else { a }),
        Op::HardSigmoid => three(to, a, b, c, |a, b, c| between(b * a + c, 0.0, 1.0)),
        Op::Clip => three(to, a, b, c, between),
        Op::Exp => one(to, a, exp),
        Op::Sigmoid => one(to, a, |a| 1.0 / (1.0 + exp(-a))),
        Op::Erf => one(to, a, erf),
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn between(v: f32, low: f32, high: f32) -> f32 {
    let v = if v < low { low } else { v };
    if v > high { high } else { v }
}

/// 2^n e^r for x = n ln 2 + r, with the Taylor series of e^r up to the seventh power: |r| is at most 0.35.
#[allow(clippy::inline_always)]
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Added to a number, it leaves the nearest integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 as a number with few bits and the rest, so that n ln 2 is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // Beyond these the result is 0 or infinite; what is no number stays none.
    let x = between(x, -104.0, 89.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let tail = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)));
    let series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * tail)));
    // 2^n in two factors: one alone may be too large or too small for its exponent.
    let n = shifted.to_bits().cast_signed().wrapping_sub(ROUND.to_bits().cast_signed());
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned());
    series * power(n >> 1) * power(n - (n >> 1))
}

/// The Taylor series up to the fifteenth power for small x; beyond, Abramowitz and Stegun, Handbook of Mathematical
/// Functions, 7.1.26, whose error is at most 1.5e-7.
#[allow(clippy::inline_always)]
#[inline(always)]
fn erf(x: f32) -> f32 {
    const SERIES: [f32; 8] =
        [1.0, -1.0 / 3.0, 1.0 / 10.0, -1.0 / 42.0, 1.0 / 216.0, -1.0 / 1320.0, 1.0 / 9360.0, -1.0 / 75600.0];
    const A: [f32; 5] = [0.254_829_6, -0.284_496_72, 1.421_413_8, -1.453_152, 1.061_405_4];
    let square = x * x;
    let series = SERIES.iter().rev().fold(0.0, |sum, k| sum * square + k);
    let near = std::f32::consts::FRAC_2_SQRT_PI * x * series;
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let far = 1.0 - A.iter().rev().fold(0.0, |sum, k| (sum + k) * t) * exp(-square);
    if x.abs() > 0.7 { far.copysign(x) } else { near }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn one(to: &mut [f32], a: &[f32], f: impl Fn(f32) -> f32) {
    // A loop, because what a closure is handed to is not compiled for the instructions of the caller.
    for (to, a) in to.iter_mut().zip(a) {
        *to = f(*a);
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn two(to: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
        *to = f(*a, *b);
    }
}

#[allow(clippy::inline_always)]
#[inline(always)]
fn three(to: &mut [f32], a: &[f32], b: &[f32], c: &[f32], f: impl Fn(f32, f32, f32) -> f32) {
    for (((to, a), b), c) in to.iter_mut().zip(a).zip(b).zip(c) {
        *to = f(*a, *b, *c);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{
        super::isa::{Isa, compiled},
        Chain, part,
    };

    compiled!(part512, Isa::Avx512, "avx512f", part, (
        chain: &Chain, first: usize, x: &[&[f32]], y: &mut [&mut [f32]], blocks: &mut Vec<f32>
    ));
    compiled!(part256, Isa::Avx2, "avx2", part, (
        chain: &Chain, first: usize, x: &[&[f32]], y: &mut [&mut [f32]], blocks: &mut Vec<f32>
    ));
}
