//! Weights to train a network from anew.

use crate::{data::Seeded, tensor::Tensor, train::Weights};
use std::sync::Arc;

/// Fresh weights for the network that `weights` are of.
///
/// Tensors of two axes and more whose values spread around zero are drawn from a normal distribution of mean 0 with the
/// standard deviation that the tensor has in `weights`. Vectors and single numbers (biases, scales, running statistics), and
/// tensors whose mean is further from zero than they spread (scales of any shape), become constants, that mean. So the
/// signal roughly keeps its size from layer to layer, with normalisation or without, and nothing of a model is left but
/// two numbers a tensor.
pub fn fresh(weights: &Weights, seed: u64) -> Weights {
    weights.iter().map(|(name, tensor)| (name.clone(), Arc::new(drawn(tensor, seed, name)))).collect()
}

fn drawn(tensor: &Tensor, seed: u64, name: &str) -> Tensor {
    let values = tensor.to_f32s();
    let n = values.len().max(1) as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let fresh = if tensor.shape().len() < 2 || mean.abs() > variance.sqrt() {
        vec![mean as f32; values.len()]
    } else {
        let drawn = Seeded::new(seed, &format!("fresh {name}")).normal(values.len());
        drawn.into_iter().map(|z| (f64::from(z) * variance.sqrt()) as f32).collect()
    };
    Tensor::f32(tensor.shape(), fresh)
}

#[cfg(test)]
mod tests {
    use super::fresh;
    use crate::{tensor::Tensor, train::Weights};
    use std::sync::Arc;

    #[test]
    fn fresh_weights_keep_the_scale_and_nothing_else() {
        let matrix: Vec<f32> = (0..10_000).map(|i| 0.1 + if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        let mut weights = Weights::new();
        weights.insert("w".into(), Arc::new(Tensor::f32([100, 100], matrix)));
        weights.insert("b".into(), Arc::new(Tensor::f32([4], vec![0.0, 1.0, 2.0, 3.0])));
        weights.insert("scale".into(), Arc::new(Tensor::f32([1, 2, 1], vec![0.75, 1.25])));
        let drawn = fresh(&weights, 1);
        assert_eq!(drawn["scale"].as_f32(), Some(&[1.0; 2][..]));
        assert_eq!(drawn["b"].as_f32(), Some(&[1.5; 4][..]));
        let w = drawn["w"].to_f32s();
        let mean = w.iter().map(|&v| f64::from(v)).sum::<f64>() / 1e4;
        let square = w.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 1e4;
        // Standard errors at 10,000 values of deviation 0.5: 0.005 and 0.0035.
        assert!(mean.abs() < 0.025 && (square - 0.25).abs() < 0.018, "{mean} {square}");
        assert_ne!(w, fresh(&weights, 2)["w"].to_f32s());
        assert_eq!(w, fresh(&weights, 1)["w"].to_f32s());
    }
}
