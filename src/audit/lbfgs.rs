//! Minimises a smooth function, always in the same steps.

/// Pairs of steps and gradient changes that are remembered.
const MEMORY: usize = 10;

/// Share of the fall that the slope promises which a step has to bring (Armijo).
const ENOUGH: f64 = 1e-4;

/// Halvings of a step before it is given up.
const HALVINGS: usize = 30;

/// Limited-memory BFGS (Nocedal and Wright, "Numerical Optimization", 2006, algorithms 7.4 and 7.5) with backtracking; `f`
/// gives value and gradient. Stops where the largest element of the gradient is at most `tolerance`, after `iterations`, or
/// where no step along the direction falls any more.
pub fn minimise(
    mut f: impl FnMut(&[f64]) -> (f64, Vec<f64>),
    start: Vec<f64>,
    iterations: usize,
    tolerance: f64,
) -> Vec<f64> {
    let mut x = start;
    let (mut value, mut gradient) = f(&x);
    let mut pairs: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    for _ in 0..iterations {
        let largest = gradient.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        if largest <= tolerance {
            break;
        }
        let direction = direction(&gradient, &pairs);
        let slope = dot(&gradient, &direction);
        // The first step has no curvature to go by: it moves no element by more than one.
        let mut size = if pairs.is_empty() { 1.0f64.min(1.0 / largest) } else { 1.0 };
        let mut next = None;
        for _ in 0..HALVINGS {
            let tried: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + size * d).collect();
            let (v, g) = f(&tried);
            if v <= value + ENOUGH * size * slope {
                next = Some((tried, v, g));
                break;
            }
            size /= 2.0;
        }
        let Some((tried, v, g)) = next else { break };
        let s: Vec<f64> = tried.iter().zip(&x).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = g.iter().zip(&gradient).map(|(a, b)| a - b).collect();
        // Only a pair of positive curvature keeps the direction one of descent.
        if dot(&s, &y) > 1e-12 * dot(&y, &y) {
            if pairs.len() == MEMORY {
                pairs.remove(0);
            }
            pairs.push((s, y));
        }
        (x, value, gradient) = (tried, v, g);
    }
    x
}

/// Minus the approximated inverse Hessian times the gradient, by the two loops.
fn direction(gradient: &[f64], pairs: &[(Vec<f64>, Vec<f64>)]) -> Vec<f64> {
    let mut q: Vec<f64> = gradient.to_vec();
    let mut factors = Vec::new();
    for (s, y) in pairs.iter().rev() {
        let a = dot(s, &q) / dot(s, y);
        add(&mut q, -a, y);
        factors.push(a);
    }
    if let Some((s, y)) = pairs.last() {
        let scale = dot(s, y) / dot(y, y);
        for v in &mut q {
            *v *= scale;
        }
    }
    for ((s, y), a) in pairs.iter().zip(factors.into_iter().rev()) {
        let b = dot(y, &q) / dot(s, y);
        add(&mut q, a - b, s);
    }
    q.into_iter().map(|v| -v).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(t, w)| *t += factor * w);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_bowl_and_a_bent_valley() {
        // (x - 1)^2 + 1000 (y + 2)^2.
        let bowl = |p: &[f64]| {
            let (a, b) = (p[0] - 1.0, p[1] + 2.0);
            (a * a + 1000.0 * b * b, vec![2.0 * a, 2000.0 * b])
        };
        let found = minimise(bowl, vec![10.0, 10.0], 100, 1e-9);
        assert!((found[0] - 1.0).abs() < 1e-8 && (found[1] + 2.0).abs() < 1e-8, "{found:?}");
        // Rosenbrock's function, with its minimum at (1, 1).
        let valley = |p: &[f64]| {
            let (a, b) = (1.0 - p[0], p[1] - p[0] * p[0]);
            (a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * p[0] * b, 200.0 * b])
        };
        let found = minimise(valley, vec![-1.2, 1.0], 200, 1e-9);
        assert!((found[0] - 1.0).abs() < 1e-6 && (found[1] - 1.0).abs() < 1e-6, "{found:?}");
    }
}
