//! Reading labelled data for a model: what `forget` and `evaluate` share.

use crate::{
    cli::args::PreprocessArgs,
    data::{self, ClassNames, InputSpec, Preprocess},
    graph::Port,
};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// What the data has to look like for an input.
pub fn spec(port: &Port) -> InputSpec {
    let integers = port.dtype.is_some_and(|t| !t.is_float());
    InputSpec { integers, ..InputSpec::with_batch(&port.name, port.dims.as_deref().unwrap_or_default()) }
}

/// Integers are taken as they are: a byte is its value from 0 to 255.
pub fn raw(preprocess: Preprocess, input: &str) -> Result<Preprocess> {
    for (flag, given) in [
        ("--mean", !preprocess.mean.is_empty()),
        ("--std", !preprocess.std.is_empty()),
        ("--scale", preprocess.scale.is_some()),
    ] {
        ensure!(!given, "{flag}: input {input:?} takes integers, which are not scaled; leave the flag out");
    }
    Ok(Preprocess { scale: Some(1.0), ..preprocess })
}

/// Names of the classes: those of the file that was given, else those of the data's folders, else their indices.
pub fn names(labels: Option<&Path>, data: &Path, classes: usize) -> Result<ClassNames> {
    let Some(path) = labels else {
        return Ok(data::folder_class_names(data, classes)?.unwrap_or_else(|| ClassNames::indices(classes)));
    };
    let names = ClassNames::from_file(path)?;
    names.check(classes).with_context(|| format!("--labels {}", path.display()))?;
    Ok(names)
}

/// The flags of preprocessing that were given and do nothing to float arrays.
pub fn flags(args: &PreprocessArgs) -> Vec<&'static str> {
    let flags = [
        ("--resize", args.resize.is_some()),
        ("--mean", !args.mean.is_empty()),
        ("--std", !args.std.is_empty()),
        ("--scale", args.scale.is_some()),
    ];
    flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
}
