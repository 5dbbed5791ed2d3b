//! Lists of values, written out where their members are known from the file.
//!
//! TorchScript writes `split`, `chunk`, `unbind`, `cat` and `stack` as operators on lists. A list is no array: it is
//! neither traced nor differentiated. Where lengths and positions are constants, nothing is left of it.

use super::pen::Pen;
use crate::{
    graph::{Attr, Node},
    tensor::Tensor,
};
use std::{collections::HashMap, sync::Arc};

/// The lists of a graph by name, as far as it has been written.
#[derive(Default)]
pub(super) struct Sequences(HashMap<String, Items>);

#[derive(Clone)]
enum Items {
    /// The members by name.
    Members(Vec<String>),
    /// Consecutive parts of `x` along `axis`, each `length` long; how many there are is not in the file. With `squeeze`
    /// the axis, of length 1 then, is dropped.
    Parts { x: String, axis: i64, length: i64, squeeze: bool },
}

impl Sequences {
    /// Takes over a node that makes or reads a list and writes what it stands for; false for any other node.
    pub fn take(&mut self, pen: &mut Pen, node: &Node) -> Result<bool, String> {
        let touched = node.reads().find(|name| self.0.contains_key(*name));
        if !node.domain.is_empty() || (!node.op.contains("Sequence") && touched.is_none()) {
            return Ok(false);
        }
        match node.op.as_str() {
            "SequenceConstruct" => self.put(node, Items::Members(node.inputs.clone()))?,
            "SequenceEmpty" => self.put(node, Items::Members(Vec::new()))?,
            "SplitToSequence" => self.split(pen, node)?,
            "Identity" => self.put(node, self.list(node)?.clone())?,
            "SequenceInsert" | "SequenceErase" => self.change(pen, node)?,
            "SequenceAt" => self.at(pen, node)?,
            "SequenceLength" => {
                let Items::Members(members) = self.list(node)? else { return Err(open(node, "its length")) };
                let length = Tensor::i64([], vec![members.len() as i64]);
                pen.out.constants.insert(output(node)?.to_owned(), Arc::new(length));
            }
            "ConcatFromSequence" => self.concat(pen, node)?,
            "ReverseSequence" => return Ok(false),
            _ => {
                let list = touched.or(node.input(0)).unwrap_or_default();
                return Err(format!("it reads the list {list:?}; lists are written out for operators on lists only"));
            }
        }
        Ok(true)
    }

    fn put(&mut self, node: &Node, items: Items) -> Result<(), String> {
        self.0.insert(output(node)?.to_owned(), items);
        Ok(())
    }

    fn list(&self, node: &Node) -> Result<&Items, String> {
        let name = node.input(0).ok_or("input 0 is missing")?;
        self.0.get(name).ok_or_else(|| format!("what the list {name:?} holds is not known from the file"))
    }

    fn split(&mut self, pen: &mut Pen, node: &Node) -> Result<(), String> {
        let x = node.input(0).ok_or("input 0 is missing")?.to_owned();
        let axis = int(node, "axis", 0)?;
        // The runtime, and PyTorch with it, drop the axis of parts of one length, also where that length is given.
        let squeeze = int(node, "keepdims", 1)? == 0;
        let Some(lengths) = node.input(1) else {
            return self.put(node, Items::Parts { x, axis, length: 1, squeeze });
        };
        let lengths = lengths.to_owned();
        let list = ints(pen, &lengths, "the lengths of the parts are computed by the graph")?;
        if pen.rank(&lengths) == Some(0) {
            if list[0] < 1 {
                return Err(format!("parts of length {}", list[0]));
            }
            return self.put(node, Items::Parts { x, axis, length: list[0], squeeze });
        }
        let members: Vec<String> = list.iter().map(|_| pen.fresh(node, "part")).collect();
        let outputs: Vec<&str> = members.iter().map(String::as_str).collect();
        pen.push(&node.name, "", "Split", &[&x, &lengths], &outputs, &[("axis", Attr::Int(axis))]);
        self.put(node, Items::Members(members))
    }

    fn change(&mut self, pen: &mut Pen, node: &Node) -> Result<(), String> {
        let inserts = node.op == "SequenceInsert";
        let Items::Members(mut members) = self.list(node)?.clone() else { return Err(open(node, "its members")) };
        let end = members.len() as i64;
        let at = match node.input(if inserts { 2 } else { 1 }) {
            Some(place) => position(pen, place)?,
            None if inserts => end,
            None => end - 1,
        };
        let at = if at < 0 { at + end } else { at };
        let last = if inserts { end } else { end - 1 };
        let place = usize::try_from(at).ok().filter(|_| at <= last);
        let place = place.ok_or_else(|| format!("position {at} of a list of {end}"))?;
        if inserts {
            members.insert(place, node.input(1).ok_or("input 1 is missing")?.to_owned());
        } else {
            members.remove(place);
        }
        self.put(node, Items::Members(members))
    }

    fn at(&self, pen: &mut Pen, node: &Node) -> Result<(), String> {
        let place = position(pen, node.input(1).ok_or("input 1 is missing")?)?;
        let y = output(node)?;
        match self.list(node)? {
            Items::Members(members) => {
                let at = if place < 0 { place + members.len() as i64 } else { place };
                let member = usize::try_from(at).ok().and_then(|at| members.get(at));
                let member = member.ok_or_else(|| format!("position {place} of a list of {}", members.len()))?;
                pen.to(node, "Identity", &[member], y, &[]);
            }
            Items::Parts { x, axis, length, squeeze } => {
                let scalar = |v: i64| Tensor::i64([], vec![v]);
                let axis_at = pen.constant(node, "axis", scalar(*axis));
                let along = pen.constant(node, "along", Tensor::ints(&[*axis]));
                let zero = pen.constant(node, "zero", scalar(0));
                let length = pen.constant(node, "length", scalar(*length));
                let place = pen.constant(node, "place", Tensor::ints(&[place]));
                // Where each part starts. For a place that is none of the list the second Gather fails, as the node would.
                let shape = pen.op(node, "Shape", "shape", &[x], &[]);
                let end = pen.op(node, "Gather", "end", &[&shape, &axis_at], &[]);
                let starts = pen.op(node, "Range", "starts", &[&zero, &end, &length], &[]);
                let from = pen.op(node, "Gather", "from", &[&starts, &place], &[]);
                let to = pen.op(node, "Add", "to", &[&from, &length], &[]);
                let inputs = [x.as_str(), &from, &to, &along];
                if *squeeze {
                    let part = pen.op(node, "Slice", "part", &inputs, &[]);
                    pen.to(node, "Squeeze", &[&part, &along], y, &[]);
                } else {
                    pen.to(node, "Slice", &inputs, y, &[]);
                }
            }
        }
        Ok(())
    }

    fn concat(&self, pen: &mut Pen, node: &Node) -> Result<(), String> {
        let axis = int(node, "axis", 0)?;
        let stacks = int(node, "new_axis", 0)? != 0;
        let y = output(node)?;
        let members = match self.list(node)? {
            Items::Members(members) => members.clone(),
            // Put together again as they were.
            Items::Parts { x, axis: along, squeeze, .. } if (*along, *squeeze) == (axis, stacks) => {
                pen.to(node, "Identity", &[x], y, &[]);
                return Ok(());
            }
            Items::Parts { .. } => return Err(open(node, "its members")),
        };
        let mut parts = members;
        if stacks {
            let along = pen.constant(node, "along", Tensor::ints(&[axis]));
            parts = parts.iter().map(|x| pen.op(node, "Unsqueeze", "layer", &[x, &along], &[])).collect();
        }
        let inputs: Vec<&str> = parts.iter().map(String::as_str).collect();
        pen.to(node, "Concat", &inputs, y, &[("axis", Attr::Int(axis))]);
        Ok(())
    }
}

fn output(node: &Node) -> Result<&str, String> {
    node.output(0).ok_or_else(|| "output 0 is missing".into())
}

fn int(node: &Node, name: &str, default: i64) -> Result<i64, String> {
    match node.attrs.get(name) {
        None => Ok(default),
        Some(Attr::Int(v)) => Ok(*v),
        Some(other) => Err(format!("attribute {name}: expected an integer, got {other}")),
    }
}

/// The integers of a constant, of which there is one at least.
fn ints(pen: &Pen, name: &str, otherwise: &str) -> Result<Vec<i64>, String> {
    let known = pen.out.constants.get(name).and_then(|t| t.to_i64s()).filter(|v| !v.is_empty());
    known.ok_or_else(|| format!("{otherwise} ({name:?}); fold it at a fixed input shape (onnxsim does)"))
}

fn position(pen: &Pen, name: &str) -> Result<i64, String> {
    Ok(ints(pen, name, "the position in the list is computed by the graph")?[0])
}

fn open(node: &Node, what: &str) -> String {
    let list = node.input(0).unwrap_or_default();
    format!(
        "the number of parts in the list {list:?}, and with it {what}, is not known from the file; export the model with a \
         fixed input shape"
    )
}
