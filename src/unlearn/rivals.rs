//! Other ways to take a class out, with the same number of steps: controls of the noise, and baselines of the field.

use super::{Material, Mix, NoiseRun, Recipe};
use crate::{
    data::{Dataset, Seeded},
    tensor::Tensor,
    train::{Range, Row},
};
use serde::Serialize;

/// What the impair phase learns from; repair is the retain sample for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rival {
    /// UNSIR: learned noise beside the retain sample.
    Unsir,
    /// Standard normal noise in its place, which nobody learned.
    GaussianNoise,
    /// The mean of the values in its place: grey images.
    GreyImages,
    /// The retain sample alone: fine-tuning, the control without noise.
    FineTune,
    /// Real samples of the class, each with the label of another class drawn at random, beside the retain sample.
    RandomLabels,
    /// Gradient ascent on the loss of real samples of the class, without the retain sample.
    GradientAscent,
    /// Training from fresh weights on the retain sample, with a step budget of its own.
    Retrain,
}

impl Rival {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Unsir,
        Self::GaussianNoise,
        Self::GreyImages,
        Self::FineTune,
        Self::RandomLabels,
        Self::GradientAscent,
        Self::Retrain,
    ];

    /// Its name, as it is typed and printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unsir => "unsir",
            Self::GaussianNoise => "gaussian-noise",
            Self::GreyImages => "grey-images",
            Self::FineTune => "fine-tune",
            Self::RandomLabels => "random-labels",
            Self::GradientAscent => "gradient-ascent",
            Self::Retrain => "retrain",
        }
    }

    /// What it does, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Self::Unsir => "Learned noise beside the retain sample",
            Self::GaussianNoise => "Standard normal noise in place of learned noise",
            Self::GreyImages => "Grey images in place of learned noise",
            Self::FineTune => "The retain sample alone",
            Self::RandomLabels => {
                "Real samples of the class with labels of other classes drawn at random, beside the retain sample"
            }
            Self::GradientAscent => "Gradient ascent on real samples of the class",
            Self::Retrain => {
                "Training from fresh weights on the retain sample; has more steps, and runs only where it is named"
            }
        }
    }

    /// True for what learns from samples of the classes to forget.
    pub fn needs_forget_data(self) -> bool {
        matches!(self, Self::RandomLabels | Self::GradientAscent)
    }

    /// Factor on the learning rate of impair: ascent goes the other way.
    pub fn direction(self) -> f64 {
        if self == Self::GradientAscent { -1.0 } else { 1.0 }
    }
}

/// What the materials of all rivals are made of.
pub struct Rivals<'d> {
    /// Settings; noise budget and batch decide the number of steps.
    pub recipe: &'d Recipe,
    /// The retain sample.
    pub retain: &'d Dataset,
    /// What it teaches, where that is not its labels.
    pub answers: Option<&'d [f32]>,
    /// Samples of the classes to forget, for those that need them.
    pub forgotten: Option<&'d Dataset>,
    /// Learned noise.
    pub noise: &'d NoiseRun,
    /// How rows are made up.
    pub row: Row,
    /// Where noise lives.
    pub range: Range,
}

impl<'d> Rivals<'d> {
    /// What `rival` learns from, in as many samples as UNSIR; `None` where samples of the classes are missing, and for
    /// retraining, which has no phases.
    pub fn material(&self, rival: Rival) -> Option<Material<'d>> {
        let all: Vec<usize> = (0..self.retain.len()).collect();
        let samples = self.recipe.noise.samples * self.recipe.forget.len();
        let made: Vec<(usize, Tensor)>;
        let mix = |entries: Vec<(usize, &Tensor, usize)>, rows: Vec<usize>, each: usize| {
            Mix::new(self.retain, self.row.clone(), entries, each).taught(self.answers).of(rows)
        };
        let images = self.recipe.noise.images;
        let impair = match rival {
            Rival::Retrain => return None,
            Rival::Unsir => {
                let entries = self.noise.noise.iter().map(|(c, z)| (*c, z, images)).collect();
                mix(entries, all, self.recipe.noise.samples)
            }
            Rival::GaussianNoise | Rival::GreyImages => {
                made = self.noise.noise.iter().map(|(c, z)| (*c, self.instead(rival, *c, z))).collect();
                mix(made.iter().map(|(c, z)| (*c, z, images)).collect(), all, self.recipe.noise.samples)
            }
            Rival::FineTune => {
                let rows = all.iter().copied().cycle().take(all.len() + samples).collect();
                mix(Vec::new(), rows, 0)
            }
            Rival::RandomLabels => {
                made = self.relabelled()?;
                let each = samples.div_ceil(made.len().max(1));
                mix(made.iter().map(|(c, z)| (*c, z, z.shape()[0])).collect(), all, each)
            }
            Rival::GradientAscent => {
                made = self.of_each_class()?;
                let each = (all.len() + samples).div_ceil(made.len().max(1));
                mix(made.iter().map(|(c, z)| (*c, z, z.shape()[0])).collect(), Vec::new(), each)
            }
        };
        Some(Material { impair, repair: Mix::retain_only(self.retain, self.row.clone()).taught(self.answers) })
    }

    /// Values in the shape of learned noise that were not learned.
    fn instead(&self, rival: Rival, class: usize, noise: &Tensor) -> Tensor {
        let mut values = vec![0.0; noise.len()];
        if rival == Rival::GaussianNoise {
            values = Seeded::new(self.recipe.seed, &format!("control of class {class}")).normal(noise.len());
        }
        let Range { center, spread } = self.range;
        let values = values.into_iter().map(|v| (center + spread * f64::from(v)) as f32).collect();
        Tensor::f32(noise.shape(), values)
    }

    /// Samples of the classes to forget, by the class that they are given instead.
    fn relabelled(&self) -> Option<Vec<(usize, Tensor)>> {
        let data = self.forgotten?;
        let kept: Vec<usize> = (0..data.classes()).filter(|&c| self.recipe.keeps(c)).collect();
        let mut draw = Seeded::new(self.recipe.seed, "random labels");
        let mut rows = vec![Vec::new(); kept.len()];
        (0..data.len()).for_each(|i| rows[draw.below(kept.len() as u64) as usize].push(i));
        Some(kept.into_iter().zip(rows).filter(|(_, r)| !r.is_empty()).map(|(c, r)| (c, samples(data, &r))).collect())
    }

    fn of_each_class(&self) -> Option<Vec<(usize, Tensor)>> {
        let data = self.forgotten?;
        let of = |&class: &usize| {
            let is = |&i: &usize| data.labels_of(i).flatten().any(|&l| l as usize == class);
            (class, (0..data.len()).filter(is).collect::<Vec<_>>())
        };
        let classes = self.recipe.forget.iter().map(of).filter(|(_, rows)| !rows.is_empty());
        Some(classes.map(|(class, rows)| (class, samples(data, &rows))).collect())
    }
}

fn samples(data: &Dataset, rows: &[usize]) -> Tensor {
    let mut values = vec![0.0; rows.len() * data.sample_len()];
    data.batch(rows, &mut values);
    Tensor::f32([rows.len(), data.sample_len()], values)
}
