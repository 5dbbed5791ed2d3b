//! Opens the library, and graphs and files in it; runs them.

use super::{
    arena::Arena,
    stepper::{State, Stepper},
    value::{borrowed, copied, dtype_of},
};
use crate::{
    graph::{Builder, Forms, Graph, Node, Port},
    onnx,
    tensor::{DType, Tensor},
};
use ort::{
    AsPointer,
    ep::{self, ArenaExtendStrategy},
    logging::LogLevel,
    session::{
        SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::TensorRef,
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    ffi::CString,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use thiserror::Error;

/// Constants of more elements stay out of the models that sessions are opened on.
const SMALL: usize = 1024;

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
    lays_out: bool,
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
                first.session("a first graph", &super::probe_graph())?;
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
        Self {
            environment,
            device,
            threads,
            tf32: false,
            forms: Arc::default(),
            spins: true,
            lays_out: true,
            profile: None,
        }
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

    /// The same with sessions that are to run a few times only: the factors of products are not laid out for that when they are
    /// opened, which is a copy of all weights.
    #[must_use]
    pub fn for_few_runs(self) -> Self {
        Self { lays_out: false, ..self }
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

    /// Opens a session on a graph; `what` names it in errors.
    pub fn session(&self, what: &str, graph: &Graph) -> Result<Session, RuntimeError> {
        self.open_session(what, graph, None)
    }

    /// The same, with values in memory that all sessions opened by this function have in common while one of them lives: for
    /// sessions that run in turn. On a GPU, and where the library gives none, each has its own.
    pub fn session_in_turn(&self, what: &str, graph: &Graph) -> Result<Session, RuntimeError> {
        let arena = if self.device == Device::Cpu { Arena::share(&self.environment).ok() } else { None };
        self.open_session(what, graph, arena)
    }

    fn open_session(&self, what: &str, graph: &Graph, arena: Option<Arena>) -> Result<Session, RuntimeError> {
        let mut builder = self.builder(GraphOptimizationLevel::All);
        if arena.is_some() {
            builder = builder.and_then(|b| Ok(b.with_env_allocators()?));
        }
        // The blocked layout suits convolutions that the runtime computes itself, and lays out once; pooling alone would be turned
        // to it and back.
        let laid_out = |node: &Node| node.op == "Conv" && graph.constants.contains_key(&node.inputs[1]);
        if !graph.nodes.iter().any(laid_out) {
            builder = builder.and_then(|b| Ok(b.with_disabled_optimizers("NchwcTransformer")?));
        }
        let mut builder = builder.map_err(|e| self.failed(what, &e))?;
        // The constants of a graph for a GPU travel with it. The library refuses those that nothing reads.
        let read: HashSet<&str> = graph.nodes.iter().flat_map(Node::reads).collect();
        let given = |name: &str, t: &Tensor| self.device == Device::Cpu && is_large(t) && read.contains(name);
        let model = onnx::export_without(graph, given);
        for (name, tensor) in graph.constants.iter().filter(|(name, t)| given(name, t)) {
            give(&mut builder, name, tensor).map_err(|e| self.failed(what, &e))?;
        }
        let inner = builder.commit_from_memory(&model).map_err(|e| self.failed(what, &e))?;
        // The library has copies where it needs some, but says nowhere that it reads nothing else.
        let constants = graph.constants.iter().filter(|(name, t)| given(name, t)).map(|(_, t)| Arc::clone(t)).collect();
        Ok(Session {
            inner,
            device: self.device,
            what: what.to_owned(),
            fed: Vec::new(),
            _given: constants,
            _arena: arena,
        })
    }

    /// Opens a session on a graph without optimising it: what runs is what the graph says, every value stays.
    pub fn plain_session(&self, what: &str, graph: &Graph) -> Result<Session, RuntimeError> {
        let mut graph = graph.clone();
        // Nothing is prepared for constants, so the large ones may as well be fed, from where they lie.
        let mut fed = Vec::new();
        for (name, tensor) in std::mem::take(&mut graph.constants) {
            if is_large(&tensor) {
                graph.inputs.push(Port::fixed(name.clone(), tensor.dtype(), tensor.shape()));
                fed.push((name, tensor));
            } else {
                graph.constants.insert(name, tensor);
            }
        }
        let mut builder = self.builder(GraphOptimizationLevel::Disable).map_err(|e| self.failed(what, &e))?;
        let inner = builder.commit_from_memory(&onnx::export(&graph)).map_err(|e| self.failed(what, &e))?;
        Ok(Session { inner, device: self.device, what: what.to_owned(), fed, _given: Vec::new(), _arena: None })
    }

    /// Opens a session on a model file, with its external data beside it. With `plain` there are no graph optimisations.
    pub fn session_from_file(&self, path: &Path, plain: bool) -> Result<Session, RuntimeError> {
        let what = path.display().to_string();
        let level = if plain { GraphOptimizationLevel::Disable } else { GraphOptimizationLevel::All };
        let mut builder = self.builder(level).map_err(|e| self.failed(&what, &e))?;
        let inner = builder.commit_from_file(path).map_err(|e| self.failed(&what, &e))?;
        Ok(Session { inner, device: self.device, what, fed: Vec::new(), _given: Vec::new(), _arena: None })
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
        if !self.lays_out {
            builder = builder.with_config_entry("session.disable_prepacking", "1")?;
        }
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
        let run =
            || self.session("a trial convolution", &super::probe_graph())?.run(&[("x", &Tensor::zeros([1, 1, 4, 4]))]);
        run().map(drop).map_err(|e| RuntimeError::Cuda { device: self.device, reason: e.to_string() })
    }

    fn failed(&self, what: &str, e: &impl fmt::Display) -> RuntimeError {
        RuntimeError::Runtime { context: format!("opening {what} on {}", self.device), reason: e.to_string() }
    }
}

/// True for a constant that is not copied into the model of a session.
fn is_large(tensor: &Tensor) -> bool {
    tensor.len() > SMALL && tensor.as_f32().is_some()
}

/// Gives a session to be opened a constant of its model, whose elements stay where they are.
fn give(builder: &mut SessionBuilder, name: &str, tensor: &Tensor) -> Result<(), ort::Error> {
    let value = TensorRef::from_array_view((tensor.shape().to_vec(), tensor.as_f32().unwrap_or_default()))?;
    let name = CString::new(name)?;
    let add = ort::api().AddExternalInitializers;
    // SAFETY: both arrays have the one entry that is announced, and the options take over what they point to. The session
    // reads the elements for as long as it lives; whoever opens it keeps the tensor with it.
    #[expect(unsafe_code, reason = "ort takes such constants only where it can own them")]
    unsafe {
        ort::Error::result_from_status(add(builder.ptr_mut(), &name.as_ptr(), &value.ptr(), 1))
    }
}

/// Element types and shapes by the names of values; a shape is `None` where an axis has no length before a run. One of an open
/// rank looks like that of a single number.
pub type Ports = BTreeMap<String, (DType, Option<Vec<usize>>)>;

/// A graph ready to run.
pub struct Session {
    pub(super) inner: ort::session::Session,
    pub(super) device: Device,
    pub(super) what: String,
    /// Constants that are fed at every run.
    fed: Vec<(String, Arc<Tensor>)>,
    /// Constants that the session may read where they lie; dropped after it, because fields go in order.
    _given: Vec<Arc<Tensor>>,
    _arena: Option<Arena>,
}

impl Session {
    /// Names of the inputs that have to be fed.
    pub fn inputs(&self) -> Vec<String> {
        let inputs = self.inner.inputs().iter().map(ort::value::Outlet::name);
        inputs.filter(|name| !self.fed.iter().any(|(fed, _)| fed == name)).map(str::to_owned).collect()
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

    /// Element types of the outputs by their names, which the tool has to hold, and their shapes in so far as they can be told
    /// before a run.
    pub fn output_ports(&self) -> Result<Ports, RuntimeError> {
        let of = |o: &ort::value::Outlet| {
            let dtype = o.dtype().tensor_type().and_then(dtype_of);
            let refused = || RuntimeError::Type { name: o.name().into(), dtype: o.dtype().to_string() };
            let shape = o.dtype().tensor_shape().and_then(|s| s.iter().map(|&d| usize::try_from(d).ok()).collect());
            Ok((o.name().to_owned(), (dtype.ok_or_else(refused)?, shape)))
        };
        self.inner.outputs().iter().map(of).collect()
    }

    /// Runs the graph once and copies every output back, in the order of [`Session::outputs`].
    pub fn run(&mut self, feeds: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        let what = self.what.clone();
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::new();
        let constants = self.fed.iter().map(|(name, tensor)| (name.as_str(), tensor.as_ref()));
        for (name, tensor) in feeds.iter().copied().chain(constants) {
            inputs.push((name.into(), borrowed(name, tensor)?));
        }
        let outputs = self.inner.run(inputs).map_err(|e| failed(&what, &e))?;
        outputs.iter().map(|(name, value)| copied(name, &value, &what)).collect()
    }

    /// Takes over the session, which is no plain one, for stepping. `state` names pairs of input and output with their first
    /// value; the output of one step is the input of the next and never leaves the device. `batch` are inputs written
    /// before a step, `read` outputs of one float read after it.
    pub fn stepper(
        self,
        state: Vec<State>,
        batch: &[(&str, Vec<usize>)],
        read: &[&str],
    ) -> Result<Stepper, RuntimeError> {
        Stepper::new(self, state, batch, read)
    }
}

pub(super) fn failed(what: &str, e: &impl fmt::Display) -> RuntimeError {
    RuntimeError::Runtime { context: format!("running {what}"), reason: e.to_string() }
}
