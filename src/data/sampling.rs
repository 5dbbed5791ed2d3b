//! Which samples are used, and in which order.

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use super::labels::Labels;
use super::rows::Number;
use super::{DataError, LoadPlan, SourceKind};

/// Decides sample by sample, in the order of the source, which ones are read.
pub(super) struct Tally {
    drop: Vec<bool>,
    limit: usize,
    /// Samples that are read, per class; one entry more for those without a class.
    kept: Vec<usize>,
    dropped: Vec<usize>,
    beyond: usize,
}

impl Tally {
    pub fn new(plan: &LoadPlan<'_>) -> Result<Self, DataError> {
        let classes = plan.classes;
        let mut drop = vec![false; classes];
        for &class in plan.drop {
            *drop.get_mut(class).ok_or(DataError::ClassRange { index: class as u64, classes })? = true;
        }
        let limit = plan.per_class.unwrap_or(usize::MAX);
        Ok(Self { drop, limit, kept: vec![0; classes + 1], dropped: vec![0; classes], beyond: 0 })
    }

    /// Counts one sample, and says whether it is to be read. One class that is not to be read drops it. Otherwise it
    /// counts for each of its classes, and is read unless all of them have had enough; samples without a class are limited
    /// like a class of their own.
    pub fn take(&mut self, labels: &[u32]) -> bool {
        let mut classes: Vec<usize> = labels.iter().map(|&class| class as usize).collect();
        classes.sort_unstable();
        classes.dedup();
        if let Some(&class) = classes.iter().find(|&&class| self.drop[class]) {
            self.dropped[class] += 1;
            return false;
        }
        if classes.is_empty() {
            classes.push(self.drop.len());
        }
        let room = classes.iter().any(|&class| self.kept[class] < self.limit);
        if room {
            for class in classes {
                self.kept[class] += 1;
            }
        } else {
            self.beyond += 1;
        }
        room
    }

    /// Samples that are read, per class.
    pub fn per_class(&self) -> &[usize] {
        &self.kept[..self.drop.len()]
    }

    /// Samples passed over because their classes had enough.
    pub fn beyond(&self) -> usize {
        self.beyond
    }

    /// Class and number of samples dropped by label, where there were any.
    pub fn dropped(&self) -> Vec<(usize, usize)> {
        self.dropped.iter().copied().enumerate().filter(|(_, n)| *n > 0).collect()
    }
}

/// The rows of an array file that are to be read.
pub(super) struct Chosen {
    pub keep: Vec<bool>,
    pub labels: Labels,
    pub order: Vec<u64>,
    pub tally: Tally,
}

impl Chosen {
    /// By class indices, `per_sample` of them following each other for each sample.
    pub fn by_index(
        bytes: &[u8],
        number: Number,
        plan: &LoadPlan<'_>,
        path: &Path,
        kind: SourceKind,
        per_sample: usize,
    ) -> Result<Self, DataError> {
        let path_of = || path.to_path_buf();
        // One label for a sample of several predictions holds for each of them.
        let each = plan.predictions / per_sample;
        Self::among(bytes.chunks_exact(number.size * per_sample), plan, path, kind, |row, bytes, own| {
            for label in bytes.chunks_exact(number.size).map(|b| number.label(b)) {
                let label = label.map_err(|label| DataError::NegativeLabel { path: path_of(), row, label })?;
                if label >= plan.classes as u64 {
                    return Err(DataError::LabelRange { path: path_of(), row, label, classes: plan.classes });
                }
                (0..each).for_each(|_| own.push([label as u32]));
            }
            Ok(())
        })
    }

    /// By multi-hot labels: for every prediction of a sample 1 for each class that is there, and 0 for the others.
    pub fn by_columns(
        bytes: &[u8],
        number: Number,
        plan: &LoadPlan<'_>,
        path: &Path,
        kind: SourceKind,
    ) -> Result<Self, DataError> {
        let columns = number.size * plan.classes;
        let samples = bytes.chunks_exact(columns * plan.predictions);
        let mut chosen = Self::among(samples, plan, path, kind, |row, bytes, own| {
            for bytes in bytes.chunks_exact(columns) {
                let mut classes = Vec::new();
                for (class, bytes) in bytes.chunks_exact(number.size).enumerate() {
                    match number.value(bytes) {
                        0.0 => {}
                        1.0 => classes.push(class as u32),
                        value => return Err(DataError::LabelColumn { path: path.to_path_buf(), row, class, value }),
                    }
                }
                own.push(classes);
            }
            Ok(())
        })?;
        chosen.labels.multi_hot = true;
        Ok(chosen)
    }

    /// Goes through all labels before a single row is read; `read` gives those of the sample that has this number and these
    /// bytes.
    fn among<'b>(
        samples: impl Iterator<Item = &'b [u8]>,
        plan: &LoadPlan<'_>,
        path: &Path,
        kind: SourceKind,
        read: impl Fn(usize, &[u8], &mut Labels) -> Result<(), DataError>,
    ) -> Result<Self, DataError> {
        let (labels, tally) = (Labels::default(), Tally::new(plan)?);
        let mut chosen = Self { keep: Vec::new(), labels, order: Vec::new(), tally };
        let mut own = Labels::default();
        for (row, bytes) in samples.enumerate() {
            own.clear();
            read(row, bytes, &mut own)?;
            let keep = chosen.tally.take(own.all());
            chosen.keep.push(keep);
            if keep {
                chosen.labels.append(&own);
                chosen.order.push(row as u64);
            }
        }
        if chosen.order.is_empty() {
            let dropped = chosen.tally.dropped().iter().map(|(_, n)| n).sum();
            return Err(DataError::NoSamples { path: path.to_path_buf(), kind, found: chosen.keep.len(), dropped });
        }
        Ok(chosen)
    }
}

/// Numbers drawn from a seed, the same ones for ever.
///
/// The generator is the `ChaCha` stream cipher with 8 rounds, keyed with SHA-256 over the seed (8 bytes, little-endian) and
/// the purpose (UTF-8), nonce and first block number 0. Everything beyond its 32-bit words is integer arithmetic written
/// out here, so that no upgrade of a crate changes a result.
#[derive(Clone, Debug)]
pub struct Seeded(ChaCha8Rng);

impl Seeded {
    /// A stream of its own for each purpose, so that drawing more for one never changes another.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let key = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(purpose).finalize();
        Self(ChaCha8Rng::from_seed(key.into()))
    }

    /// The next 64 bits: two words of the stream, the first one low.
    pub fn bits(&mut self) -> u64 {
        let low = u64::from(self.0.next_u32());
        let high = u64::from(self.0.next_u32());
        low | high << 32
    }

    /// A number from 0 to `n - 1`, each equally likely; 0 for `n` = 0.
    ///
    /// The high half of `bits * n` in 128 bits, drawn again while the low half is below `2^64 mod n` (Lemire, "Fast random
    /// integer generation in an interval", 2019).
    pub fn below(&mut self, n: u64) -> u64 {
        let uneven = if n == 0 { 0 } else { n.wrapping_neg() % n };
        loop {
            let product = u128::from(self.bits()) * u128::from(n);
            if product as u64 >= uneven {
                return (product >> 64) as u64;
            }
        }
    }

    /// `n` independent standard normal values (Box and Muller 1958), drawn here so that every device gets the same ones.
    pub fn normal(&mut self, n: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(n + 1);
        while values.len() < n {
            // 53 bits make a uniform number; the radius needs one above 0.
            let mut uniform = || (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
            let (u, v) = (1.0 - uniform(), uniform());
            let radius = (-2.0 * u.ln()).sqrt();
            let (sine, cosine) = (std::f64::consts::TAU * v).sin_cos();
            values.extend([(radius * cosine) as f32, (radius * sine) as f32]);
        }
        values.truncate(n);
        values
    }

    /// The numbers from 0 to `n - 1` in random order (Fisher and Yates' shuffle, from the last place down).
    ///
    /// # Panics
    /// When `n` is above 2^32.
    pub fn shuffled(&mut self, n: usize) -> Vec<u32> {
        assert!(n as u64 <= 1 << 32, "{n} samples are more than a shuffle can number");
        let mut order: Vec<u32> = (0..n as u64).map(|i| i as u32).collect();
        for last in (1..n).rev() {
            let other = self.below(last as u64 + 1) as usize;
            order.swap(last, other);
        }
        order
    }
}

/// The numbers from 0 to `n - 1` in the order that `seed` stands for; see [`Seeded::shuffled`].
pub fn shuffled(n: usize, seed: u64) -> Vec<u32> {
    Seeded::new(seed, "shuffle").shuffled(n)
}
