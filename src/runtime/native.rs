//! Offers the kernels of [`kernel`](crate::kernel) to ONNX Runtime as operators of a domain of their own.

use crate::{
    graph::{NATIVE, native},
    kernel::{Axis, Chain, Convolution, Depthwise, Isa, Plan, Pool, Product, Size, Sizes, adam, layer_norm, pooling},
};
use ort::{
    Error, Result,
    operator::{
        BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
        ShapeInferenceContext,
    },
    value::{Shape, SymbolicDimensions, TensorElementType, ValueRef, ValueRefMut, ValueType},
};

/// The vector instructions that the kernels use on this processor.
pub fn instructions() -> &'static str {
    match Isa::detect() {
        Isa::Avx512 => "AVX-512",
        Isa::Avx2 => "AVX2",
        Isa::Portable => "what the compiler makes of plain loops",
    }
}

/// The domain with all kernels, which spread their work over the `threads` threads of a session.
pub fn domain(threads: usize) -> Result<OperatorDomain> {
    let own = |kind| Own { kind, threads };
    OperatorDomain::new(NATIVE)?
        .add(own(Kind::Forward))?
        .add(own(Kind::Input))?
        .add(own(Kind::Weight))?
        .add(own(Kind::MaxPool))?
        .add(own(Kind::Sums))?
        .add(own(Kind::Product))?
        .add(own(Kind::LayerNorm))?
        .add(own(Kind::Adam))?
        .add(own(Kind::Chain))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Forward,
    Input,
    Weight,
    MaxPool,
    Sums,
    Product,
    LayerNorm,
    Adam,
    Chain,
}

struct Own {
    kind: Kind,
    threads: usize,
}

/// What computes the three maps of a convolution.
enum Maps {
    /// Every window reads all channels.
    All(Box<Convolution>),
    /// Every channel has a window of its own.
    Each(Depthwise),
}

/// The threads of the session that runs a kernel.
struct Threads<'c> {
    context: &'c ComputeContext,
    count: usize,
}

// SAFETY: all that is called through the shared context is ONNX Runtime's loop over its own thread pool.
#[expect(unsafe_code, reason = "ort does not say that a context may be shared while its loop runs")]
unsafe impl Sync for Threads<'_> {}

impl Pool for Threads<'_> {
    fn threads(&self) -> usize {
        self.count
    }

    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if self.count <= 1 || tasks <= 1 || self.context.par_for(tasks, tasks, task).is_err() {
            (0..tasks).for_each(task);
        }
    }
}

impl Operator for Own {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        match self.kind {
            Kind::Forward => native::FORWARD,
            Kind::Input => native::INPUT_GRADIENT,
            Kind::Weight => native::WEIGHT_GRADIENT,
            Kind::MaxPool => native::MAX_POOL_GRADIENT,
            Kind::Sums => native::CHANNEL_SUMS,
            Kind::Product => native::PRODUCT,
            Kind::LayerNorm => native::LAYER_NORM_GRADIENT,
            Kind::Adam => native::ADAM,
            Kind::Chain => native::CHAIN,
        }
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let float = || OperatorInput::required(TensorElementType::Float32);
        match self.kind {
            Kind::Forward | Kind::Product => {
                vec![float(), float(), OperatorInput::optional(TensorElementType::Float32)]
            }
            Kind::Input | Kind::Weight | Kind::MaxPool => vec![float(), float()],
            Kind::Sums => vec![float()],
            Kind::LayerNorm => vec![float(), float(), float()],
            Kind::Adam => (0..6).map(|_| float()).chain([OperatorInput::variadic(1)]).collect(),
            Kind::Chain => vec![OperatorInput::variadic(1).homogenous(TensorElementType::Float32)],
        }
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let float = || OperatorOutput::required(TensorElementType::Float32);
        match self.kind {
            Kind::Adam | Kind::LayerNorm => vec![float(), float(), float()],
            Kind::Chain => vec![OperatorOutput::variadic(1).homogenous(TensorElementType::Float32)],
            _ => vec![float()],
        }
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> Result<()> {
        let inputs = context.inputs();
        match self.kind {
            Kind::Adam => (0..3).try_for_each(|i| context.set_output(i, &inputs[0])),
            Kind::LayerNorm => (0..3).try_for_each(|i| context.set_output(i, &inputs[i.min(1)])),
            Kind::MaxPool => context.set_output(0, &inputs[0]),
            Kind::Chain => {
                let shape = tensor(context.attr::<Vec<i64>>(native::SHAPE)?);
                let numbers = context.attr::<Vec<f32>>(native::NUMBERS).unwrap_or_default();
                let chain = self::chain(&context.attr::<Vec<i64>>(native::STEPS)?, numbers)?;
                (0..chain.outputs.len()).try_for_each(|i| context.set_output(i, &shape))
            }
            Kind::Sums => match inputs[0].tensor_shape() {
                Some(shape) => context.set_output(0, &tensor(vec![shape[1]])),
                None => Ok(()),
            },
            Kind::Product => match (inputs[0].tensor_shape(), inputs[1].tensor_shape()) {
                (Some(a), Some(b)) => {
                    let side = |name| context.attr::<i64>(name).map(|v| usize::from(v == 1));
                    let shape = vec![a[side(native::TRANS_A)?], b[1 - side(native::TRANS_B)?]];
                    context.set_output(0, &tensor(shape))
                }
                _ => Ok(()),
            },
            Kind::Forward | Kind::Input | Kind::Weight => {
                let axes = axes(&context.attr::<Vec<i64>>(native::AXES)?)?;
                let group = context.attr::<i64>(native::GROUP)?;
                match (inputs[0].tensor_shape(), inputs[1].tensor_shape()) {
                    (Some(first), Some(second)) => {
                        context.set_output(0, &tensor(self.shape(&axes, group, first, second)))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> Result<BoxedKernel<'attr>> {
        let missing = |name: &str| Error::new(format!("attribute {name} is missing"));
        let (kind, count) = (self.kind, self.threads);
        if kind == Kind::Adam {
            let beta = |name| context.get::<f32>(name).ok_or_else(|| missing(name));
            let (beta1, beta2) = (beta(native::BETA1)?, beta(native::BETA2)?);
            return Ok(Box::new(move |context: &ComputeContext| adam_step(context, count, beta1, beta2)));
        }
        if kind == Kind::Sums {
            return Ok(Box::new(move |context: &ComputeContext| channel_sums(context, count)));
        }
        if kind == Kind::LayerNorm {
            let epsilon = context.get::<f32>(native::EPSILON).ok_or_else(|| missing(native::EPSILON))?;
            let isa = Isa::detect();
            return Ok(Box::new(move |context: &ComputeContext| layer_norm_gradient(context, count, isa, epsilon)));
        }
        if kind == Kind::Product {
            let side = |name| context.get::<i64>(name).map(|v| v == 1).ok_or_else(|| missing(name));
            let product = Product {
                isa: Isa::detect(),
                transposed_a: side(native::TRANS_A)?,
                transposed_b: side(native::TRANS_B)?,
                alpha: context.get::<f32>(native::ALPHA).ok_or_else(|| missing(native::ALPHA))?,
            };
            return Ok(Box::new(move |context: &ComputeContext| run_product(context, count, product)));
        }
        if kind == Kind::Chain {
            let list = |name| context.get::<Vec<i64>>(name).ok_or_else(|| missing(name));
            let (steps, shape) = (list(native::STEPS)?, list(native::SHAPE)?);
            let numbers = context.get::<Vec<f32>>(native::NUMBERS).unwrap_or_default();
            let (chain, isa) = (chain(&steps, numbers)?, Isa::detect());
            return Ok(Box::new(move |context: &ComputeContext| run_chain(context, count, isa, &chain, &shape)));
        }
        let list = context.get::<Vec<i64>>(native::AXES).ok_or_else(|| missing(native::AXES))?;
        let axes = axes(&list)?;
        if kind == Kind::MaxPool {
            let plan = Plan::new(&axes);
            return Ok(Box::new(move |context: &ComputeContext| max_pool(context, count, &plan)));
        }
        let group = context.get::<i64>(native::GROUP).ok_or_else(|| missing(native::GROUP))?;
        let own = Self { kind, threads: count };
        let isa = Isa::detect();
        let maps = if group == 1 {
            let convolution = Convolution::new(&axes, isa);
            let sums = context.get::<i64>(native::TILES) == Some(0);
            Maps::All(Box::new(if sums { convolution.without_tiles() } else { convolution }))
        } else {
            Maps::Each(Depthwise::new(&axes, isa))
        };
        Ok(Box::new(move |context: &ComputeContext| own.convolve(context, &axes, group, &maps)))
    }
}

impl Own {
    /// Shape of the result from those of the two inputs.
    fn shape(&self, axes: &[Axis], group: i64, first: &[i64], second: &[i64]) -> Vec<i64> {
        let lengths = |f: &dyn Fn(&Axis) -> usize| axes.iter().map(|a| f(a) as i64).collect::<Vec<_>>();
        let (head, tail) = match self.kind {
            Kind::Forward => ([first[0], second[0]], lengths(&|a| a.out)),
            Kind::Input => ([first[0], second[1] * group], lengths(&|a| a.size)),
            _ => ([second[1], first[1] / group], lengths(&|a| a.kernel)),
        };
        head.into_iter().chain(tail).collect()
    }

    fn convolve(&self, context: &ComputeContext, axes: &[Axis], group: i64, maps: &Maps) -> Result<()> {
        let pool = Threads { context, count: self.threads };
        let (first, second, bias) = (input(context, 0)?, input(context, 1)?, bias(context)?);
        let ((a, first), (b, second)) = (first.try_extract_tensor::<f32>()?, second.try_extract_tensor::<f32>()?);
        let bias = bias.as_ref().map(|b| b.try_extract_tensor::<f32>()).transpose()?.map(|b| b.1);
        let shape = self.shape(axes, group, a, b);
        let mut out = output(context, 0, &shape)?;
        let out = out.try_extract_tensor_mut::<f32>()?.1;
        let sizes = |c: i64, m: i64| Sizes { n: a[0] as usize, c: c as usize, m: m as usize };
        let c = a[1] as usize;
        match (maps, self.kind) {
            (Maps::All(m), Kind::Forward) => m.forward(&pool, sizes(a[1], b[0]), first, second, bias, out),
            (Maps::All(m), Kind::Input) => m.input_gradient(&pool, sizes(b[1], a[1]), first, second, out),
            (Maps::All(m), _) => m.weight_gradient(&pool, sizes(a[1], b[1]), first, second, out),
            (Maps::Each(m), Kind::Forward) => m.forward(&pool, c, first, second, bias, out),
            (Maps::Each(m), Kind::Input) => m.input_gradient(&pool, c, first, second, out),
            (Maps::Each(m), _) => m.weight_gradient(&pool, c, first, second, out),
        }
        Ok(())
    }
}

fn max_pool(context: &ComputeContext, count: usize, plan: &Plan) -> Result<()> {
    let (x, dy) = (input(context, 0)?, input(context, 1)?);
    let (shape, x) = x.try_extract_tensor::<f32>()?;
    let mut dx = output(context, 0, shape)?;
    let dx = dx.try_extract_tensor_mut::<f32>()?.1;
    pooling::max_gradient(&Threads { context, count }, Isa::detect(), plan, x, dy.try_extract_tensor::<f32>()?.1, dx);
    Ok(())
}

fn channel_sums(context: &ComputeContext, count: usize) -> Result<()> {
    let v = input(context, 0)?;
    let (shape, v) = v.try_extract_tensor::<f32>()?;
    let mut out = output(context, 0, &[shape[1]])?;
    let out = out.try_extract_tensor_mut::<f32>()?.1;
    let positions = shape[2..].iter().product::<i64>() as usize;
    pooling::channel_sums(&Threads { context, count }, shape[0] as usize, positions, v, out);
    Ok(())
}

fn input(context: &ComputeContext, i: usize) -> Result<ValueRef<'_>> {
    context.input(i)?.ok_or_else(|| Error::new(format!("input {i} is missing")))
}

/// The third input, where there is one.
fn bias(context: &ComputeContext) -> Result<Option<ValueRef<'_>>> {
    if context.num_inputs()? > 2 { context.input(2) } else { Ok(None) }
}

fn output<'c>(context: &'c ComputeContext, i: usize, shape: &[i64]) -> Result<ValueRefMut<'c>> {
    context.output(i, shape.to_vec())?.ok_or_else(|| Error::new(format!("output {i} is missing")))
}

/// The type of float32 tensors of this shape.
fn tensor(shape: Vec<i64>) -> ValueType {
    let dimension_symbols = SymbolicDimensions::empty(shape.len());
    ValueType::Tensor { ty: TensorElementType::Float32, shape: Shape::from(shape), dimension_symbols }
}

fn adam_step(context: &ComputeContext, count: usize, beta1: f32, beta2: f32) -> Result<()> {
    let number = |i| Ok::<f32, Error>(input(context, i)?.try_extract_tensor::<f32>()?.1[0]);
    let (rate, floor, go) = (number(4)?, number(5)?, number(6)?);
    let mut arrays = [updated(context, 0, 0)?, updated(context, 2, 1)?, updated(context, 3, 2)?];
    if go == 0.0 {
        return Ok(());
    }
    let [w, m, v] = &mut arrays;
    let arrays = [
        w.try_extract_tensor_mut::<f32>()?.1,
        m.try_extract_tensor_mut::<f32>()?.1,
        v.try_extract_tensor_mut::<f32>()?.1,
    ];
    let g = input(context, 1)?;
    let step = adam::Step { beta1, beta2, rate, floor };
    adam::step(&Threads { context, count }, step, g.try_extract_tensor::<f32>()?.1, arrays);
    Ok(())
}

/// Output `to` with the elements of input `from`, which may lie in the same place.
fn updated(context: &ComputeContext, from: usize, to: usize) -> Result<ValueRefMut<'_>> {
    let old = input(context, from)?;
    let mut new = output(context, to, old.shape())?;
    let there = old.try_extract_tensor::<f32>()?.1.as_ptr();
    // No slice of one is at hand while there is one of the other.
    if new.try_extract_tensor_mut::<f32>()?.1.as_ptr() != there {
        new.try_extract_tensor_mut::<f32>()?.1.copy_from_slice(old.try_extract_tensor::<f32>()?.1);
    }
    Ok(new)
}

fn layer_norm_gradient(context: &ComputeContext, count: usize, isa: Isa, epsilon: f32) -> Result<()> {
    let inputs = (0..3).map(|i| input(context, i)).collect::<Result<Vec<_>>>()?;
    let shape = |i: usize| inputs[i].shape().to_vec();
    let mut outputs = (0..3).map(|i| output(context, i, &shape(i.min(1)))).collect::<Result<Vec<_>>>()?;
    let [dx, scale, bias] = outputs.as_mut_slice() else { return Err(Error::new("three outputs")) };
    let to = layer_norm::Gradients {
        x: dx.try_extract_tensor_mut::<f32>()?.1,
        scale: scale.try_extract_tensor_mut::<f32>()?.1,
        bias: bias.try_extract_tensor_mut::<f32>()?.1,
    };
    let slices = inputs.iter().map(|v| Ok(v.try_extract_tensor::<f32>()?.1)).collect::<Result<Vec<&[f32]>>>()?;
    layer_norm::gradient(isa, &Threads { context, count }, epsilon, slices[0], slices[1], slices[2], to);
    Ok(())
}

fn run_product(context: &ComputeContext, count: usize, product: Product) -> Result<()> {
    let (a, b, bias) = (input(context, 0)?, input(context, 1)?, bias(context)?);
    let ((rows, a), (columns, b)) = (a.try_extract_tensor::<f32>()?, b.try_extract_tensor::<f32>()?);
    let bias = bias.as_ref().map(|b| b.try_extract_tensor::<f32>()).transpose()?.map(|b| b.1);
    let (ta, tb) = (usize::from(product.transposed_a), usize::from(product.transposed_b));
    let (m, n) = (rows[ta], columns[1 - tb]);
    let mut y = output(context, 0, &[m, n])?;
    let size = Size { m: m as usize, k: rows[1 - ta] as usize, n: n as usize };
    product.run(&Threads { context, count }, size, a, b, bias, y.try_extract_tensor_mut::<f32>()?.1);
    Ok(())
}

fn run_chain(context: &ComputeContext, count: usize, isa: Isa, chain: &Chain, shape: &[i64]) -> Result<()> {
    let pool = Threads { context, count };
    let inputs = (0..chain.inputs.len()).map(|i| input(context, i)).collect::<Result<Vec<_>>>()?;
    let inputs = inputs.iter().map(|v| Ok(v.try_extract_tensor::<f32>()?.1)).collect::<Result<Vec<&[f32]>>>()?;
    let mut outputs = (0..chain.outputs.len()).map(|i| output(context, i, shape)).collect::<Result<Vec<_>>>()?;
    let outputs = outputs.iter_mut().map(|v| Ok(v.try_extract_tensor_mut::<f32>()?.1)).collect::<Result<_>>()?;
    chain.run(isa, &pool, &inputs, outputs);
    Ok(())
}

/// The chain that the attributes list.
fn chain(steps: &[i64], numbers: Vec<f32>) -> Result<Chain> {
    let wrong = || Error::new(format!("attribute {}: {} numbers do not make up a chain", native::STEPS, steps.len()));
    Chain::from_numbers(steps, numbers).ok_or_else(wrong)
}

/// The windows that the attribute lists.
fn axes(list: &[i64]) -> Result<Vec<Axis>> {
    let wrong = || Error::new(format!("attribute {}: {} numbers do not make up axes", native::AXES, list.len()));
    Axis::from_numbers(list).ok_or_else(wrong)
}
