//! Steps graphs whose state stays on the device.

use super::session::{Device, RuntimeError, Session, failed};
use crate::tensor::Tensor;
use ort::{
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::IoBinding,
    value::{Tensor as OrtTensor, TensorRefMut},
};
use std::sync::Arc;

/// One array that a step graph reads under one name and writes anew under another.
pub struct State {
    /// Name of the graph input.
    pub input: String,
    /// Name of the graph output.
    pub output: String,
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// Value before the first step; zeros when `None`.
    pub initial: Option<Arc<Tensor>>,
    /// True where the output may be written over the input: whatever else reads the input has done so by then, and what
    /// writes the output knows that they may be one. Otherwise there are two buffers.
    pub in_place: bool,
}

/// One array of the state: every step reads one buffer and writes the other, where there are two.
struct Slot {
    input: String,
    output: String,
    shape: Vec<usize>,
    buffers: Vec<Buffer>,
}

impl Slot {
    /// The number of the buffer that step number `step` reads, which the one before it has written.
    fn at(&self, step: usize) -> usize {
        step % self.buffers.len()
    }
}

/// Where an array of the state lies.
enum Buffer {
    /// In memory of this program, which is zero as it comes, and taken from the system when it is written.
    Host(OrtTensor<f32>),
    /// In memory of a device.
    Device(OrtTensor<f32>),
}

impl Buffer {
    fn new(session: &Session, shape: &[usize]) -> Result<Self, ort::Error> {
        match session.device {
            Device::Cpu => {
                let zeros = vec![0.0; shape.iter().product()];
                Ok(Self::Host(OrtTensor::from_array((shape.to_vec(), zeros))?))
            }
            Device::Cuda(id) => {
                let info = MemoryInfo::new(AllocationDevice::CUDA, id, AllocatorType::Device, MemoryType::Default)?;
                let allocator = Allocator::new(&session.inner, info)?;
                Ok(Self::Device(OrtTensor::new(&allocator, shape.to_vec())?))
            }
        }
    }

    fn bind_input(&self, binding: &mut IoBinding, name: &str) -> Result<(), ort::Error> {
        let (Self::Host(value) | Self::Device(value)) = self;
        binding.bind_input(name, value)
    }

    fn bind_output(&mut self, binding: &mut IoBinding, name: &str) -> Result<(), ort::Error> {
        match self {
            Self::Host(value) => {
                let (shape, values) = value.extract_tensor_mut();
                let (shape, start) = (shape.clone(), values.as_mut_ptr().cast());
                // SAFETY: the memory is as long as the shape says, and the stepper drops its bindings before its buffers.
                #[expect(unsafe_code, reason = "ort binds no tensor as output that owns memory of this program")]
                let value = unsafe { TensorRefMut::<f32>::from_raw(MemoryInfo::default(), start, shape)? };
                binding.bind_output(name, value)
            }
            Self::Device(value) => binding.bind_output(name, value),
        }
    }

    /// Copies values in, zeros where there are none.
    fn fill(&mut self, values: Option<&Tensor>) -> Result<(), ort::Error> {
        match (self, values.and_then(Tensor::as_f32)) {
            (Self::Host(value), Some(values)) => value.extract_tensor_mut().1.copy_from_slice(values),
            (Self::Host(value), None) => value.extract_tensor_mut().1.fill(0.0),
            (Self::Device(value), values) => {
                let shape = value.shape().clone();
                let host = values.map_or_else(|| vec![0.0; shape.num_elements()], <[f32]>::to_vec);
                OrtTensor::from_array((shape, host))?.copy_into(value)?;
            }
        }
        Ok(())
    }

    /// Shows the values.
    fn show(&self, take: &mut dyn FnMut(&[f32])) -> Result<(), ort::Error> {
        match self {
            Self::Host(value) => take(value.extract_tensor().1),
            Self::Device(value) => take(value.to(AllocationDevice::CPU, 0)?.extract_tensor().1),
        }
        Ok(())
    }
}

/// A step graph, and what it is fed.
struct Loaded {
    /// Before the session, which then is the last that holds what it reads.
    bindings: [IoBinding; 2],
    session: Session,
    feeds: Vec<(String, OrtTensor<f32>)>,
    read: Vec<String>,
}

impl Loaded {
    fn new(
        session: Session,
        slots: &mut [Slot],
        batch: &[(&str, Vec<usize>)],
        read: &[&str],
    ) -> Result<Self, ort::Error> {
        let host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput)?;
        let mut bindings = [session.inner.create_binding()?, session.inner.create_binding()?];
        for slot in slots {
            for (i, binding) in bindings.iter_mut().enumerate() {
                let [from, to] = [slot.at(i), slot.at(1 - i)];
                slot.buffers[from].bind_input(binding, &slot.input)?;
                slot.buffers[to].bind_output(binding, &slot.output)?;
            }
        }
        let feed = |(name, shape): &(&str, Vec<usize>)| {
            Ok(((*name).to_owned(), OrtTensor::<f32>::new(&Allocator::default(), shape.clone())?))
        };
        let feeds = batch.iter().map(feed).collect::<Result<_, ort::Error>>()?;
        for name in read {
            for binding in &mut bindings {
                binding.bind_output_to_device(*name, &host)?;
            }
        }
        Ok(Self { bindings, session, feeds, read: read.iter().map(|s| (*s).to_owned()).collect() })
    }
}

/// Step graphs with the state that they share on the device.
pub struct Stepper {
    /// Before the state, which their bindings point to.
    graphs: Vec<Loaded>,
    /// The graph that is fed and run.
    chosen: usize,
    slots: Vec<Slot>,
    /// Which of the two buffers holds the current state.
    current: usize,
}

impl Stepper {
    pub(super) fn new(
        session: Session,
        state: Vec<State>,
        batch: &[(&str, Vec<usize>)],
        read: &[&str],
    ) -> Result<Self, RuntimeError> {
        let what = session.what.clone();
        let fail = |e: ort::Error| failed(&what, &e);
        let mut slots = Vec::new();
        for s in state {
            let buffers = (0..if s.in_place { 1 } else { 2 }).map(|_| Buffer::new(&session, &s.shape));
            let mut buffers = buffers.collect::<Result<Vec<_>, _>>().map_err(fail)?;
            // Memory of the host is zero as it comes.
            if s.initial.is_some() || session.device != Device::Cpu {
                buffers[0].fill(s.initial.as_deref()).map_err(fail)?;
            }
            slots.push(Slot { input: s.input, output: s.output, shape: s.shape, buffers });
        }
        let first = Loaded::new(session, &mut slots, batch, read).map_err(fail)?;
        Ok(Self { graphs: vec![first], chosen: 0, slots, current: 0 })
    }

    /// Takes over a session on another graph that steps the same state, and gives the number of the graph.
    pub fn add(
        &mut self,
        session: Session,
        batch: &[(&str, Vec<usize>)],
        read: &[&str],
    ) -> Result<usize, RuntimeError> {
        let what = session.what.clone();
        self.graphs.push(Loaded::new(session, &mut self.slots, batch, read).map_err(|e| failed(&what, &e))?);
        Ok(self.graphs.len() - 1)
    }

    /// How many graphs there are.
    pub fn graphs(&self) -> usize {
        self.graphs.len()
    }

    /// Feeds and runs the graph of this number from here on; the one it was made with is number 0.
    ///
    /// # Panics
    /// When there is no such graph.
    pub fn choose(&mut self, graph: usize) {
        assert!(graph < self.graphs.len(), "graph {graph} of {}", self.graphs.len());
        self.chosen = graph;
    }

    /// The buffer of a batch input, to be written before [`Stepper::step`].
    ///
    /// # Panics
    /// When the stepper was made without this input.
    pub fn feed(&mut self, name: &str) -> &mut [f32] {
        let (_, tensor) =
            self.graphs[self.chosen].feeds.iter_mut().find(|(n, _)| n == name).expect("a batch input of this stepper");
        tensor.extract_tensor_mut().1
    }

    /// Runs one step and gives back the values to read, in the order they were named.
    pub fn step(&mut self) -> Result<Vec<f32>, RuntimeError> {
        let Loaded { bindings, session, feeds, read } = &mut self.graphs[self.chosen];
        let what = &session.what;
        let fail = |e: ort::Error| failed(what, &e);
        let binding = &mut bindings[self.current];
        for (name, tensor) in feeds {
            // Binding copies to the device where the device is not the CPU, so it has to follow every write.
            binding.bind_input(name.as_str(), &*tensor).map_err(fail)?;
        }
        let outputs = session.inner.run_binding(binding).map_err(fail)?;
        let mut values = Vec::new();
        for name in read {
            let value = outputs.get(&*name).ok_or_else(|| failed(what, &format!("output {name:?} is missing")))?;
            values.push(value.try_extract_tensor::<f32>().map_err(fail)?.1[0]);
        }
        drop(outputs);
        self.current = 1 - self.current;
        Ok(values)
    }

    /// Shape of a state array, by the name of its output.
    pub fn shape(&self, output: &str) -> Option<&[usize]> {
        self.slots.iter().find(|s| s.output == output).map(|s| s.shape.as_slice())
    }

    /// Copies one state array back, by the name of its output.
    pub fn state(&self, output: &str) -> Result<Tensor, RuntimeError> {
        let mut copy = Vec::new();
        self.show_state(output, &mut |values| copy = values.to_vec())?;
        Ok(Tensor::f32(self.shape(output).unwrap_or_default(), copy))
    }

    /// Shows the elements of one state array, by the name of its output.
    pub fn show_state(&self, output: &str, take: &mut dyn FnMut(&[f32])) -> Result<(), RuntimeError> {
        let what = &self.graphs[self.chosen].session.what;
        let slot = self.slots.iter().find(|s| s.output == output);
        let slot = slot.ok_or_else(|| failed(what, &format!("no state {output:?}")))?;
        slot.buffers[slot.at(self.current)].show(take).map_err(|e| failed(what, &e))
    }

    /// Sets one state array, by the name of its output (zeros when `value` is `None`).
    pub fn set_state(&mut self, output: &str, value: Option<&Arc<Tensor>>) -> Result<(), RuntimeError> {
        let what = &self.graphs[self.chosen].session.what;
        let slot = self.slots.iter_mut().find(|s| s.output == output);
        let slot = slot.ok_or_else(|| failed(what, &format!("no state {output:?}")))?;
        let at = slot.at(self.current);
        slot.buffers[at].fill(value.map(AsRef::as_ref)).map_err(|e| failed(what, &e))
    }
}
