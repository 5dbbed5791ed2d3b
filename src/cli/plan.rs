//! What was typed means: a complete plan of a run, checked before any work starts.

use super::args::{
    BatchNormArg, DepthArg, GateArgs, JobArgs, LayoutArg, MethodArgs, ModelArgs, OptimizerArg, PenaltyArg,
    PreprocessArgs, ReadArgs, TargetsArg, VariantArg,
};
use crate::{
    data::{Layout, Preprocess},
    provenance::claims::text,
    report::{Gates, Number, PreprocessRecord},
    train::{BatchNorm, Choice, NoiseLoss, Optimizer, Range},
    unlearn::{Depth, NoiseSettings, PhaseSettings, Recipe, Targets, Variant},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{collections::BTreeMap, fmt::Display};

/// The device as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA where it works, else the CPU; which one is said.
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU or an error.
    Cuda(i32),
}

/// Noise samples in the impair set, for all classes together: 20 copies of the 256 images of one class.
const NOISE_SAMPLES: usize = 5120;

/// The same for shallow forgetting: each image once.
const SHALLOW_NOISE_SAMPLES: usize = 256;

/// Reads `--device`.
pub fn device(text: &str) -> Result<DeviceChoice> {
    Ok(match text {
        "auto" => DeviceChoice::Auto,
        "cpu" => DeviceChoice::Cpu,
        "cuda" => DeviceChoice::Cuda(0),
        other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
            Some(n) => DeviceChoice::Cuda(n),
            None => bail!("--device {other}: expected auto, cpu, cuda or cuda:N"),
        },
    })
}

/// Reads the preprocessing flags.
pub fn preprocess(args: &PreprocessArgs) -> Result<Preprocess> {
    let resize = args.resize.as_deref().map(size).transpose()?;
    let layout = match args.layout {
        None | Some(LayoutArg::Auto) => Layout::Auto,
        Some(LayoutArg::Nchw) => Layout::Nchw,
        Some(LayoutArg::Nhwc) => Layout::Nhwc,
    };
    let plan = Preprocess { resize, mean: args.mean.clone(), std: args.std.clone(), scale: args.scale, layout };
    plan.check()?;
    Ok(plan)
}

/// Reads what is said about the model.
pub fn choice(args: &ModelArgs) -> Result<Choice> {
    Ok(Choice { freeze: args.freeze.clone(), train: args.train.clone(), ..reading(&args.read)? })
}

/// Reads what is said about inputs and outputs.
pub fn reading(args: &ReadArgs) -> Result<Choice> {
    Ok(Choice {
        output: args.output.clone(),
        multi_label: args.multi_label,
        input: args.input.clone(),
        constants: constants(&args.constants)?,
        ..Choice::default()
    })
}

/// Reads `--constant NAME=VALUE`.
fn constants(given: &[String]) -> Result<BTreeMap<String, f32>> {
    let mut constants = BTreeMap::new();
    for text in given {
        let pair = text.rsplit_once('=').and_then(|(name, value)| Some((name, value.parse::<f32>().ok()?)));
        let Some((name, value)) = pair else { bail!("--constant {text}: expected NAME=VALUE, VALUE being a number") };
        constants.insert(name.to_owned(), value);
    }
    Ok(constants)
}

/// Reads `--noise-range`: `auto`, or mean and standard deviation.
fn range(text: &str) -> Result<Option<Range>> {
    if text == "auto" {
        return Ok(None);
    }
    let number = |s: &str| s.trim().parse::<f64>().ok().filter(|v| v.is_finite());
    match text.split_once(',').map(|(m, s)| (number(m), number(s))) {
        Some((Some(center), Some(spread))) if spread > 0.0 => Ok(Some(Range { center, spread })),
        _ => bail!("--noise-range {text}: expected auto, or the mean and standard deviation of the values there: M,S"),
    }
}

/// Reads a height and a width.
pub fn size(text: &str) -> Result<(usize, usize)> {
    let (h, w) = text.split_once('x').unwrap_or((text, text));
    let side = |s: &str| s.parse::<usize>().ok().filter(|&n| n > 0);
    match (side(h), side(w)) {
        (Some(h), Some(w)) => Ok((h, w)),
        _ => bail!("--resize {text}: expected N or HxW, such as 224 or 240x320"),
    }
}

/// What the report says about preprocessing.
pub fn preprocess_record(p: &Preprocess) -> PreprocessRecord {
    let layout = match p.layout {
        Layout::Auto => "auto",
        Layout::Nchw => "nchw",
        Layout::Nhwc => "nhwc",
    };
    let numbers = |v: &[f32]| v.iter().copied().map(Number).collect();
    let (mean, std, scale) = (numbers(&p.mean), numbers(&p.std), p.scale.map(Number));
    PreprocessRecord { layout, resize: p.resize, mean, std, scale }
}

/// Reads the gates.
pub fn gates(args: &GateArgs) -> Result<Gates> {
    for (flag, value) in
        [("--max-forget-accuracy", args.max_forget_accuracy), ("--max-retain-drop", args.max_retain_drop)]
    {
        ensure!((0.0..=1.0).contains(&value), "{flag} {value}: expected a share from 0 to 1 (0.01 is one percent)");
    }
    ensure!(args.check_samples > 0, "--check-samples 0: at least one sample is needed");
    for (flag, value) in [("--check-atol", args.check_atol), ("--check-rtol", args.check_rtol)] {
        ensure!(value >= 0.0 && value.is_finite(), "{flag} {value}: expected a number of at least 0");
    }
    Ok(Gates { max_forget_accuracy: args.max_forget_accuracy, max_retain_drop: args.max_retain_drop })
}

/// True where the learning rates are left to be found by trials.
pub fn calibrates(args: &MethodArgs) -> bool {
    args.impair_lr.is_none() && args.repair_lr.is_none() && matches!(args.variant, VariantArg::Corrected)
}

/// What BatchNormalization does while training; `usual` where no flag says.
pub fn batch_norm(args: &MethodArgs, usual: BatchNorm) -> BatchNorm {
    match args.batch_norm {
        Some(BatchNormArg::Batch) => BatchNorm::Batch,
        Some(BatchNormArg::Frozen) => BatchNorm::Frozen,
        None => usual,
    }
}

/// Settings of retraining, with the flags they come from.
pub fn retraining(flags: [&str; 2], epochs: usize, lr: f64) -> Result<PhaseSettings> {
    ensure!(epochs > 0, "{} 0: expected at least 1", flags[0]);
    ensure!(lr.is_finite() && lr > 0.0, "{} {lr}: expected a number above 0", flags[1]);
    Ok(PhaseSettings { lr, epochs })
}

/// Makes the recipe; where [`calibrates`] says so, its learning rates are still to be found. `forget` are class indices; `channels` is the number of channels of a sample, if it has any.
pub fn recipe(args: &MethodArgs, forget: Vec<usize>, channels: Option<usize>) -> Result<Recipe> {
    let reference = matches!(args.variant, VariantArg::Reference);
    let positive = |flag: &str, value: f64| -> Result<f64> {
        ensure!(value.is_finite() && value > 0.0, "{flag} {value}: expected a number above 0");
        Ok(value)
    };
    let share = |flag: &str, value: f64| -> Result<f64> {
        ensure!((0.0..1.0).contains(&value), "{flag} {value}: expected a number from 0 to below 1");
        Ok(value)
    };
    let some = |flag: &str, value: usize| -> Result<usize> {
        ensure!(value > 0, "{flag} 0: expected at least 1");
        Ok(value)
    };
    ensure!(
        args.noise_penalty.is_finite() && args.noise_penalty >= 0.0,
        "--noise-penalty {}: expected a number of at least 0",
        args.noise_penalty
    );
    if reference {
        ensure!(
            matches!(args.depth, DepthArg::Standard),
            "--depth: --variant reference knows one depth only; leave one of the two away"
        );
        channels.context(
            "--variant reference is defined for images with channels first; this model takes something else",
        )?;
    }
    // A budget for all classes together keeps the number of steps about the same; the notebook has one for each.
    let budget = if matches!(args.depth, DepthArg::Shallow) { SHALLOW_NOISE_SAMPLES } else { NOISE_SAMPLES };
    let samples = match args.noise_samples {
        None if reference => 20 * channels.unwrap_or(1),
        given => given.unwrap_or(budget).div_ceil(forget.len().max(1)),
    };
    let depth = match args.depth {
        DepthArg::Shallow => Depth::Shallow,
        DepthArg::Standard => Depth::Standard,
        DepthArg::Deep => Depth::Deep,
    };
    // The published settings, and the ratio of the depth.
    let (impair, repair) = match (args.impair_lr, args.repair_lr) {
        (Some(impair), Some(repair)) => (impair, repair),
        (Some(impair), None) if !reference => (impair, impair * depth.repair()),
        (None, Some(repair)) if !reference => (repair / depth.repair(), repair),
        (impair, repair) => (impair.unwrap_or(0.02), repair.unwrap_or(0.01)),
    };
    Ok(Recipe {
        variant: if reference { Variant::Reference } else { Variant::Corrected },
        depth,
        targets: match args.targets {
            Some(TargetsArg::Labels) => Targets::Labels,
            None if reference => Targets::Labels,
            Some(TargetsArg::Source) | None => Targets::Source,
        },
        forget,
        forgotten_before: Vec::new(),
        seed: args.seed,
        batch_size: some("--batch-size", args.batch_size)?,
        noise: NoiseSettings {
            images: some("--noise-images", args.noise_images)?,
            steps: some("--noise-steps", args.noise_steps)?,
            lr: positive("--noise-lr", args.noise_lr)?,
            loss: NoiseLoss {
                penalty: args.noise_penalty,
                per_element: matches!(args.noise_penalty_form, PenaltyArg::Mean),
            },
            range: args.noise_range.as_deref().map_or(Ok(None), range)?,
            samples,
        },
        impair: PhaseSettings {
            lr: positive("--impair-lr", impair)?,
            epochs: some("--impair-epochs", args.impair_epochs)?,
        },
        repair: PhaseSettings {
            lr: positive("--repair-lr", repair)?,
            epochs: some("--repair-epochs", args.repair_epochs)?,
        },
        optimizer: match args.optimizer {
            OptimizerArg::Adam => Optimizer::Adam {
                beta1: share("--beta1", args.beta1)?,
                beta2: share("--beta2", args.beta2)?,
                epsilon: positive("--epsilon", args.epsilon)?,
            },
            OptimizerArg::Sgd => Optimizer::Sgd { momentum: share("--momentum", args.momentum)? },
        },
        clip_norm: args.clip_norm.map(|v| positive("--clip-norm", v)).transpose()?,
        batch_norm: batch_norm(args, if reference { BatchNorm::Batch } else { BatchNorm::Frozen }),
        memory_limit: args.memory_limit.as_deref().map(|text| bytes("--memory-limit", text)).transpose()?,
    })
}

/// A number of bytes: 1500000000, 800M or 1.5G, in units of 1024.
fn bytes(flag: &str, text: &str) -> Result<usize> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_u64 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    match number.parse::<f64>() {
        Ok(v) if v.is_finite() && v > 0.0 => Ok((v * unit as f64) as usize),
        _ => bail!("{flag} {text}: expected a number of bytes, such as 1500000000, 800M or 2G"),
    }
}

/// Checks what can be checked before a file is opened.
pub fn early(args: &JobArgs) -> Result<()> {
    preprocess(&args.preprocess)?;
    device(&args.engine.device)?;
    ensure!(args.per_class > 0, "--per-class 0: at least one sample of each class is needed");
    ensure!(args.engine.threads != Some(0), "--threads 0: expected at least 1");
    // The channels are not known yet; they do not matter to the checks of the flags.
    recipe(&args.method, Vec::new(), Some(1))?;
    Ok(())
}

/// The flags of a run by its report: what [`recipe`] and its like would make the report's `parameters` of again. Data, model and
/// class names are for the caller to give.
pub fn arguments(report: &Value) -> Result<Vec<String>> {
    let (parameters, runtime) = (&report["parameters"], &report["runtime"]);
    let recipe: Recipe = serde_json::from_value(parameters["recipe"].clone())
        .context("the report's parameters.recipe is none that this version knows")?;
    let mut words = Words(Vec::new());
    let indices = recipe.forget.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    words.put("--forget", indices);
    words.put("--variant", if recipe.variant == Variant::Reference { "reference" } else { "corrected" });
    words.put(
        "--depth",
        match recipe.depth {
            Depth::Shallow => "shallow",
            Depth::Standard => "standard",
            Depth::Deep => "deep",
        },
    );
    words.put("--targets", if recipe.targets == Targets::Labels { "labels" } else { "source" });
    words.put("--seed", recipe.seed);
    words.put("--batch-size", recipe.batch_size);
    if let Some(bytes) = recipe.memory_limit {
        words.put("--memory-limit", bytes);
    }
    let noise = &recipe.noise;
    words.put("--noise-images", noise.images);
    let samples =
        noise.samples.checked_mul(recipe.forget.len()).context("the report's number of noise samples is too large")?;
    words.put("--noise-samples", samples);
    words.put("--noise-steps", noise.steps);
    words.put("--noise-lr", noise.lr);
    words.put("--noise-penalty", noise.loss.penalty);
    words.put("--noise-penalty-form", if noise.loss.per_element { "mean" } else { "sum" });
    if let Some(Range { center, spread }) = noise.range {
        words.put("--noise-range", format!("{center},{spread}"));
    }
    for (name, phase) in [("impair", recipe.impair), ("repair", recipe.repair)] {
        words.put(&format!("--{name}-lr"), phase.lr);
        words.put(&format!("--{name}-epochs"), phase.epochs);
    }
    match recipe.optimizer {
        Optimizer::Adam { beta1, beta2, epsilon } => {
            words.put("--optimizer", "adam");
            words.put("--beta1", beta1);
            words.put("--beta2", beta2);
            words.put("--epsilon", epsilon);
        }
        Optimizer::Sgd { momentum } => {
            words.put("--optimizer", "sgd");
            words.put("--momentum", momentum);
        }
    }
    if let Some(norm) = recipe.clip_norm {
        words.put("--clip-norm", norm);
    }
    words.put("--batch-norm", if recipe.batch_norm == BatchNorm::Batch { "batch" } else { "frozen" });
    words.of_data(parameters);
    for key in ["device", "threads"] {
        words.value(&format!("--{key}"), &runtime[key]);
    }
    if runtime["tf32"] == true {
        words.0.push("--tf32".into());
    }
    Ok(words.0)
}

/// Words of a command line. A flag and its value are one word, so that a value may begin with a dash.
struct Words(Vec<String>);

impl Words {
    fn put(&mut self, flag: &str, value: impl Display) {
        self.0.push(format!("{flag}={value}"));
    }

    /// A value as the report has it; nothing where it has none.
    fn value(&mut self, flag: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Array(values) if values.is_empty() => {}
            Value::Array(values) => self.put(flag, values.iter().map(text).collect::<Vec<_>>().join(",")),
            value => self.put(flag, text(value)),
        }
    }

    /// What is read, and how.
    fn of_data(&mut self, parameters: &Value) {
        let preprocess = &parameters["preprocess"];
        if let [Value::Number(height), Value::Number(width)] =
            preprocess["resize"].as_array().map_or(&[][..], Vec::as_slice)
        {
            self.put("--resize", format!("{height}x{width}"));
        }
        for key in ["mean", "std", "scale", "layout"] {
            self.value(&format!("--{key}"), &preprocess[key]);
        }
        self.value("--per-class", &parameters["per_class"]);
        for key in ["output", "input"] {
            self.value(&format!("--{key}"), &parameters[key]);
        }
        self.value("--drop-output", &parameters["drop_output"]);
        if parameters["multi_label"] == true {
            self.0.push("--multi-label".into());
        }
        for key in ["freeze", "train"] {
            for pattern in parameters[key].as_array().into_iter().flatten() {
                self.value(&format!("--{key}"), pattern);
            }
        }
        for (name, value) in parameters["constants"].as_object().into_iter().flatten() {
            self.put("--constant", format!("{name}={value}"));
        }
    }
}
