//! `sign`: the signature of a folder.

use super::{output, seal};
use crate::{
    cli::{Status, args::SignArgs, printer::Printer},
    provenance::oms::SIGNATURE,
};
use anyhow::{Result, ensure};
use serde_json::json;

pub fn run(args: &SignArgs, printer: Printer) -> Result<Status> {
    ensure!(args.folder.is_dir(), "{}: is no folder; a signature covers a folder", args.folder.display());
    let key = seal::private_key("--sign-key", &args.sign_key, &args.folder)?;
    let path = args.folder.join(SIGNATURE);
    ensure!(args.force || path.symlink_metadata().is_err(), "{} exists; pass --force to replace it", path.display());
    let (signature, files) = seal::signature(&args.folder, &seal::name_of(&args.folder), &key)?;
    output::replace(&path, signature.as_bytes())?;
    let hint = key.public().hint();
    printer.json(&json!({"written": path, "key": hint, "files": files}))?;
    printer.result(format!("written  {}: {files} files, signed by key {hint}", path.display()));
    Ok(Status::Yes)
}
