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
    use std::sync::{Mutex, PoisonError};
    // Nobody ever waits for one of these: a task locks its own chunk.
    let parts: Vec<Mutex<&mut [T]>> = out.chunks_mut(size.max(1)).map(Mutex::new).collect();
    pool.run(parts.len(), &|i| task(i, &mut parts[i].lock().unwrap_or_else(PoisonError::into_inner)));
}

/// Adds one number to all.
pub fn shift(values: &mut [f32], by: f32) {
    for v in values {
        *v += by;
    }
}
