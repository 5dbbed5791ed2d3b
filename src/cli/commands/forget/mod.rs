//! `forget`: the main job. This file has the story; `read` (with `tune`), `train` (with `calibrate`), `finish` and `publish`
//! have its chapters. `compare` and `retrain` are other jobs on the same material.

mod calibrate;
mod compare;
mod finish;
mod original;
mod publish;
mod read;
mod rederive;
mod retrain;
mod seal;
mod train;
mod tune;

pub use compare::run as compare;
pub use rederive::{Expected, run as rederive};
pub use retrain::run as retrain;

use self::{original::Original, seal::Sealing, tune::Tuner};
use super::{output::Output, session::Opened};
use crate::{
    cli::{
        Status,
        args::{ForgetArgs, JobArgs},
        interrupt, plan,
        printer::Printer,
    },
    data::{ClassNames, Dataset, InputSpec, Preprocess},
    onnx::Model,
    provenance::digest::Digests,
    report::{DataRecord, Gates, Number, Parameters, Warning},
    tensor::Tensor,
    train::{Layout, Network, Weights},
    unlearn::Recipe,
};
use anyhow::Result;
use std::{collections::BTreeMap, path::Path};

pub fn run(args: &ForgetArgs, printer: Printer) -> Result<Status> {
    plan::early(&args.job)?;
    let gates = plan::gates(&args.gates)?;
    let output = output_of(args)?;
    let sealing = Sealing::prepare(args)?;
    interrupt::catch();

    let job = Job::read(&args.job, gates, args.drop_output, printer)?;
    output.claim(&job.model.external, folder_of(&args.job.model), args.force)?;
    if sealing.signs() {
        output.alone(&job.model.external)?;
    }
    let (work, weights) = job.train(&output, Tuner::new(args, &job.runtime, printer)?, printer)?;
    let finished = job.finish(&output, &work, weights, &args.gates, args.provenance.request_id.as_deref())?;
    job.judge_and_publish(output, &work, &finished, &args.gates, &sealing, printer)
}

fn output_of(args: &ForgetArgs) -> Result<Output> {
    Output::prepare(&args.out, args.force, &args.job.files())
}

/// Everything that was read, before any training.
struct Job<'a> {
    args: &'a JobArgs,
    runtime: Opened,
    /// Without its bytes, which `original` has.
    model: Model,
    original: Original,
    source: Digests,
    network: Network,
    names: ClassNames,
    recipe: Recipe,
    input: InputSpec,
    layout: Layout,
    /// Elements of all values that the model computes from a sample.
    sample_values: usize,
    preprocess: Preprocess,
    gates: Gates,
    retain: Dataset,
    eval: Option<Dataset>,
    /// Samples of the held-out data that accuracies are measured on, and those that trials are judged by.
    eval_rows: (Vec<usize>, Vec<usize>),
    data: DataRecord,
    /// The bias by which the output of the forgotten classes is masked, where that was asked for.
    mask: Option<String>,
    warnings: Vec<Warning>,
}

impl Job<'_> {
    /// The data that accuracies are measured on, and the samples of it.
    fn measured_on(&self) -> (&'static str, &Dataset, Vec<usize>) {
        match &self.eval {
            Some(eval) => ("eval", eval, self.eval_rows.0.clone()),
            None => ("retain", &self.retain, (0..self.retain.len()).collect()),
        }
    }

    fn parameters(&self, recipe: &Recipe) -> Parameters {
        Parameters {
            method: "unsir",
            recipe: recipe.clone(),
            preprocess: plan::preprocess_record(&self.preprocess),
            per_class: self.args.per_class,
            output: self.network.head.output.clone(),
            multi_label: self.args.choice.read.multi_label,
            input: self.network.input.clone(),
            constants: self.network.inputs.constants.iter().map(|(p, v)| (p.name.clone(), Number(*v))).collect(),
            freeze: self.args.choice.freeze.clone(),
            train: self.args.choice.train.clone(),
            drop_output: self.mask.as_ref().map(|_| "mask"),
        }
    }
}

fn values(tensors: &Weights) -> BTreeMap<&str, &Tensor> {
    tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.as_ref())).collect()
}

fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}
