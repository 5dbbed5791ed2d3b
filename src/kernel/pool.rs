//! How a kernel spreads its work.

/// Threads that work is spread over.
pub trait Pool: Sync {
    /// Number of threads.
    fn threads(&self) -> usize;

    /// Calls `task` once for every number below `tasks`, on any thread, and returns when all are done.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync));
}

/// The calling thread alone.
pub struct Alone;

impl Pool for Alone {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..tasks).for_each(task);
    }
}

/// Hands `out` out in chunks of `size` elements, one a task, numbered in order.
pub fn chunks<T: Send>(pool: &dyn Pool, out: &mut [T], size: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    hand_out(pool, out.chunks_mut(size.max(1)), |i, part| task(i, part));
}

/// The same for arrays of one length: a task gets a chunk of each.
pub fn chunks_of_each<T: Send>(
    pool: &dyn Pool,
    outs: Vec<&mut [T]>,
    size: usize,
    task: impl Fn(usize, &mut [&mut [T]]) + Sync,
) {
    let len = outs.first().map_or(0, |out| out.len());
    let mut parts: Vec<Vec<&mut [T]>> = Vec::new();
    parts.resize_with(len.div_ceil(size.max(1)), Vec::new);
    for out in outs {
        parts.iter_mut().zip(out.chunks_mut(size.max(1))).for_each(|(part, chunk)| part.push(chunk));
    }
    hand_out(pool, parts.into_iter(), |i, part| task(i, part));
}

/// Gives every part to the task of its number.
pub(super) fn hand_out<P: Send>(pool: &dyn Pool, parts: impl Iterator<Item = P>, task: impl Fn(usize, &mut P) + Sync) {
    use std::sync::{Mutex, PoisonError};
    // Nobody ever waits for one of these: a task locks its own part.
    let parts: Vec<Mutex<P>> = parts.map(Mutex::new).collect();
    pool.run(parts.len(), &|i| task(i, &mut parts[i].lock().unwrap_or_else(PoisonError::into_inner)));
}

/// Adds one number to all.
pub fn shift(values: &mut [f32], by: f32) {
    for v in values {
        *v += by;
    }
}
