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
    note("the same with CUDA", cuda.is_ok(), library(&cuda));
    let driver = gpu::driver();
    note("GPU", driver.is_ok(), driver.as_ref().map_or_else(Clone::clone, gpus));
    let mut missing = Vec::new();
    for needed in gpu::NEEDED {
        let problem = needed.missing();
        missing.extend(problem.as_ref().map(|_| needed.part_of));
        let found = problem.map_or_else(String::new, |reason| format!(" ({reason})"));
        note(needed.file(), found.is_empty(), format!("{}{found}", needed.part_of));
    }
    // A process opens one library: where there is one for both devices, it shows both.
    let path = cuda.as_ref().or(cpu.as_ref()).ok().map(|l| l.path.clone());
    let open = |device: &str| {
        let args = EngineArgs { device: device.into(), ort_lib: path.clone(), ..args.engine.clone() };
        let opened = session::open(&args).map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
        Ok::<_, String>(format!("{} threads", opened.engine.threads()))
    };
    let mut tried = |device: &str| {
        let opened = open(device);
        note(&format!("training on {device}"), opened.is_ok(), opened.unwrap_or_else(|e| e))
    };
    let on_cpu = cpu.is_ok() && tried("cpu");
    let device = if let DeviceChoice::Cuda(n) = choice { format!("cuda:{n}") } else { "cuda:0".into() };
    let on_gpu = cuda.is_ok() && driver.is_ok() && tried(&device);
    let (answer, device) = match choice {
        DeviceChoice::Cuda(_) => (on_gpu, device.as_str()),
        DeviceChoice::Auto if on_gpu => (true, device.as_str()),
        DeviceChoice::Cpu | DeviceChoice::Auto => (on_cpu, "cpu"),
    };
    let advice = match (&cpu, &driver, &cuda) {
        (Err(_), ..) => "run `onnx-unlearn runtime install`".to_owned(),
        (_, Ok(_), Err(_)) => "for the GPU, run `onnx-unlearn runtime install --cuda`".to_owned(),
        (_, Ok(_), Ok(_)) if !missing.is_empty() => {
            let folders = if cfg!(windows) { "PATH" } else { "LD_LIBRARY_PATH" };
            format!("for the GPU, install {} and name the folders in {folders}", missing.join(", "))
        }
        (_, Err(reason), _) if matches!(choice, DeviceChoice::Cuda(_)) => format!("{reason}; use --device cpu"),
        _ => String::new(),
    };
    let verdict = if answer { format!("--device {} runs on {device}", args.engine.device) } else { "not ready".into() };
    printer.result(format!("{verdict}{}{advice}", if advice.is_empty() { "" } else { "; " }));
    printer.json(&serde_json::json!({ "ready": answer, "device": device, "findings": all, "advice": advice }))?;
    Ok(if answer { Status::Yes } else { Status::No })
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
