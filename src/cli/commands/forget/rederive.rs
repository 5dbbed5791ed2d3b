//! The same run again, as far as its weights: for `verify --rederive`.

use super::{Job, output_of, tune::Tuner};
use crate::{
    cli::{args::ForgetArgs, commands::output, interrupt, plan, printer::Printer},
    provenance::{
        diff,
        digest::Digest,
        stamp::{self, StampInfo},
    },
    report::RuntimeRecord,
};
use anyhow::{Result, ensure};
use std::path::Path;
use tempfile::TempDir;

/// The weights that came out.
pub struct Rederived {
    folder: TempDir,
    /// Their digest.
    pub weights: Digest,
    /// What ran the training.
    pub runtime: RuntimeRecord,
}

impl Rederived {
    /// The largest absolute difference of an element of any weight from those of a model.
    pub fn distance(&self, model: &Path) -> Result<f64> {
        let difference = diff::diff(model, &self.folder.path().join(output::MODEL))?;
        let farther = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
        Ok(difference.tensors.iter().map(|t| t.distance.map_or(f64::NAN, |d| d.max)).fold(0.0, farther))
    }
}

/// What a report says of the run that is done again.
pub struct Expected<'a> {
    /// Digest of the settings.
    pub parameters: Digest,
    /// Digest of the retain data, where it is not committed to.
    pub data: Option<&'a str>,
}

/// Trains as `forget` does, and measures and judges nothing. `None` where the retain data is not that of the run.
pub fn run(args: &ForgetArgs, expected: &Expected<'_>, printer: Printer) -> Result<Option<Rederived>> {
    plan::early(&args.job)?;
    let gates = plan::gates(&args.gates)?;
    let output = output_of(args)?;
    interrupt::catch();
    let job = Job::read(&args.job, gates, args.drop_output, printer)?;
    if expected.data.is_some_and(|data| data != job.data.retain.digest) {
        return Ok(None);
    }
    let parameters = stamp::params_digest(&job.parameters(&job.recipe))?;
    ensure!(
        parameters == expected.parameters,
        "this version does not make the settings of the run again: their digest is {parameters}, not {}",
        expected.parameters
    );
    let (work, weights) = job.train(&output, Tuner::new(args, &job.runtime, printer)?, printer)?;
    let folder = tempfile::tempdir()?;
    let info = StampInfo {
        forget: Vec::new(),
        forgotten_before: Vec::new(),
        output: None,
        method: "unsir".into(),
        params: Digest([0; 32]),
        request: None,
    };
    let stamped = job.stamped(folder.path(), &weights, info)?;
    output::write(&folder.path().join(output::MODEL), &stamped.model)?;
    let runtime = RuntimeRecord { forms: work.forms, ..job.runtime.record()? };
    Ok(Some(Rederived { folder, weights: stamped.digests.weights, runtime }))
}
