//! Which samples are used, and in which order.

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use super::{DataError, LoadPlan, SourceKind};

/// Decides sample by sample, in the order of the source, which ones are read.
pub(super) struct Tally {
    drop: Vec<bool>,
    limit: usize,
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
        Ok(Self { drop, limit, kept: vec![0; classes], dropped: vec![0; classes], beyond: 0 })
    }

    /// Counts one sample, and says whether it is to be read.
    pub fn take(&mut self, class: usize) -> bool {
        if self.drop[class] {
            self.dropped[class] += 1;
            false
        } else if self.kept[class] < self.limit {
            self.kept[class] += 1;
            true
        } else {
            self.beyond += 1;
            false
        }
    }

    /// Counts one sample with several labels. One label of a class that is not to be read drops the sample; its first
    /// label decides which class it counts for.
    pub fn take_all(&mut self, labels: &[u32]) -> bool {
        let dropped = labels.iter().find(|&&class| self.drop[class as usize]);
        self.take(dropped.or(labels.first()).map_or(0, |&class| class as usize))
    }

    /// Samples that are read, per class.
    pub fn per_class(&self) -> &[usize] {
        &self.kept
    }

    /// Samples passed over because their class had enough.
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
    pub labels: Vec<u32>,
    pub order: Vec<u64>,
    pub tally: Tally,
}

impl Chosen {
    /// Goes through all labels, each as its magnitude or as a negative number, before a single row is read; `per_sample`
    /// follow each other for each sample.
    pub fn by_label(
        labels: impl Iterator<Item = Result<u64, i64>>,
        plan: &LoadPlan<'_>,
        path: &Path,
        kind: SourceKind,
        per_sample: usize,
    ) -> Result<Self, DataError> {
        let path = || path.to_path_buf();
        let mut chosen = Self { keep: Vec::new(), labels: Vec::new(), order: Vec::new(), tally: Tally::new(plan)? };
        let mut own: Vec<u32> = Vec::with_capacity(per_sample);
        for (i, label) in labels.enumerate() {
            let row = i / per_sample;
            let label = label.map_err(|label| DataError::NegativeLabel { path: path(), row, label })?;
            if label >= plan.classes as u64 {
                return Err(DataError::LabelRange { path: path(), row, label, classes: plan.classes });
            }
            own.push(label as u32);
            if own.len() < per_sample {
                continue;
            }
            let keep = chosen.tally.take_all(&own);
            chosen.keep.push(keep);
            if keep {
                // One label for a sample of several predictions holds for each of them.
                let each = plan.predictions / per_sample;
                chosen.labels.extend(own.iter().flat_map(|&label| std::iter::repeat_n(label, each)));
                chosen.order.push(row as u64);
            }
            own.clear();
        }
        if chosen.labels.is_empty() {
            let dropped = chosen.tally.dropped().iter().map(|(_, n)| n).sum();
            return Err(DataError::NoSamples { path: path(), kind, found: chosen.keep.len(), dropped });
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
