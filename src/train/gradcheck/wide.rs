//! Forward nodes in float64, so that differences of them say more than float32 could.

use crate::{
    graph::{Attr, Builder, Node, Value},
    ops::{self, Emit, Flow},
    tensor::{DType, Data, Tensor},
    train::Traced,
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Numbers of element types in the file format.
const FLOAT: i64 = 1;
const DOUBLE: i64 = 11;

/// Prefix of names that are not the model's.
const SCOPE: &str = "onnx-unlearn:float64";

/// How a node is computed where differences are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    /// In float64.
    Float64,
    /// In float64, but for inputs that are constant by nature: some operators want those in float32 (scales of a Resize).
    Float64Data,
    /// In float64, written in other operators.
    WrittenOut,
    /// In float32.
    Float32,
}

impl Arithmetic {
    /// The element type of the results.
    pub fn dtype(self) -> DType {
        if self == Self::Float32 { DType::F32 } else { DType::F64 }
    }
}

/// A graph under construction in which every float value of the model has a float64 form.
pub(super) struct Wide<'a> {
    pub b: Builder,
    traced: &'a Traced,
    double: HashMap<String, Value>,
}

impl<'a> Wide<'a> {
    pub fn new(opset: i64, traced: &'a Traced) -> Self {
        let mut b = Builder::new(opset);
        b.set_scope(SCOPE); // A model may have a node called Cast.
        Self { b, traced, double: HashMap::new() }
    }

    /// A value of the model that is fed as it is.
    pub fn fed(&mut self, name: &str) {
        let (dtype, shape) = &self.traced.values[name];
        let value = self.b.input(name, *dtype, shape);
        if *dtype == DType::F32 {
            let wide = self.cast(&value, DType::F64);
            self.double.insert(name.to_owned(), wide);
        }
    }

    /// A float value of the model that is fed together with a direction, and moves along it: x + step * direction.
    pub fn moving(&mut self, name: &str, step: &Value) {
        self.fed(name);
        let x = self.double[name].clone();
        let direction = self.b.input(&direction(name), DType::F32, x.shape());
        let direction = self.cast(&direction, DType::F64);
        let way = self.b.op("Mul", &[step, &direction], &[], x.shape());
        let moved = self.b.op("Add", &[&x, &way], &[], x.shape());
        self.double.insert(name.to_owned(), moved);
    }

    /// Writes a node whose inputs are there, or nothing where it cannot be written in this arithmetic.
    pub fn node(&mut self, node: &Node, arithmetic: Arithmetic) -> Option<()> {
        let mut copy = node.clone();
        for i in 0..node.inputs.len() {
            if let Some(name) = node.input(i) {
                self.input(node, i, name, arithmetic).name().clone_into(&mut copy.inputs[i]);
            }
        }
        let shapes: Vec<Vec<usize>> =
            node.outputs.iter().map(|o| self.traced.shape(o).unwrap_or_default().to_vec()).collect();
        if arithmetic == Arithmetic::WrittenOut {
            self.b.set_scope(format!("{SCOPE}/{}", node.name));
            let known = HashMap::new();
            let mut emit = Emit::new(&mut self.b, &copy, &known, &[], 0, DType::F64);
            let value = ops::written_out(&mut emit, &shapes[0]).ok().flatten();
            self.b.set_scope(SCOPE);
            let value = value?;
            self.double.insert(node.outputs[0].clone(), value);
            return Some(());
        }
        if arithmetic != Arithmetic::Float32 {
            copy.attrs.iter_mut().for_each(|(name, value)| widen(name, value));
        }
        self.b.forward(copy, &shapes);
        for name in &node.outputs {
            if !self.is_float(name) {
                continue;
            }
            let value = self.b.value(name).cloned()?;
            let value = if arithmetic == Arithmetic::Float32 { self.cast(&value, DType::F64) } else { value };
            self.double.insert(name.clone(), value);
        }
        Some(())
    }

    /// The float64 form of a float value.
    pub fn double(&mut self, name: &str) -> Option<Value> {
        if let Some(value) = self.double.get(name) {
            return Some(value.clone());
        }
        let value = self.b.constant(widened(self.traced.known.get(name)?));
        self.double.insert(name.to_owned(), value.clone());
        Some(value)
    }

    pub fn cast(&mut self, value: &Value, to: DType) -> Value {
        let number = if to == DType::F64 { DOUBLE } else { FLOAT };
        self.b.op("Cast", &[value], &[("to", number.into())], value.shape())
    }

    fn is_float(&self, name: &str) -> bool {
        self.traced.values.get(name).is_some_and(|(dtype, _)| *dtype == DType::F32)
    }

    /// Input `i` of a node in the form that its arithmetic asks for.
    fn input(&mut self, node: &Node, i: usize, name: &str, arithmetic: Arithmetic) -> Value {
        let single = arithmetic == Arithmetic::Float32
            || (arithmetic == Arithmetic::Float64Data
                && ops::find(node).is_some_and(|op| matches!(op.flow(i), Some(Flow::Constant))));
        if self.is_float(name) && !(single && self.traced.known.contains_key(name)) {
            let wide = self.double(name).expect("a value is written before it is read");
            return if single { self.cast(&wide, DType::F32) } else { wide };
        }
        match (self.b.value(name), self.traced.known.get(name)) {
            (Some(value), _) => value.clone(),
            (None, Some(tensor)) => self.b.named_constant(name, Arc::clone(tensor)),
            (None, None) => panic!("{name:?} is read before it is written"),
        }
    }
}

/// Name of the input that holds the direction of a value.
pub(super) fn direction(name: &str) -> String {
    format!("onnx-unlearn:direction/{name}")
}

/// Inputs of a node that are fed where it stands alone: what varies from batch to batch.
pub(super) fn live<'n>(node: &'n Node, traced: &Traced) -> BTreeSet<&'n str> {
    (0..node.inputs.len()).filter_map(|i| node.input(i)).filter(|n| !traced.known.contains_key(*n)).collect()
}

fn widened(tensor: &Tensor) -> Tensor {
    match tensor.data() {
        Data::F32(v) => Tensor::new(tensor.shape().to_vec(), Data::F64(v.iter().map(|&x| x.into()).collect())),
        _ => tensor.clone(),
    }
}

/// An attribute that says float32 says float64.
fn widen(name: &str, value: &mut Attr) {
    match value {
        Attr::Int(to) if name == "to" && *to == FLOAT => *to = DOUBLE,
        Attr::Tensor(t) => *t = widened(t),
        _ => {}
    }
}
