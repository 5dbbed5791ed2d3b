//! Which label-free signs of forgetting go with the accuracy on the forgotten class? Trials over learning rates, measured
//! on real data of the class beside signs that need none.
//!
//! cargo bench --bench signs -- --model M.onnx --retain R.npz --eval E.npz --mean .. --std .. --forget 0,3
#![allow(clippy::print_stdout, clippy::print_stderr)]

use clap::Parser;
use onnx_unlearn::{
    data::{self, Dataset, InputSpec, LoadPlan, Preprocess, Seeded},
    onnx,
    runtime::{Device, Engine, find},
    tensor::Tensor,
    train::{BatchNorm, Goal, Network, NoiseLoss, Optimizer, Range, Weights},
    unlearn::{self, Material, Mix, NoiseSettings, PhaseSettings, Recipe, Trials, Variant, Watch},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// Trials over learning rates, with signs.
#[derive(Parser)]
struct Args {
    #[arg(long)]
    model: PathBuf,
    #[arg(long)]
    retain: PathBuf,
    #[arg(long)]
    eval: PathBuf,
    #[arg(long, value_delimiter = ',')]
    forget: Vec<usize>,
    #[arg(long, value_delimiter = ',', default_value = "0.0001,0.0002,0.0004,0.0008,0.0016")]
    lr: Vec<f64>,
    #[arg(long, value_delimiter = ',')]
    mean: Vec<f32>,
    #[arg(long, value_delimiter = ',')]
    std: Vec<f32>,
    #[arg(long)]
    batch_norm: bool,
    /// Share of the usual retain and noise samples
    #[arg(long, default_value_t = 1.0)]
    share: f64,
    #[arg(long, default_value_t = 5120)]
    noise_samples: usize,
    #[arg(long, default_value_t = 40)]
    noise_steps: usize,
    #[arg(long, default_value_t = 2.0)]
    ratio: f64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, hide = true)]
    bench: bool,
}

struct Silent;
impl Watch for Silent {
    fn begin(&mut self, _: &'static str, _: usize) {}
    fn step(&mut self, _: usize, _: f32) -> bool {
        true
    }
}

struct Probe {
    name: &'static str,
    rows: Vec<f32>,
}

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    if std::env::args().len() <= 2 {
        println!("signs: skipped; it needs --model, --retain and --eval");
        return Ok(());
    }
    let args = Args::parse();
    for &class in &args.forget {
        one(&args, class)?;
    }
    Ok(())
}

fn one(args: &Args, class: usize) -> Fallible<()> {
    let model = onnx::read(&args.model)?;
    let network = Network::new(&model, None)?;
    let dims = model.graph.inputs[0].dims.clone().unwrap_or_default();
    let classes = 10;
    let preprocess = Preprocess { mean: args.mean.clone(), std: args.std.clone(), ..Preprocess::default() };
    let load = |path: &Path, drop: &[usize], per_class| {
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
        Ok::<_, Box<dyn std::error::Error>>(data::load(&plan)?.0)
    };
    let retain = load(&args.retain, &[class], Some(1000))?;
    let others: Vec<usize> = (0..classes).filter(|&c| c != class).collect();
    let forgotten = load(&args.eval, &others, None)?;
    let kept = load(&args.eval, &[class], Some(300))?;
    let library = find::find(None, false)?;
    let engine = Engine::open(&library.path, Device::Cpu, args.threads)?;
    let recipe = Recipe {
        variant: Variant::Corrected,
        forget: vec![class],
        seed: args.seed,
        batch_size: 256,
        noise: NoiseSettings {
            images: 256,
            steps: args.noise_steps,
            lr: 0.1,
            loss: NoiseLoss { penalty: 0.1, per_element: false },
            range: None,
            samples: (args.noise_samples as f64 * args.share) as usize,
        },
        impair: PhaseSettings { lr: 0.0, epochs: 1 },
        repair: PhaseSettings { lr: 0.0, epochs: 1 },
        optimizer: Optimizer::ADAM,
        clip_norm: None,
        batch_norm: if args.batch_norm { BatchNorm::Batch } else { BatchNorm::Frozen },
    };
    let source = network.weights()?;
    let rows = rows_of(&retain, &(0..256).collect::<Vec<_>>());
    let mut shape = vec![256];
    shape.extend(retain.sample_shape());
    let batched = network.at_batch(&engine, &Tensor::f32(shape.clone(), rows.clone()), BatchNorm::Frozen)?;
    let range = batched.range(&source, None, &rows)?;
    let t = Instant::now();
    let noise = unlearn::learn(&batched, &source, &recipe, range, &rows, &mut Silent)?;
    eprintln!("class {class}: noise {:.1} s", t.elapsed().as_secs_f64());

    // Every tenth sample of each class validates.
    let labels: Vec<u32> =
        (0..retain.len()).flat_map(|i| retain.labels_of(i).flatten().copied().collect::<Vec<_>>()).collect();
    let mut seen = [0usize; 10];
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    for (i, &l) in labels.iter().enumerate() {
        seen[l as usize] += 1;
        if seen[l as usize] % 10 == 0 {
            valid.push(i);
        } else if (seen[l as usize] as f64) <= 1000.0 * args.share {
            train.push(i);
        }
    }
    let entries = || noise.noise.iter().map(|(c, z)| (*c, z, 256)).collect::<Vec<_>>();
    let impair = Mix::new(&retain, batched.row.clone(), entries(), recipe.noise.samples).of(train.clone());
    let repair = Mix::retain_only(&retain, batched.row.clone()).of(train.clone());
    let mut trials = Trials::new(&batched, &batched, &recipe, &source)?;
    let material = Material { impair, repair };

    // Probes.
    let all: Vec<usize> = (0..retain.len()).collect();
    let scores = trials.scores_of_data(&source, &retain, &all)?;
    let margin = |row: &[f32]| {
        let best = row.iter().enumerate().filter(|(i, _)| *i != class).map(|(_, &v)| v).fold(f32::MIN, f32::max);
        row[class] - best
    };
    let mut order: Vec<usize> = all.clone();
    let margins: Vec<f32> = scores.chunks_exact(classes).map(margin).collect();
    order.sort_by(|&a, &b| margins[b].total_cmp(&margins[a]));
    let near: Vec<usize> = order[..256].to_vec();
    let near_rows = rows_of(&retain, &near);
    let width = retain.sample_len();
    let mixed: Vec<f32> = near_rows
        .chunks_exact(width)
        .zip(near_rows.chunks_exact(width).skip(1).chain(near_rows.chunks_exact(width)))
        .flat_map(|(a, b)| a.iter().zip(b).map(|(x, y)| 0.5 * (x + y)).collect::<Vec<_>>())
        .collect();
    let mut targets = vec![0.0; 256 * classes];
    targets.chunks_exact_mut(classes).for_each(|row| row[class] = 1.0);
    let learn = |start: Vec<f32>, steps: usize, lr: f64, penalty: f64| -> Fallible<Vec<f32>> {
        let loss = NoiseLoss { penalty, per_element: false };
        let mut stepper = batched.noise_stepper(&source, Goal::Likeness, loss, Range::NORMALISED, &rows)?;
        stepper.restart(&Arc::new(Tensor::f32(shape.clone(), start)), &targets)?;
        for _ in 0..steps {
            stepper.step(lr)?;
        }
        Ok(stepper.noise()?.to_f32s())
    };
    let random = |purpose: &str| Seeded::new(args.seed, purpose).normal(256 * width);
    let like = learn(random("likeness"), 40, 0.1, 0.001)?;
    let like_long = learn(random("likeness"), 100, 0.05, 0.01)?;
    let turned = learn(near_rows.clone(), 10, 0.02, 0.0)?;
    let turned_far = learn(near_rows.clone(), 30, 0.05, 0.0)?;
    let probes = [
        Probe { name: "valid", rows: rows_of(&retain, &valid) },
        Probe { name: "near", rows: near_rows },
        Probe { name: "mixed", rows: mixed },
        Probe { name: "random", rows: random("random") },
        Probe { name: "like", rows: like },
        Probe { name: "like-long", rows: like_long },
        Probe { name: "turned", rows: turned },
        Probe { name: "turned-far", rows: turned_far },
    ];
    let everything = |d: &Dataset| (0..d.len()).collect::<Vec<_>>();
    let show = |trials: &mut Trials, lr: f64, stage: &str, w: &Weights| -> Fallible<()> {
        let of = |t: &mut Trials, d: &Dataset, rows: &[usize]| -> Fallible<f64> {
            Ok(t.evaluate(w, d, rows)?.accuracy(|_| true).unwrap_or(f64::NAN))
        };
        let forget = of(trials, &forgotten, &everything(&forgotten))?;
        let keep = of(trials, &kept, &everything(&kept))?;
        let val = of(trials, &retain, &valid)?;
        print!(
            "{{\"class\":{class},\"lr\":{lr},\"stage\":\"{stage}\",\"forget\":{forget:.4},\"retain\":{keep:.4},\"val\":{val:.4}"
        );
        for p in &probes {
            let n = p.rows.len() / width;
            let s = trials.scores_of_full_rows(w, &p.rows)?;
            let (mut top, mut prob, mut mar) = (0, 0.0f64, 0.0f64);
            for row in s.chunks_exact(classes) {
                let m = row.iter().copied().fold(f32::MIN, f32::max);
                let sum: f64 = row.iter().map(|&v| f64::from(v - m).exp()).sum();
                prob += f64::from(row[class] - m).exp() / sum;
                top += usize::from(margin(row) > 0.0);
                mar += f64::from(margin(row));
            }
            let n = n as f64;
            print!(",\"{}\":[{:.4},{:.5},{:.3}]", p.name, top as f64 / n, prob / n, mar / n);
        }
        println!("}}");
        Ok(())
    };
    show(&mut trials, 0.0, "original", &source)?;
    for &lr in &args.lr {
        let t = Instant::now();
        let phase = |lr| PhaseSettings { lr, epochs: 1 };
        match trials.run(&material, phase(lr), phase(lr / args.ratio), &mut Silent) {
            Ok(trial) => {
                eprintln!("class {class} lr {lr}: {:.1} s", t.elapsed().as_secs_f64());
                show(&mut trials, lr, "impair", &trial.weights[0])?;
                show(&mut trials, lr, "repair", &trial.weights[1])?;
            }
            Err(e) => eprintln!("class {class} lr {lr}: {e}"),
        }
    }
    Ok(())
}

fn rows_of(data: &Dataset, rows: &[usize]) -> Vec<f32> {
    let mut x = vec![0.0; rows.len() * data.sample_len()];
    data.batch(rows, &mut x);
    x
}
