//! `sign`: the signature of a folder.

use super::{output, seal};
use crate::{
    cli::{Status, args::SignArgs, printer::Printer},
    provenance::{keys::PrivateKey, oms::SIGNATURE},
};
use anyhow::{Result, ensure};
use serde_json::json;

pub fn run(args: &SignArgs, printer: Printer) -> Result<Status> {
    let key = PrivateKey::read(&args.sign_key)?;
    let path = args.folder.join(SIGNATURE);
    ensure!(args.force || path.symlink_metadata().is_err(), "{} exists; pass --force to replace it", path.display());
    let signature = seal::signature(&args.folder, &seal::name_of(&args.folder), &key)?;
    output::replace(&path, signature.as_bytes())?;
    let hint = key.public().hint();
    printer.json(&json!({"written": path, "key": hint}))?;
    printer.result(format!("written  {}, signed by key {hint}", path.display()));
    Ok(Status::Yes)
}
