//! Forms of convolutions compete on the device that is to train with them.

use super::{BatchedNetwork, Weights};
use crate::{
    graph::{Attrs, Node, Value},
    ops::{
        Emit,
        conv::{self, Form, Task},
    },
    runtime::{Device, Engine, RuntimeError, State, Stepper},
    tensor::{DType, Tensor},
};
use std::{collections::HashMap, sync::Arc, time::Instant};

/// Another form has to be faster than the usual one by this factor: less is what a machine varies by.
const MARGIN: f64 = 0.95;
/// A form that takes so much longer than the best of those before it has lost.
const LOST: f64 = 2.0;

impl BatchedNetwork<'_> {
    /// What the convolutions of the network and their gradients compute, each once, those with most to do first.
    pub fn tasks(&self, weights: &Weights) -> Vec<Task> {
        let mut b = self.builder();
        self.row.declare(&mut b);
        for (name, tensor) in weights {
            b.input(name, DType::F32, tensor.shape());
        }
        self.traced.replay(&mut b, false);
        let mut found: Vec<(Task, usize)> = Vec::new();
        let convolutions = self.traced.nodes.iter().filter(|n| n.domain.is_empty() && n.op == "Conv");
        for node in convolutions {
            let Some((DType::F32, y)) = self.traced.values.get(&node.outputs[0]) else { continue };
            let emit = Emit::new(&mut b, node, &self.traced.known, &[], 0, DType::F32);
            // What has no geometry has no rule either, and is refused elsewhere.
            for task in conv::tasks(&emit, y).into_iter().flatten() {
                match found.iter_mut().find(|(known, _)| *known == task) {
                    Some((_, times)) => *times += 1,
                    None => found.push((task, 1)),
                }
            }
        }
        found.sort_by_key(|(task, times)| std::cmp::Reverse(task.products() * times));
        found.into_iter().map(|(task, _)| task).collect()
    }
}

/// The form in which a task takes the least time on a device, as `rounds` rounds show in which all take turns. The usual
/// one, unless another one is clearly faster.
pub fn fastest(engine: &Engine, task: &Task, rounds: usize) -> Result<Form, RuntimeError> {
    let mut forms = task.candidates(engine.device().has_native()).into_iter();
    let usual = forms.next().unwrap_or(Form::Direct);
    if forms.len() == 0 {
        return Ok(usual);
    }
    let mut runs = vec![Run::new(engine, task, usual)?];
    for form in forms {
        // A form that the device cannot run is no candidate.
        runs.extend(Run::new(engine, task, form).ok());
        // What has lost leaves at once, and its memory with it.
        let first = runs.iter().map(|run| run.best).fold(f64::INFINITY, f64::min);
        runs.retain(|run| run.form == usual || run.best < LOST * first);
    }
    for _ in 0..if runs.len() > 1 { rounds } else { 0 } {
        for run in &mut runs {
            run.time()?;
        }
    }
    let limit = MARGIN * runs[0].best;
    let best = runs.iter().filter(|run| run.best < limit).min_by(|a, b| a.best.total_cmp(&b.best));
    Ok(best.map_or(usual, |run| run.form))
}

/// A task in one form, ready to run, and the least seconds that it has taken.
struct Run {
    form: Form,
    stepper: Stepper,
    best: f64,
}

impl Run {
    /// Run twice: the first time is that of laying things out.
    fn new(engine: &Engine, task: &Task, form: Form) -> Result<Self, RuntimeError> {
        let stepper = stepper(engine, task, form)?;
        let mut run = Self { form, stepper, best: f64::INFINITY };
        run.stepper.step()?;
        run.time()?;
        Ok(run)
    }

    fn time(&mut self) -> Result<(), RuntimeError> {
        let start = Instant::now();
        self.stepper.step()?;
        self.best = self.best.min(start.elapsed().as_secs_f64());
        Ok(())
    }
}

/// A graph of this task alone. On the CPU it reads its inputs where they are, and gives its result as it is; on a GPU both
/// stay there, and one number comes back.
fn stepper(engine: &Engine, task: &Task, form: Form) -> Result<Stepper, RuntimeError> {
    const INPUTS: [&str; 2] = ["a", "b"];
    const RESULT: &str = "result";
    let mut b = engine.graph(18);
    let shapes = task.reads();
    let inputs: Vec<Value> = INPUTS.iter().zip(&shapes).map(|(name, s)| b.input(name, DType::F32, s)).collect();
    let node = Node {
        name: "task".into(),
        op: "Conv".into(),
        domain: String::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        attrs: Attrs::new(),
    };
    let known = HashMap::new();
    let result = task.write(&mut Emit::new(&mut b, &node, &known, &[], 0, DType::F32), form, &inputs[0], &inputs[1]);
    let what = format!("{} as {}", task, form.name());
    if engine.device() == Device::Cpu {
        b.output_as(&result, RESULT);
        let session = engine.session_of(&what, &b.finish())?;
        let feeds: Vec<(&str, Vec<usize>)> = INPUTS.into_iter().zip(shapes.clone()).collect();
        let mut stepper = session.stepper(Vec::new(), &feeds, &[RESULT])?;
        for (name, shape) in INPUTS.iter().zip(&shapes) {
            stepper.feed(name).copy_from_slice(&numbers(shape));
        }
        return Ok(stepper);
    }
    let sum = b.op("ReduceSum", &[&result], &[("keepdims", 0i64.into())], &[]);
    b.output_as(&sum, RESULT);
    let mut state = Vec::new();
    for (input, shape) in inputs.iter().zip(shapes) {
        let (name, output) = (input.name().to_owned(), format!("{} again", input.name()));
        let same = b.op("Identity", &[input], &[], &shape);
        b.output_as(&same, &output);
        let initial = Some(Arc::new(Tensor::f32(shape.clone(), numbers(&shape))));
        state.push(State { input: name, output, shape, initial });
    }
    engine.session_of(&what, &b.finish())?.stepper(state, &[], &[RESULT])
}

/// Numbers from -0.5 to 0.5, none too small to be normal.
fn numbers(shape: &[usize]) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..shape.iter().product()).map(|_| next()).collect()
}
