//! Forms of maps over windows compete on the device that is to train with them.

use super::BatchedNetwork;
use crate::{
    graph::{Forms, Node},
    ops::{self, Emit, Form, Rivals, Task},
    runtime::{Device, Engine, RuntimeError, State, Stepper},
    tensor::{DType, Tensor},
};
use std::{collections::BTreeSet, sync::Arc, time::Instant};

/// Another form has to be faster than the usual one by this factor: less is what a machine varies by.
const MARGIN: f64 = 0.95;
/// A form that takes so much longer than the usual one at first has lost.
const LOST: f64 = 2.0;

impl BatchedNetwork<'_> {
    /// What convolutions and pools compute in a step that learns noise, each once, those with most to do first.
    pub fn noise_tasks(&self) -> Vec<Task> {
        // With constant weights the file's form stays, where the device has no operators of the tool's own.
        self.tasks([self.site()].into_iter().collect(), self.engine.device().has_native())
    }

    /// The same in a step that trains the weights.
    pub fn weight_tasks(&self) -> Vec<Task> {
        self.tasks(self.network.trained().collect(), true)
    }

    /// The same in a step that computes the gradients of these values, `lowered` or not.
    fn tasks<'t>(&'t self, mut wanted: BTreeSet<&'t str>, lowered: bool) -> Vec<Task> {
        let mut found: Vec<(Task, usize)> = Vec::new();
        for node in &self.traced.nodes {
            let gradients: Vec<bool> = node.inputs.iter().map(|name| wanted.contains(name.as_str())).collect();
            if node.reads().any(|name| wanted.contains(name)) {
                wanted.extend(node.outputs.iter().map(String::as_str));
            }
            for (input, task) in self.of_node(node).into_iter().flatten() {
                let computed = input.map_or(lowered, |i| gradients[i]);
                match found.iter_mut().find(|(known, _)| *known == task) {
                    Some((_, times)) if computed => *times += 1,
                    None if computed => found.push((task, 1)),
                    _ => {}
                }
            }
        }
        found.sort_by_key(|(task, times)| std::cmp::Reverse(task.products() * times));
        found.into_iter().map(|(task, _)| task).collect()
    }

    /// The maps of a node that have several forms; none where it computes in another type than float32. What has no geometry
    /// has no rule either, and is refused elsewhere.
    fn of_node(&self, node: &Node) -> Option<Rivals> {
        let rivals = ops::find(node)?.rivals?;
        let mut b = self.builder();
        for name in node.reads() {
            let (dtype, shape) = self.traced.values.get(name)?;
            b.input(name, *dtype, shape);
        }
        let (DType::F32, y) = self.traced.values.get(&node.outputs[0])? else { return None };
        rivals(&Emit::new(&mut b, node, &self.traced.known, &[], 0, DType::F32), y).ok()
    }

    /// Writes step graphs in these forms from here on.
    pub fn set_forms(&mut self, forms: Forms) {
        self.engine = self.engine.clone().with_forms(forms);
    }
}

/// The form in which a task takes the least time on a device, as `rounds` rounds show in which all take turns. The usual
/// one, unless another one is clearly faster.
pub fn fastest(engine: &Engine, task: &Task, rounds: usize) -> Result<Form, RuntimeError> {
    // Threads of one graph that wait at the ready would be in the way of the next one's.
    let engine = &engine.clone().without_spinning();
    let mut forms = task.candidates(engine.device().has_native()).into_iter();
    let usual = forms.next().unwrap_or(Form::Direct);
    if forms.len() == 0 {
        return Ok(usual);
    }
    let numbers: Vec<Tensor> = task.reads().into_iter().map(numbers).collect();
    let mut runs = vec![Run::new(engine, task, usual, &numbers)?];
    for form in forms {
        // A form that the device cannot run is no candidate.
        runs.extend(Run::new(engine, task, form, &numbers).ok());
        // The best one stays, beside the usual one; the others leave at once, and their memory with them.
        let best = runs[1..].iter().map(|run| run.best).fold(LOST * runs[0].best, f64::min);
        runs.retain(|run| run.form == usual || run.best <= best);
    }
    for _ in 0..if runs.len() > 1 { rounds } else { 0 } {
        for run in &mut runs {
            run.time()?;
        }
    }
    let faster = |run: &&Run| run.best < MARGIN * runs[0].best;
    Ok(runs.get(1).filter(faster).map_or(usual, |run| run.form))
}

/// A task in one form, ready to run, and the least seconds that it has taken.
struct Run {
    form: Form,
    stepper: Stepper,
    best: f64,
}

impl Run {
    /// Run twice: the first time is that of laying things out.
    fn new(engine: &Engine, task: &Task, form: Form, numbers: &[Tensor]) -> Result<Self, RuntimeError> {
        let stepper = stepper(engine, task, form, numbers)?;
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
fn stepper(engine: &Engine, task: &Task, form: Form, numbers: &[Tensor]) -> Result<Stepper, RuntimeError> {
    const INPUTS: [&str; 2] = ["a", "b"];
    const RESULT: &str = "result";
    let mut b = engine.graph(18);
    let fed = || INPUTS.into_iter().zip(numbers);
    let inputs: Vec<_> = fed().map(|(name, t)| b.input(name, DType::F32, t.shape())).collect();
    let result = task.write(&mut b, form, &inputs);
    let what = format!("{} as {}", task, form.name());
    if engine.device() == Device::Cpu {
        b.output_as(&result, RESULT);
        let session = engine.session(&what, &b.finish())?;
        let feeds: Vec<(&str, Vec<usize>)> = fed().map(|(name, t)| (name, t.shape().to_vec())).collect();
        let mut stepper = session.stepper(Vec::new(), &feeds, &[RESULT])?;
        for (name, t) in fed() {
            stepper.feed(name).copy_from_slice(&t.to_f32s());
        }
        return Ok(stepper);
    }
    let sum = b.op("ReduceSum", &[&result], &[("keepdims", 0i64.into())], &[]);
    b.output_as(&sum, RESULT);
    let mut state = Vec::new();
    for (input, t) in inputs.iter().zip(numbers) {
        let (name, output) = (input.name().to_owned(), format!("{} again", input.name()));
        let (shape, initial) = (t.shape().to_vec(), Some(Arc::new(t.clone())));
        let same = b.op("Identity", &[input], &[], &shape);
        b.output_as(&same, &output);
        state.push(State { input: name, output, shape, initial, in_place: false });
    }
    engine.session(&what, &b.finish())?.stepper(state, &[], &[RESULT])
}

/// Numbers from -0.5 to 0.5, none too small to be normal.
fn numbers(shape: Vec<usize>) -> Tensor {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let values = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::f32(shape, values)
}
