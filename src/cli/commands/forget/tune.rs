//! `--autotune`: forms of convolutions and pools compete before training, and what is found is kept for the next run.

use crate::{
    cli::{
        args::{AutotuneArg, ForgetArgs},
        commands::{
            output,
            session::{self, Opened},
        },
        interrupt,
        printer::Printer,
        progress::Progress,
    },
    graph::Forms,
    ops::{Form, Task},
    runtime::{self, Device, Engine},
    train,
};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How forms are found.
enum Way {
    /// By the rules alone.
    Rules,
    /// As a report says.
    Told(Forms),
    /// By time: so many rounds, and no further map begins after that long.
    Timed { rounds: usize, limit: Duration, store: Store },
}

/// Finds the forms in which step graphs are written.
pub(super) struct Tuner {
    way: Way,
    printer: Printer,
    /// All that were not the usual ones.
    pub used: Forms,
}

impl Tuner {
    /// Leaves all to the rules.
    pub fn off(printer: Printer) -> Self {
        Self { way: Way::Rules, printer, used: Forms::new() }
    }

    /// As the arguments say.
    pub fn new(args: &ForgetArgs, runtime: &Opened, printer: Printer) -> Result<Self> {
        let timed = |rounds, limit| {
            let machine = machine(runtime)?;
            Ok::<_, anyhow::Error>(Way::Timed { rounds, limit, store: Store::open(machine) })
        };
        let way = match (&args.forms, args.autotune) {
            (Some(told), _) => {
                let unknown = told.values().find(|name| Form::named(name).is_none());
                ensure!(
                    unknown.is_none(),
                    "no form of a convolution or a pool is called {:?}",
                    unknown.map_or("", |name| name)
                );
                Way::Told(told.clone())
            }
            (None, AutotuneArg::Off) => Way::Rules,
            (None, AutotuneArg::Fast) => timed(3, Duration::from_secs(10))?,
            (None, AutotuneArg::Full) => timed(15, Duration::MAX)?,
        };
        Ok(Self { way, ..Self::off(printer) })
    }

    /// The forms of these tasks that are not the usual ones; `parts` is over how many calls the time is spread.
    pub fn forms(&mut self, engine: &Engine, tasks: impl FnOnce() -> Vec<Task>, parts: u32) -> Forms {
        let forms: Forms = match &mut self.way {
            Way::Rules => return Forms::new(),
            Way::Told(told) => {
                let named = |task: Task| told.get_key_value(&task.to_string());
                tasks().into_iter().filter_map(named).map(|(task, form)| (task.clone(), form.clone())).collect()
            }
            Way::Timed { rounds, limit, store } => {
                let mut tasks = tasks();
                if tasks.is_empty() {
                    return Forms::new();
                }
                let mut seen = HashSet::new();
                tasks.retain(|task| seen.insert(task.to_string()));
                compete(engine, &tasks, *rounds, *limit / parts, store, self.printer);
                let native = engine.device().has_native();
                let other = |task: &Task| store.form(task).filter(|form| *form != task.usual(native));
                let other = |task: &Task| Some((task.to_string(), other(task)?.name().to_owned()));
                let forms: Forms = tasks.iter().filter_map(other).collect();
                self.printer.note(format!("autotune: {} are faster in another form than the usual one", forms.len()));
                forms
            }
        };
        self.used.extend(forms.clone());
        forms
    }
}

/// Lets the forms of tasks compete that the store does not know, and keeps what is found.
fn compete(engine: &Engine, tasks: &[Task], rounds: usize, limit: Duration, store: &mut Store, printer: Printer) {
    let new: Vec<&Task> = tasks.iter().filter(|task| !store.knows(task, rounds)).collect();
    let mut progress = Progress::new(printer);
    if !new.is_empty() {
        progress.start("tune", new.len());
    }
    let (start, mut timed) = (Instant::now(), 0);
    for task in new.iter().take_while(|_| start.elapsed() < limit && !interrupt::asked()) {
        match train::fastest(engine, task, rounds) {
            Ok(form) => store.put(task, form, rounds),
            Err(e) => printer.note(format!("autotune: {task} stays in its usual form: {e}")),
        }
        timed += 1;
        progress.advance(timed, "");
    }
    progress.finish();
    let left = new.len() - timed;
    printer.note(format!(
        "autotune: {} maps of convolutions and pools, {} known, {timed} timed in {:.1} s{}",
        tasks.len(),
        tasks.len() - new.len(),
        start.elapsed().as_secs_f64(),
        if left > 0 { format!(", {left} left as they are") } else { String::new() },
    ));
    if timed > 0
        && let Err(e) = store.save()
    {
        printer.note(format!("autotune: {e:#}; the next run has to find its forms again"));
    }
}

/// Everything that what is fastest depends on, besides the task.
fn machine(runtime: &Opened) -> Result<String> {
    let engine = &runtime.engine;
    let record = runtime.record()?;
    let name = match engine.device() {
        Device::Cpu => session::processor_name(),
        // All of them, because the driver's order need not be that of CUDA.
        Device::Cuda(_) => {
            let gpus = runtime::gpu::driver().map(|driver| driver.gpus).unwrap_or_default();
            gpus.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
        }
    };
    Ok(format!(
        "onnx-unlearn {}, {} ({}), {} {name}, {}, kernels with {}, {} threads{}",
        env!("CARGO_PKG_VERSION"),
        record.backend,
        record.library,
        record.device,
        record.target,
        runtime::instructions(),
        record.threads,
        if record.tf32 { ", tf32" } else { "" },
    ))
}

/// What was found on one machine: a file in the cache folder, where there is one.
struct Store {
    path: Option<PathBuf>,
    found: Found,
}

#[derive(Deserialize, Serialize)]
struct Found {
    machine: String,
    tasks: BTreeMap<String, Winner>,
}

#[derive(Deserialize, Serialize)]
struct Winner {
    form: String,
    /// In how many rounds.
    rounds: usize,
}

impl Store {
    /// What earlier runs have left. A file that cannot be read, or is about another machine, is as good as none.
    fn open(machine: String) -> Self {
        let name = hex::encode(&Sha256::digest(&machine)[..8]);
        let path = runtime::install::cache_dir().ok().map(|folder| folder.join(format!("autotune-{name}.json")));
        let bytes = path.as_ref().and_then(|path| fs::read(path).ok());
        let found = bytes.and_then(|bytes| serde_json::from_slice::<Found>(&bytes).ok());
        let found = found.filter(|found| found.machine == machine);
        Self { path, found: found.unwrap_or_else(|| Found { machine, tasks: BTreeMap::new() }) }
    }

    fn form(&self, task: &Task) -> Option<Form> {
        self.found.tasks.get(&task.to_string()).and_then(|winner| Form::named(&winner.form))
    }

    /// True where the task was timed in so many rounds or more.
    fn knows(&self, task: &Task, rounds: usize) -> bool {
        self.found.tasks.get(&task.to_string()).is_some_and(|winner| winner.rounds >= rounds)
    }

    fn put(&mut self, task: &Task, form: Form, rounds: usize) {
        self.found.tasks.insert(task.to_string(), Winner { form: form.name().to_owned(), rounds });
    }

    fn save(&self) -> Result<()> {
        let path = self.path.as_ref().context("there is no cache folder")?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        output::replace(path, &serde_json::to_vec_pretty(&self.found)?)
    }
}
