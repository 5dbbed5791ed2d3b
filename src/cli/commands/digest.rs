//! `digest`: what is this model?

use crate::{
    cli::{Status, args::DigestArgs, printer::Printer},
    onnx::dtype_of,
    provenance::digest::digest_file,
};
use anyhow::{Context, Result};

pub fn run(args: &DigestArgs, printer: Printer) -> Result<Status> {
    let digests = digest_file(&args.model).with_context(|| format!("{}: no digest", args.model.display()))?;
    printer.json(&digests)?;
    printer.result(format!("file     {}", digests.file));
    printer.result(format!("weights  {}", digests.weights));
    printer.result(format!("graph    {}", digests.graph));
    printer.result(format!("model    {}", digests.model));
    for tensor in &digests.tensors {
        let dtype = dtype_of(tensor.data_type).map_or("other".to_owned(), |t| t.to_string());
        printer.result(format!("tensor   {}  {} {dtype} {:?}", tensor.digest, tensor.key, tensor.dims));
    }
    Ok(Status::Yes)
}
