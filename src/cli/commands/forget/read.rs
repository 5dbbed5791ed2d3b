//! Reads everything before any training: what is wrong is said before the work, not after it.

use super::{Job, folder_of, original::Original, values};
use crate::{
    cli::{
        args::{DropOutputArg, JobArgs},
        commands::{
            samples,
            session::{self, Opened},
            source,
        },
        plan,
        printer::Printer,
    },
    data::{self, ClassNames, Dataset, InputSpec, LoadPlan, LoadSummary, PixelKind, Preprocess},
    onnx::{self, Model},
    provenance::{
        digest::{Digests, digest_shared},
        stamp,
    },
    report::{DataRecord, Gates, Warning},
    train::{self, BatchNorm, Layout, Network},
    unlearn::{self, HELD, JUDGING, Variant},
};
use anyhow::{Context, Result, ensure};
use std::path::Path;

impl<'a> Job<'a> {
    pub(super) fn read(
        args: &'a JobArgs,
        gates: Gates,
        drop_output: Option<DropOutputArg>,
        printer: Printer,
    ) -> Result<Self> {
        let mut preprocess = plan::preprocess(&args.preprocess)?;
        let choice = plan::choice(&args.choice)?;
        let mut model = onnx::read(&args.model)?;
        let folder = folder_of(&args.model);
        // A model that cannot be stamped is refused before the work, not after it.
        let source = digest_shared(&model.bytes, folder)
            .with_context(|| format!("{}: cannot be stamped", args.model.display()))?;
        let network = Network::with(&model, &choice)?;
        // So is one whose weights cannot be written back.
        let weights = network.weights()?;
        let tensors = network.write_back(&weights)?;
        onnx::patch::check(&model.bytes, values(&tensors)).with_context(|| args.model.display().to_string())?;
        let runtime = session::open(&args.engine)?;
        printer.note(runtime.describe());
        let mut warnings: Vec<Warning> = runtime.warning.iter().cloned().collect();

        let input = source::spec(&network.inputs.main);
        let further: Vec<InputSpec> = network.inputs.further.iter().map(source::spec).collect();
        if input.integers {
            preprocess = source::raw(preprocess, &input.name)?;
        }
        let (layout, sample_values) = try_shapes(&runtime, &network, &preprocess)?;
        let classes = layout.classes;
        let mask = match drop_output {
            Some(DropOutputArg::Mask) => {
                let found = train::output_bias(&model, &network.head, layout);
                Some(found.with_context(|| args.model.display().to_string())?)
            }
            None => None,
        };
        let names = source::names(args.labels.as_deref(), &args.retain, classes)?;
        let forget = names.parse(&args.forget).context("--forget")?;
        let before = forgotten_before(&model, &source, &network.head.output, &names, &forget, &mut warnings);
        let out = [&forget[..], &before[..]].concat();
        ensure!(
            out.len() < classes,
            "--forget {}: names all {classes} classes{}; nothing would be left",
            args.forget,
            if before.is_empty() { "" } else { " but those forgotten before" }
        );

        let original = Original::new(&args.model, std::mem::take(&mut model.bytes), source.file)?;

        let load = |flag: &'static str, path: &Path, drop: &[usize], per_class| {
            let plan = LoadPlan {
                path,
                classes,
                names: (!names.are_indices()).then_some(&names),
                drop,
                per_class,
                input: input.clone(),
                further: &further,
                predictions: layout.predictions,
                independent: layout.independent,
                preprocess: &preprocess,
            };
            data::load(&plan).with_context(|| format!("{flag} {}", path.display()))
        };
        let (retain, retain_summary) = load(args.retain_flag, &args.retain, &out, Some(args.per_class))?;
        data::require_all_classes(&retain, &out)
            .with_context(|| format!("{} {}", args.retain_flag, args.retain.display()))?;
        let eval = args.eval.as_deref().map(|path| load("--eval", path, &[], None)).transpose()?;
        let (eval, eval_summary) = eval.map_or((None, None), |(data, summary)| (Some(data), Some(summary)));
        if let Some(eval) = &eval {
            ensure!(
                eval.sample_shape() == retain.sample_shape() && eval.further() == retain.further(),
                "--eval holds samples of shape {:?}, --retain of shape {:?}",
                eval.sample_shape(),
                retain.sample_shape()
            );
        }
        let mut recipe = plan::recipe(&args.method, forget, channels(&retain))?;
        recipe.forgotten_before = before;
        let judge = plan::calibrates(&args.method);
        let eval_rows = eval.as_ref().map_or_else(Default::default, |eval| split(eval, &recipe.forget, judge));
        let data = DataRecord { retain: retain_summary, eval: eval_summary };
        let mut job = Self {
            args,
            runtime,
            model,
            original,
            source,
            network,
            names,
            recipe,
            input,
            layout,
            sample_values,
            preprocess,
            gates,
            retain,
            eval,
            eval_rows,
            data,
            mask,
            warnings,
        };
        job.collect_warnings();
        job.announce(printer);
        Ok(job)
    }

    /// Samples of the classes to forget alone, for methods that learn from them.
    pub(super) fn load_forgotten(&self, path: &Path) -> Result<Dataset> {
        let further: Vec<InputSpec> = self.network.inputs.further.iter().map(source::spec).collect();
        let kept: Vec<usize> = (0..self.layout.classes).filter(|c| !self.recipe.forget.contains(c)).collect();
        let plan = LoadPlan {
            path,
            classes: self.layout.classes,
            names: (!self.names.are_indices()).then_some(&self.names),
            drop: &kept,
            per_class: Some(self.args.per_class),
            input: self.input.clone(),
            further: &further,
            predictions: self.layout.predictions,
            independent: self.layout.independent,
            preprocess: &self.preprocess,
        };
        let (data, _) = data::load(&plan).with_context(|| format!("--forget-data {}", path.display()))?;
        ensure!(
            data.sample_shape() == self.retain.sample_shape() && data.further() == self.retain.further(),
            "--forget-data holds samples of shape {:?}, --retain of shape {:?}",
            data.sample_shape(),
            self.retain.sample_shape()
        );
        Ok(data)
    }

    fn collect_warnings(&mut self) {
        let flags = source::flags(&self.args.preprocess);
        let floats = |s: &LoadSummary| s.pixels == PixelKind::Float32 && !flags.is_empty();
        if floats(&self.data.retain) {
            self.warnings.push(Warning::PreprocessingNotApplied { data: self.args.retain_flag, flags: flags.clone() });
        }
        if self.data.eval.as_ref().is_some_and(floats) {
            self.warnings.push(Warning::PreprocessingNotApplied { data: "--eval", flags: flags.clone() });
        }
        if self.recipe.variant == Variant::Reference && !self.recipe.forget.contains(&0) {
            self.warnings.push(Warning::ReferenceLabel);
        }
        let nodes = self.network.dead_ends.clone();
        if !nodes.is_empty() {
            self.warnings.push(Warning::DeadEnds { nodes, frozen: self.network.rounded_away() });
        }
        if self.recipe.batch_norm == BatchNorm::Batch && !self.network.has_batch_norm() {
            self.warnings.push(Warning::NoBatchNorm);
        }
        if self.network.has_live_batch_norm() {
            self.warnings.push(Warning::LiveBatchNorm);
        }
        let kept = |c: &usize| self.recipe.keeps(*c);
        let counts = self.retain.per_class();
        let few: Vec<usize> =
            (0..counts.len()).filter(kept).map(|c| counts[c]).filter(|&n| n < self.args.per_class).collect();
        // Without a limit there is no number to fall short of.
        let per_class = self.args.per_class;
        if let Some(&fewest) = few.iter().min().filter(|_| per_class != usize::MAX) {
            self.warnings.push(Warning::FewSamples { classes: few.len(), fewest, per_class });
        }
        let retained = || unlearn::split(&self.retain, HELD).1;
        if plan::calibrates(&self.args.method) && self.eval_rows.1.is_empty() && retained().is_empty() {
            self.warnings.push(Warning::NothingJudges);
        }
        match &self.eval {
            None => self.warnings.push(Warning::NoEval),
            Some(eval) => {
                let counts = eval.per_class();
                let missing = |of: &dyn Fn(&usize) -> bool| -> Vec<String> {
                    let classes = (0..counts.len()).filter(|c| counts[*c] == 0 && of(c));
                    classes.map(|c| self.names.name(c).to_owned()).collect()
                };
                let (forget, retained) = (missing(&|c| self.recipe.forget.contains(c)), missing(&kept));
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
            "{} retain samples; {dropped} samples of the classes to forget{} stand there and were dropped by their label",
            self.retain.len(),
            if self.recipe.forgotten_before.is_empty() { "" } else { " or forgotten before" }
        ));
    }
}

/// Parts held-out data into what is measured and what judges trials: nothing where there are none, or where a class to forget
/// would not be among it.
fn split(eval: &Dataset, forget: &[usize], judge: bool) -> (Vec<usize>, Vec<usize>) {
    let (measured, judging) = unlearn::split(eval, JUDGING);
    let known = |&class: &usize| judging.iter().any(|&i| eval.labels_of(i).flatten().any(|&l| l as usize == class));
    if judge && forget.iter().all(known) { (measured, judging) } else { ((0..eval.len()).collect(), Vec::new()) }
}

/// Classes that the stamp of the model says earlier runs took out of this output, without those to forget now.
fn forgotten_before(
    model: &Model,
    digests: &Digests,
    output: &str,
    names: &ClassNames,
    forget: &[usize],
    warnings: &mut Vec<Warning>,
) -> Vec<usize> {
    let stamp = match stamp::read(&model.bytes) {
        Ok(None) => return Vec::new(),
        Ok(Some(stamp)) => stamp,
        Err(_) => {
            warnings.push(Warning::StaleStamp(Vec::new()));
            return Vec::new();
        }
    };
    let of_this = stamp.output.as_deref().is_none_or(|of| of == output);
    let classes = stamp.forgotten().into_iter().filter_map(|class| class.parse().ok());
    let classes: Vec<usize> = classes.filter(|&class| of_this && class < names.len()).collect();
    let named = classes.iter().map(|&c| names.name(c).to_owned()).collect();
    if !stamp.is_of(digests) {
        warnings.push(Warning::StaleStamp(named));
        return Vec::new();
    }
    if !classes.is_empty() {
        warnings.push(Warning::UnlearnedBefore(named));
    }
    classes.into_iter().filter(|class| !forget.contains(class)).collect()
}

/// Number of channels of samples with channels first.
fn channels(data: &Dataset) -> Option<usize> {
    match data.sample_shape() {
        [c @ (1 | 3 | 4), _, _] => Some(*c),
        _ => None,
    }
}

/// How the scores are laid out, and how many elements all values of a sample have, from one run on zeros: two samples, so
/// that a graph with a batch of one inside is found out here.
fn try_shapes(runtime: &Opened, network: &Network, preprocess: &Preprocess) -> Result<(Layout, usize)> {
    let batch = network.inputs.frozen_batch().unwrap_or(2);
    let samples = samples::zeros(&network.inputs, batch, preprocess.resize)?;
    let network = network.at_batch_of(&runtime.engine, samples, BatchNorm::Frozen)?;
    Ok((network.layout, network.values() / network.batch))
}
