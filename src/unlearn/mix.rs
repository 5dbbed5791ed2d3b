//! The samples of a phase: the retain sample, and in the impair phase the noise beside it.

use crate::{data::Dataset, tensor::Tensor};

/// Noise images of one class, repeated.
struct Noise {
    label: usize,
    /// [images, ...], flat.
    values: Vec<f32>,
    images: usize,
}

/// Retain samples followed by noise samples, numbered through.
pub struct Mix<'d> {
    retain: &'d Dataset,
    noise: Vec<Noise>,
    /// Noise samples of each entry of `noise`.
    samples: usize,
}

impl<'d> Mix<'d> {
    /// `noise` gives label, noise [images, ...] and how many of the images to use; each entry counts `samples` samples,
    /// its images repeated in turn.
    pub fn new(retain: &'d Dataset, noise: Vec<(usize, &Tensor, usize)>, samples: usize) -> Self {
        let row = retain.sample_len();
        let noise = noise
            .into_iter()
            .map(|(label, tensor, images)| {
                let values = tensor.as_f32().unwrap_or_default();
                Noise { label, values: values[..images * row].to_vec(), images }
            })
            .collect();
        Self { retain, noise, samples }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.retain.len() + self.noise.len() * self.samples
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of classes of the model.
    pub fn classes(&self) -> usize {
        self.retain.classes()
    }

    /// Noise samples among all.
    pub fn noise_samples(&self) -> usize {
        self.noise.len() * self.samples
    }

    /// Fills a batch of `batch` rows with the samples `numbers`: retained ones first, then noise, then padding with
    /// label -1. The order within a batch does not change its mean gradient.
    pub fn fill(&self, numbers: &[u32], batch: usize, x: &mut Vec<f32>, y: &mut Vec<i64>) {
        let row = self.retain.sample_len();
        x.resize(batch * row, 0.0);
        y.clear();
        let (kept, noise): (Vec<usize>, Vec<usize>) =
            numbers.iter().map(|&n| n as usize).partition(|&n| n < self.retain.len());
        self.retain.batch(&kept, &mut x[..kept.len() * row]);
        y.extend(kept.iter().map(|&i| i64::from(self.retain.labels()[i])));
        for n in noise {
            let n = n - self.retain.len();
            let source = &self.noise[n / self.samples];
            let image = (n % self.samples) % source.images;
            let at = y.len() * row;
            x[at..at + row].copy_from_slice(&source.values[image * row..(image + 1) * row]);
            y.push(source.label as i64);
        }
        x[y.len() * row..].fill(0.0);
        y.resize(batch, -1);
    }
}
