//! The only file that speaks to `ort`: opens the library, runs graphs, and steps graphs whose state stays on the device.

use crate::{
    graph::{Builder, Forms, Graph, Node},
    onnx,
    tensor::{DType, Data, Tensor},
};
use half::{bf16, f16};
use ort::{
    ep::{self, ArenaExtendStrategy},
    logging::LogLevel,
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::{
        IoBinding, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef, ValueRef},
};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use thiserror::Error;

/// What went wrong in the runtime, with the step it was in.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The library could not be opened although the probe accepted it.
    #[error("ONNX Runtime at {path} could not be opened: {reason}")]
    Open {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// A process can only hold one ONNX Runtime.
    #[error("ONNX Runtime was already opened from {open}; it cannot be opened again from {wanted} in the same process")]
    OtherLibrary {
        /// The one in use.
        open: PathBuf,
        /// The one asked for.
        wanted: PathBuf,
    },
    /// The CUDA execution provider was asked for and cannot be used.
    #[error(
        "--device {device}: the CUDA execution provider cannot be used: {reason}\n(the GPU build needs an NVIDIA driver, and \
         CUDA 13 and cuDNN 9 where the system's loader finds them, such as LD_LIBRARY_PATH on Linux)"
    )]
    Cuda {
        /// The device asked for.
        device: Device,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// ONNX Runtime refused something.
    #[error("{context}: ONNX Runtime: {reason}")]
    Runtime {
        /// What was being done.
        context: String,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// An element type that cannot be handed over.
    #[error("value {name:?} has element type {dtype}, which cannot be passed to the runtime")]
    Type {
        /// Name of the value.
        name: String,
        /// Its type.
        dtype: String,
    },
}

/// Where training steps and measurements run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU execution provider.
    Cpu,
    /// The CUDA execution provider on the GPU of this number.
    Cuda(i32),
}

impl Device {
    /// Operators that step graphs avoid on this device.
    ///
    /// The CUDA provider's `ConvTranspose` goes wrong where its kernel is an input of the graph that changes from run to run:
    /// on an H100 with ONNX Runtime 1.31.1 every second step of a ResNet18 saw one of its weights as zeros.
    pub fn avoided(self) -> &'static [&'static str] {
        match self {
            Self::Cpu => &[],
            Self::Cuda(_) => &["ConvTranspose"],
        }
    }

    /// True where step graphs may hold the tool's own operators ([`native`](crate::graph::native)).
    pub fn has_native(self) -> bool {
        self == Self::Cpu
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(id) => write!(f, "cuda:{id}"),
        }
    }
}

/// An opened ONNX Runtime on one device.
#[derive(Clone)]
pub struct Engine {
    environment: ort::environment::Environment,
    device: Device,
    threads: usize,
    tf32: bool,
    forms: Arc<Forms>,
    spins: bool,
    profile: Option<PathBuf>,
}

/// ONNX Runtime is global to a process: the first library opened is the only one.
static OPENED: Mutex<Option<(PathBuf, ort::environment::Environment)>> = Mutex::new(None);

impl Engine {
    /// Opens the library at `path` (which has been probed) for `device`, with `threads` threads per operator.
    pub fn open(path: &Path, device: Device, threads: usize) -> Result<Self, RuntimeError> {
        let mut opened = OPENED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let environment = match &*opened {
            Some((open, environment)) if open == path => environment.clone(),
            Some((open, _)) => {
                return Err(RuntimeError::OtherLibrary { open: open.clone(), wanted: path.to_owned() });
            }
            None => {
                let fail = |reason: String| RuntimeError::Open { path: path.to_owned(), reason };
                let environment = ort::init_from(path)
                    .map_err(|e| fail(e.to_string()))?
                    .with_name("onnx-unlearn")
                    .with_telemetry(false)
                    .build()
                    .map_err(|e| fail(e.to_string()))?;
                // The library notes the domain of the tool's own operators with the first session, and fails where two
                // sessions on different threads are the first; under the lock there is one.
                let first = Self::on(environment.clone(), Device::Cpu, 1);
                first.session("a first graph", &crate::runtime::probe_graph())?;
                *opened = Some((path.to_owned(), environment.clone()));
                environment
            }
        };
        environment.set_log_level(ort::logging::LogLevel::Error);
        let engine = Self::on(environment, device, threads);
        if let Device::Cuda(_) = device {
            engine.try_cuda()?;
        }
        Ok(engine)
    }

    fn on(environment: ort::environment::Environment, device: Device, threads: usize) -> Self {
        Self { environment, device, threads, tf32: false, forms: Arc::default(), spins: true, profile: None }
    }

    /// The same with products whose factors a GPU may round to TF32, which has 10 bits behind the leading one.
    #[must_use]
    pub fn with_tf32(self, tf32: bool) -> Self {
        Self { tf32, ..self }
    }

    /// The same, for which step graphs are written in these forms.
    #[must_use]
    pub fn with_forms(self, forms: Forms) -> Self {
        Self { forms: Arc::new(forms), ..self }
    }

    /// The same with threads that sleep between runs at once, and take their time to wake.
    #[must_use]
    pub fn without_spinning(self) -> Self {
        Self { spins: false, ..self }
    }

    /// The same with sessions that note the time of every operator, and write it down when they are closed: JSON, in files
    /// whose names begin with `prefix`.
    #[must_use]
    pub fn with_profile(self, prefix: &Path) -> Self {
        Self { profile: Some(prefix.to_owned()), ..self }
    }

    /// The device sessions run on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Threads per operator.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether a GPU may round the factors of products to TF32.
    pub fn tf32(&self) -> bool {
        self.tf32 && self.device != Device::Cpu
    }

    /// The same engine on the CPU.
    #[must_use]
    pub fn on_cpu(&self) -> Self {
        Self { device: Device::Cpu, ..self.clone() }
    }

    /// An empty graph for this device, whose nodes are spelled in `opset`.
    pub fn graph(&self, opset: i64) -> Builder {
        let device = self.device;
        Builder::new(opset).avoiding(device.avoided()).with_native(device.has_native()).with_forms(self.forms.clone())
    }

    /// Opens a session on a model in memory; `what` names it in errors.
    pub fn session(&self, what: &str, model: &[u8]) -> Result<Session, RuntimeError> {
        self.opened(what, self.builder(GraphOptimizationLevel::All), model)
    }

    fn opened(
        &self,
        what: &str,
        builder: Result<SessionBuilder, ort::Error>,
        model: &[u8],
    ) -> Result<Session, RuntimeError> {
        let mut builder = builder.map_err(|e| self.failed(what, &e))?;
        let inner = builder.commit_from_memory(model).map_err(|e| self.failed(what, &e))?;
        Ok(Session { inner, device: self.device, what: what.to_owned() })
    }

    /// Opens a session on a graph.
    pub fn session_of(&self, what: &str, graph: &Graph) -> Result<Session, RuntimeError> {
        let mut builder = self.builder(GraphOptimizationLevel::All);
        // The blocked layout suits convolutions that the runtime computes itself, and lays out once; pooling alone would be turned
        // to it and back.
        let laid_out = |node: &Node| node.op == "Conv" && graph.constants.contains_key(&node.inputs[1]);
        if !graph.nodes.iter().any(laid_out) {
            builder = builder.and_then(|b| Ok(b.with_disabled_optimizers("NchwcTransformer")?));
        }
        self.opened(what, builder, &onnx::export(graph))
    }

    /// Opens a session on a model file, with its external data beside it. With `plain` there are no graph optimisations.
    pub fn session_from_file(&self, path: &Path, plain: bool) -> Result<Session, RuntimeError> {
        let what = path.display().to_string();
        let level = if plain { GraphOptimizationLevel::Disable } else { GraphOptimizationLevel::All };
        let mut builder = self.builder(level).map_err(|e| self.failed(&what, &e))?;
        let inner = builder.commit_from_file(path).map_err(|e| self.failed(&what, &e))?;
        Ok(Session { inner, device: self.device, what })
    }

    /// Opens a session without graph optimisations: what runs is what the graph says, every value stays.
    pub fn plain_session(&self, what: &str, model: &[u8]) -> Result<Session, RuntimeError> {
        self.opened(what, self.builder(GraphOptimizationLevel::Disable), model)
    }

    fn builder(&self, level: GraphOptimizationLevel) -> Result<SessionBuilder, ort::Error> {
        let mut builder = ort::session::Session::builder(&self.environment)?
            .with_optimization_level(level)?
            // What fails comes back as an error; the library's own lines on stderr would say it twice.
            .with_log_level(LogLevel::Fatal)?
            .with_intra_threads(self.threads)?
            .with_intra_op_spinning(self.spins)?
            .with_inter_threads(1)?
            .with_parallel_execution(false)?
            // A plan of all memory is made from a first run and then stands beside what that run took.
            .with_memory_pattern(false)?
            // A prediction that is sure leaves gradients too small for normal numbers, at which processors are very slow.
            .with_flush_to_zero()?
            .with_operators(super::native::domain(self.threads)?)?;
        if let Some(prefix) = &self.profile {
            builder = builder.with_profiling(prefix)?;
        }
        let Device::Cuda(id) = self.device else { return Ok(builder) };
        let cuda = ep::CUDA::default()
            .with_device_id(id)
            // The runtime's own default is to round.
            .with_tf32(self.tf32)
            .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
            .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
        Ok(builder.with_execution_providers([cuda.build().error_on_failure()])?)
    }

    /// Runs one convolution: the provider loads cuDNN only then.
    fn try_cuda(&self) -> Result<(), RuntimeError> {
        let mut graph = crate::runtime::probe_graph();
        let run = |bytes: &[u8]| -> Result<(), RuntimeError> {
            let mut session = self.session("a trial convolution", bytes)?;
            session.run(&[("x", &Tensor::zeros([1, 1, 4, 4]))])?;
            Ok(())
        };
        run(&std::mem::take(&mut graph)).map_err(|e| RuntimeError::Cuda { device: self.device, reason: e.to_string() })
    }

    fn failed(&self, what: &str, e: &impl fmt::Display) -> RuntimeError {
        RuntimeError::Runtime { context: format!("opening {what} on {}", self.device), reason: e.to_string() }
    }
}

/// A graph ready to run.
pub struct Session {
    inner: ort::session::Session,
    device: Device,
    what: String,
}

impl Session {
    /// Names of the inputs that have to be fed.
    pub fn inputs(&self) -> Vec<String> {
        self.inner.inputs().iter().map(|i| i.name().to_owned()).collect()
    }

    /// Element type of an input; `None` where there is no such input or the tool does not hold its type.
    pub fn input_type(&self, name: &str) -> Option<DType> {
        let input = self.inner.inputs().iter().find(|i| i.name() == name)?;
        input.dtype().tensor_type().and_then(dtype_of)
    }

    /// Names of the outputs, in the order [`Session::run`] returns them.
    pub fn outputs(&self) -> Vec<String> {
        self.inner.outputs().iter().map(|o| o.name().to_owned()).collect()
    }

    /// Element types of the outputs by their names, in so far as the tool holds them all.
    pub fn output_types(&self) -> Result<BTreeMap<String, DType>, RuntimeError> {
        let of = |o: &ort::value::Outlet| {
            let dtype = o.dtype().tensor_type().and_then(dtype_of);
            let refused = || RuntimeError::Type { name: o.name().into(), dtype: o.dtype().to_string() };
            Ok((o.name().to_owned(), dtype.ok_or_else(refused)?))
        };
        self.inner.outputs().iter().map(of).collect()
    }

    /// Runs the graph once and copies every output back, in the order of [`Session::outputs`].
    pub fn run(&mut self, feeds: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        let what = self.what.clone();
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::new();
        for (name, tensor) in feeds {
            inputs.push(((*name).into(), borrowed(name, tensor)?));
        }
        let outputs = self.inner.run(inputs).map_err(|e| failed(&what, &e))?;
        outputs.iter().map(|(name, value)| copied(name, &value, &what)).collect()
    }

    /// Takes over the session for stepping. `state` names pairs of input and output with their first value; the output
    /// of one step is the input of the next and never leaves the device. `batch` are inputs written before a step,
    /// `read` outputs of one float read after it.
    pub fn stepper(
        self,
        state: Vec<State>,
        batch: &[(&str, Vec<usize>)],
        read: &[&str],
    ) -> Result<Stepper, RuntimeError> {
        Stepper::new(self, state, batch, read)
    }
}

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
}

struct Slot {
    output: String,
    shape: Vec<usize>,
    /// Two buffers: every step reads one and writes the other.
    buffers: [OrtTensor<f32>; 2],
}

/// A step graph with its state on the device.
pub struct Stepper {
    session: Session,
    bindings: [IoBinding; 2],
    slots: Vec<Slot>,
    feeds: Vec<(String, OrtTensor<f32>)>,
    read: Vec<String>,
    /// Which of the two buffers holds the current state.
    current: usize,
}

impl Stepper {
    fn new(
        session: Session,
        state: Vec<State>,
        batch: &[(&str, Vec<usize>)],
        read: &[&str],
    ) -> Result<Self, RuntimeError> {
        let what = session.what.clone();
        let fail = |e: ort::Error| failed(&what, &e);
        let allocator = match session.device {
            Device::Cpu => Allocator::default(),
            Device::Cuda(id) => {
                let info = MemoryInfo::new(AllocationDevice::CUDA, id, AllocatorType::Device, MemoryType::Default);
                Allocator::new(&session.inner, info.map_err(fail)?).map_err(fail)?
            }
        };
        let host =
            MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput).map_err(fail)?;
        let mut bindings =
            [session.inner.create_binding().map_err(fail)?, session.inner.create_binding().map_err(fail)?];
        let mut slots = Vec::new();
        for s in state {
            let mut buffers = [
                OrtTensor::<f32>::new(&allocator, s.shape.clone()).map_err(fail)?,
                OrtTensor::<f32>::new(&allocator, s.shape.clone()).map_err(fail)?,
            ];
            fill(&mut buffers[0], &s, session.device).map_err(fail)?;
            for (i, binding) in bindings.iter_mut().enumerate() {
                binding.bind_input(&s.input, &buffers[i]).map_err(fail)?;
                binding.bind_output(&s.output, &mut buffers[1 - i]).map_err(fail)?;
            }
            slots.push(Slot { output: s.output, shape: s.shape, buffers });
        }
        let mut feeds = Vec::new();
        for (name, shape) in batch {
            let tensor = OrtTensor::<f32>::new(&Allocator::default(), shape.clone()).map_err(fail)?;
            feeds.push(((*name).to_owned(), tensor));
        }
        for name in read {
            for binding in &mut bindings {
                binding.bind_output_to_device(*name, &host).map_err(fail)?;
            }
        }
        let read = read.iter().map(|s| (*s).to_owned()).collect();
        Ok(Self { session, bindings, slots, feeds, read, current: 0 })
    }

    /// The buffer of a batch input, to be written before [`Stepper::step`].
    ///
    /// # Panics
    /// When the stepper was made without this input.
    pub fn feed(&mut self, name: &str) -> &mut [f32] {
        let (_, tensor) = self.feeds.iter_mut().find(|(n, _)| n == name).expect("a batch input of this stepper");
        tensor.extract_tensor_mut().1
    }

    /// Runs one step and gives back the values to read, in the order they were named.
    pub fn step(&mut self) -> Result<Vec<f32>, RuntimeError> {
        let what = &self.session.what;
        let fail = |e: ort::Error| failed(what, &e);
        let binding = &mut self.bindings[self.current];
        for (name, tensor) in &self.feeds {
            // Binding copies to the device where the device is not the CPU, so it has to follow every write.
            binding.bind_input(name.as_str(), tensor).map_err(fail)?;
        }
        let outputs = self.session.inner.run_binding(binding).map_err(fail)?;
        let mut values = Vec::new();
        for name in &self.read {
            let value = outputs.get(name).ok_or_else(|| failed(what, &format!("output {name:?} is missing")))?;
            values.push(value.try_extract_tensor::<f32>().map_err(fail)?.1[0]);
        }
        drop(outputs);
        self.current = 1 - self.current;
        Ok(values)
    }

    /// Copies one state array back, by the name of its output.
    pub fn state(&self, output: &str) -> Result<Tensor, RuntimeError> {
        let what = &self.session.what;
        let slot = self.slots.iter().find(|s| s.output == output);
        let slot = slot.ok_or_else(|| failed(what, &format!("no state {output:?}")))?;
        let buffer = &slot.buffers[self.current];
        let data = match self.session.device {
            Device::Cpu => buffer.extract_tensor().1.to_vec(),
            Device::Cuda(_) => {
                let host = buffer.to(AllocationDevice::CPU, 0).map_err(|e| failed(what, &e))?;
                host.extract_tensor().1.to_vec()
            }
        };
        Ok(Tensor::f32(slot.shape.clone(), data))
    }

    /// Sets one state array, by the name of its output (zeros when `value` is `None`).
    pub fn set_state(&mut self, output: &str, value: Option<&Arc<Tensor>>) -> Result<(), RuntimeError> {
        let what = self.session.what.clone();
        let current = self.current;
        let device = self.session.device;
        let slot = self.slots.iter_mut().find(|s| s.output == output);
        let slot = slot.ok_or_else(|| failed(&what, &format!("no state {output:?}")))?;
        let state =
            State { input: String::new(), output: String::new(), shape: slot.shape.clone(), initial: value.cloned() };
        fill(&mut slot.buffers[current], &state, device).map_err(|e| failed(&what, &e))
    }
}

fn fill(buffer: &mut OrtTensor<f32>, state: &State, device: Device) -> Result<(), ort::Error> {
    let zeros;
    let values: &[f32] = if let Some(values) = state.initial.as_ref().and_then(|t| t.as_f32()) {
        values
    } else {
        zeros = vec![0.0; state.shape.iter().product()];
        &zeros
    };
    match device {
        Device::Cpu => buffer.extract_tensor_mut().1.copy_from_slice(values),
        Device::Cuda(_) => {
            let host = OrtTensor::from_array((state.shape.clone(), values.to_vec()))?;
            host.copy_into(buffer)?;
        }
    }
    Ok(())
}

fn failed(what: &str, e: &impl fmt::Display) -> RuntimeError {
    RuntimeError::Runtime { context: format!("running {what}"), reason: e.to_string() }
}

fn borrowed<'t>(name: &str, tensor: &'t Tensor) -> Result<SessionInputValue<'t>, RuntimeError> {
    let shape = tensor.shape().to_vec();
    let value = match tensor.data() {
        Data::F32(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::F64(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::I32(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::I64(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::U8(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::Bool(v) => TensorRef::from_array_view((shape, v.as_slice())).map(Into::into),
        Data::Raw(DType::F16, v) => return owned(name, shape, pairs(v).map(f16::from_bits).collect()),
        Data::Raw(DType::BF16, v) => return owned(name, shape, pairs(v).map(bf16::from_bits).collect()),
        Data::Raw(DType::I8, v) => return owned(name, shape, v.iter().map(|b| b.cast_signed()).collect()),
        Data::Raw(DType::I16, v) => return owned(name, shape, pairs(v).map(u16::cast_signed).collect()),
        Data::Raw(DType::U16, v) => return owned(name, shape, pairs(v).collect()),
        Data::Raw(dtype, _) => return Err(RuntimeError::Type { name: name.into(), dtype: dtype.to_string() }),
    };
    value.map_err(|e| failed(name, &e))
}

/// A copy, for types that are held as bytes.
fn owned<'t, T>(name: &str, shape: Vec<usize>, values: Vec<T>) -> Result<SessionInputValue<'t>, RuntimeError>
where
    T: PrimitiveTensorElementType + Clone + fmt::Debug + 'static,
{
    OrtTensor::from_array((shape, values)).map(Into::into).map_err(|e| failed(name, &e))
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

fn copied(
    name: &str,
    value: &ValueRef<'_, ort::value::DynValueTypeMarker>,
    what: &str,
) -> Result<Tensor, RuntimeError> {
    let fail = |e: ort::Error| failed(what, &e);
    let value: &DynValue = value;
    let unknown = |dtype: String| RuntimeError::Type { name: name.into(), dtype };
    let ort::value::ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(unknown(value.dtype().to_string()));
    };
    let tensor = value;
    let shape: Vec<usize> = shape.iter().map(|&d| d as usize).collect();
    let data = match ty {
        TensorElementType::Float32 => Data::F32(tensor.try_extract_tensor::<f32>().map_err(fail)?.1.to_vec()),
        TensorElementType::Float64 => Data::F64(tensor.try_extract_tensor::<f64>().map_err(fail)?.1.to_vec()),
        TensorElementType::Int32 => Data::I32(tensor.try_extract_tensor::<i32>().map_err(fail)?.1.to_vec()),
        TensorElementType::Int64 => Data::I64(tensor.try_extract_tensor::<i64>().map_err(fail)?.1.to_vec()),
        TensorElementType::Uint8 => Data::U8(tensor.try_extract_tensor::<u8>().map_err(fail)?.1.to_vec()),
        TensorElementType::Bool => Data::Bool(tensor.try_extract_tensor::<bool>().map_err(fail)?.1.to_vec()),
        TensorElementType::Int8 => {
            let v = tensor.try_extract_tensor::<i8>().map_err(fail)?.1;
            Data::Raw(DType::I8, v.iter().map(|x| x.to_le_bytes()[0]).collect())
        }
        TensorElementType::Int16 => {
            let v = tensor.try_extract_tensor::<i16>().map_err(fail)?.1;
            Data::Raw(DType::I16, v.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        TensorElementType::Uint16 => {
            let v = tensor.try_extract_tensor::<u16>().map_err(fail)?.1;
            Data::Raw(DType::U16, v.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        TensorElementType::Float16 => {
            let v = tensor.try_extract_tensor::<f16>().map_err(fail)?.1;
            Data::Raw(DType::F16, v.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        TensorElementType::Bfloat16 => {
            let v = tensor.try_extract_tensor::<bf16>().map_err(fail)?.1;
            Data::Raw(DType::BF16, v.iter().flat_map(|x| x.to_le_bytes()).collect())
        }
        other => return Err(unknown(other.to_string())),
    };
    Ok(Tensor::new(shape, data))
}

fn dtype_of(ty: TensorElementType) -> Option<DType> {
    Some(match ty {
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float64 => DType::F64,
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Bfloat16 => DType::BF16,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Int16 => DType::I16,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Uint16 => DType::U16,
        TensorElementType::Uint32 => DType::U32,
        TensorElementType::Uint64 => DType::U64,
        TensorElementType::Bool => DType::Bool,
        _ => return None,
    })
}
