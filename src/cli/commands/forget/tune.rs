//! `--autotune`: forms of convolutions compete before training, and what is found is kept for the next run.

use super::Job;
use crate::{
    cli::{
        args::AutotuneArg,
        commands::{output, session},
        interrupt,
        printer::Printer,
        progress::Progress,
    },
    graph::Forms,
    ops::conv::{Form, Task},
    runtime::{self, Device},
    train::{self, BatchNorm},
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Rounds in which the forms of a task take turns, and the time after which no further task begins.
fn effort(arg: AutotuneArg) -> Option<(usize, Duration)> {
    match arg {
        AutotuneArg::Off => None,
        AutotuneArg::Fast => Some((3, Duration::from_secs(10))),
        AutotuneArg::Full => Some((15, Duration::MAX)),
    }
}

impl Job<'_> {
    /// Writes the step graphs that follow in the forms that are fastest here: as a report says, or as earlier runs have found,
    /// or as a competition shows. Ties are the usual form's.
    pub(super) fn tune(&mut self, printer: Printer) -> Result<()> {
        if let Some(told) = &self.args.forms {
            self.runtime.engine = self.runtime.engine.clone().with_forms(told.clone());
            return Ok(());
        }
        let Some((rounds, limit)) = effort(self.args.autotune) else { return Ok(()) };
        let tasks = self.tasks()?;
        let mut store = Store::open(self.machine())?;
        let new: Vec<&Task> = tasks.iter().filter(|task| store.form(task).is_none()).collect();
        let mut progress = Progress::new(printer);
        let start = Instant::now();
        if !new.is_empty() {
            progress.start("tune", new.len());
        }
        let mut timed = 0;
        for task in new.iter().take_while(|_| start.elapsed() < limit && !interrupt::asked()) {
            let form = train::fastest(&self.runtime.engine, task, rounds)?;
            store.put(task, form);
            timed += 1;
            progress.advance(timed, "");
        }
        progress.finish();
        if timed > 0
            && let Err(e) = store.save()
        {
            printer.note(format!("autotune: {e:#}; the next run has to find its forms again"));
        }
        let native = self.runtime.engine.device().has_native();
        let other = |task: &Task| store.form(task).filter(|form| *form != task.usual(native));
        let forms: Forms = tasks.iter().filter_map(|t| Some((t.to_string(), other(t)?.name().to_owned()))).collect();
        printer.note(format!(
            "autotune: {} maps of convolutions, {} known, {timed} timed in {:.1} s{}; {} are faster in another form",
            tasks.len(),
            tasks.len() - new.len(),
            start.elapsed().as_secs_f64(),
            if timed < new.len() { format!(", {} left for want of time", new.len() - timed) } else { String::new() },
            forms.len()
        ));
        self.runtime.engine = self.runtime.engine.clone().with_forms(forms);
        Ok(())
    }

    /// What convolutions compute while noise is learned and while weights are trained, each once, as a small batch shows.
    fn tasks(&self) -> Result<Vec<Task>> {
        let recipe = &self.recipe;
        let small = 2 * self.network.inputs.frozen_batch().unwrap_or(1);
        let rows = self.rows(small);
        let network = self.network.at_batch_of(&self.runtime.engine, self.samples(&rows), BatchNorm::Frozen)?;
        let found = network.tasks(&self.network.weights()?);
        let noise = self.at_once(recipe.noise.images, recipe.noise_batch_norm())?;
        let trained = self.at_once(recipe.batch_size, recipe.batch_norm)?;
        let mut tasks: Vec<Task> = Vec::new();
        for batch in [noise, trained] {
            for mut task in found.iter().cloned() {
                // A graph that nothing frees from the batch of its file stays at that.
                if network.batch == small {
                    task.geometry.n = task.geometry.n / small * batch;
                }
                if !tasks.contains(&task) {
                    tasks.push(task);
                }
            }
        }
        Ok(tasks)
    }

    /// Everything that what is fastest depends on, besides the task.
    fn machine(&self) -> String {
        let engine = &self.runtime.engine;
        let name = match engine.device() {
            Device::Cpu => session::processor_name(),
            Device::Cuda(id) => {
                runtime::gpu::driver().ok().and_then(|d| Some(d.gpus.get(usize::try_from(id).ok()?)?.0.clone()))
            }
        };
        format!(
            "onnx-unlearn {}, ONNX Runtime {}, {} {}, {}, kernels with {}, {} threads{}, autotune {}",
            env!("CARGO_PKG_VERSION"),
            self.runtime.library.version,
            engine.device(),
            name.unwrap_or_default(),
            std::env::consts::ARCH,
            runtime::instructions(),
            engine.threads(),
            if engine.tf32() { ", tf32" } else { "" },
            if matches!(self.args.autotune, AutotuneArg::Full) { "full" } else { "fast" }
        )
    }
}

/// What was found on one machine: a file in the cache folder.
struct Store {
    path: PathBuf,
    found: Found,
}

#[derive(Default, Deserialize, Serialize)]
struct Found {
    machine: String,
    forms: Forms,
}

impl Store {
    /// What earlier runs have left. A file that cannot be read, or is about another machine, is as good as none.
    fn open(machine: String) -> Result<Self> {
        let name = hex::encode(&Sha256::digest(&machine)[..8]);
        let path = runtime::install::cache_dir()?.join(format!("autotune-{name}.json"));
        let found = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Found>(&bytes).ok());
        let found = found.filter(|found| found.machine == machine);
        Ok(Self { path, found: found.unwrap_or_else(|| Found { machine, forms: Forms::new() }) })
    }

    fn form(&self, task: &Task) -> Option<Form> {
        self.found.forms.get(&task.to_string()).and_then(|name| Form::named(name))
    }

    fn put(&mut self, task: &Task, form: Form) {
        self.found.forms.insert(task.to_string(), form.name().to_owned());
    }

    fn save(&self) -> Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        output::replace(&self.path, &serde_json::to_vec_pretty(&self.found)?)
    }
}
