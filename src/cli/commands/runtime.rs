//! `runtime show` and `runtime install`.

use crate::{
    cli::{
        Status,
        args::{RuntimeAction, RuntimeArgs},
        printer::Printer,
    },
    runtime::{
        find::{self, Library},
        install::{Kind, install},
    },
};
use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
struct Place {
    origin: String,
    path: Option<PathBuf>,
    version: Option<String>,
    cuda: Option<bool>,
    problem: Option<String>,
}

pub fn run(args: &RuntimeArgs, printer: Printer) -> Result<Status> {
    match &args.action {
        RuntimeAction::Show { ort_lib } => show(ort_lib.as_deref(), printer),
        RuntimeAction::Install { cuda } => {
            let kind = if *cuda { Kind::Cuda } else { Kind::Cpu };
            let library = install(kind, &mut |text| printer.note(text))?;
            printer.json(&place(&library))?;
            printer.result(describe(&library));
            Ok(Status::Yes)
        }
    }
}

fn show(explicit: Option<&std::path::Path>, printer: Printer) -> Result<Status> {
    let mut places = Vec::new();
    for candidate in find::survey(explicit) {
        printer.result(&candidate);
        places.push(match &candidate.outcome {
            Ok(library) => place(library),
            Err(e) => Place {
                origin: candidate.origin.to_string(),
                path: candidate.path.clone(),
                version: None,
                cuda: None,
                problem: Some(e.to_string()),
            },
        });
    }
    let chosen = find::find(explicit, false);
    printer.json(&serde_json::json!({
        "used": chosen.as_ref().ok().map(place),
        "looked_at": places,
    }))?;
    match chosen {
        Ok(library) => {
            printer.result(format!("used: {}", describe(&library)));
            Ok(Status::Yes)
        }
        Err(e) => {
            printer.result(format!("used: none. {}", e.to_string().split(". Looked at").next().unwrap_or_default()));
            Ok(Status::No)
        }
    }
}

fn place(library: &Library) -> Place {
    Place {
        origin: library.origin.to_string(),
        path: Some(library.path.clone()),
        version: Some(library.version.clone()),
        cuda: Some(library.cuda),
        problem: None,
    }
}

fn describe(library: &Library) -> String {
    let cuda = if library.cuda { "with" } else { "without" };
    format!("ONNX Runtime {} {cuda} CUDA, {}", library.version, library.path.display())
}
