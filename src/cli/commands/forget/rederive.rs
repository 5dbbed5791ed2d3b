//! The same run again, as far as its weights: for `verify --rederive`.

use super::{Job, folder_of, output_of, values};
use crate::{
    cli::{args::ForgetArgs, commands::output, interrupt, plan, printer::Printer},
    provenance::{
        diff,
        digest::Digest,
        stamp::{self, Source, StampInfo},
    },
    report::RuntimeRecord,
};
use anyhow::Result;
use std::path::Path;
use tempfile::TempDir;

/// The weights that came out.
pub struct Rederived {
    folder: TempDir,
    /// Their digest.
    pub weights: Digest,
    /// Digest of the retain data, as a report shows it.
    pub data: String,
    /// What ran the training.
    pub runtime: RuntimeRecord,
}

impl Rederived {
    /// The largest absolute difference of an element of any weight from those of a model.
    pub fn distance(&self, model: &Path) -> Result<f64> {
        let difference = diff::diff(model, &self.folder.path().join(output::MODEL))?;
        Ok(difference.tensors.iter().filter_map(|t| t.distance).map(|d| d.max).fold(0.0, f64::max))
    }
}

/// Trains as `forget` does, and measures and judges nothing.
pub fn run(args: &ForgetArgs, printer: Printer) -> Result<Rederived> {
    plan::early(&args.job)?;
    let gates = plan::gates(&args.gates)?;
    let output = output_of(args)?;
    interrupt::catch();
    let job = Job::read(&args.job, gates, args.drop_output, printer)?;
    let work = job.train(&output, printer)?;
    let folder = tempfile::tempdir()?;
    let info = StampInfo {
        forget: Vec::new(),
        forgotten_before: Vec::new(),
        output: None,
        method: "unsir".into(),
        params: Digest([0; 32]),
        request: None,
    };
    let source = Source { bytes: &job.model.bytes, folder: folder_of(&args.job.model), digests: &job.source };
    let tensors = job.finished_tensors(&work)?;
    let stamped = stamp::finish(&source, folder.path(), &values(&tensors), info)?;
    output::write(&folder.path().join(output::MODEL), &stamped.model)?;
    let (data, runtime) = (job.data.retain.digest.clone(), job.runtime.record()?);
    Ok(Rederived { folder, weights: stamped.digests.weights, data, runtime })
}
