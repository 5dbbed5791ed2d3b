//! Times noise, impair and repair steps beside a PyTorch script that does the same work in the same run.
//!
//! cargo bench --bench unsir -- --model resnet18-cifar10.onnx --retain cifar10-train.npz
//!
//! Prints the median step of each phase for both and their ratio. The two take turns, so that a busy machine slows both.
//! PyTorch (and the other requirements named in `pytorch_unsir.py`) is needed for its half only; `--python` names the
//! interpreter that has it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use clap::Parser;
use onnx_unlearn::{
    data::{self, Dataset, InputSpec, LoadPlan, Preprocess},
    onnx,
    runtime::{Device, Engine, find},
    tensor::Tensor,
    train::{BatchNorm, Goal, Network, NoiseLoss, Optimizer, Range},
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

/// Times the phases of UNSIR beside PyTorch.
#[derive(Parser)]
#[allow(clippy::struct_excessive_bools)] // flags
struct Args {
    /// A ResNet18 for 32x32 images (what the PyTorch script rebuilds)
    #[arg(long)]
    model: PathBuf,
    /// Its training images, npz with x uint8 and y
    #[arg(long)]
    retain: PathBuf,
    #[arg(long, default_value_t = 0)]
    forget: usize,
    #[arg(long, default_value_t = 256)]
    batch: usize,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Steps of each phase in each round
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Turns that the two take
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value = "python3")]
    python: String,
    /// Passed to the PyTorch script
    #[arg(long)]
    channels_last: bool,
    /// Adam of the PyTorch script: default, foreach or fused
    #[arg(long, default_value = "fused")]
    adam: String,
    /// Run both on the first GPU
    #[arg(long)]
    cuda: bool,
    /// Let both round the factors of products to TF32
    #[arg(long)]
    tf32: bool,
    /// Instead of PyTorch, show where our time goes: operators with their provider, ordered by time; what the runtime noted
    /// of each node is left in this folder
    #[arg(long, value_name = "FOLDER")]
    profile: Option<PathBuf>,
    /// NAME-SIZE of `networks.py`, where the model is one of these
    #[arg(long)]
    network: Option<String>,
    /// Ignored: cargo passes it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

const PHASES: [&str; 3] = ["noise", "impair", "repair"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().len() <= 2 {
        println!("unsir: skipped; it needs --model and --retain (see the head of benches/unsir.rs)");
        return Ok(());
    }
    let args = Args::parse();
    let model = onnx::read(&args.model)?;
    let network = Network::new(&model, None)?;
    let dims = model.graph.inputs[0].dims.clone().unwrap_or_default();
    let preprocess =
        Preprocess { mean: vec![0.4914, 0.4822, 0.4465], std: vec![0.2023, 0.1994, 0.2010], ..Preprocess::default() };
    let plan = LoadPlan {
        path: &args.retain,
        classes: 10,
        names: None,
        drop: &[args.forget],
        per_class: None,
        input: InputSpec::with_batch(network.input.clone(), &dims),
        further: &[],
        predictions: 1,
        independent: false,
        preprocess: &preprocess,
    };
    let (retain, _) = data::load(&plan)?;
    let library = find::find(None, args.cuda)?;
    let device = if args.cuda { Device::Cuda(0) } else { Device::Cpu };
    let engine = Engine::open(&library.path, device, args.threads)?.with_tf32(args.tf32);
    if let Some(folder) = &args.profile {
        return profile(folder, &args, &network, &engine, &retain);
    }

    let (mut ours, mut theirs): ([Vec<f64>; 3], [Vec<f64>; 3]) = Default::default();
    for round in 0..args.rounds {
        for (all, new) in ours.iter_mut().zip(own_steps(&args, &network, &engine, &retain)?) {
            all.extend(new);
        }
        match pytorch_steps(&args) {
            Ok(medians) => theirs.iter_mut().zip(medians).for_each(|(all, new)| all.push(new)),
            Err(reason) if round == 0 => eprintln!("PyTorch: not measured ({reason})"),
            Err(_) => {}
        }
    }
    println!("model {}, batch {}, {} threads, {device}", args.model.display(), args.batch, args.threads);
    println!("{:8} {:>12} {:>12} {:>7}", "phase", "ours ms", "PyTorch ms", "ratio");
    for (i, phase) in PHASES.iter().enumerate() {
        let (a, b) = (median(&mut ours[i]), median(&mut theirs[i]));
        println!("{phase:8} {:>12.1} {:>12.1} {:>7.2}", 1000.0 * a, 1000.0 * b, a / b);
    }
    Ok(())
}

/// Prints what the operators of the noise and the training steps took.
fn profile(
    folder: &Path,
    args: &Args,
    network: &Network,
    engine: &Engine,
    retain: &Dataset,
) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir(folder)?;
    own_steps(args, network, &engine.clone().with_profile(&folder.join("profile")), retain)?;
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort_by_key(|path| path.metadata().and_then(|m| m.modified()).ok());
    for (file, what) in files.iter().rev().take(2).rev().zip(["noise", "impair and repair"]) {
        let events: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(file)?)?;
        let nodes = events.iter().filter(|e| e["cat"] == "Node" && e["args"]["op_name"].is_string());
        let mut rows: std::collections::BTreeMap<(&str, &str), (usize, f64)> = std::collections::BTreeMap::new();
        for e in nodes {
            let key = (e["args"]["op_name"].as_str().unwrap_or(""), e["args"]["provider"].as_str().unwrap_or(""));
            let row = rows.entry(key).or_default();
            row.0 += 1;
            row.1 += e["dur"].as_f64().unwrap_or(0.0);
        }
        let steps = events.iter().filter(|e| e["name"] == "SequentialExecutor::Execute").count().max(1);
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        let opening = ["model_loading_array", "session_initialization"];
        let opening: f64 =
            events.iter().filter(|e| opening.iter().any(|o| e["name"] == *o)).filter_map(|e| e["dur"].as_f64()).sum();
        println!("{what}: opened in {:.0} ms; {steps} steps, the first included", opening / 1e3);
        for ((op, provider), (count, microseconds)) in rows {
            let each = microseconds / 1e3 / steps as f64;
            println!("{each:>10.2} ms {:>6} nodes  {op} ({provider})", count / steps);
        }
    }
    Ok(())
}

/// Seconds of every step but the first of each phase.
fn own_steps(
    args: &Args,
    network: &Network,
    engine: &Engine,
    retain: &Dataset,
) -> Result<[Vec<f64>; 3], Box<dyn std::error::Error>> {
    let rows: Vec<usize> = (0..args.batch).collect();
    let mut x = vec![0.0; args.batch * retain.sample_len()];
    retain.batch(&rows, &mut x);
    let mut shape = vec![args.batch];
    shape.extend(retain.sample_shape());
    let sample = Tensor::f32(shape, x.clone());
    let batched = network.at_batch(engine, &sample, BatchNorm::Frozen)?;
    let weights = network.weights()?;
    let mut targets = vec![0.0; args.batch * batched.layout.classes];
    targets.chunks_exact_mut(batched.layout.classes).for_each(|row| row[args.forget] = 1.0);

    let loss = NoiseLoss { penalty: 0.1, per_element: false };
    let mut noise = batched.noise_stepper(&weights, Goal::Error, loss, Range::NORMALISED, &x)?;
    noise.restart(&Arc::new(sample.clone()), &targets)?;
    let noise_times = timed(args.steps, || noise.step(0.1).map(|_| ()))?;
    drop(noise);
    let mut stepper = batched.weight_stepper(&weights, Optimizer::ADAM, None, args.batch)?;
    let ones = vec![1.0; args.batch];
    let mut train = |lr: f64| {
        timed(args.steps, || {
            stepper.feed(&x, &targets, &ones);
            stepper.step(lr).map(|_| ())
        })
    };
    Ok([noise_times, train(0.0005)?, train(0.00025)?])
}

fn timed<E>(steps: usize, mut step: impl FnMut() -> Result<(), E>) -> Result<Vec<f64>, E> {
    let mut times = Vec::new();
    for i in 0..=steps {
        let started = Instant::now();
        step()?;
        // The first step plans memory.
        if i > 0 {
            times.push(started.elapsed().as_secs_f64());
        }
    }
    Ok(times)
}

/// Median seconds of a step, phase by phase.
fn pytorch_steps(args: &Args) -> Result<[f64; 3], String> {
    let steps = (args.steps + 1).to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/compare/pytorch_unsir.py");
    let mut command = Command::new(&args.python);
    command.arg(script).arg("--model").arg(&args.model).arg("--retain").arg(&args.retain);
    for (flag, value) in [
        ("--forget", args.forget.to_string()),
        ("--batch", args.batch.to_string()),
        ("--threads", args.threads.to_string()),
        ("--noise-steps", steps.clone()),
        ("--impair-steps", steps.clone()),
        ("--repair-steps", steps),
        ("--adam", args.adam.clone()),
    ] {
        command.arg(flag).arg(value);
    }
    for (flag, given) in [("--channels-last", args.channels_last), ("--cuda", args.cuda), ("--tf32", args.tf32)] {
        if given {
            command.arg(flag);
        }
    }
    if let Some(network) = &args.network {
        command.args(["--network", network]);
    }
    let output = command.output().map_err(|e| format!("{}: {e}", args.python))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(text.lines().last().unwrap_or("it failed").to_owned());
    }
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
    let mut medians = [f64::NAN; 3];
    for (slot, phase) in medians.iter_mut().zip(PHASES) {
        *slot = result[phase]["median_step_seconds"].as_f64().ok_or(format!("no median_step_seconds of {phase}"))?;
    }
    Ok(medians)
}

fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
