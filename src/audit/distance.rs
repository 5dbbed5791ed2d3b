//! How far the outputs of two models are apart on the same samples.

use super::Outputs;
use crate::evaluate::jensen_shannon;

/// What is printed with the figures.
pub const DEFINITION: &str = "Of two models on the same samples of --data. Equal predictions ('completeness'): share of samples \
    with the same predicted class. JS divergence: Jensen-Shannon divergence of the softmax outputs in bits, base 2, 0 log 0 = 0, \
    for each sample, then the mean over samples. Activation distance: Euclidean length of the difference of the softmax \
    outputs, mean over samples. Routing distance: total variation of the predicted classes of the forgotten samples, half the \
    sum of the differences of shares.";
/// Which values are good, for the retrained model.
pub const TO_RETRAINED: &str = "The nearer after is to retrained the better: equal predictions towards 100 %, distances towards \
    0. Models trained twice on the same data differ too, so neither end is reached.";
/// Which values are good, for the model before.
pub const TO_BEFORE: &str = "On the retained classes the nearer the better; on the forgotten ones after has to be far from \
    before. What retrained has, where it is given, is the size to expect.";

/// Share of the samples that both predict as the same class; what is not finite is the same as nothing.
pub fn agreement(a: &Outputs, b: &Outputs, rows: &[usize]) -> Option<f64> {
    let same = |&i: &usize| f64::from(u8::from(a.top(i).is_some() && a.top(i) == b.top(i)));
    super::mean(rows.iter().map(same))
}

/// Mean Jensen-Shannon divergence in bits over the samples for which both are finite.
pub fn divergence(a: &Outputs, b: &Outputs, rows: &[usize]) -> Option<f64> {
    super::mean(pairs(a, b, rows).map(|(p, q)| jensen_shannon(&p, &q)))
}

/// Mean of |p - q|, the Euclidean distance of the softmax outputs, from 0 to sqrt 2.
pub fn activation(a: &Outputs, b: &Outputs, rows: &[usize]) -> Option<f64> {
    let length = |(p, q): (Vec<f64>, Vec<f64>)| p.iter().zip(&q).map(|(p, q)| (p - q).powi(2)).sum::<f64>().sqrt();
    super::mean(pairs(a, b, rows).map(length))
}

/// Total variation of where the samples go: 1/2 sum_c |share_a(c) - share_b(c)|, from 0 to 1.
pub fn routing(a: &Outputs, b: &Outputs, rows: &[usize]) -> Option<f64> {
    let shares = |o: &Outputs| {
        let counts = o.predicted(rows);
        let n = counts.iter().sum::<usize>();
        (n > 0).then(|| counts.into_iter().map(|c| c as f64 / n as f64).collect::<Vec<f64>>())
    };
    let (a, b) = (shares(a)?, shares(b)?);
    Some(a.iter().zip(&b).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0)
}

fn pairs<'a>(
    a: &'a Outputs,
    b: &'a Outputs,
    rows: &'a [usize],
) -> impl Iterator<Item = (Vec<f64>, Vec<f64>)> + use<'a> {
    rows.iter().filter_map(|&i| a.probabilities(i).zip(b.probabilities(i)))
}

#[cfg(test)]
mod tests {
    use super::{super::close, *};

    #[test]
    fn distances_by_hand() {
        let a = Outputs::made(&[(0, &[1.0, 0.0]), (0, &[0.0, 1.0]), (1, &[0.25, 0.75]), (1, &[f64::NAN, 1.0])]);
        let b = Outputs::made(&[(0, &[0.5, 0.5]), (0, &[1.0, 0.0]), (1, &[0.25, 0.75]), (1, &[0.0, 1.0])]);
        let rows = [0, 1, 2, 3];
        let of = |f: fn(&Outputs, &Outputs, &[usize]) -> Option<f64>, rows: &[usize]| {
            (f(&a, &b, rows).expect("samples") * 1e6).round() / 1e6
        };
        // Equal: the first (both class 0, a tie goes to the first) and the third; the last one has no prediction.
        close(of(agreement, &rows), 0.5);
        // 0.75 log2(4/3), 1 and 0 (see the divergence itself), over three samples.
        close(of(divergence, &rows), 0.437_093);
        // sqrt(1/4 + 1/4); sqrt 2 and 0, halved.
        close(of(activation, &[0]), (0.5f64.sqrt() * 1e6).round() / 1e6);
        close(of(activation, &[1, 2]), (0.5f64.sqrt() * 1e6).round() / 1e6);
        // Shares of three finite samples (1/3, 2/3) and of four (2/4, 2/4): |1/3 - 1/2|.
        close(of(routing, &rows), 0.166_667);
        close(of(routing, &[1]), 1.0);
        assert_eq!((agreement(&a, &b, &[]), routing(&a, &b, &[3]), divergence(&a, &b, &[3])), (None, None, None));
    }
}
