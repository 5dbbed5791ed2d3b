//! What the retain sample teaches: its labels, or the answers of the source model without the classes to forget.

use super::{Recipe, Targets, Trials, UnlearnError, Watch};
use crate::{data::Dataset, train::Weights};

/// 4 GiB: answers are kept in memory, a number for each class of every prediction.
const MOST_NUMBERS: usize = 1 << 30;

/// Targets of every retain sample, from the weights of the source model, [samples * predictions, classes], flat; `None` where
/// its labels are taught.
///
/// With s(x) the scores of the source model and F the classes to forget, T_c = softmax(s restricted to the classes outside
/// F)_c, 0 for c in F; where scores are independent T_c = sigmoid(s_c), 0 for c in F. It is the knowledge distillation of
/// Hinton, Vinyals and Dean (2015) at temperature 1, from the model to itself, less the classes to forget.
pub fn answers(
    trials: &mut Trials<'_>,
    source: &Weights,
    recipe: &Recipe,
    retain: &Dataset,
    watch: &mut dyn Watch,
) -> Result<Option<Vec<f32>>, UnlearnError> {
    if recipe.targets == Targets::Labels {
        return Ok(None);
    }
    let (samples, width) = (retain.len(), retain.predictions() * retain.classes());
    if samples * width > MOST_NUMBERS {
        return Err(UnlearnError::Answers { samples, width });
    }
    let mut all = Vec::with_capacity(samples * width);
    let rows: Vec<usize> = (0..samples).collect();
    let steps = samples.div_ceil(trials.batch());
    let forgotten = recipe.forgotten();
    watch.begin("answers", steps);
    for (i, some) in rows.chunks(trials.batch()).enumerate() {
        let mut scores = trials.scores_of_data(source, retain, some)?;
        let labels = some.iter().flat_map(|&i| retain.labels_of(i));
        for (row, labels) in scores.chunks_exact_mut(retain.classes()).zip(labels) {
            answer(row, &forgotten, labels, trials.independent());
        }
        if !watch.step(i + 1, entropy(&scores) / (some.len() * retain.predictions()) as f32) {
            return Err(UnlearnError::Interrupted { phase: "answers", step: i + 1, steps });
        }
        all.extend(scores);
    }
    Ok(Some(all))
}

/// In nats: the lowest that the loss with these targets can be, where they exclude each other.
fn entropy(targets: &[f32]) -> f32 {
    targets.iter().filter(|&&t| t > 0.0).map(|&t| -t * t.ln()).sum()
}

/// Makes scores the target of a prediction; its labels where a score is no number.
fn answer(row: &mut [f32], forget: &[usize], labels: &[u32], independent: bool) {
    if row.iter().any(|s| !s.is_finite()) {
        row.fill(0.0);
        for &label in labels {
            row[label as usize] = 1.0;
        }
        return;
    }
    if independent {
        for s in &mut *row {
            *s = 1.0 / (1.0 + (-*s).exp());
        }
    } else {
        let kept = |c: usize| !forget.contains(&c);
        let largest = (0..row.len()).filter(|&c| kept(c)).map(|c| row[c]).fold(f32::NEG_INFINITY, f32::max);
        for s in &mut *row {
            *s = (*s - largest).exp();
        }
    }
    for &class in forget {
        row[class] = 0.0;
    }
    if !independent {
        let sum: f32 = row.iter().sum();
        for s in row {
            *s /= sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn answers_leave_out_the_classes_to_forget() {
        // Softmax over classes 0 and 2 of (0, ln 3): 1/4 and 3/4. A huge score of the forgotten class does no harm.
        let mut row = [1.0, 200.0, 1.0 + 3.0f32.ln()];
        answer(&mut row, &[1], &[0], false);
        assert!((row[0] - 0.25).abs() < 1e-6 && row[1].abs() < 1e-12 && (row[2] - 0.75).abs() < 1e-6, "{row:?}");

        let mut row = [0.0, 5.0, -(3.0f32.ln())];
        answer(&mut row, &[1], &[0], true);
        assert!((row[0] - 0.5).abs() < 1e-6 && row[1].abs() < 1e-12 && (row[2] - 0.25).abs() < 1e-6, "{row:?}");

        let mut row = [f32::NAN, 1.0, 2.0];
        answer(&mut row, &[1], &[2], false);
        assert!(row[0].abs() + row[1].abs() < 1e-9 && (row[2] - 1.0).abs() < 1e-9, "{row:?}");
    }
}
