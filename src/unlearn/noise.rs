//! Learns error-maximising noise.

use super::{PhaseRecord, Recipe, UnlearnError, Watch};
use crate::{
    data::Seeded,
    tensor::Tensor,
    train::{BatchedNetwork, Goal, NoiseStepper, Range, Weights},
};
use std::{sync::Arc, time::Instant};

/// Noise for every class to forget.
#[derive(Debug, Default)]
pub struct NoiseRun {
    /// Class and its noise, [images, ...], in the order of the recipe.
    pub noise: Vec<(usize, Tensor)>,
    /// One record a class.
    pub records: Vec<PhaseRecord>,
    /// J at every step, for each class.
    pub objective: Vec<Vec<f32>>,
    /// Running statistics moved by batch statistics (the reference variant); empty otherwise.
    pub statistics: Weights,
}

/// Learns noise for each class of the recipe, against fixed `weights`. `network` has a batch of `recipe.noise.images`,
/// and so many samples are `rows`, flat: they give the inputs that are not noise.
pub fn learn(
    network: &BatchedNetwork<'_>,
    weights: &Weights,
    recipe: &Recipe,
    range: Range,
    rows: &[f32],
    watch: &mut dyn Watch,
) -> Result<NoiseRun, UnlearnError> {
    let mut run = NoiseRun::default();
    if recipe.noise.samples == 0 {
        return Ok(run); // The control without noise: nothing would be done with it.
    }
    let mut stepper = network.noise_stepper(weights, Goal::Error, recipe.noise.loss, range, rows)?;
    // A file that fixes a smaller batch has its images learned in parts; no image knows of another.
    let parts = recipe.noise.images.div_ceil(network.batch);
    let steps = recipe.noise.steps * parts;
    watch.begin("noise", steps * recipe.forget.len());
    let shape = network.noise_shape();
    let width: usize = shape[1..].iter().product();
    let classes = network.layout.classes;
    for (i, &class) in recipe.forget.iter().enumerate() {
        let started = Instant::now();
        let mut targets = vec![0.0; network.predictions() * classes];
        targets.chunks_exact_mut(classes).for_each(|row| row[class] = 1.0);
        let mut first = normal(recipe.noise.images * width, recipe.seed, class);
        first.resize(parts * network.batch * width, 0.0);
        let mut learned = Vec::with_capacity(first.len());
        let mut objective = vec![0.0; recipe.noise.steps];
        for (part, first) in first.chunks_exact(network.batch * width).enumerate() {
            stepper.restart(&Arc::new(Tensor::f32(shape, first.to_vec())), &targets)?;
            let before = i * steps + part * recipe.noise.steps;
            let losses = descend(&mut stepper, recipe, before, steps * recipe.forget.len(), watch)?;
            objective.iter_mut().zip(losses).for_each(|(mean, loss)| *mean += loss / parts as f32);
            learned.extend(stepper.noise()?.to_f32s());
        }
        learned.truncate(recipe.noise.images * width);
        let mut shape = shape.to_vec();
        shape[0] = recipe.noise.images;
        run.noise.push((class, Tensor::f32(shape, learned)));
        run.records.push(PhaseRecord {
            phase: "noise",
            steps,
            samples: recipe.noise.steps * recipe.noise.images,
            seconds: started.elapsed().as_secs_f64(),
            first_loss: objective.first().copied().unwrap_or(f32::NAN),
            last_loss: objective.last().copied().unwrap_or(f32::NAN),
            losses: objective.clone(),
            mean_loss: objective.iter().map(|&l| f64::from(l)).sum::<f64>() / objective.len() as f64,
            accuracy: None,
        });
        run.objective.push(objective);
    }
    run.statistics = stepper.statistics()?;
    Ok(run)
}

fn descend(
    stepper: &mut NoiseStepper,
    recipe: &Recipe,
    before: usize,
    steps: usize,
    watch: &mut dyn Watch,
) -> Result<Vec<f32>, UnlearnError> {
    let lr = recipe.noise.lr;
    let mut losses = Vec::with_capacity(recipe.noise.steps);
    for k in 1..=recipe.noise.steps {
        let loss = stepper.step(lr)?;
        let step = before + k;
        if !loss.is_finite() {
            return Err(UnlearnError::NotFinite { phase: "noise", step, steps, loss, lr, flag: "--noise-lr" });
        }
        losses.push(loss);
        if !watch.step(step, loss) {
            return Err(UnlearnError::Interrupted { phase: "noise", step, steps });
        }
    }
    Ok(losses)
}

/// Where the noise of a class starts: standard normal values, drawn here so that every device starts from the same noise.
fn normal(n: usize, seed: u64, class: usize) -> Vec<f32> {
    Seeded::new(seed, &format!("noise of class {class}")).normal(n)
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn noise_has_the_moments_of_a_standard_normal_and_depends_on_seed_and_class() {
        let v = normal(100_000, 1, 2);
        let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
        let square = v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / v.len() as f64;
        // Standard errors at 100,000 values: 0.0032 and 0.0045.
        assert!(mean.abs() < 0.016, "mean {mean}");
        assert!((square - 1.0).abs() < 0.023, "second moment {square}");
        assert_ne!(v, normal(100_000, 1, 3));
        assert_ne!(v, normal(100_000, 2, 2));
        assert_eq!(v, normal(100_000, 1, 2));
    }
}
