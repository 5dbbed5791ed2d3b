//! The prototype attack: is a handful of samples enough to bring a class back, without training?

use super::Features;
use crate::data::Seeded;

/// What is printed with the figures.
pub const DEFINITION: &str = "The weights of the forgotten classes in the last layer are overwritten, with no training at all, \
    by what 5 training samples of each (--train-data) show: the mean of their features less the mean feature of all training \
    samples, scaled to the mean length of the other classes' weights; the offset is the one that gives the class the mean \
    score of the other classes at the mean feature. Measured on --data; mean and standard deviation (of a sample) over 5 \
    draws of the 5 samples.";
/// Which values are good.
pub const DIRECTION: &str = "What a model retrained without the class comes to is the target. A recall near that before \
    shows that only the last layer was turned away from the class.";

/// Samples of a class that the attacker has.
pub const SHOTS: usize = 5;

/// Draws of these samples.
pub const DRAWS: u64 = 5;

/// Largest difference between logits and what the last layer alone computes, relative to the largest logit (or to 1).
const TOLERANCE: f32 = 1e-3;

/// The last layer: logits = rows * features + offsets.
#[derive(Clone, Debug, PartialEq)]
pub struct LastLayer {
    /// [classes, width], flat.
    rows: Vec<f32>,
    offsets: Vec<f64>,
    width: usize,
}

impl LastLayer {
    /// From its weights, [classes, width], and the features and logits of samples, which give the offsets. `None` where the
    /// logits are not weights times features plus the same offset for every sample: then something else stands behind.
    pub fn of(rows: &[f32], seen: &Features) -> Option<Self> {
        let width = seen.width;
        let classes = rows.len() / width;
        if classes * width != rows.len() || seen.is_empty() || seen.logits.len() != seen.len() * classes {
            return None;
        }
        let mut layer = Self { rows: rows.to_vec(), offsets: vec![0.0; classes], width };
        let rests: Vec<Vec<f64>> = (0..seen.len())
            .map(|i| {
                let z = &seen.logits[i * classes..(i + 1) * classes];
                layer.scores(seen.row(i)).zip(z).map(|(own, z)| f64::from(*z) - own).collect()
            })
            .collect();
        let largest = seen.logits.iter().fold(1.0f32, |m, z| m.max(z.abs()));
        for c in 0..classes {
            let offset = super::mean(rests.iter().map(|r| r[c]))?;
            // Not `>`: what is not a number has to fail.
            if !rests.iter().all(|r| (r[c] - offset).abs() <= f64::from(TOLERANCE * largest)) {
                return None;
            }
            layer.offsets[c] = offset;
        }
        Some(layer)
    }

    fn classes(&self) -> usize {
        self.offsets.len()
    }

    fn row(&self, c: usize) -> &[f32] {
        &self.rows[c * self.width..(c + 1) * self.width]
    }

    fn scores<'a>(&'a self, x: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
        (0..self.classes()).map(move |c| dot(self.row(c), x) + self.offsets[c])
    }

    /// The class of each sample with the highest score.
    pub fn predict(&self, features: &Features) -> Vec<usize> {
        let best = |i| {
            let z: Vec<f64> = self.scores(features.row(i)).collect();
            (0..z.len()).fold(0, |best, c| if z[c] > z[best] { c } else { best })
        };
        (0..features.len()).map(best).collect()
    }

    /// The layer after the attack on the classes `forgotten`, with samples of `train` drawn by the seed; `None` where a
    /// class has fewer than [`SHOTS`] or nothing is left to scale by.
    ///
    /// w_c = s (mu_5 - mu)        s = mean_j |w_j| / |mu_5 - mu|        b_c = mean_j (w_j mu + b_j) - w_c mu
    ///
    /// with mu_5 the mean feature of the drawn samples, mu that of all, j the classes that are not forgotten. (The attack of
    /// arXiv 2506.01318 puts the mean feature into the row; centre, length and offset are chosen here so that no class is
    /// favoured at the mean feature.)
    pub fn attacked(&self, train: &Features, forgotten: &[usize], seed: u64, draw: u64) -> Option<Self> {
        let others: Vec<usize> = (0..self.classes()).filter(|c| !forgotten.contains(c)).collect();
        let all: Vec<usize> = (0..train.len()).collect();
        let mu = mean_feature(train, &all);
        let length = super::mean(others.iter().map(|&c| dot(self.row(c), self.row(c)).sqrt()))?;
        let level = super::mean(others.iter().map(|&c| dot(self.row(c), &mu) + self.offsets[c]))?;
        let mut attacked = self.clone();
        for &class in forgotten {
            let own: Vec<usize> = all.iter().copied().filter(|&i| train.labels[i] == class).collect();
            let order = Seeded::new(seed, &format!("prototype {draw} of class {class}")).shuffled(own.len());
            let drawn: Vec<usize> = order.get(..SHOTS)?.iter().map(|&at| own[at as usize]).collect();
            let away: Vec<f32> = mean_feature(train, &drawn).iter().zip(&mu).map(|(a, m)| a - m).collect();
            let norm = dot(&away, &away).sqrt();
            if norm <= 0.0 {
                return None;
            }
            let row: Vec<f32> = away.iter().map(|v| (f64::from(*v) * length / norm) as f32).collect();
            attacked.offsets[class] = level - dot(&row, &mu);
            attacked.rows[class * self.width..(class + 1) * self.width].copy_from_slice(&row);
        }
        Some(attacked)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn mean_feature(features: &Features, rows: &[usize]) -> Vec<f32> {
    let mut sum = vec![0.0f64; features.width];
    for &i in rows {
        sum.iter_mut().zip(features.row(i)).for_each(|(s, x)| *s += f64::from(*x));
    }
    sum.into_iter().map(|s| (s / rows.len() as f64) as f32).collect()
}

/// Mean and standard deviation of a sample (divided by the number less one); no deviation of a single value.
pub fn mean_and_deviation(values: &[f64]) -> (Option<f64>, Option<f64>) {
    let mean = super::mean(values.iter().copied());
    let square = |mean: f64| values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64;
    (mean, mean.filter(|_| values.len() > 1).map(|mean| square(mean).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::{super::close, *};

    /// Samples on the axes of the plane: classes 0 and 1 at (2, 0) and (0, 2), six of each.
    fn plane(logits: impl Fn(&[f32]) -> Vec<f32>) -> Features {
        let mut all = Features { width: 2, ..Features::default() };
        for i in 0..12 {
            let row = if i % 2 == 0 { [2.0, 0.0] } else { [0.0, 2.0] };
            all.logits.extend(logits(&row));
            all.rows.extend(row);
            all.labels.push(i % 2);
        }
        all
    }

    #[test]
    fn offsets_follow_from_logits_and_other_layers_are_seen() {
        let rows = [1.0, 2.0, -3.0, 0.0];
        let linear = |x: &[f32]| vec![x[0] + 2.0 * x[1] + 5.0, -3.0 * x[0] - 7.0];
        let layer = LastLayer::of(&rows, &plane(linear)).expect("a layer");
        assert!(layer.offsets.iter().zip([5.0, -7.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", layer.offsets);
        // A rectifier behind it changes the second logit of some samples only.
        assert_eq!(LastLayer::of(&rows, &plane(|x| linear(x).iter().map(|v| v.max(-8.0)).collect())), None);
        assert_eq!(LastLayer::of(&rows[..3], &plane(linear)), None);
    }

    #[test]
    fn the_attack_by_hand() {
        // Class 0 has the row (3, 4), of length 5, and offset 1; class 1 was pushed to an offset of -100.
        let rows = [3.0, 4.0, -9.0, -9.0];
        let samples = plane(|x| vec![3.0 * x[0] + 4.0 * x[1] + 1.0, -9.0 * x[0] - 9.0 * x[1] - 100.0]);
        let layer = LastLayer::of(&rows, &samples).expect("a layer");
        assert_eq!(layer.predict(&samples), vec![0; 12]);
        // mu = (1, 1), mu_5 = (0, 2): the direction is (-1, 1), scaled to length 5. At mu class 0 scores 8, so b_1 = 8 - 0.
        let attacked = layer.attacked(&samples, &[1], 0, 0).expect("enough samples");
        let side = 5.0 / 2f64.sqrt();
        close(attacked.offsets[1], 8.0);
        assert!((f64::from(attacked.row(1)[0]) + side).abs() < 1e-6 && attacked.row(0) == layer.row(0));
        // (0, 2): class 0 scores 9, class 1 2 * 3.54 + 8 = 15.07; (2, 0): 7 and 8 - 7.07 = 0.93.
        assert_eq!(attacked.predict(&samples), samples.labels);
        let few = Features { labels: vec![0; 12], ..samples };
        assert_eq!(layer.attacked(&few, &[1], 0, 0), None);
    }

    #[test]
    fn deviations_are_those_of_a_sample() {
        let (mean, deviation) = mean_and_deviation(&[1.0, 2.0, 6.0]);
        // Squares 4, 1, 9 over 2.
        close(mean.expect("values"), 3.0);
        close(deviation.expect("several"), 7f64.sqrt());
        assert_eq!((mean_and_deviation(&[1.0]), mean_and_deviation(&[])), ((Some(1.0), None), (None, None)));
    }
}
