//! `demo`: set-up and the main job in one go, on a real model and real images that come with the program.

use crate::{
    cli::{
        Status,
        args::{Cli, Command, DemoArgs},
        printer::Printer,
    },
    runtime::{
        find,
        install::{Kind, install},
    },
};
use anyhow::{Context, Result};
use clap::Parser;
use std::{fs, path::Path};

/// What the demonstration works on; `fixtures/README.md` says how it was made.
const FILES: &[(&str, &[u8])] = &[
    ("fashion-mnist.onnx", include_bytes!("../../../fixtures/models/fashion-mnist.onnx")),
    ("retain.npz", include_bytes!("../../../fixtures/data/fashion-mnist-retain.npz")),
    ("eval.npz", include_bytes!("../../../fixtures/data/fashion-mnist-eval.npz")),
    ("classes.txt", include_bytes!("../../../fixtures/data/classes.txt")),
    ("LICENSE-fashion-mnist", include_bytes!("../../../fixtures/data/LICENSE")),
];

pub fn run(args: &DemoArgs, printer: Printer) -> Result<Status> {
    if find::find(args.engine.ort_lib.as_deref(), false).is_err() && args.engine.ort_lib.is_none() {
        printer.note("no ONNX Runtime here yet: installing the pinned one into the tool's cache");
        install(Kind::Cpu, &mut |text| printer.note(text))?;
    }
    unpack(&args.out)?;
    let command = command_line(args);
    printer.note(format!("\n$ {}\n", command.join(" ")));
    let Command::Forget(forget) = Cli::try_parse_from(&command)?.command else {
        unreachable!("the line above is a forget command")
    };
    super::forget::run(&forget, printer)
}

fn unpack(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("--out {}: cannot be created", folder.display()))?;
    for (name, bytes) in FILES {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The command a person would type; the demonstration runs exactly this.
fn command_line(args: &DemoArgs) -> Vec<String> {
    let at = |name: &str| args.out.join(name).display().to_string();
    let mut line: Vec<String> = ["onnx-unlearn", "forget"].map(str::to_owned).to_vec();
    line.push(at("fashion-mnist.onnx"));
    let mut flag = |name: &str, value: String| line.extend([name.to_owned(), value]);
    flag("--forget", args.forget.clone());
    flag("--labels", at("classes.txt"));
    flag("--retain", at("retain.npz"));
    flag("--eval", at("eval.npz"));
    flag("--mean", "0.2860".into());
    flag("--std", "0.3530".into());
    flag("--out", at("out"));
    flag("--device", args.engine.device.clone());
    if let Some(threads) = args.engine.threads {
        flag("--threads", threads.to_string());
    }
    if let Some(library) = &args.engine.ort_lib {
        flag("--ort-lib", library.display().to_string());
    }
    if args.engine.tf32 {
        line.push("--tf32".into());
    }
    line.push("--force".into());
    if args.json {
        line.push("--json".into());
    }
    if args.quiet {
        line.push("--quiet".into());
    }
    line
}
