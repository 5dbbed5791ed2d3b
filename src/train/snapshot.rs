//! The weights at one moment of training. Those of a large model lie in a temporary file without a name if there is room for it, so
//! that a trial does not hold the model several times over.

use super::network::{TrainError, Weights};
use crate::tensor::Tensor;
use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    sync::Arc,
};

/// Bytes of weights that are kept in memory.
const KEPT: usize = 256 << 20;

/// Numbers that are written or read at a time.
const PART: usize = 1 << 16;

/// Weights and running statistics as they were; copies are of the same.
#[derive(Clone, Debug)]
pub struct Snapshot(Held);

#[derive(Clone, Debug)]
enum Held {
    Memory(Weights),
    /// Tensors of float32, one after the other.
    File(Arc<File>, Vec<(String, Vec<usize>)>),
}

impl Snapshot {
    /// Of tensors with these names and shapes; `show` hands over the elements of one of them.
    pub(super) fn new(
        shapes: Vec<(String, Vec<usize>)>,
        show: impl FnMut(&str, &mut dyn FnMut(&[f32])) -> Result<(), TrainError>,
    ) -> Result<Self, TrainError> {
        Self::with_at_most(KEPT, shapes, show)
    }

    fn with_at_most(
        most: usize,
        shapes: Vec<(String, Vec<usize>)>,
        mut show: impl FnMut(&str, &mut dyn FnMut(&[f32])) -> Result<(), TrainError>,
    ) -> Result<Self, TrainError> {
        let elements: usize = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        if elements * size_of::<f32>() > most
            && let Some(file) = written(&shapes, &mut show)?
        {
            return Ok(Self(Held::File(Arc::new(file), shapes)));
        }
        let mut weights = Weights::new();
        for (name, shape) in shapes {
            let mut copy = Vec::new();
            show(&name, &mut |values| copy = values.to_vec())?;
            weights.insert(name, Arc::new(Tensor::f32(shape, copy)));
        }
        Ok(Self(Held::Memory(weights)))
    }

    /// The weights, in memory.
    pub fn weights(&self) -> Result<Weights, TrainError> {
        let mut weights = Weights::new();
        self.each(|name, tensor| {
            weights.insert(name.to_owned(), Arc::clone(tensor));
            Ok(())
        })?;
        Ok(weights)
    }

    /// Shows the tensors one by one.
    pub(super) fn each(
        &self,
        mut take: impl FnMut(&str, &Arc<Tensor>) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        match &self.0 {
            Held::Memory(weights) => weights.iter().try_for_each(|(name, tensor)| take(name, tensor)),
            Held::File(file, shapes) => {
                let mut file = file.as_ref();
                file.rewind().map_err(lost)?;
                shapes.iter().try_for_each(|(name, shape)| take(name, &Arc::new(read(file, shape).map_err(lost)?)))
            }
        }
    }
}

/// A file with the tensors; none where the system has no room for it, which is no reason to lose what was trained.
fn written(
    shapes: &[(String, Vec<usize>)],
    show: &mut impl FnMut(&str, &mut dyn FnMut(&[f32])) -> Result<(), TrainError>,
) -> Result<Option<File>, TrainError> {
    let Ok(mut file) = tempfile::tempfile() else { return Ok(None) };
    for (name, _) in shapes {
        let mut written = Ok(());
        show(name, &mut |values| written = write(&mut file, values))?;
        if written.is_err() {
            return Ok(None);
        }
    }
    Ok(Some(file))
}

/// Writes numbers a part at a time, so that there is no second array of them.
fn write(file: &mut File, values: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::new();
    for part in values.chunks(PART) {
        bytes.clear();
        bytes.extend(part.iter().flat_map(|v| v.to_le_bytes()));
        file.write_all(&bytes)?;
    }
    Ok(())
}

fn read(mut file: &File, shape: &[usize]) -> io::Result<Tensor> {
    let mut values = vec![0.0f32; shape.iter().product()];
    let mut bytes = vec![0; size_of::<f32>() * PART.min(values.len())];
    for part in values.chunks_mut(PART) {
        let bytes = &mut bytes[..size_of_val(part)];
        file.read_exact(bytes)?;
        part.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
    }
    Ok(Tensor::f32(shape, values))
}

fn lost(source: io::Error) -> TrainError {
    TrainError::Lost { folder: std::env::temp_dir(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_same_from_memory_and_from_a_file() {
        let tensors =
            [("a", Tensor::f32([2, 1], vec![1.0, f32::MIN])), ("b", Tensor::f32([3], vec![0.5, -0.0, 1e-40]))];
        let shapes: Vec<_> = tensors.iter().map(|(name, t)| ((*name).to_owned(), t.shape().to_vec())).collect();
        let show = |name: &str, take: &mut dyn FnMut(&[f32])| {
            let (_, tensor) = tensors.iter().find(|(n, _)| *n == name).expect("is asked for by its name");
            take(tensor.as_f32().expect("floats"));
            Ok(())
        };
        let expected: Weights = tensors.iter().map(|(n, t)| ((*n).to_owned(), Arc::new(t.clone()))).collect();
        for most in [20, 19] {
            let snapshot = Snapshot::with_at_most(most, shapes.clone(), show).expect("is kept");
            assert_eq!(matches!(snapshot.0, Held::File(..)), most < 20);
            for _ in 0..2 {
                assert_eq!(snapshot.weights().expect("is read"), expected, "with {most} bytes kept");
            }
        }
    }
}
