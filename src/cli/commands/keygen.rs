//! `keygen`: keys for people who have none.

use crate::{
    cli::{Status, args::KeygenArgs, printer::Printer},
    provenance::{commitment::CommitmentKey, keys::PrivateKey},
};
use anyhow::Result;
use serde_json::json;

pub fn run(args: &KeygenArgs, printer: Printer) -> Result<Status> {
    let Some(curve) = args.kind.curve() else {
        CommitmentKey::generate()?.write(&args.out)?;
        printer.json(&json!({"private": args.out}))?;
        printer.result(format!("commitment key  {}: keep it, and give it only to who may check", args.out.display()));
        return Ok(Status::Yes);
    };
    let key = PrivateKey::generate(curve)?;
    let public = key.write(&args.out)?;
    let hint = key.public().hint();
    printer.json(&json!({"private": args.out, "public": public, "hint": hint}))?;
    printer.result(format!("private key  {}: keep it to yourself", args.out.display()));
    printer.result(format!("public key   {}: for everyone who verifies", public.display()));
    printer.result(format!("its name     {hint}"));
    Ok(Status::Yes)
}
