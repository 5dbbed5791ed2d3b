//! `forget`: the main job.

use super::{
    output::{self, Output},
    session::{self, Opened},
    table,
};
use crate::{
    check::{self, CheckError, Tolerance},
    cli::{Status, args::ForgetArgs, interrupt, plan, printer::Printer, progress::Progress},
    data::{self, ClassNames, Dataset, InputSpec, LoadPlan, LoadSummary, PixelKind, Preprocess},
    evaluate::{self, Evaluation, Scores},
    onnx::{self, Model},
    provenance::{
        digest::{Digests, digest},
        stamp::{self, StampInfo, Stamped},
    },
    report::{
        CheckRecord, DataRecord, GateOutcome, Gates, Identity, LIMITATIONS, Measured, Parameters, Report,
        SCHEMA_VERSION, TrainedTensor, Warning,
    },
    tensor::Tensor,
    train::{BatchNorm, BatchedNetwork, Network, Weights},
    unlearn::{self, Mix, NoiseRun, PhaseRecord, Recipe, UnlearnError, Variant},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Samples in a batch when measuring, unless the file fixes another number.
const EVAL_BATCH: usize = 256;

pub fn run(args: &ForgetArgs, printer: Printer) -> Result<Status> {
    plan::early(args)?;
    let inputs: Vec<&Path> = [Some(&args.model), Some(&args.retain), args.eval.as_ref()]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
        .collect();
    let output = Output::prepare(&args.out, args.force, &inputs)?;
    interrupt::catch();

    let job = Job::read(args, printer)?;
    output.claim(&job.model.external, folder_of(&args.model), args.force)?;
    let mut work = job.train(&output, printer)?;
    let finished = job.finish(&output, &mut work)?;
    let measured = job.measure(&work, &finished)?;
    job.judge_and_publish(output, &work, &finished, measured, printer)
}

/// Everything that was read, before any training.
struct Job<'a> {
    args: &'a ForgetArgs,
    runtime: Opened,
    model: Model,
    source: Digests,
    network: Network,
    names: ClassNames,
    recipe: Recipe,
    preprocess: Preprocess,
    gates: Gates,
    retain: Dataset,
    eval: Option<Dataset>,
    data: DataRecord,
    warnings: Vec<Warning>,
}

/// What training came to.
struct Work {
    weights: Weights,
    phases: Vec<PhaseRecord>,
    objective: Vec<Vec<f32>>,
    before: Evaluation,
    after_impair: Evaluation,
    warning: Option<Warning>,
}

/// The finished files, in the staging folder.
struct Finished {
    folder: PathBuf,
    stamped: Stamped,
    check: CheckRecord,
}

impl<'a> Job<'a> {
    fn read(args: &'a ForgetArgs, printer: Printer) -> Result<Self> {
        let preprocess = plan::preprocess(&args.preprocess)?;
        let gates = plan::gates(&args.gates)?;
        let model = onnx::read(&args.model)?;
        let folder = folder_of(&args.model);
        // A model that cannot be stamped is refused before the work, not after it.
        let source =
            digest(&model.bytes, folder).with_context(|| format!("{}: cannot be stamped", args.model.display()))?;
        let network = Network::new(&model, args.output.as_deref())?;
        // So is one whose weights cannot be written back.
        let weights = network.weights()?;
        let patch = onnx::patch::Patch { tensors: values(&weights), metadata: Vec::new() };
        onnx::patch::patch_bytes(&model.bytes, &patch).with_context(|| args.model.display().to_string())?;
        let runtime = session::open(&args.engine)?;
        printer.note(runtime.describe());
        let mut warnings: Vec<Warning> = runtime.warning.iter().cloned().collect();
        if let Ok(Some(earlier)) = stamp::read(&model.bytes) {
            warnings.push(Warning::AlreadyStamped(earlier.forget));
        }

        let input = input_spec(&model, &network.input);
        let classes = count_classes(&runtime, &model, &network, &input, &preprocess)?;
        let given = args.labels.as_deref().map(ClassNames::from_file).transpose()?;
        if let Some(names) = &given {
            names.check(classes).with_context(|| {
                format!("--labels {}", args.labels.as_ref().map_or(String::new(), |p| p.display().to_string()))
            })?;
        }
        let names = match given {
            Some(names) => names,
            None => data::folder_class_names(&args.retain, classes)?.unwrap_or_else(|| ClassNames::indices(classes)),
        };
        let forget = names.parse(&args.forget).context("--forget")?;
        ensure!(forget.len() < classes, "--forget {}: names all {classes} classes; nothing would be left", args.forget);

        let load = |flag: &'static str, path: &Path, drop: &[usize], per_class| {
            let plan = LoadPlan {
                path,
                classes,
                names: (!names.are_indices()).then_some(&names),
                drop,
                per_class,
                input: input.clone(),
                preprocess: &preprocess,
            };
            data::load(&plan).with_context(|| format!("{flag} {}", path.display()))
        };
        let (retain, retain_summary) = load("--retain", &args.retain, &forget, Some(args.per_class))?;
        data::require_all_classes(&retain, &forget).with_context(|| format!("--retain {}", args.retain.display()))?;
        let eval = args.eval.as_deref().map(|path| load("--eval", path, &[], None)).transpose()?;
        let (eval, eval_summary) = eval.map_or((None, None), |(data, summary)| (Some(data), Some(summary)));
        if let Some(eval) = &eval {
            ensure!(
                eval.sample_shape() == retain.sample_shape(),
                "--eval holds samples of shape {:?}, --retain of shape {:?}",
                eval.sample_shape(),
                retain.sample_shape()
            );
        }
        let recipe = plan::recipe(&args.method, forget, channels(&retain))?;
        let data = DataRecord { retain: retain_summary, eval: eval_summary };
        let mut job = Self {
            args,
            runtime,
            model,
            source,
            network,
            names,
            recipe,
            preprocess,
            gates,
            retain,
            eval,
            data,
            warnings,
        };
        job.collect_warnings();
        job.announce(printer);
        Ok(job)
    }

    fn collect_warnings(&mut self) {
        let mut flags = Vec::new();
        let p = &self.args.preprocess;
        for (flag, given) in [
            ("--resize", p.resize.is_some()),
            ("--mean", !p.mean.is_empty()),
            ("--std", !p.std.is_empty()),
            ("--scale", p.scale.is_some()),
        ] {
            if given {
                flags.push(flag);
            }
        }
        let floats = |s: &LoadSummary| s.pixels == PixelKind::Float32 && !flags.is_empty();
        if floats(&self.data.retain) {
            self.warnings.push(Warning::PreprocessingNotApplied { data: "--retain", flags: flags.clone() });
        }
        if self.data.eval.as_ref().is_some_and(floats) {
            self.warnings.push(Warning::PreprocessingNotApplied { data: "--eval", flags: flags.clone() });
        }
        if self.recipe.variant == Variant::Reference && !self.recipe.forget.contains(&0) {
            self.warnings.push(Warning::ReferenceLabel);
        }
        if self.recipe.batch_norm == BatchNorm::Batch && !self.network.has_batch_norm() {
            self.warnings.push(Warning::NoBatchNorm);
        }
        let kept = |c: &usize| !self.recipe.forget.contains(c);
        let counts = self.retain.per_class();
        let few: Vec<usize> =
            (0..counts.len()).filter(kept).map(|c| counts[c]).filter(|&n| n < self.args.per_class).collect();
        if let Some(&fewest) = few.iter().min() {
            let per_class = self.args.per_class;
            self.warnings.push(Warning::FewSamples { classes: few.len(), fewest, per_class });
        }
        match &self.eval {
            None => self.warnings.push(Warning::NoEval),
            Some(eval) => {
                let counts = eval.per_class();
                let missing = |keep: bool| -> Vec<String> {
                    let classes = (0..counts.len()).filter(|c| counts[*c] == 0 && kept(c) == keep);
                    classes.map(|c| self.names.name(c).to_owned()).collect()
                };
                let (forget, retained) = (missing(false), missing(true));
                if !forget.is_empty() {
                    self.warnings.push(Warning::EvalWithoutForget(forget));
                }
                if !retained.is_empty() {
                    self.warnings.push(Warning::EvalWithoutRetained(retained));
                }
            }
        }
    }

    fn announce(&self, printer: Printer) {
        for warning in &self.warnings {
            printer.warning(warning);
        }
        let forget: Vec<&str> = self.recipe.forget.iter().map(|&c| self.names.name(c)).collect();
        printer.note(format!(
            "forgetting {} of {} classes of {}; the loss is computed on {}{}",
            forget.join(", "),
            self.names.len(),
            self.args.model.display(),
            self.network.head.logits,
            self.network.head.behind.as_ref().map_or(String::new(), |op| format!(", before the final {op}"))
        ));
        let dropped: usize = self.data.retain.dropped.iter().map(|(_, n)| n).sum();
        printer.note(format!(
            "{} retain samples; {dropped} samples of the classes to forget stand there and were dropped by their label",
            self.retain.len()
        ));
    }

    /// Noise, impair, repair; measures the source and the impaired model on the way.
    fn train(&self, output: &Output, printer: Printer) -> Result<Work> {
        let mut progress = Progress::new(printer);
        let engine = &self.runtime.engine;
        let source = self.network.weights()?;
        let before = self.evaluate_file(&self.args.model)?;
        let unknown = before.accuracy(|c| self.recipe.forget.contains(&c)).filter(|&a| a < 0.5);
        let warning = unknown.map(|accuracy| Warning::NotKnownBefore { accuracy });
        if let Some(warning) = &warning {
            printer.warning(warning);
        }

        let noise = {
            let statistics = self.recipe.noise_batch_norm();
            let network = self.network.at_batch(engine, &self.sample(self.recipe.noise.images), statistics)?;
            unlearn::learn(&network, &source, &self.recipe, &mut progress)?
        };
        let network = self.network.at_batch(engine, &self.sample(self.recipe.batch_size), self.recipe.batch_norm)?;
        let mut start = source.clone();
        start.extend(noise.statistics.clone());
        let mut stepper = network.weight_stepper(&start, self.recipe.optimizer, self.recipe.clip_norm)?;
        let mut phases = noise.records.clone();
        let mut pass = |mix: &Mix<'_>, settings, phase| -> Result<Weights, UnlearnError> {
            let (batch, seed) = (self.recipe.batch_size, self.recipe.seed);
            phases.push(unlearn::train(&mut stepper, mix, settings, batch, seed, phase, &mut progress)?);
            Ok(stepper.weights()?)
        };
        let impaired = pass(&self.impair_mix(&noise, &network), self.recipe.impair, "impair")?;
        let after_impair = self.evaluate_weights(&output.scratch("impaired")?, &impaired)?;
        let weights = pass(&unlearn::retain_only(&self.retain), self.recipe.repair, "repair")?;
        progress.finish();
        for phase in &phases {
            printer.note(format!(
                "{:>7}: {} steps in {:.1} s ({:.0} ms a step), loss {:.4} to {:.4}",
                phase.phase,
                phase.steps,
                phase.seconds,
                1000.0 * phase.seconds / phase.steps as f64,
                phase.first_loss,
                phase.last_loss
            ));
        }
        Ok(Work { weights, phases, objective: noise.objective, before, after_impair, warning })
    }

    fn impair_mix<'m>(&'m self, noise: &NoiseRun, network: &BatchedNetwork<'_>) -> Mix<'m> {
        let channels = network.input_shape().get(1).copied().unwrap_or(1);
        let used = self.recipe.noise_images_used(channels);
        let entries = noise.noise.iter().map(|(class, z)| (self.recipe.noise_label(*class), z, used)).collect();
        Mix::new(&self.retain, entries, self.recipe.noise.samples)
    }

    /// One batch of retain samples, repeated where there are fewer.
    fn sample(&self, batch: usize) -> Tensor {
        let rows: Vec<usize> = (0..batch).map(|i| i % self.retain.len()).collect();
        let mut x = vec![0.0; batch * self.retain.sample_len()];
        self.retain.batch(&rows, &mut x);
        let mut shape = vec![batch];
        shape.extend(self.retain.sample_shape());
        Tensor::f32(shape, x)
    }

    /// The data that accuracies are measured on.
    fn measured_on(&self) -> (&'static str, &Dataset) {
        self.eval.as_ref().map_or(("retain", &self.retain), |eval| ("eval", eval))
    }

    /// The file's own batch size where it declares one.
    fn eval_batch(&self) -> usize {
        fixed_batch(&self.model, &self.network.input).unwrap_or(EVAL_BATCH)
    }

    fn evaluate_file(&self, path: &Path) -> Result<Evaluation> {
        let mut session = self.runtime.engine.session_from_file(path)?;
        let head = &self.network.head;
        let scores = Scores::of(head.behind.as_deref());
        let data = self.measured_on().1;
        let go_on = || !interrupt::asked();
        Ok(evaluate::evaluate(&mut session, &self.network.input, &head.output, scores, data, self.eval_batch(), go_on)?)
    }

    /// Measures weights as they would be in a file: written into a copy of the source.
    fn evaluate_weights(&self, folder: &Path, weights: &Weights) -> Result<Evaluation> {
        let patch = onnx::patch::Patch { tensors: values(weights), metadata: Vec::new() };
        let patched = onnx::patch::patch_bytes(&self.model.bytes, &patch)?;
        let from = folder_of(&self.args.model);
        for external in &patched.external {
            onnx::patch::write_external(from, folder, external)?;
        }
        let path = folder.join(output::MODEL);
        output::write(&path, &patched.model)?;
        let result = self.evaluate_file(&path);
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        result
    }

    /// Writes the finished bytes into the staging folder, stamped, and runs them in the second engine.
    fn finish(&self, output: &Output, work: &mut Work) -> Result<Finished> {
        let folder = output.scratch("finished")?;
        let forget = self.recipe.forget.iter().map(std::string::ToString::to_string).collect();
        let params = stamp::params_digest(&self.parameters())?;
        let info = StampInfo { forget, method: "unsir".into(), params };
        let stamped = stamp::finish(&self.args.model, &folder, &values(&work.weights), info)?;
        ensure!(
            stamped.source.file == self.source.file,
            "{} was changed by another program while this one worked on it",
            self.args.model.display()
        );
        let path = folder.join(output::MODEL);
        output::write(&path, &stamped.model)?;
        let check = self.check(&path)?;
        Ok(Finished { folder, stamped, check })
    }

    fn check(&self, path: &Path) -> Result<CheckRecord> {
        let head = &self.network.head;
        let data = self.measured_on().1;
        let n = fixed_batch(&self.model, &self.network.input).unwrap_or(self.args.gates.check_samples.min(data.len()));
        // Spread over the data, which is often sorted by class.
        let rows: Vec<usize> = (0..n).map(|i| (i * data.len() / n).min(data.len() - 1)).collect();
        let mut x = vec![0.0; n * data.sample_len()];
        data.batch(&rows, &mut x);
        let mut shape = vec![n];
        shape.extend(data.sample_shape());
        let x = Tensor::f32(shape, x);
        let mut session = self.runtime.engine.session_from_file(path)?;
        let at = session.outputs().iter().position(|o| *o == head.output);
        let at = at.with_context(|| format!("the finished model lacks output {:?}", head.output))?;
        let ours = session.run(&[(&self.network.input, &x)])?.swap_remove(at);
        let tolerance = Tolerance { absolute: self.args.gates.check_atol, relative: self.args.gates.check_rtol };
        let compared = check::run(path, &self.network.input, &head.output, &x)
            .and_then(|theirs| check::compare(&theirs, &ours, tolerance));
        Ok(match compared {
            Ok(comparison) => CheckRecord::Compared { engine: "tract-onnx 0.23.9", comparison },
            Err(e @ (CheckError::Load(_) | CheckError::Run(_) | CheckError::Shape { .. })) => {
                CheckRecord::NotChecked { reason: e.to_string() }
            }
        })
    }

    /// Measures the finished bytes.
    fn measure(&self, work: &Work, finished: &Finished) -> Result<Measured> {
        Ok(Measured {
            on: self.measured_on().0,
            before: work.before.clone(),
            after_impair: work.after_impair.clone(),
            after_repair: self.evaluate_file(&finished.folder.join(output::MODEL))?,
        })
    }

    fn parameters(&self) -> Parameters {
        Parameters {
            method: "unsir",
            recipe: self.recipe.clone(),
            preprocess: plan::preprocess_record(&self.preprocess),
            per_class: self.args.per_class,
            output: self.network.head.output.clone(),
        }
    }

    fn judge_and_publish(
        &self,
        output: Output,
        work: &Work,
        finished: &Finished,
        measured: Measured,
        printer: Printer,
    ) -> Result<Status> {
        let verdict = self.gates.judge(&measured, &self.recipe.forget);
        let gates_allow = verdict.outcome != GateOutcome::Fail || self.args.gates.keep_failed;
        let check_allows = match &finished.check {
            CheckRecord::NotChecked { .. } => self.args.gates.allow_unchecked,
            CheckRecord::Compared { .. } => finished.check.passed(),
        };
        let publish = gates_allow && check_allows;
        let yes = check_allows
            && match verdict.outcome {
                GateOutcome::Pass => true,
                GateOutcome::Fail => false,
                GateOutcome::NotAssessed => !self.args.gates.require_pass,
            };
        let table = table::per_class(&measured, &self.names, &self.recipe.forget);
        let report = self.report(work, finished, measured, verdict)?;
        if interrupt::asked() {
            bail!("interrupted; nothing was written");
        }
        let mut written = Vec::new();
        if publish {
            let text = serde_json_canonicalizer::to_vec(&report)?;
            output::write(&finished.folder.join(output::REPORT), &text)?;
            written = output.publish(&finished.folder)?;
        } else {
            drop(output);
        }
        printer.json(&serde_json::json!({
            "answer": if yes { "yes" } else { "no" },
            "verdict": report.verdict.outcome,
            "written": written,
            "seconds": work.phases.iter().map(|p| serde_json::json!({"phase": p.phase, "seconds": p.seconds})).collect::<Vec<_>>(),
            "report": report,
        }))?;
        printer.result(&table);
        print_verdict(&report, &written, self.args, printer);
        Ok(if yes { Status::Yes } else { Status::No })
    }

    fn report(
        &self,
        work: &Work,
        finished: &Finished,
        measured: Measured,
        verdict: crate::report::Verdict,
    ) -> Result<Report> {
        let source = self.network.weights()?;
        let trained = finished.stamped.changed.iter().map(|name| self.trained_tensor(name, &source, &work.weights));
        let forget: Vec<&str> = self.recipe.forget.iter().map(|&c| self.names.name(c)).collect();
        let file_name = |p: &Path| p.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        let changed = &finished.stamped.changed;
        let frozen = self.network.stored.iter().filter(|s| s.frozen.is_some() && !changed.contains(&s.name));
        Ok(Report {
            schema_version: SCHEMA_VERSION,
            tool: concat!("onnx-unlearn/", env!("CARGO_PKG_VERSION")).into(),
            statement: format!(
                "UNSIR was run to suppress {} of {}; the measurements below are what is known about the result.",
                forget.join(", "),
                file_name(&self.args.model)
            ),
            parameters: self.parameters(),
            source: Identity::new(file_name(&self.args.model), &self.source),
            result: Identity::new(output::MODEL.into(), &finished.stamped.digests),
            classes: self.names.all().to_vec(),
            runtime: self.runtime.record()?,
            head: self.network.head.clone(),
            trained: trained.collect(),
            frozen: frozen.cloned().collect(),
            data: DataRecord { retain: self.data.retain.clone(), eval: self.data.eval.clone() },
            phases: work.phases.clone(),
            noise_objective: work.objective.clone(),
            measured,
            check: finished.check.clone(),
            verdict,
            warnings: self.warnings.iter().chain(&work.warning).map(ToString::to_string).collect(),
            limitations: LIMITATIONS.to_vec(),
        })
    }

    fn trained_tensor(&self, name: &str, source: &Weights, weights: &Weights) -> TrainedTensor {
        let stored = self.model.graph.constants.get(name);
        let before = source.get(name).or(stored).and_then(|t| t.as_f32()).unwrap_or_default();
        let after = weights.get(name).and_then(|t| t.as_f32()).unwrap_or_default();
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let change = norm(&mut before.iter().zip(after).map(|(&a, &b)| f64::from(a) - f64::from(b)));
        let size = norm(&mut before.iter().map(|&a| f64::from(a)));
        TrainedTensor {
            name: name.to_owned(),
            shape: stored.map(|t| t.shape().to_vec()).unwrap_or_default(),
            change,
            relative_change: if size > 0.0 { change / size } else { 0.0 },
        }
    }
}

fn print_verdict(report: &Report, written: &[PathBuf], args: &ForgetArgs, printer: Printer) {
    for gate in &report.verdict.gates {
        printer.result(format!("gate {:<7} {:<13} {}", gate.name, gate.outcome.label(), gate.detail));
    }
    printer.result(match &report.check {
        CheckRecord::Compared { engine, comparison: c } => format!(
            "check        {:<13} {engine} and ONNX Runtime on {} samples: largest difference {:.1e} absolute, {:.1e} \
             relative (tolerance {:e} + {:e} relative), {} of {} predictions equal",
            if c.agrees() { "pass" } else { "fail" },
            c.samples,
            c.max_absolute,
            c.max_relative,
            c.tolerance.absolute,
            c.tolerance.relative,
            c.same_class,
            c.samples
        ),
        CheckRecord::NotChecked { reason } => format!("check        not checked   {reason}"),
    });
    printer.result(format!("verdict      {}", report.verdict.outcome.label()));
    for path in written {
        printer.result(format!("written      {}", path.display()));
    }
    if written.is_empty() {
        let why = if report.verdict.outcome == GateOutcome::Fail && !args.gates.keep_failed {
            "a gate failed (--keep-failed writes the model all the same)"
        } else if matches!(report.check, CheckRecord::NotChecked { .. }) {
            "tract could not check the model (--allow-unchecked writes it all the same)"
        } else {
            "the two engines disagree about the finished model"
        };
        printer.result(format!("written      nothing: {why}"));
    }
}

fn values(weights: &Weights) -> BTreeMap<&str, &[f32]> {
    weights.iter().filter_map(|(name, t)| t.as_f32().map(|v| (name.as_str(), v))).collect()
}

fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

fn input_spec(model: &Model, input: &str) -> InputSpec {
    let port = model.graph.inputs.iter().find(|p| p.name == input);
    InputSpec::with_batch(input, port.and_then(|p| p.dims.as_deref()).unwrap_or_default())
}

/// The batch size that a file declares for its input, `None` where it leaves it open.
fn fixed_batch(model: &Model, input: &str) -> Option<usize> {
    let port = model.graph.inputs.iter().find(|p| p.name == input)?;
    port.dims.as_ref()?.first().copied().flatten()
}

/// Number of channels of samples with channels first.
fn channels(data: &Dataset) -> Option<usize> {
    match data.sample_shape() {
        [c @ (1 | 3 | 4), _, _] => Some(*c),
        _ => None,
    }
}

/// Number of classes, from one run on zeros: two samples, so that a graph with a batch of one inside is found out here.
fn count_classes(
    runtime: &Opened,
    model: &Model,
    network: &Network,
    input: &InputSpec,
    preprocess: &Preprocess,
) -> Result<usize> {
    let open: Vec<usize> = (0..input.dims.len()).filter(|&i| input.dims[i].is_none()).collect();
    let mut shape: Vec<usize> = vec![fixed_batch(model, &network.input).unwrap_or(2)];
    let sides = match (open.as_slice(), preprocess.resize) {
        ([], _) => Vec::new(),
        ([_, _], Some((h, w))) => vec![h, w],
        _ => bail!(
            "input {:?} leaves the length of {} axes open; fix the image size with --resize HxW",
            input.name,
            open.len()
        ),
    };
    let mut sides = sides.into_iter();
    shape.extend(input.dims.iter().map(|d| d.or_else(|| sides.next()).unwrap_or(1)));
    let trial = network.at_batch(&runtime.engine, &Tensor::zeros(shape), BatchNorm::Frozen)?;
    Ok(trial.classes)
}
