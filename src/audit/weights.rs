//! How far weights moved.

use crate::{tensor::Tensor, train::Weights};

/// What is printed with the figures.
pub const DEFINITION: &str = "For each weight tensor that both models have under the same name and in the same shape: |after - \
    before| / |before|, Euclidean lengths; for all of them together the same over all elements. Stored means and variances of \
    BatchNormalization are no weights and stand apart.";
/// Which values are good.
pub const DIRECTION: &str = "No value is good by itself. A change in the last layers alone hints at a class that is masked, \
    not gone. Statistics that drift change a model although no weight does.";

/// What became of the tensors of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moved {
    /// Name and |after - before| / |before| of each tensor, in order of the names. Infinite where |before| is 0 and the
    /// tensor changed, 0 where both are 0.
    pub tensors: Vec<(String, f64)>,
    /// The same over all elements together; `None` where no tensor is in both.
    pub together: Option<f64>,
    /// Tensors that only one of both has, or that have another shape.
    pub unmatched: Vec<String>,
}

/// Compares tensors by name.
pub fn moved(before: &Weights, after: &Weights) -> Moved {
    let mut found = Moved::default();
    let (mut change, mut size) = (0.0, 0.0);
    for (name, b) in before {
        let Some(a) = after.get(name).filter(|a| a.shape() == b.shape()) else {
            found.unmatched.push(name.clone());
            continue;
        };
        let (d, n) = squares(b, a);
        change += d;
        size += n;
        found.tensors.push((name.clone(), ratio(d, n)));
    }
    found.unmatched.extend(after.keys().filter(|name| !before.contains_key(*name)).cloned());
    found.together = (!found.tensors.is_empty()).then(|| ratio(change, size));
    found
}

/// Sums of the squared differences and of the squares before.
fn squares(before: &Tensor, after: &Tensor) -> (f64, f64) {
    let pairs = before.to_f32s().into_iter().zip(after.to_f32s()).map(|(b, a)| (f64::from(b), f64::from(a)));
    pairs.fold((0.0, 0.0), |(d, n), (b, a)| (d + (a - b).powi(2), n + b * b))
}

fn ratio(change: f64, size: f64) -> f64 {
    if change > 0.0 { (change / size).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::{super::close, *};
    use std::sync::Arc;

    #[test]
    fn changes_by_hand() {
        let of = |tensors: &[(&str, &[f32])]| -> Weights {
            let tensor = |v: &[f32]| Arc::new(Tensor::f32([v.len()], v.to_vec()));
            tensors.iter().map(|(name, v)| ((*name).to_owned(), tensor(v))).collect()
        };
        let before = of(&[("a", &[3.0, 4.0]), ("b", &[0.0]), ("c", &[1.0]), ("d", &[12.0]), ("z", &[0.0])]);
        let after =
            of(&[("a", &[3.0, 7.0]), ("b", &[0.0]), ("c", &[1.0, 2.0]), ("d", &[8.0]), ("e", &[1.0]), ("z", &[1.0])]);
        let found = moved(&before, &after);
        // |(0, 3)| / 5, 0 / 0, 4 / 12, 1 / 0.
        let names: Vec<&str> = found.tensors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, found.unmatched), (vec!["a", "b", "d", "z"], vec!["c".to_owned(), "e".to_owned()]));
        close(found.tensors[0].1, 0.6);
        close(found.tensors[1].1, 0.0);
        close(found.tensors[2].1, 1.0 / 3.0);
        assert!(found.tensors[3].1.is_infinite());
        // sqrt(9 + 16 + 1) / 13.
        close(found.together.expect("tensors"), 26f64.sqrt() / 13.0);
        assert_eq!(moved(&before, &Weights::new()).together, None);
    }
}
