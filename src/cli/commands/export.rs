//! `export`: what is known of a result, in the formats of others.

use super::seal;
use crate::{
    cli::{
        Status,
        args::{ExportArgs, ExportFormat},
        printer::Printer,
    },
    provenance::{
        claims::{Facts, Occasion},
        cyclonedx,
    },
};
use anyhow::{Context, Result};

pub fn run(args: &ExportArgs, printer: Printer) -> Result<Status> {
    let facts =
        Facts::of(&args.folder, &seal::name_of(&args.folder)).with_context(|| args.folder.display().to_string())?;
    match args.format {
        ExportFormat::Cyclonedx => printer.json(&cyclonedx::export(&facts))?,
        ExportFormat::Slsa => printer.json(&facts.slsa(&Occasion::default())?)?,
        ExportFormat::Oms => printer.json(&facts.manifest.statement(&facts.folder))?,
    }
    Ok(Status::Yes)
}
