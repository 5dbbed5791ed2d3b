//! A linear probe: how well do the features of the penultimate layer still tell a class?

use super::{Features, lbfgs};
use rayon::prelude::*;

/// What is printed with the figures.
pub const DEFINITION: &str = "The model is cut before its last layer with weights, and a new last layer is trained on what \
    comes out: multinomial logistic regression on the training samples (--train-data, all classes, the forgotten ones \
    included), each feature standardised by them, minimising the mean cross-entropy plus 0.0005 times the squared weights \
    (L-BFGS from zero, at most 300 iterations, without chance). Measured on --data: recall of each forgotten class, and the \
    accuracy on the others.";
/// Which values are good.
pub const DIRECTION: &str = "What a model retrained without the class comes to is the target: features for other classes \
    tell an unseen class too. A recall above that shows what inner layers still hold of the class.";

/// lambda/2 |W|^2 is added to the mean cross-entropy.
const LAMBDA: f64 = 1e-3;

/// Most steps of the minimiser.
const ITERATIONS: usize = 300;

/// Largest element of the gradient at the end.
const TOLERANCE: f64 = 1e-4;

/// Sums over samples are made in so many parts, whatever the number of threads, and added in their order.
const PARTS: usize = 16;

/// A linear classifier of standardised features.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    classes: usize,
    mean: Vec<f64>,
    /// 1 / standard deviation; 0 for a feature that is constant.
    scale: Vec<f64>,
    /// [classes, features + 1]: the weights and the offset of each class.
    weights: Vec<f64>,
}

impl Probe {
    /// Trains on features of labelled samples.
    ///
    /// min over W, b of    -1/n sum_i log softmax(W x_i + b)_{y_i} + lambda/2 |W|^2        x standardised, b not penalised
    pub fn fit(features: &Features, classes: usize) -> Self {
        let (width, n) = (features.width, features.len() as f64);
        let (mut mean, mut square) = (vec![0.0; width], vec![0.0; width]);
        for i in 0..features.len() {
            features.row(i).iter().zip(&mut mean).for_each(|(&x, m)| *m += f64::from(x) / n);
        }
        for i in 0..features.len() {
            let row = features.row(i).iter().zip(&mean).zip(&mut square);
            row.for_each(|((&x, m), s)| *s += (f64::from(x) - m).powi(2) / n);
        }
        // What varies by rounding alone tells nothing.
        let scale: Vec<f64> = mean
            .iter()
            .zip(&square)
            .map(|(m, s)| if s.sqrt() > 1e-7 * (m.abs() + 1e-30) { 1.0 / s.sqrt() } else { 0.0 })
            .collect();
        let mut probe = Self { classes, mean, scale, weights: vec![0.0; classes * (width + 1)] };
        let x = probe.standardised(features);
        let objective = |w: &[f64]| objective(w, &x, &features.labels, classes);
        probe.weights = lbfgs::minimise(objective, probe.weights.clone(), ITERATIONS, TOLERANCE);
        probe
    }

    /// The class of each sample with the highest score.
    pub fn predict(&self, features: &Features) -> Vec<usize> {
        let w = Weights::of(&self.weights, self.classes);
        let best = |x: &[f32]| {
            let z: Vec<f32> = w.scores(x).collect();
            (0..z.len()).fold(0, |best, c| if z[c] > z[best] { c } else { best })
        };
        self.standardised(features).par_chunks_exact(self.mean.len()).map(best).collect()
    }

    fn standardised(&self, features: &Features) -> Vec<f32> {
        let each = |(&x, (m, s)): (&f32, (&f64, &f64))| ((f64::from(x) - m) * s) as f32;
        let of_row = |row: &[f32]| row.iter().zip(self.mean.iter().zip(&self.scale)).map(each).collect::<Vec<_>>();
        features.rows.par_chunks_exact(self.mean.len()).flat_map_iter(of_row).collect()
    }
}

/// Weights in the precision of the features.
struct Weights {
    rows: Vec<Vec<f32>>,
    offsets: Vec<f32>,
}

impl Weights {
    fn of(w: &[f64], classes: usize) -> Self {
        let each = w.chunks_exact(w.len() / classes);
        let rows = each.clone().map(|row| row[..row.len() - 1].iter().map(|&v| v as f32).collect());
        Self { rows: rows.collect(), offsets: each.map(|row| row[row.len() - 1] as f32).collect() }
    }

    fn scores(&self, x: &[f32]) -> impl Iterator<Item = f32> {
        self.rows.iter().zip(&self.offsets).map(|(row, b)| dot(row, x) + b)
    }
}

/// In eight sums side by side, which a processor adds at once.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for k in 0..8 {
            sums[k] += a[k] * b[k];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Value and gradient of what the probe minimises; `x` are standardised rows, flat.
fn objective(w: &[f64], x: &[f32], labels: &[usize], classes: usize) -> (f64, Vec<f64>) {
    let columns = w.len() / classes;
    let width = columns - 1;
    let n = labels.len();
    let weights = Weights::of(w, classes);
    let part = n.div_ceil(PARTS).max(1);
    let parts: Vec<(f64, Vec<f32>)> = x
        .par_chunks(part * width)
        .zip(labels.par_chunks(part))
        .map(|(x, labels)| {
            let (mut loss, mut gradient) = (0.0, vec![0.0f32; w.len()]);
            for (x, &label) in x.chunks_exact(width).zip(labels) {
                let z: Vec<f64> = weights.scores(x).map(f64::from).collect();
                let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
                loss += sum.ln() + max - z[label];
                for ((c, z), g) in z.iter().enumerate().zip(gradient.chunks_exact_mut(columns)) {
                    let error = ((z - max).exp() / sum - f64::from(u8::from(c == label))) as f32;
                    g[width] += error;
                    g.iter_mut().zip(x).for_each(|(g, x)| *g += error * x);
                }
            }
            (loss, gradient)
        })
        .collect();
    let n = n as f64;
    let mut gradient = vec![0.0f64; w.len()];
    let mut loss = 0.0;
    for (own, g) in parts {
        loss += own / n;
        gradient.iter_mut().zip(g).for_each(|(sum, g)| *sum += f64::from(g) / n);
    }
    for (row, g) in w.chunks_exact(columns).zip(gradient.chunks_exact_mut(columns)) {
        for (w, g) in row[..width].iter().zip(g) {
            loss += LAMBDA / 2.0 * w * w;
            *g += LAMBDA * w;
        }
    }
    (loss, gradient)
}

#[cfg(test)]
mod tests {
    use super::{super::close, *};

    #[test]
    fn value_and_gradient_by_hand() {
        // Two classes, one feature, x = 2 of class 1, all weights 0: p = (1/2, 1/2), the loss is ln 2, the errors are
        // (1/2, -1/2), and the gradient is error * x for the weight, error for the offset.
        let (loss, gradient) = objective(&[0.0; 4], &[2.0], &[1], 2);
        close(loss, 2f64.ln());
        assert_eq!(gradient, [1.0, 0.5, -1.0, -0.5]);
        // With w = (0, 0), (ln 3 / 2, 0): scores (0, ln 3), p = (1/4, 3/4); lambda/2 w^2 and lambda w are added.
        let w = 3f64.ln() / 2.0;
        let (loss, gradient) = objective(&[0.0, 0.0, w, 0.0], &[2.0], &[1], 2);
        assert!((loss - ((4.0f64 / 3.0).ln() + LAMBDA / 2.0 * w * w)).abs() < 1e-6, "{loss}");
        let expected = [0.5, 0.25, -0.5 + LAMBDA * w, -0.25];
        assert!(gradient.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{gradient:?}");
    }

    #[test]
    fn groups_that_a_line_parts_are_told() {
        // Three groups around the corners of a triangle, and a feature that is always 7.
        let corners = [[0.0f32, 0.0], [4.0, 0.0], [0.0, 400.0]];
        let mut all = Features { width: 3, ..Features::default() };
        for i in 0..60u8 {
            let class = usize::from(i % 3);
            let off = f32::from(i / 3) / 20.0;
            all.rows.extend([corners[class][0] + off, corners[class][1] + 100.0 * off, 7.0]);
            all.labels.push(class);
        }
        let probe = Probe::fit(&all, 3);
        assert_eq!(probe.predict(&all), all.labels);
        assert_eq!(probe, Probe::fit(&all, 3), "there is no chance in it");
        // At the minimum the offsets' gradients vanish: the mean probability of each class is its share.
        let (_, gradient) = objective(&probe.weights, &probe.standardised(&all), &all.labels, 3);
        assert!(gradient.iter().all(|g| g.abs() < 1e-4), "{gradient:?}");
    }
}
