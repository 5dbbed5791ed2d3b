//! Membership inference by the loss: can samples that were trained on be told from held-out ones?

use crate::{data::Seeded, evaluate::Z};

/// What is printed with the figures.
pub const DEFINITION: &str = "Members are training samples of the forgotten classes (--train-data), the others held-out \
    samples of them (--data), equally many of each class. Who has the smaller loss is called a member, at every threshold: \
    AUC is the probability that a member has a smaller loss than a held-out sample, ties counted half. Interval of 95 % by \
    DeLong, DeLong and Clarke-Pearson (1988).";
/// Which values are good.
pub const DIRECTION: &str = "0.5 is ideal: members cannot be told. Above, they can; far below, a class was pushed away in a \
    way that tells them too. An attack by the loss alone is weak evidence of privacy, whatever it comes to.";

/// An area under the ROC curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auc {
    /// The area, 0 to 1.
    pub value: f64,
    /// Its interval of 95 %, cut at 0 and 1; of no width where the groups are wholly apart.
    pub interval: Option<[f64; 2]>,
}

/// The probability that one of `members` has a smaller loss than one of `others`, ties counted half.
///
/// AUC = 1/(m n) sum_ij psi(X_i, Y_j)        psi = 1, 1/2, 0 where X_i is smaller than, equal to, larger than Y_j
/// var(AUC) = S(V)/m + S(W)/n        V_i = 1/n sum_j psi(X_i, Y_j)        W_j = 1/m sum_i psi(X_i, Y_j)
///
/// where S is the sample variance (divided by the number less one), and the interval is AUC -+ 1.96 sqrt var (DeLong, DeLong
/// and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic curves", 1988, for
/// one curve). `None` where a group is empty; no interval where one has a single sample.
pub fn auc(members: &[f64], others: &[f64]) -> Option<Auc> {
    if members.is_empty() || others.is_empty() {
        return None;
    }
    let (mut x, mut y) = (members.to_vec(), others.to_vec());
    x.sort_by(f64::total_cmp);
    y.sort_by(f64::total_cmp);
    // Shares of a sorted group that are larger, and equal.
    let larger = |group: &[f64], v: f64| {
        let above = group.len() - group.partition_point(|w| *w <= v);
        let equal = group.len() - above - group.partition_point(|w| *w < v);
        (above as f64, equal as f64)
    };
    let v: Vec<f64> = x.iter().map(|&v| larger(&y, v)).map(|(a, e)| (a + e / 2.0) / y.len() as f64).collect();
    let of_other = |&v: &f64| {
        let (above, equal) = larger(&x, v);
        1.0 - (above + equal / 2.0) / x.len() as f64
    };
    let w: Vec<f64> = y.iter().map(of_other).collect();
    let value = v.iter().sum::<f64>() / v.len() as f64;
    let spread = |v: &[f64]| {
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        v.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (v.len() - 1) as f64 / v.len() as f64
    };
    let interval = (v.len() > 1 && w.len() > 1).then(|| {
        let reach = Z * (spread(&v) + spread(&w)).sqrt();
        [(value - reach).max(0.0), (value + reach).min(1.0)]
    });
    Some(Auc { value, interval })
}

/// Takes as many of the larger group as the smaller one has, drawn by the seed, in their order.
pub fn balanced(mut members: Vec<usize>, mut others: Vec<usize>, seed: u64, class: usize) -> [Vec<usize>; 2] {
    let n = members.len().min(others.len());
    let mut draw = Seeded::new(seed, &format!("membership of class {class}"));
    for group in [&mut members, &mut others] {
        if group.len() > n {
            let mut chosen: Vec<usize> = draw.shuffled(group.len())[..n].iter().map(|&at| group[at as usize]).collect();
            chosen.sort_unstable();
            *group = chosen;
        }
    }
    [members, others]
}

#[cfg(test)]
mod tests {
    use super::{super::close, *};

    #[test]
    fn auc_by_hand() {
        assert_eq!(auc(&[], &[1.0]), None);
        // Pairs: 1 < 2, 1 < 4, 3 > 2, 3 < 4: 3 of 4. V = (1, 1/2), W (of 2 and of 4) = (1/2, 1): each has the variance 1/8
        // (n - 1 = 1), so var = 1/16 + 1/16 = 1/8 and the reach is 1.96 * 0.3535534 = 0.6929.
        let found = auc(&[3.0, 1.0], &[2.0, 4.0]).expect("samples");
        close(found.value, 0.75);
        let [low, high] = found.interval.expect("two of each");
        close(low, 0.75 - Z * 0.125f64.sqrt());
        close(high, 1.0);
        // All equal: half of the pairs, and no spread.
        assert_eq!(auc(&[1.0; 3], &[1.0; 2]), Some(Auc { value: 0.5, interval: Some([0.5, 0.5]) }));
        // Wholly apart, either way; infinite losses are the largest.
        assert_eq!(auc(&[0.0, 0.1], &[1.0, f64::INFINITY]).map(|a| a.value), Some(1.0));
        assert_eq!(auc(&[2.0], &[1.0]), Some(Auc { value: 0.0, interval: None }));
        // A tie counts half: psi is 1/2, 1, 0, 1 for (1, 1), (1, 2), (2, 1), (2, 3)... of members 1, 2 and others 1, 3:
        // (1/2 + 1 + 0 + 1) / 4.
        close(auc(&[1.0, 2.0], &[1.0, 3.0]).expect("samples").value, 0.625);
    }

    #[test]
    fn the_larger_group_is_thinned() {
        let [members, others] = balanced((0..10).collect(), vec![20, 21, 22], 0, 1);
        assert_eq!((members.len(), others.as_slice()), (3, &[20, 21, 22][..]));
        assert!(members.is_sorted() && members.iter().all(|m| *m < 10));
        assert_eq!(balanced((0..10).collect(), vec![20, 21, 22], 0, 1)[0], members, "the same seed");
        assert_ne!(balanced((0..10).collect(), vec![20, 21, 22], 1, 1)[0], members, "another seed");
    }
}
