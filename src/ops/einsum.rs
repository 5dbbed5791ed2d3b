//! Products summed over named axes.
//!
//! y[out] = sum over every label that is not in `out` of the product of all operands. So the gradient of one operand is
//! such a sum itself: dy in the place of the operand, the operand's labels as output.

use super::{Emit, Flow::Vjp, Op, OpError};
use crate::{
    graph::{Attr, Value},
    tensor::Tensor,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const OPS: &[Op] = &[Op::variadic("Einsum", &["equation"], &[Vjp(einsum)])];

/// A factor and its labels.
type Term = (Value, Vec<char>);

/// The equation with a letter for every axis: those under an ellipsis have got letters of their own.
struct Equation {
    operands: Vec<Vec<char>>,
    output: Vec<char>,
    /// Length of every label; operands may have length 1 there and are then repeated.
    lengths: BTreeMap<char, usize>,
    /// Letters that stand for nothing yet.
    free: Vec<char>,
}

/// dx[own] = sum of dy[out] and the other operands over every label that x has not
///
/// Three things a sum cannot do are done beside it. Along a label that no other operand and not the output has, x was
/// summed, so dx is repeated there. Where x has length 1 and was repeated itself, dx is summed. Where x has a label
/// twice, only its diagonal was read: the second one gets a new letter, and a unit matrix over both as an operand.
fn einsum(e: &mut Emit<'_>, dy: &Value) -> Result<Value, OpError> {
    let at = e.at();
    let x = e.x(at)?;
    let mut equation = Equation::read(e, dy.rank())?;
    let mut factors = Vec::new();
    for (i, labels) in equation.operands.iter().enumerate().filter(|(i, _)| *i != at) {
        factors.push((e.x(i)?, labels.clone()));
    }
    let mut own: Vec<char> = Vec::new();
    for label in equation.operands[at].clone() {
        let length = equation.lengths[&label];
        if own.contains(&label) {
            let second = equation.letter(e)?;
            equation.lengths.insert(second, length);
            factors.push((unit_matrix(e, length), vec![label, second]));
            own.push(second);
        } else {
            own.push(label);
        }
    }
    let has =
        |label: &char| equation.output.contains(label) || factors.iter().any(|(_, labels)| labels.contains(label));
    let lost: Vec<bool> =
        own.iter().zip(x.shape()).map(|(label, &length)| !has(label) || length != equation.lengths[label]).collect();
    let kept: Vec<char> = own.iter().zip(&lost).filter(|(_, lost)| !**lost).map(|(label, _)| *label).collect();

    let terms = ordered(dy, &equation, factors, &kept);
    let dx = sum_of_products(e, &terms, &kept);
    let mut lengths = dx.shape().iter();
    let spread: Vec<usize> = lost.iter().map(|&lost| if lost { 1 } else { *lengths.next().unwrap_or(&1) }).collect();
    let dx = e.reshape(&dx, &spread);
    Ok(e.expand(&dx, x.shape()))
}

/// dy and the factors in the order in which they are multiplied, the cheapest product next: the runtime works from left
/// to right, and for a chain such as `ab,bc,cd->ad` that makes an outer product or none.
fn ordered(dy: &Value, equation: &Equation, mut rest: Vec<Term>, kept: &[char]) -> Vec<Term> {
    let mut seen = equation.output.clone();
    let mut terms = vec![(dy.clone(), equation.output.clone())];
    while !rest.is_empty() {
        let cost = |(_, labels): &Term| -> usize {
            let new: BTreeSet<&char> = labels.iter().filter(|label| !seen.contains(label)).collect();
            new.into_iter().map(|label| equation.lengths[label]).product()
        };
        let cheapest = (0..rest.len()).min_by_key(|&i| cost(&rest[i])).unwrap_or(0);
        let (value, labels) = rest.remove(cheapest);
        seen.extend(&labels);
        // What neither the result nor a later factor has is summed by now.
        seen.retain(|label| kept.contains(label) || rest.iter().any(|(_, labels)| labels.contains(label)));
        terms.push((value, labels));
    }
    terms
}

fn sum_of_products(e: &mut Emit<'_>, terms: &[Term], output: &[char]) -> Value {
    let left: Vec<String> = terms.iter().map(|(_, labels)| labels.iter().collect()).collect();
    let right: String = output.iter().collect();
    if let [(value, _)] = terms
        && left[0] == right
    {
        return value.clone();
    }
    let (values, labels): (Vec<Value>, Vec<Vec<char>>) = terms.iter().cloned().unzip();
    let lengths = lengths(&labels, &values);
    let shape: Vec<usize> = output.iter().map(|label| lengths[label]).collect();
    let equation = format!("{}->{right}", left.join(","));
    e.op("Einsum", &values.iter().collect::<Vec<_>>(), &[("equation", Attr::Str(equation))], &shape)
}

/// 1 on the diagonal of n rows and columns, else 0.
fn unit_matrix(e: &mut Emit<'_>, n: usize) -> Value {
    let [from, to, by] = [0, n as i64, 1].map(|v| e.graph.constant(Tensor::i64([], vec![v])));
    let index = e.op("Range", &[&from, &to, &by], &[], &[n]);
    let column = e.reshape(&index, &[n, 1]);
    let equal = e.op("Equal", &[&column, &index], &[], &[n, n]);
    let (one, zero) = (e.num(1.0), e.num(0.0));
    e.select(&equal, &one, &zero)
}

/// The output of an equation that writes none, but for the ellipsis in front: every label that is written once, sorted.
fn written_once(left: &str) -> Vec<char> {
    let mut once: Vec<char> = left.chars().filter(|c| c.is_alphabetic() && left.matches(*c).count() == 1).collect();
    once.sort_unstable();
    once
}

fn lengths(operands: &[Vec<char>], shapes: &[Value]) -> BTreeMap<char, usize> {
    let mut lengths = BTreeMap::new();
    for (&label, &length) in operands.iter().zip(shapes).flat_map(|(labels, v)| labels.iter().zip(v.shape())) {
        let all = lengths.entry(label).or_insert(length);
        if *all == 1 {
            *all = length;
        }
    }
    lengths
}

impl Equation {
    fn read(e: &Emit<'_>, output_rank: usize) -> Result<Self, OpError> {
        let text: String = e.str("equation", "")?.split_whitespace().collect();
        let wrong = |expected: &str| OpError::Attribute {
            name: "equation".into(),
            expected: expected.into(),
            got: format!("{text:?}"),
        };
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (text.as_str(), None),
        };
        let shapes = (0..e.node().inputs.len()).map(|i| e.x(i)).collect::<Result<Vec<_>, _>>()?;
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != shapes.len() {
            return Err(wrong(&format!("{} operands", shapes.len())));
        }
        let letters = |term: &str| term.replacen("...", "", 1).chars().all(|c| c.is_ascii_alphabetic());
        if !terms.iter().copied().chain(right).all(letters) {
            return Err(wrong("terms of letters with an ellipsis at most"));
        }
        let mut free: Vec<char> = ('a'..='z').chain('A'..='Z').filter(|c| !text.contains(*c)).collect();
        // An ellipsis stands for as many axes as the widest one has; they are counted from the last.
        let under = |term: &str, rank: usize| {
            let named = term.chars().filter(|c| *c != '.').count();
            rank.checked_sub(named).filter(|&rest| rest == 0 || term.contains('.'))
        };
        let ranks = || terms.iter().zip(&shapes).map(|(term, v)| (*term, v.rank()));
        let widths: Option<Vec<usize>> = ranks().map(|(term, rank)| under(term, rank)).collect();
        let widths = widths.ok_or_else(|| wrong("as many labels as axes in every operand"))?;
        let width = widths.iter().copied().max().unwrap_or(0);
        if width > free.len() {
            return Err(wrong("no more than 52 labels and axes under an ellipsis"));
        }
        let ellipsis: Vec<char> = free.drain(..width).collect();
        let labels = |term: &str, width: usize| -> Vec<char> {
            let (before, after) = term.split_once("...").map_or((term, None), |(a, b)| (a, Some(b)));
            let hidden = if after.is_some() { &ellipsis[ellipsis.len() - width..] } else { &[] };
            before.chars().chain(hidden.iter().copied()).chain(after.unwrap_or_default().chars()).collect()
        };
        let operands: Vec<Vec<char>> = terms.iter().zip(&widths).map(|(term, &width)| labels(term, width)).collect();
        let implied = || ellipsis.iter().copied().chain(written_once(left)).collect();
        let output: Vec<char> = right.map_or_else(implied, |right| labels(right, width));
        let lengths = lengths(&operands, &shapes);
        if output.len() != output_rank || output.iter().any(|label| !lengths.contains_key(label)) {
            return Err(wrong(&format!("an output of {output_rank} axes that operands have")));
        }
        Ok(Self { operands, output, lengths, free })
    }

    /// A letter that stands for nothing yet.
    fn letter(&mut self, e: &Emit<'_>) -> Result<char, OpError> {
        self.free.pop().ok_or_else(|| OpError::Attribute {
            name: "equation".into(),
            expected: "letters to spare for repeated labels".into(),
            got: e.str("equation", "").unwrap_or_default(),
        })
    }
}
