//! What it takes to measure a model: how it is fed and where its class scores are. A model that cannot be trained, for want
//! of gradient rules or because its weights are integers, can be read all the same.

use super::{
    batch_norm,
    head::{self, Head, Layout},
    inputs::{self, Choice, Inputs},
    network::TrainError,
};
use crate::{graph::Graph, onnx::Model, tensor::Tensor};
use std::path::PathBuf;

/// A classifier as it is fed and read. The file runs as it is; nothing is written out or rewritten.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The model file, for messages.
    pub path: PathBuf,
    /// Where the class scores are.
    pub head: Head,
    /// The inputs that the class scores depend on, in the element types of the file.
    pub inputs: Inputs,
    /// True when BatchNormalization nodes are in training mode, so that the scores depend on the whole batch.
    pub live_batch_norm: bool,
}

impl Reading {
    /// Finds head and inputs. Runs nothing. [`Choice::freeze`] and [`Choice::train`] do not matter here.
    pub fn of(model: &Model, choice: &Choice) -> Result<Self, TrainError> {
        let (head, graph) = cut(model, choice)?;
        let inputs = inputs::choose(&model.path, &graph, choice)?;
        Ok(Self { path: model.path.clone(), head, inputs, live_batch_norm: batch_norm::live(&graph) })
    }

    /// How the class scores are laid out: `scores` are what the output gives for a batch of `batch` samples.
    ///
    /// A final Softmax or Sigmoid, and what may stand behind it, leave the shape of the logits as it is or have it in the
    /// output too, so that the output tells.
    pub fn layout(&self, scores: &Tensor, batch: usize) -> Result<Layout, TrainError> {
        let path = || self.path.clone();
        let layout = self.head.layout_of(scores).map_err(|source| TrainError::Head { path: path(), source })?;
        match scores.shape()[0] {
            n if n == batch => Ok(layout),
            found => Err(TrainError::Frozen { path: path(), batch, shape: scores.shape().into(), found }),
        }
    }
}

/// The head of a model, and its graph up to the logits, which are the only output.
pub(super) fn cut(model: &Model, choice: &Choice) -> Result<(Head, Graph), TrainError> {
    let path = || model.path.clone();
    let head = head::find(&model.graph, choice.output.as_deref(), choice.multi_label)
        .map_err(|source| TrainError::Head { path: path(), source })?;
    let names = model.idle_inputs();
    if !names.is_empty() {
        return Err(TrainError::IdleInput { path: path(), names });
    }
    let mut graph = model.graph.clone();
    head::cut(&mut graph, &head);
    Ok((head, graph))
}
