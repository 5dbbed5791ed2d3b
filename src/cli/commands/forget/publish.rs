//! The verdict, and what is written under its final name.

use super::{Job, finish::Finished, seal::Sealing, train::Work};
use crate::{
    cli::{
        Status,
        args::GateArgs,
        commands::{
            output::{self, Output},
            table,
        },
        interrupt,
        printer::Printer,
    },
    report::{
        self, CheckRecord, GateOutcome, Identity, LIMITATIONS, NoiseRecord, Notebook, Report, Routing, RuntimeRecord,
        SCHEMA_VERSION, Verdict,
    },
    unlearn::Variant,
};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// What the statement says of a masked output.
const MASKED: &str = " On top of that the output of these classes is masked in the result, which hides and does not forget; \
                      all measurements but that of the published file and the check are of the weights before that.";

impl Job<'_> {
    /// Judges, publishes what may be published, and says so.
    pub(super) fn judge_and_publish(
        &self,
        output: Output,
        work: &Work,
        finished: &Finished,
        gates: &GateArgs,
        sealing: &Sealing,
        printer: Printer,
    ) -> Result<Status> {
        let measured = &finished.measured;
        let verdict = self.gates.judge(measured, &self.recipe.forget, &self.recipe.forgotten_before);
        let gates_allow = verdict.outcome != GateOutcome::Fail || gates.keep_failed;
        let check_allows = match &finished.check {
            CheckRecord::NotChecked { .. } => gates.allow_unchecked,
            CheckRecord::Compared { .. } => finished.check.passed(),
        };
        let publish = gates_allow && check_allows;
        let yes = check_allows
            && match verdict.outcome {
                GateOutcome::Pass => true,
                GateOutcome::Fail => false,
                GateOutcome::NotAssessed => !gates.require_pass,
            };
        let table = table::per_class(measured, &self.names, &self.recipe);
        let report = self.report(work, finished, verdict, sealing)?;
        if interrupt::asked() {
            bail!("interrupted; nothing was written");
        }
        let mut written = Vec::new();
        if publish {
            let text = serde_json_canonicalizer::to_vec(&report)?;
            output::write(&finished.folder.join(output::REPORT), &text)?;
            let page = report::page(&report, &work.noise);
            output::write(&finished.folder.join(output::PAGE), page.as_bytes())?;
            sealing.seal(&finished.folder, output.folder())?;
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
        if let Some(notebook) = &report.notebook {
            printer.result(notebook.text());
        }
        print_verdict(&report, &written, gates, printer);
        Ok(if yes { Status::Yes } else { Status::No })
    }

    fn report(&self, work: &Work, finished: &Finished, verdict: Verdict, sealing: &Sealing) -> Result<Report> {
        let forget: Vec<&str> = self.recipe.forget.iter().map(|&c| self.names.name(c)).collect();
        let file_name = |p: &Path| p.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        let changed = |name: &str| finished.trained.iter().any(|t| t.name == name);
        let frozen = self.network.stored.iter().filter(|s| s.frozen.is_some() && !changed(&s.name));
        Ok(Report {
            schema_version: SCHEMA_VERSION,
            tool: concat!("onnx-unlearn/", env!("CARGO_PKG_VERSION")).into(),
            request: sealing.request.clone(),
            claims: sealing.claims(),
            statement: format!(
                "UNSIR was run to suppress {} of {}; the measurements below are what is known about the result.{}",
                forget.join(", "),
                file_name(&self.args.model),
                if finished.masking.is_some() { MASKED } else { "" }
            ),
            parameters: self.parameters(&work.recipe),
            calibration: work.calibration.clone(),
            source: Identity::new(file_name(&self.args.model), &self.source),
            result: Identity::new(output::MODEL.into(), &finished.digests),
            classes: self.names.all().to_vec(),
            runtime: RuntimeRecord { forms: work.forms.clone(), ..self.runtime.record()? },
            head: self.network.head.clone(),
            trained: finished.trained.clone(),
            frozen: frozen.cloned().collect(),
            data: sealing.commit(&self.data),
            phases: work.phases.clone(),
            noise: NoiseRecord {
                site: self.network.site.clone(),
                range: work.range,
                measured: self.recipe.noise.range.is_none(),
            },
            noise_objective: work.objective.clone(),
            measured: finished.measured.clone(),
            routing: Routing::new(&self.recipe.forget, &finished.measured.before, &finished.measured.after_repair),
            // The notebook has no multi-hot labels to count.
            notebook: (self.recipe.variant == Variant::Reference && !finished.measured.before.multi_hot()).then(|| {
                Notebook::new(&work.phases, &finished.measured, &self.recipe.forget, &self.recipe.forgotten_before)
            }),
            masking: finished.masking.clone(),
            check: finished.check.clone(),
            verdict,
            warnings: self.warnings.iter().chain(&work.warning).map(ToString::to_string).collect(),
            limitations: LIMITATIONS.to_vec(),
        })
    }
}

fn print_verdict(report: &Report, written: &[PathBuf], gates: &GateArgs, printer: Printer) {
    for gate in &report.verdict.gates {
        printer.result(format!("gate {:<7} {:<13} {}", gate.name, gate.outcome.label(), gate.detail));
    }
    if let Some(masking) = &report.masking {
        printer.result(format!(
            "output       masked        hides, does not forget: {:?} is {} for the classes to forget; the gates judge the \
             weights before that",
            masking.tensor, masking.score
        ));
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
        let why = if report.verdict.outcome == GateOutcome::Fail && !gates.keep_failed {
            "a gate failed (--keep-failed writes the model all the same)"
        } else if matches!(report.check, CheckRecord::NotChecked { .. }) {
            "tract could not check the model (--allow-unchecked writes it all the same)"
        } else {
            "the two engines disagree about the finished model"
        };
        printer.result(format!("written      nothing: {why}"));
    }
}
