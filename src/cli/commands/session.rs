//! Finds and opens the runtime for a command.

use crate::{
    cli::{args::EngineArgs, plan, plan::DeviceChoice},
    report::{RuntimeRecord, Warning},
    runtime::{
        Device, Engine, RuntimeError, Session,
        find::{self, Library},
    },
};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, num::NonZero, path::Path};

/// An opened runtime and where it came from.
pub struct Opened {
    pub engine: Engine,
    pub library: Library,
    /// Why `auto` did not come to CUDA, where a GPU build was there.
    pub warning: Option<Warning>,
}

/// Opens the runtime that the flags ask for. An explicit cuda never falls back.
pub fn open(args: &EngineArgs) -> Result<Opened> {
    let choice = plan::device(&args.device)?;
    let explicit = args.ort_lib.as_deref();
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    let library = match choice {
        DeviceChoice::Cpu => find::find(explicit, false)?,
        DeviceChoice::Cuda(_) => find::find(explicit, true)?,
        DeviceChoice::Auto => find::find(explicit, true).or_else(|_| find::find(explicit, false))?,
    };
    let open = |device| Engine::open(&library.path, device, threads).map(|engine| engine.with_tf32(args.tf32));
    let (engine, warning) = match choice {
        DeviceChoice::Cuda(n) => (open(Device::Cuda(n))?, None),
        DeviceChoice::Auto if library.cuda => match open(Device::Cuda(0)) {
            Ok(engine) => (engine, None),
            Err(e) => (open(Device::Cpu)?, Some(Warning::CudaNotUsed(e.to_string()))),
        },
        DeviceChoice::Auto | DeviceChoice::Cpu => (open(Device::Cpu)?, None),
    };
    Ok(Opened { engine, library, warning })
}

/// Opens a model file to measure it; `live` says that it has BatchNormalization in training mode.
///
/// Optimisations take the unused outputs of such nodes away, and the scores of the CPU provider are wrong without them. The
/// CUDA provider refuses these nodes from opset 14 on, so that they are measured on the CPU, whatever the device.
pub fn measuring(engine: &Engine, path: &Path, live: bool) -> Result<Session, RuntimeError> {
    if live { engine.on_cpu().session_from_file(path, true) } else { engine.session_from_file(path, false) }
}

/// What the processor calls itself; empty where the system does not tell.
pub fn processor_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of =
        |key: &&str| text.lines().find_map(|line| Some(line.strip_prefix(*key)?.split_once(':')?.1.trim().to_owned()));
    ["model name", "CPU implementer", "CPU part"].iter().filter_map(of).collect::<Vec<_>>().join(" ")
}

/// What ONNX Runtime chooses its kernels by.
fn instruction_sets() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let found = [
            ("avx", std::arch::is_x86_feature_detected!("avx")),
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("fma", std::arch::is_x86_feature_detected!("fma")),
            ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
            ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
            ("avxvnni", std::arch::is_x86_feature_detected!("avxvnni")),
        ];
        found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

impl Opened {
    /// What the report says about the runtime.
    pub fn record(&self) -> Result<RuntimeRecord> {
        let bytes = std::fs::read(&self.library.path)
            .with_context(|| format!("cannot read {}", self.library.path.display()))?;
        Ok(RuntimeRecord {
            backend: format!("onnxruntime {}", self.library.version),
            library: format!("sha256:{}", hex::encode(Sha256::digest(&bytes))),
            device: self.engine.device().to_string(),
            threads: self.engine.threads(),
            tf32: self.engine.tf32(),
            forms: BTreeMap::new(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            cpu: instruction_sets(),
        })
    }

    /// One line for the user.
    pub fn describe(&self) -> String {
        format!(
            "ONNX Runtime {} ({}: {}), device {}, {} threads",
            self.library.version,
            self.library.origin,
            self.library.path.display(),
            self.engine.device(),
            self.engine.threads()
        )
    }
}
