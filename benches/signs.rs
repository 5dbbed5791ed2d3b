//! Which signs of forgetting that need no sample of the class go with the accuracy on real ones?
//!
//! cargo bench --bench signs -- --model M.onnx --retain R.npz --eval E.npz --mean .. --std .. --forget 0,3
//!
//! Prints a row for every class and rate: the accuracy on the samples of the class in `--eval`, and for every sign the share
//! of its samples that is still taken for the class after repair. Rate 0 is the source model.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use clap::Parser;
use onnx_unlearn::{
    data::{self, Dataset, InputSpec, LoadPlan, Preprocess, Seeded},
    onnx,
    runtime::{Device, Engine, find},
    tensor::Tensor,
    train::{BatchNorm, BatchedNetwork, Goal, Network, NoiseLoss, Optimizer, Range, Weights},
    unlearn::{
        self, Depth, HELD, Material, Mix, NoiseSettings, PhaseSettings, Recipe, Targets, Trials, Turned, Variant, Watch,
    },
};
use std::{
    fmt::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Signs of forgetting beside the accuracy on real samples.
#[derive(Parser)]
struct Args {
    /// A classifier of images
    #[arg(long)]
    model: PathBuf,
    #[arg(long)]
    retain: PathBuf,
    #[arg(long)]
    eval: PathBuf,
    /// Classes, each forgotten alone
    #[arg(long, value_delimiter = ',', default_value = "0")]
    forget: Vec<usize>,
    /// Learning rates of impair; repair takes half of them
    #[arg(long, value_delimiter = ',', default_value = "0.0001,0.0002,0.0004,0.0008,0.0016")]
    lr: Vec<f64>,
    #[arg(long, value_delimiter = ',')]
    mean: Vec<f32>,
    #[arg(long, value_delimiter = ',')]
    std: Vec<f32>,
    /// Teach the labels of the retain sample in the place of the source model's answers
    #[arg(long)]
    labels: bool,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Ignored: cargo passes it to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

struct Silent;
impl Watch for Silent {
    fn begin(&mut self, _: &'static str, _: usize) {}
    fn step(&mut self, _: usize, _: f32) -> bool {
        true
    }
}

fn main() -> Fallible<()> {
    if std::env::args().len() <= 2 {
        println!("signs: skipped; it needs --model, --retain and --eval (see the head of benches/signs.rs)");
        return Ok(());
    }
    let args = Args::parse();
    println!(
        "class     rate   real  turned nearest   mixed    like  random  impaired    kept (share taken for the class; \
         real: held-out samples of it; kept: accuracy on those of others)"
    );
    args.forget.iter().try_for_each(|&class| one(&args, class))
}

fn one(args: &Args, class: usize) -> Fallible<()> {
    let model = onnx::read(&args.model)?;
    let network = Network::new(&model, None)?;
    let library = find::find(None, false)?;
    let engine = Engine::open(&library.path, Device::Cpu, args.threads)?;
    let dims = model.graph.inputs[0].dims.clone().unwrap_or_default();
    let preprocess = Preprocess { mean: args.mean.clone(), std: args.std.clone(), ..Preprocess::default() };
    let output = model.graph.outputs[0].dims.clone().unwrap_or_default();
    let classes = output.get(1).copied().flatten().ok_or("the number of classes has to be in the file")?;
    let load = |path: &Path, drop: &[usize], per_class| -> Fallible<Dataset> {
        let plan = LoadPlan {
            path,
            classes,
            names: None,
            drop,
            per_class,
            input: InputSpec::with_batch(network.input.clone(), &dims),
            further: &[],
            predictions: 1,
            independent: false,
            preprocess: &preprocess,
        };
        Ok(data::load(&plan)?.0)
    };
    let others: Vec<usize> = (0..classes).filter(|&c| c != class).collect();
    let retain = load(&args.retain, &[class], Some(1000))?;
    let (real, kept) = (load(&args.eval, &others, None)?, load(&args.eval, &[class], None)?);
    let recipe = recipe(class, args);

    let source = network.weights()?;
    let first: Vec<usize> = (0..recipe.batch_size).map(|i| i % retain.len()).collect();
    let rows = rows_of(&retain, &first);
    let mut shape = vec![first.len()];
    shape.extend(retain.sample_shape());
    let batched = network.at_batch(&engine, &Tensor::f32(shape, rows.clone()), BatchNorm::Frozen)?;
    let range = batched.range(&source, None, &rows)?;
    let noise = unlearn::learn(&batched, &source, &recipe, range, &rows, &mut Silent)?;
    let (trained, _) = unlearn::split(&retain, HELD);
    let entries = noise.noise.iter().map(|(c, z)| (*c, z, recipe.noise.images)).collect();
    let row = &batched.row;
    let mut trials = Trials::new(&batched, &batched, &recipe, &source)?;
    let answers = unlearn::answers(&mut trials, &source, &recipe, &retain, &mut Silent)?;
    let material = Material {
        impair: Mix::new(&retain, row.clone(), entries, recipe.noise.samples)
            .taught(answers.as_deref())
            .of(trained.clone()),
        repair: Mix::retain_only(&retain, row.clone()).taught(answers.as_deref()).of(trained),
    };
    let signs = signs(&mut trials, &batched, &source, range, &retain, class, args.seed)?;

    let all = |d: &Dataset| (0..d.len()).collect::<Vec<_>>();
    let show = |trials: &mut Trials<'_>, lr: f64, stages: [&Weights; 2]| -> Fallible<()> {
        let accuracy = |trials: &mut Trials<'_>, weights, d: &Dataset| -> Fallible<f64> {
            Ok(trials.evaluate(weights, d, &all(d))?.accuracy(|_| true).unwrap_or(f64::NAN))
        };
        let mut line = format!("{class:>5} {lr:>8} {:>6.2}", 100.0 * accuracy(trials, stages[1], &real)?);
        for turned in &signs {
            let scores = trials.scores_of_full_rows(stages[1], &turned.rows)?;
            write!(line, " {:>7.2}", 100.0 * turned.sign(&scores, classes, false).known)?;
        }
        let impaired = accuracy(trials, stages[0], &real)?;
        println!("{line} {:>9.2} {:>7.2}", 100.0 * impaired, 100.0 * accuracy(trials, stages[1], &kept)?);
        Ok(())
    };
    show(&mut trials, 0.0, [&source, &source])?;
    for &lr in &args.lr {
        let phase = |lr| PhaseSettings { lr, epochs: 1 };
        match trials.run(&material, phase(lr), phase(lr / 2.0), &mut Silent) {
            Ok(trial) => {
                let [impaired, repaired] = &trial.weights;
                show(&mut trials, lr, [&impaired.weights()?, &repaired.weights()?])?;
            }
            Err(e) => println!("{class:>5} {lr:>8} {e}"),
        }
    }
    Ok(())
}

/// The defaults of `forget`.
fn recipe(class: usize, args: &Args) -> Recipe {
    Recipe {
        variant: Variant::Corrected,
        depth: Depth::Standard,
        targets: if args.labels { Targets::Labels } else { Targets::Source },
        forget: vec![class],
        forgotten_before: Vec::new(),
        seed: args.seed,
        batch_size: 256,
        noise: NoiseSettings {
            images: 256,
            steps: 40,
            lr: 0.1,
            loss: NoiseLoss { penalty: 0.1, per_element: false },
            range: None,
            samples: 5120,
        },
        impair: PhaseSettings { lr: 0.0, epochs: 1 },
        repair: PhaseSettings { lr: 0.0, epochs: 1 },
        optimizer: Optimizer::ADAM,
        clip_norm: None,
        batch_norm: BatchNorm::Frozen,
        memory_limit: None,
    }
}

/// Samples of every sign, in the order of the table.
fn signs(
    trials: &mut Trials<'_>,
    network: &BatchedNetwork<'_>,
    source: &Weights,
    range: Range,
    retain: &Dataset,
    class: usize,
    seed: u64,
) -> Fallible<Vec<Turned>> {
    let (n, classes, width) = (network.batch, network.layout.classes, retain.sample_len());
    let candidates = unlearn::candidates(retain);
    let scores = trials.scores_of_data(source, retain, &candidates)?;
    let near = unlearn::nearest(&candidates, &scores, classes, class, false, n);
    let turned = Turned::new(network, source, range, retain, &near, class)?;
    let nearest = rows_of(retain, &near);
    let next = nearest.chunks_exact(width).cycle().skip(1);
    let mixed = nearest.chunks_exact(width).zip(next).flat_map(|(a, b)| a.iter().zip(b).map(|(x, y)| 0.5 * (x + y)));
    let mixed = mixed.collect();
    let random = |purpose: &str| Seeded::new(seed, purpose).normal(n * width);
    let mut targets = vec![0.0; n * classes];
    targets.chunks_exact_mut(classes).for_each(|row| row[class] = 1.0);
    let loss = NoiseLoss { penalty: 0.001, per_element: false };
    let mut like = network.noise_stepper(source, Goal::Likeness, loss, range, &rows_of(retain, &near))?;
    like.restart(&Arc::new(Tensor::f32(network.noise_shape(), random("likeness"))), &targets)?;
    (0..40).try_for_each(|_| like.step(0.1).map(|_| ()))?;
    let like = like.noise()?.to_f32s();
    let of = |rows| Turned { class, rows };
    Ok(vec![turned, of(nearest), of(mixed), of(like), of(random("random"))])
}

fn rows_of(data: &Dataset, rows: &[usize]) -> Vec<f32> {
    let mut x = vec![0.0; rows.len() * data.sample_len()];
    data.batch(rows, &mut x);
    x
}
