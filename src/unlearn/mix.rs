//! The samples of a phase: the retain sample, and in the impair phase the noise beside it.

use crate::{
    data::{Batch, Dataset},
    tensor::Tensor,
    train::Row,
};

/// Noise images of one class, repeated.
struct Noise {
    label: u32,
    /// [images, ...], flat.
    values: Vec<f32>,
    images: usize,
}

/// Retain samples followed by noise samples, numbered through.
pub struct Mix<'d> {
    retain: &'d Dataset,
    /// Targets of the samples of `retain` in the place of their labels, [samples * predictions, classes].
    answers: Option<&'d [f32]>,
    /// The retain samples that take part.
    rows: Vec<usize>,
    row: Row,
    noise: Vec<Noise>,
    /// Noise samples of each entry of `noise`.
    samples: usize,
}

impl<'d> Mix<'d> {
    /// `row` says how rows are made up; `noise` gives label, noise [images, ...] and how many of the images to use; each
    /// entry counts `samples` samples, its images repeated in turn.
    pub fn new(retain: &'d Dataset, row: Row, noise: Vec<(usize, &Tensor, usize)>, samples: usize) -> Self {
        let length = row.noise.len();
        let noise = noise
            .into_iter()
            .map(|(label, tensor, images)| {
                let values = tensor.as_f32().unwrap_or_default();
                Noise { label: label as u32, values: values[..images * length].to_vec(), images }
            })
            .collect();
        Self { retain, answers: None, rows: (0..retain.len()).collect(), row, noise, samples }
    }

    /// The same with these retain samples only.
    #[must_use]
    pub fn of(self, rows: Vec<usize>) -> Self {
        Self { rows, ..self }
    }

    /// The same with these targets for the samples of the data set ([`super::answers`]), where there are any.
    #[must_use]
    pub fn taught(self, answers: Option<&'d [f32]>) -> Self {
        Self { answers, ..self }
    }

    /// True where the retain sample teaches its labels.
    pub fn teaches_labels(&self) -> bool {
        self.answers.is_none()
    }

    /// Mixes nothing in: the retain sample alone, as the repair phase takes it.
    pub fn retain_only(retain: &'d Dataset, row: Row) -> Self {
        Self::new(retain, row, Vec::new(), 0)
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.rows.len() + self.noise.len() * self.samples
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of classes of the model.
    pub fn classes(&self) -> usize {
        self.retain.classes()
    }

    /// Predictions for a sample.
    pub fn predictions(&self) -> usize {
        self.retain.predictions()
    }

    /// Noise samples among all.
    pub fn noise_samples(&self) -> usize {
        self.noise.len() * self.samples
    }

    /// Fills a batch of `rows` rows with the samples `numbers`: retained ones first, then noise, then padding of weight 0.
    /// The order within a batch does not change its mean gradient.
    pub fn fill(&self, numbers: &[u32], rows: usize, batch: &mut Batch) {
        let (width, data) = (self.row.len(), self.row.data);
        let Batch { x, targets, weights, .. } = batch;
        x.resize(rows * width, 0.0);
        let (kept, noise): (Vec<usize>, Vec<usize>) =
            numbers.iter().map(|&n| n as usize).partition(|&n| n < self.rows.len());
        let kept: Vec<usize> = kept.into_iter().map(|n| self.rows[n]).collect();
        let noise: Vec<usize> = noise.into_iter().map(|n| n - self.rows.len()).collect();
        // Noise replaces one value of a row; what else a model is fed comes from a retained sample.
        let whole = self.row.noise == (0..width);
        let guests = noise.iter().map(|n| self.rows[n % self.rows.len()]);
        let taken: Vec<usize> = if whole { kept.clone() } else { kept.iter().copied().chain(guests).collect() };
        self.retain.batch(&taken, &mut x[..taken.len() * data]);
        spread(x, taken.len(), data, width);
        for (&n, row) in noise.iter().zip(x.chunks_exact_mut(width).skip(kept.len())) {
            let source = &self.noise[n / self.samples];
            let image = (n % self.samples) % source.images;
            let length = self.row.noise.len();
            row[self.row.noise.clone()].copy_from_slice(&source.values[image * length..(image + 1) * length]);
            if let Some(flag) = self.row.flag {
                row[flag] = 1.0;
            }
        }
        x[numbers.len() * width..].fill(0.0);

        let retained = kept.iter().flat_map(|&i| self.retain.labels_of(i));
        let label = |n: &usize| std::slice::from_ref(&self.noise[n / self.samples].label);
        let noise = noise.iter().flat_map(|n| std::iter::repeat_n(label(n), self.predictions()));
        targets.clear();
        targets.resize(rows * self.predictions() * self.classes(), 0.0);
        for (row, labels) in targets.chunks_exact_mut(self.classes()).zip(retained.chain(noise)) {
            for &class in labels {
                row[class as usize] = 1.0;
            }
        }
        if let Some(answers) = self.answers {
            let length = self.predictions() * self.classes();
            for (&i, target) in kept.iter().zip(targets.chunks_exact_mut(length)) {
                target.copy_from_slice(&answers[i * length..(i + 1) * length]);
            }
        }
        weights.clear();
        weights.resize(numbers.len() * self.predictions(), 1.0);
        weights.resize(rows * self.predictions(), 0.0);
    }
}

/// Moves `rows` rows of `data` elements, which lie behind each other, to places of `width` elements, zeros between them.
fn spread(x: &mut [f32], rows: usize, data: usize, width: usize) {
    if data == width {
        return;
    }
    for row in (0..rows).rev() {
        x.copy_within(row * data..(row + 1) * data, row * width);
        x[row * width + data..(row + 1) * width].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_are_spread_without_treading_on_each_other() {
        let mut x = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0, 9.0, 9.0, 9.0];
        super::spread(&mut x, 3, 2, 3);
        assert_eq!(x, [1.0, 2.0, 0.0, 3.0, 4.0, 0.0, 5.0, 6.0, 0.0, 9.0]);
    }
}
