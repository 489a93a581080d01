//! Operations. Each is declared once, in one file: shape rule, reference, CPU path, cost and cases.
//!
//! To add one: write `src/ops/<name>.rs` with a struct that implements [`Op`], then add a line to [`ops!`] below.
//! Images are channels-last `[B,H,W,C]`, token sequences `[B,S,C]`, and the two are the same bytes.

mod activation;
mod conv2d_direct;
mod cost;
mod host;
mod lowering;
mod parts;
mod product_grads;
mod products;
#[cfg(test)]
mod rejects;

pub use activation::Activation;
pub use cost::Cost;
pub(crate) use host::unsupported;
pub use host::{HostArray, HostIn, HostIo, HostOut, Ins};

use crate::device::cpu::PackSpec;
use crate::device::{Lowered, Target};
use crate::graph::{Builder, GradCx, Grads};
use crate::{Error, Result, Ty};
use std::fmt::Debug;

/// What the engine knows of an operation.
pub trait Op: Clone + PartialEq + Debug + Into<AnyOp> {
    /// Stem of the operation's files; its name in errors, profiles and dumps.
    const NAME: &'static str;

    /// Types of the outputs. Every precondition is checked here and nowhere else.
    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>>;

    /// Plain loops with f64 sums: the oracle that every device is measured against.
    /// Gives the values of each output in `outs`' order.
    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>>;

    /// The fast host path.
    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()>;

    /// How the CPU wants a parameter at `input` repacked once at load; none to take it as it is.
    fn packing(&self, _input: usize, _ins: &[Option<Ty>]) -> Option<PackSpec> {
        None
    }

    /// CUDA launches of this operation: pure data, no allocation, no synchronisation.
    /// The types are those of [`Op::infer`]; whatever varies from run to run is read from an input.
    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered>;

    /// True when the output is the first input under another shape: no work, no memory.
    fn is_view(&self) -> bool {
        false
    }

    /// Appends what computes the gradients of the inputs that `cx` wants, from those of the outputs, and gives them in the order of the
    /// inputs. An input that has none ([`GradCx::refuse`]) or an operation without gradients is a typed error, never a silent zero.
    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads>;

    /// Floating-point operations and compulsory bytes.
    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost;

    /// Shapes, types and edges that drive every level of test and the benchmarks.
    fn cases() -> Vec<Case>;
}

/// One shape of one operation to be tested.
#[derive(Clone, Debug)]
pub struct Case {
    /// Short description, unique within the operation.
    pub name: String,
    /// The operation.
    pub op: AnyOp,
    /// Input types; absent inputs are none.
    pub inputs: Vec<Option<CaseInput>>,
}

/// Type and contents of a test input.
#[derive(Clone, Copy, Debug)]
pub struct CaseInput {
    /// Element type and shape.
    pub ty: Ty,
    /// How it is filled.
    pub fill: Fill,
}

/// Contents of a test input, all from a fixed seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Normal values times a scale.
    Normal(f32),
    /// Uniform values of a range; for integers rounded down.
    Uniform(f32, f32),
    /// Whole numbers from 0 up to, not including, a bound.
    Index(u32),
    /// Whole numbers counting up from 0.
    Counting,
}

impl Case {
    /// A case from its parts.
    pub fn new(name: impl Into<String>, op: impl Into<AnyOp>, inputs: Vec<Option<CaseInput>>) -> Self {
        Self { name: name.into(), op: op.into(), inputs }
    }
}

/// A normal input of scale 1 for a [`Case`].
pub fn normal(dtype: crate::DType, shape: impl Into<crate::Shape>) -> Option<CaseInput> {
    Some(CaseInput { ty: Ty::new(dtype, shape), fill: Fill::Normal(1.0) })
}

/// An input with a chosen fill for a [`Case`].
pub fn filled(dtype: crate::DType, shape: impl Into<crate::Shape>, fill: Fill) -> Option<CaseInput> {
    Some(CaseInput { ty: Ty::new(dtype, shape), fill })
}

/// An f32 parameter, such as a bias, for a [`Case`].
pub fn vector(length: usize) -> Option<CaseInput> {
    normal(crate::DType::F32, [length])
}

/// The same cases in each type that the CPU computes in.
pub(crate) fn each_dtype(make: impl Fn(crate::DType) -> Vec<Case>) -> Vec<Case> {
    let named = |dtype| make(dtype).into_iter().map(move |c| Case { name: format!("{} {dtype}", c.name), ..c });
    [crate::DType::F32, crate::DType::Bf16].into_iter().flat_map(named).collect()
}

/// An error of the operation `O`; its place is added by the graph.
pub(crate) fn op_error<O: Op>(what: impl Into<String>) -> Error {
    Error::Op { op: O::NAME, at: String::new(), what: what.into() }
}

/// The answer of operations that compute gradients themselves.
pub(crate) fn no_second_gradient(cx: &GradCx<'_>) -> Result<Grads> {
    Err(cx.error("is a gradient itself; gradients of gradients are not supported".into()))
}

macro_rules! ops {
    ($($module:ident :: $name:ident),* $(,)?) => {
        $(mod $module; pub use $module::$name;)*

        /// Any operation of the engine.
        #[derive(Clone, Debug, PartialEq)]
        pub enum AnyOp { $(#[doc = concat!("[`", stringify!($name), "`]")] $name($name)),* }

        $(impl From<$name> for AnyOp { fn from(op: $name) -> Self { Self::$name(op) } })*

        impl AnyOp {
            /// [`Op::NAME`].
            pub fn name(&self) -> &'static str { match self { $(Self::$name(_) => $name::NAME),* } }
            /// [`Op::infer`].
            pub fn infer(&self, ins: &[Option<Ty>]) -> Result<Vec<Ty>> {
                match self { $(Self::$name(op) => op.infer(Ins::new($name::NAME, ins))),* }
            }
            /// [`Op::reference`].
            pub fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
                match self { $(Self::$name(op) => op.reference(ins, outs)),* }
            }
            /// [`Op::cpu`].
            pub fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> { match self { $(Self::$name(op) => op.cpu(io)),* } }
            /// [`Op::packing`].
            pub fn packing(&self, input: usize, ins: &[Option<Ty>]) -> Option<PackSpec> {
                match self { $(Self::$name(op) => op.packing(input, ins)),* }
            }
            /// [`Op::lower`].
            pub fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered> {
                match self { $(Self::$name(op) => op.lower(ins, outs, target)),* }
            }
            /// [`Op::is_view`].
            pub fn is_view(&self) -> bool { match self { $(Self::$name(op) => op.is_view()),* } }
            /// [`Op::backward`].
            pub fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
                match self { $(Self::$name(op) => op.backward(g, cx)),* }
            }
            /// [`Op::cost`].
            pub fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
                match self { $(Self::$name(op) => op.cost(ins, outs)),* }
            }
        }

        /// Every operation's name and cases.
        pub fn all_cases() -> Vec<(&'static str, Vec<Case>)> { vec![$(($name::NAME, $name::cases())),*] }
    };
}

ops! {
    linear::Linear,
    conv2d::Conv2d,
    attention::Attention,
    group_norm::GroupNorm,
    layer_norm::LayerNorm,
    embedding::Embedding,
    timestep_embedding::TimestepEmbedding,
    activate::Activate,
    add::Add,
    affine::Affine,
    concat::Concat,
    pool2d::Pool2d,
    pad_channels::PadChannels,
    prepend_token::PrependToken,
    select_rows::SelectRows,
    mean_rows::MeanRows,
    normalize::Normalize,
    softmax::Softmax,
    reshape::Reshape,
    cast::Cast,
    repeat::Repeat,
    scale::Scale,
    resample::Resample,
    table_row::TableRow,
    ddim_step::DdimStep,
    noise::Noise,
    adam_w::AdamW,
    add_noise::AddNoise,
    mse::Mse,
    norm_loss::NormLoss,
    sum_rows::SumRows,
    linear_grad::LinearGrad,
    group_norm_grad::GroupNormGrad,
    layer_norm_grad::LayerNormGrad,
    activate_grad::ActivateGrad,
    mean_rows_grad::MeanRowsGrad,
    mse_grad::MseGrad,
    norm_loss_grad::NormLossGrad,
    conv2d_grad::Conv2dGrad,
    resize_grad::ResizeGrad,
    attention_grad::AttentionGrad,
    embedding_grad::EmbeddingGrad,
    concat_grad::ConcatGrad,
    select_rows_grad::SelectRowsGrad,
    normalize_grad::NormalizeGrad,
    softmax_grad::SoftmaxGrad,
    affine_grad::AffineGrad,
    pool2d_grad::Pool2dGrad,
    scale_grad::ScaleGrad,
    table_row_grad::TableRowGrad,
    ddim_step_grad::DdimStepGrad,
    add_noise_grad::AddNoiseGrad,
}

pub use attention::Heads;
pub use pool2d::Pooling;
