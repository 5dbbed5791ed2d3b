//! Samples of zeros, for a first run that tells shapes.

use crate::{
    graph::Port,
    tensor::{DType, Tensor},
    train::Network,
};
use anyhow::{Result, bail};

/// Length that an open axis which is no side of an image gets.
const TRIAL_LENGTH: usize = 16;

/// A batch of zeros for every input that holds samples. An image whose size the file leaves open needs `resize`.
pub fn zeros(network: &Network, batch: usize, resize: Option<(usize, usize)>) -> Result<Vec<(String, Tensor)>> {
    let inputs = &network.inputs;
    let open = |port: &Port| port.dims.iter().flatten().skip(1).filter(|d| d.is_none()).count();
    let image =
        inputs.main.dims.as_ref().is_some_and(|d| d.len() == 4) && inputs.main.dtype.is_some_and(DType::is_float);
    let sides: Vec<usize> = match (open(&inputs.main), resize) {
        (2, Some((h, w))) => vec![h, w],
        (n @ 2.., _) if image => {
            bail!(
                "input {:?} leaves the length of {n} axes open; fix the image size with --resize HxW",
                inputs.main.name
            )
        }
        _ => Vec::new(),
    };
    let zeros = |port: &Port, sides: &[usize]| {
        let mut sides = sides.iter().copied();
        let lengths = port.dims.iter().flatten().skip(1);
        let lengths = lengths.map(|d| d.unwrap_or_else(|| sides.next().unwrap_or(TRIAL_LENGTH)));
        let shape: Vec<usize> = std::iter::once(batch).chain(lengths).collect();
        (port.name.clone(), Tensor::zeros(shape))
    };
    let further = inputs.further.iter().map(|port| zeros(port, &[]));
    Ok(std::iter::once(zeros(&inputs.main, &sides)).chain(further).collect())
}
