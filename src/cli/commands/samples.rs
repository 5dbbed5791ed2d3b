//! Made-up samples in the types of the inputs: zeros for a first run that tells shapes, random ones for checking gradients.

use crate::{
    graph::Port,
    runtime::Engine,
    tensor::{DType, Tensor},
    train::{BatchNorm, Inputs, Network},
};
use anyhow::{Result, bail};

/// Length that an open axis which is no side of an image gets.
const TRIAL_LENGTH: usize = 16;

/// An axis longer than this holds no channels.
const MOST_CHANNELS: usize = 4;

/// A value that stands for "attend to this" in masks, and for the first sort of everything else.
const ON: f32 = 1.0;

/// Integers below this are drawn where nothing says what they are indices of; a byte has 256 values.
const BYTES: usize = 256;

/// A batch of zeros for every input that holds samples.
pub fn zeros(inputs: &Inputs, batch: usize, resize: Option<(usize, usize)>) -> Result<Vec<(String, Tensor)>> {
    filled(inputs, batch, resize, |_, n| vec![0.0; n])
}

/// A batch of random samples from standard normal numbers: floats are those, integers of the main input indices that the
/// model can look up; integers of further inputs, which tend to be masks, are 1, or 0 where that is the only row to look up.
/// What is looked up, a run on zeros tells.
pub fn random(
    network: &Network,
    engine: &Engine,
    batch: usize,
    resize: Option<(usize, usize)>,
    draw: &dyn Fn(&str, usize) -> Vec<f32>,
) -> Result<Vec<(String, Tensor)>> {
    let main = &network.input;
    let integers = |port: &Port| port.dtype.is_some_and(|t| !t.is_float());
    let trial = if network.inputs.ports().any(integers) {
        let zeros = zeros(&network.inputs, batch, resize)?;
        Some(network.at_batch_of(engine, zeros, BatchNorm::Frozen)?)
    } else {
        None
    };
    let rows = |port: &Port| trial.as_ref().and_then(|trial| trial.indices(&port.name));
    filled(&network.inputs, batch, resize, |port, n| {
        let purpose = if port.name == *main { "data".to_owned() } else { format!("data of {}", port.name) };
        if !integers(port) {
            return draw(&purpose, n);
        }
        if port.name != *main {
            let only = rows(port).is_some_and(|rows| rows < 2);
            return vec![if only { 0.0 } else { ON }; n];
        }
        let below = rows(port).unwrap_or(BYTES) as f32;
        // The share of a standard normal number that lies behind the point is as good as uniform.
        draw(&purpose, n).iter().map(|z| ((z.abs() * 1000.0).fract() * below).floor().min(below - 1.0)).collect()
    })
}

/// An image whose size the file leaves open needs `resize`.
fn filled(
    inputs: &Inputs,
    batch: usize,
    resize: Option<(usize, usize)>,
    values: impl Fn(&Port, usize) -> Vec<f32>,
) -> Result<Vec<(String, Tensor)>> {
    let open = |port: &Port| port.dims.iter().flatten().skip(1).filter(|d| d.is_none()).count();
    let image =
        inputs.main.dims.as_ref().is_some_and(|d| d.len() == 4) && inputs.main.dtype.is_some_and(DType::is_float);
    let dims = inputs.main.dims.as_deref().unwrap_or_default();
    let sides: Vec<usize> = match (open(&inputs.main), resize) {
        (2, Some((h, w))) => vec![h, w],
        (1, Some((h, w))) if image => {
            // Channels, of which there are few, stand first or last; the height stands before the width.
            let height = dims[1].is_none() || (dims[2].is_none() && dims[1].is_some_and(|c| c <= MOST_CHANNELS));
            vec![if height { h } else { w }]
        }
        (n @ 1.., _) if image => {
            bail!(
                "input {:?} leaves the length of {n} axes open; fix the image size with --resize HxW",
                inputs.main.name
            )
        }
        _ => Vec::new(),
    };
    let fill = |port: &Port, sides: &[usize]| {
        let mut sides = sides.iter().copied();
        let lengths = port.dims.iter().flatten().skip(1);
        let lengths = lengths.map(|d| d.unwrap_or_else(|| sides.next().unwrap_or(TRIAL_LENGTH)));
        let shape: Vec<usize> = std::iter::once(batch).chain(lengths).collect();
        let values = values(port, shape.iter().product());
        (port.name.clone(), Tensor::from_f32s(port.dtype.unwrap_or(DType::F32), shape, values))
    };
    let further = inputs.further.iter().map(|port| fill(port, &[]));
    Ok(std::iter::once(fill(&inputs.main, &sides)).chain(further).collect())
}
