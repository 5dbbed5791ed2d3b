//! `doctor`: what was found to train on, what is missing, and how to get it, on one screen.

use super::session;
use crate::{
    cli::{
        Status,
        args::{DoctorArgs, EngineArgs},
        plan::{self, DeviceChoice},
        printer::Printer,
    },
    runtime::{
        self,
        find::{self, Library},
        gpu,
    },
};
use anyhow::Result;
use serde::Serialize;
use std::num::NonZero;

/// A line of the screen.
#[derive(Serialize)]
struct Finding {
    /// What was looked at.
    what: String,
    /// Whether training can use it.
    works: bool,
    /// What was found, or what is wrong.
    found: String,
}

pub fn run(args: &DoctorArgs, printer: Printer) -> Result<Status> {
    let choice = plan::device(&args.engine.device)?;
    let explicit = args.engine.ort_lib.as_deref();
    let mut all = Vec::new();
    let mut note = |what: &str, works: bool, found: String| {
        printer.result(format!("{} {what:<20} {found}", if works { "yes" } else { "no " }));
        all.push(Finding { what: what.into(), works, found });
        works
    };
    note("processor", true, processor());
    let (cpu, cuda) = (find::find(explicit, false), find::find(explicit, true));
    note("ONNX Runtime", cpu.is_ok(), library(&cpu));
    let on_cpu = cpu.is_ok() && {
        let opened = opened(&args.engine, "cpu");
        note("training on cpu", opened.is_ok(), opened.unwrap_or_else(|e| e))
    };
    note("... for NVIDIA GPUs", cuda.is_ok(), library(&cuda));
    let driver = gpu::driver();
    note("GPU", driver.is_ok(), driver.as_ref().map_or_else(Clone::clone, gpus));
    for needed in gpu::NEEDED {
        let missing = needed.missing();
        let found = match &missing {
            None => needed.part_of.to_owned(),
            Some(reason) => format!("{}: {reason}", needed.part_of),
        };
        note(needed.file(), missing.is_none(), found);
    }
    let device = if let DeviceChoice::Cuda(n) = choice { format!("cuda:{n}") } else { "cuda:0".into() };
    let on_gpu = if cuda.is_ok() && driver.is_ok() {
        let opened = opened(&args.engine, &device);
        note(&format!("training on {device}"), opened.is_ok(), opened.unwrap_or_else(|e| e))
    } else {
        note(&format!("training on {device}"), false, "see the lines above".into())
    };
    let (answer, device) = match choice {
        DeviceChoice::Cuda(_) => (on_gpu, device.as_str()),
        DeviceChoice::Auto if on_gpu => (true, device.as_str()),
        DeviceChoice::Cpu | DeviceChoice::Auto => (on_cpu, "cpu"),
    };
    let advice = advice(cpu.is_ok(), cuda.is_ok(), on_gpu);
    let verdict = if answer { format!("--device {} runs on {device}", args.engine.device) } else { "not ready".into() };
    printer.result(format!("{verdict}{}{advice}", if advice.is_empty() { "" } else { "; " }));
    printer.json(&serde_json::json!({ "ready": answer, "device": device, "findings": all, "advice": advice }))?;
    Ok(if answer { Status::Yes } else { Status::No })
}

/// What to do next, where there is something.
fn advice(cpu: bool, cuda: bool, on_gpu: bool) -> &'static str {
    match (cpu, cuda) {
        (false, _) => "run `onnx-unlearn runtime install`",
        (true, false) if gpu::driver().is_ok() => "for the GPU: run `onnx-unlearn runtime install --cuda`",
        (true, true) if !on_gpu => {
            "for the GPU: install what is missing, and name its folders in LD_LIBRARY_PATH (PATH on Windows)"
        }
        _ => "",
    }
}

/// Opens a device, which runs a convolution there where it is a GPU.
fn opened(engine: &EngineArgs, device: &str) -> Result<String, String> {
    let args = EngineArgs { device: device.into(), ..engine.clone() };
    let opened = session::open(&args).map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
    Ok(format!("ONNX Runtime {}, {} threads", opened.library.version, opened.engine.threads()))
}

fn library(found: &Result<Library, find::FindError>) -> String {
    match found {
        Ok(l) => format!("{} ({}: {})", l.version, l.origin, l.path.display()),
        Err(e) => e.to_string().split(". Looked at").next().unwrap_or_default().to_owned(),
    }
}

fn gpus(driver: &gpu::Driver) -> String {
    let (major, minor) = driver.cuda;
    let gpu = |(name, bytes): &(String, usize)| format!("{name}, {:.0} GB", *bytes as f64 / 1e9);
    let gpus: Vec<String> = driver.gpus.iter().map(gpu).collect();
    format!("{}; the driver runs CUDA up to {major}.{minor}", gpus.join("; "))
}

fn processor() -> String {
    let kernels = runtime::instructions();
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    format!("{} {}, {cores} cores, kernels with {kernels}", std::env::consts::ARCH, std::env::consts::OS)
}
