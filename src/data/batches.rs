//! Samples in memory, and batches made of them.

use std::cell::RefCell;
use std::panic;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use rayon::prelude::*;

use super::DataError;
use super::labels::Labels;
use super::names::ClassNames;
use super::preprocess::Table;
use super::shape::Axes;
use super::store::Store;

/// Below this many elements a batch is filled by one thread.
const PARALLEL_FROM: usize = 1 << 15;

/// The samples as they are kept.
pub(super) enum Samples {
    /// Raw images in height, width, channels order, and what a byte of each channel becomes.
    Bytes { hwc: [usize; 3], to: Axes, data: Store, tables: Vec<Table> },
    /// Rows in the model's layout.
    Floats(Vec<f32>),
}

/// Rows of a further input of the model.
pub(super) struct Further {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// One input of the model in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name of the input.
    pub name: String,
    /// Its shape, without the batch axis.
    pub shape: Vec<usize>,
}

/// Labelled samples, kept small (a byte a pixel for images) and preprocessed when a batch is filled.
pub struct Dataset {
    pub(super) samples: Samples,
    pub(super) shape: Vec<usize>,
    pub(super) labels: Labels,
    pub(super) predictions: usize,
    pub(super) further: Vec<Further>,
    pub(super) order: Vec<u64>,
    pub(super) names: Option<ClassNames>,
    pub(super) classes: usize,
}

impl Dataset {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// True when there are none; [`super::load`] never returns that.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Shape of one sample in the model's layout, without the batch axis: that of the input noise is learned for.
    pub fn sample_shape(&self) -> &[usize] {
        &self.shape
    }

    /// The further inputs, in the order they follow in a row.
    pub fn further(&self) -> Vec<Part> {
        self.further.iter().map(|f| Part { name: f.name.clone(), shape: f.shape.clone() }).collect()
    }

    /// Number of elements of one row: of the sample and of further inputs after it.
    pub fn sample_len(&self) -> usize {
        self.further.iter().map(|f| &f.shape).chain([&self.shape]).map(|s| s.iter().product::<usize>()).sum()
    }

    /// Predictions for a sample, each with classes of its own.
    pub fn predictions(&self) -> usize {
        self.predictions
    }

    /// True where a prediction may have any number of classes, false where it has one.
    pub fn multi_hot(&self) -> bool {
        self.labels.multi_hot
    }

    /// Classes of every sample, prediction by prediction.
    pub fn labels(&self) -> &[u32] {
        self.labels.all()
    }

    /// Classes of sample `i`, for each of its predictions.
    pub fn labels_of(&self, i: usize) -> impl Iterator<Item = &[u32]> {
        self.labels.of(i * self.predictions..(i + 1) * self.predictions)
    }

    /// Place of every sample in the source: row of the array, or place in the sorted list of files.
    pub fn source_order(&self) -> &[u64] {
        &self.order
    }

    /// Number of outputs of the model.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The names given for the classes, or those of the class folders.
    pub fn names(&self) -> Option<&ClassNames> {
        self.names.as_ref()
    }

    /// Number of predictions that have each class: of samples, where one prediction is made for a sample.
    pub fn per_class(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        for &label in self.labels() {
            counts[label as usize] += 1;
        }
        counts
    }

    /// The samples with a class among `classes`, in order.
    pub fn of_classes(&self, classes: &[usize]) -> Vec<usize> {
        (0..self.len()).filter(|&i| self.labels_of(i).flatten().any(|&c| classes.contains(&(c as usize)))).collect()
    }

    /// Fills `out` with the preprocessed samples `indices`, row after row in the model's layout.
    ///
    /// # Panics
    /// When `out` does not hold exactly `indices.len()` samples, an index is beyond the data, or the temporary file of a large
    /// set can no longer be read.
    pub fn batch(&self, indices: &[usize], out: &mut [f32]) {
        let row = self.sample_len();
        assert_eq!(out.len(), indices.len() * row, "a batch of {} samples of {row} elements", indices.len());
        if out.len() < PARALLEL_FROM {
            out.chunks_exact_mut(row).zip(indices).for_each(|(out, &i)| self.row(i, out));
        } else {
            out.par_chunks_exact_mut(row).zip(indices).for_each(|(out, &i)| self.row(i, out));
        }
    }

    fn row(&self, i: usize, out: &mut [f32]) {
        let (out, mut rest) = out.split_at_mut(self.shape.iter().product());
        for further in &self.further {
            let n = further.shape.iter().product();
            let (own, after) = rest.split_at_mut(n);
            own.copy_from_slice(&further.data[i * n..(i + 1) * n]);
            rest = after;
        }
        let n = out.len();
        match &self.samples {
            Samples::Floats(data) => out.copy_from_slice(&data[i * n..(i + 1) * n]),
            Samples::Bytes { hwc, to, data, tables } => {
                thread_local! {
                    static PIXELS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
                }
                PIXELS.with_borrow_mut(|buffer| {
                    data.read(i * n..(i + 1) * n, buffer, |pixels| match to {
                        Axes::Chw => planes(pixels, hwc[0] * hwc[1], tables, out),
                        Axes::Hwc => interleaved(pixels, tables, out),
                    });
                });
            }
        }
    }
}

/// Looks bytes up, from channels-last to channels-first.
fn planes(pixels: &[u8], size: usize, tables: &[Table], out: &mut [f32]) {
    let channels = tables.len();
    for (c, (plane, table)) in out.chunks_exact_mut(size).zip(tables).enumerate() {
        for (value, pixel) in plane.iter_mut().zip(pixels.chunks_exact(channels)) {
            *value = table[usize::from(pixel[c])];
        }
    }
}

/// Looks bytes up, channels staying last.
fn interleaved(pixels: &[u8], tables: &[Table], out: &mut [f32]) {
    let channels = tables.len();
    for (values, pixel) in out.chunks_exact_mut(channels).zip(pixels.chunks_exact(channels)) {
        for ((value, &byte), table) in values.iter_mut().zip(pixel).zip(tables) {
            *value = table[usize::from(byte)];
        }
    }
}

/// Fails when a class has no sample, apart from those in `except` (the ones to forget); names all that are missing.
pub fn require_all_classes(data: &Dataset, except: &[usize]) -> Result<(), DataError> {
    let missing: Vec<String> = data
        .per_class()
        .iter()
        .enumerate()
        .filter(|(class, n)| **n == 0 && !except.contains(class))
        .map(|(class, _)| match data.names() {
            Some(names) if !names.are_indices() => format!("{} ({class})", names.name(class)),
            _ => format!("class {class}"),
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let hint = if data.multi_hot() { ", without a class to forget beside it" } else { "" };
    Err(DataError::MissingClasses { classes: missing.join(", "), hint })
}

/// One prepared batch, as a training step takes it.
#[derive(Debug, Default)]
pub struct Batch {
    /// Number of the step it is for, from 0.
    pub step: usize,
    /// The samples, row after row.
    pub x: Vec<f32>,
    /// For each of their predictions a row with 1 for the classes that are there and 0 for the others.
    pub targets: Vec<f32>,
    /// Weight of each prediction in the loss: 1, or 0 for padding.
    pub weights: Vec<f32>,
}

/// Prepares the next batch on a thread of its own while the caller works on the current one.
///
/// Two batches exist at any time, and their memory is used again and again. Batches come in the order of the steps, so the
/// result does not depend on timing.
pub struct Prefetch<'scope> {
    // Dropped before the thread is joined, which ends it.
    lines: Option<(Receiver<Batch>, SyncSender<Batch>)>,
    current: Option<Batch>,
    thread: Option<ScopedJoinHandle<'scope, ()>>,
}

impl<'scope> Prefetch<'scope> {
    /// Calls `fill` for the steps from 0 to `steps - 1`, at most one step ahead of the caller.
    ///
    /// But for its `step`, the batch that it is given holds whatever an earlier one left there.
    pub fn start<F>(scope: &'scope Scope<'scope, '_>, steps: usize, mut fill: F) -> Self
    where
        F: FnMut(&mut Batch) + Send + 'scope,
    {
        let (ready_in, ready) = sync_channel(1);
        let (spare, spare_out) = sync_channel(2);
        for _ in 0..2 {
            // Cannot fail: the channel has room for two and its other end is held above.
            let _ = spare.send(Batch::default());
        }
        let thread = scope.spawn(move || {
            for step in 0..steps {
                let Ok(mut batch) = spare_out.recv() else { return };
                batch.step = step;
                fill(&mut batch);
                if ready_in.send(batch).is_err() {
                    return;
                }
            }
        });
        Self { lines: Some((ready, spare)), current: None, thread: Some(thread) }
    }

    /// The next batch, or `None` after the last one.
    ///
    /// # Panics
    /// With the panic of `fill`, should it panic.
    pub fn next_batch(&mut self) -> Option<&Batch> {
        let (ready, spare) = self.lines.as_ref()?;
        if let Some(used) = self.current.take() {
            // Refused only when the thread has filled its last batch.
            let _ = spare.send(used);
        }
        if let Ok(batch) = ready.recv() {
            self.current = Some(batch);
        } else {
            self.lines = None;
            if let Some(Err(cause)) = self.thread.take().map(ScopedJoinHandle::join) {
                panic::resume_unwind(cause);
            }
        }
        self.current.as_ref()
    }
}
