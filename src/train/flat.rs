//! All trained weights as one array, for devices where a small operator costs as much as a large one: the optimizer then is
//! a dozen operators, whatever the number of weights.

use super::network::Weights;
use crate::{
    graph::{Builder, Value},
    tensor::{DType, Tensor},
};
use std::{collections::HashMap, sync::Arc};

/// Name of the array.
pub(super) const NAME: &str = "onnx-unlearn:weights";

/// What lies where in the array.
pub(super) struct Flat {
    /// Name and shape of each weight, in order.
    parts: Vec<(String, Vec<usize>)>,
}

impl Flat {
    /// Weights in this order.
    pub fn of(names: &[String], weights: &Weights) -> Self {
        Self { parts: names.iter().map(|name| (name.clone(), weights[name].shape().to_vec())).collect() }
    }

    fn lengths(&self) -> Vec<usize> {
        self.parts.iter().map(|(_, shape)| shape.iter().product()).collect()
    }

    /// Makes the array an input of a graph, and gives each of its parts the name of its weight.
    pub fn declare(&self, b: &mut Builder) {
        let lengths = self.lengths();
        b.set_scope(NAME);
        let all = b.input(NAME, DType::F32, &[lengths.iter().sum()]);
        let sizes = b.constant(Tensor::i64([lengths.len()], lengths.iter().map(|&n| n as i64).collect()));
        let shapes: Vec<Vec<usize>> = lengths.iter().map(|&n| vec![n]).collect();
        let cut = b.raw("", "Split", &[all.name(), sizes.name()], &[("axis", 0i64.into())], &shapes);
        for ((name, shape), part) in self.parts.iter().zip(&cut) {
            let part = reshaped(b, part, shape);
            b.alias(name, &part);
        }
        b.set_scope("");
    }

    /// The gradient of the array, from those of the weights; a weight without one has a gradient of zero.
    pub fn gradient(&self, b: &mut Builder, found: &HashMap<String, Value>) -> Value {
        let rows: Vec<Value> = self
            .parts
            .iter()
            .zip(self.lengths())
            .map(|((name, _), len)| match found.get(name) {
                Some(gradient) => reshaped(b, gradient, &[len]),
                None => b.constant(Tensor::zeros([len])),
            })
            .collect();
        let rows: Vec<&Value> = rows.iter().collect();
        b.op("Concat", &rows, &[("axis", 0i64.into())], &[self.lengths().iter().sum()])
    }

    /// The array that holds these weights.
    pub fn join(&self, weights: &Weights) -> Arc<Tensor> {
        let values: Vec<f32> = self.parts.iter().flat_map(|(name, _)| weights[name].to_f32s()).collect();
        Arc::new(Tensor::f32([values.len()], values))
    }

    /// The weights that the array holds.
    pub fn split(&self, all: &Tensor) -> Weights {
        let values = all.to_f32s();
        let mut rest = values.as_slice();
        let mut weights = Weights::new();
        for ((name, shape), len) in self.parts.iter().zip(self.lengths()) {
            let (part, behind) = rest.split_at(len);
            weights.insert(name.clone(), Arc::new(Tensor::f32(shape.as_slice(), part.to_vec())));
            rest = behind;
        }
        weights
    }
}

fn reshaped(b: &mut Builder, value: &Value, shape: &[usize]) -> Value {
    let dims = b.constant(Tensor::i64([shape.len()], shape.iter().map(|&d| d as i64).collect()));
    b.op("Reshape", &[value, &dims], &[], shape)
}
