//! Matrix product with a weight, and everything that usually follows it.

use super::host::{Weights, unsupported};
use super::lowering::{activation, count};
use super::products::{Classes, Entries, Product, ProductParams, rows_per_image};
use super::{Activation, Case, Cost, HostArray, HostIo, Ins, LinearGrad, Op, each_dtype, normal, vector};
use crate::device::cpu::gather::Widens;
use crate::device::cpu::simd::Elem;
use crate::device::cpu::{Epilogue, PackSpec, Source, gemm};
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Params, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// `y = act(x · Wᵀ + bias) + residual`, or with [`Linear::gated`] GEGLU: `y = a · gelu(b) + residual` of the two halves of `x · Wᵀ + bias`.
///
/// Inputs: `x [.., K]`, `weight [N, K]` (gated: `[2N, K]`, values first, gates second), `bias [N]` f32 (optional; gated `[2N]`),
/// `residual [.., N]` (optional, the type of the output). Output: `[.., N]` of x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Applied before the residual is added.
    pub act: Activation,
    /// GEGLU: exact GELU of the second half times the first half.
    pub gated: bool,
}

impl Linear {
    /// A plain linear layer.
    pub fn plain() -> Self {
        Self { act: Activation::None, gated: false }
    }

    /// A linear layer with an activation.
    pub fn with(act: Activation) -> Self {
        Self { act, gated: false }
    }

    /// A GEGLU layer.
    pub fn geglu() -> Self {
        Self { act: Activation::None, gated: true }
    }
}

impl Op for Linear {
    const NAME: &'static str = "linear";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (x, w) = (ins.float(0, "x")?, ins.float(1, "weight")?);
        let &[rows, k] = &*w.shape else {
            return Err(ins.error(format!("weight is {w}, expected [N, K]")));
        };
        ins.ensure(x.shape.last_axis() == k, || format!("x is {x} but weight {w} takes {k} features"))?;
        ins.ensure(!self.gated || rows % 2 == 0, || format!("a gated layer needs an even number of rows, weight is {w}"))?;
        ins.ensure(!matches!(self.act, Activation::PRelu), || "PReLU is not an activation of linear layers".into())?;
        let n = if self.gated { rows / 2 } else { rows };
        let out = Ty { dtype: x.dtype, shape: x.shape.with_last(n) };
        ins.shape(2, "bias", [rows])?;
        ins.dtype(2, "bias", DType::F32)?;
        ins.shape(3, "residual", out.shape)?;
        ins.dtype(3, "residual", out.dtype)?;
        ins.at_most(4)?;
        Ok(vec![out])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(w), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("x and weight are required"));
        };
        let (rows_w, k) = (w.shape()[0], w.shape()[1]);
        let n = outs[0].shape.last_axis();
        let bias = rest.first().and_then(Option::as_ref);
        let residual = rest.get(1).and_then(Option::as_ref);
        let mut y = Vec::with_capacity(outs[0].shape.elements());
        for (row, x) in x.data.chunks_exact(k).enumerate() {
            let dot = |o: usize| {
                let sum: f64 = x.iter().zip(&w.data[o * k..(o + 1) * k]).map(|(a, b)| a * b).sum();
                sum + bias.map_or(0.0, |b| b.data[o])
            };
            for o in 0..n {
                let value = if self.gated { dot(o) * super::activation::gelu(dot(rows_w / 2 + o)) } else { self.act.eval(dot(o), 0.0) };
                y.push(value + residual.map_or(0.0, |r| r.data[row * n + o]));
            }
        }
        Ok(vec![y])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn packing(&self, input: usize, ins: &[Option<Ty>]) -> Option<PackSpec> {
        match ins {
            [_, Some(w), ..] if input == 1 => Some(self.spec(w)),
            _ => None,
        }
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered> {
        let [Some(x), Some(w), ..] = ins else { return Err(super::op_error::<Self>("x and weight are required")) };
        let (rows, depth, columns) = (x.shape.rows(), w.shape[1], outs[0].shape.last_axis());
        let product = Product {
            rows,
            rows_per_image: rows_per_image(x),
            classes: Classes::ONE,
            columns,
            depth,
            gated: self.gated,
            aligned: depth.is_multiple_of(8),
            across: [false; 2],
            types: [x.dtype, w.dtype],
        };
        let (act, negative) = activation(self.act);
        let params = |product| LinearParams {
            x: Slot::In(0),
            weight: Slot::In(1),
            bias: Slot::optional(ins, 2),
            residual: Slot::optional(ins, 3),
            y: Slot::Out(0),
            product,
            negative,
        };
        let special = |key: KernelKey| key.define("ACTIVATION", act).define("GATED", u8::from(self.gated));
        // by the rows of one image, so that a batch of any size gives the same bits
        if product.is_plain() && product.rows_per_image == 1 && product.aligned && !self.gated {
            return few_rows(&product, params(ProductParams::whole(&product)?).pack(), special);
        }
        let cut = product.cut(target, &ENTRIES)?;
        cut.lower(&ENTRIES, params(cut.params()?).pack(), special)
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        LinearGrad::append(self, g, cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let macs = match ins {
            [Some(x), Some(w), ..] => x.shape.rows() * w.shape.elements(),
            _ => 0,
        };
        Cost::touching(2 * macs as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let mut cases = each_dtype(|t| [sizes(t), epilogues(t)].concat());
        let mixed = |x, w| vec![normal(x, [5, 35]), normal(w, [18, 35])];
        cases.push(Case::new("f32 rows, bf16 weights", Self::plain(), mixed(DType::F32, DType::Bf16)));
        cases.push(Case::new("bf16 rows, f32 weights", Self::plain(), mixed(DType::Bf16, DType::F32)));
        cases
    }
}

/// The launch of `linear_few`. Rows of the product are one each: vectors, of which there are seldom many.
fn few_rows(product: &Product, params: Params, special: impl FnOnce(KernelKey) -> KernelKey) -> Result<Lowered> {
    // as `few_rows.cuh` has them; each thread adds up 8 columns of each row
    const THREADS: u32 = 128;
    const COLUMNS: usize = 8;
    const ROWS: usize = 4;
    let rows = product.rows.clamp(1, ROWS);
    let [x, w] = product.types.map(kernel_type);
    let key = KernelKey::new(&FILE, "linear_few").define("T", x).define("WIDE", u8::from(product.columns.is_multiple_of(8)));
    let kernel = special(key.define("TX", x).define("TW", w).define("FEW", rows));
    let grid = [count(product.rows.div_ceil(rows))?, count(product.columns.div_ceil(COLUMNS))?, 1];
    Ok(Launch { kernel, grid, block: [THREADS, 1, 1], shared: 0, params }.into())
}

kernel_params! {
    /// Of all entries of `linear`.
    struct LinearParams { x: ptr, weight: ptr, bias: ptr, residual: ptr, y: ptr, product: {ProductParams}, negative: f32 }
}
static FILE: KernelFile = kernel_file!("linear", [ProductParams, LinearParams]);
const ENTRIES: Entries = Entries { file: &FILE, tensor: "linear_tensor", plain: "linear_plain" };

impl Linear {
    fn spec(&self, w: &Ty) -> PackSpec {
        PackSpec::Linear { n: w.shape[0], k: w.shape[1], gated: self.gated }
    }

    fn run<T: Elem + Widens<T>>(&self, io: &mut HostIo<'_>) -> Result<()>
    where
        f32: Widens<T>,
    {
        let (x, w) = (io.input(0)?, io.input(1)?);
        let weights = Weights::of(io.cpu, w, self.spec(&w.ty))?;
        let bias = io.opt(2).map(|b| b.values()).transpose()?;
        let epilogue = Epilogue {
            residual: io.opt(3).map(|r| r.values()).transpose()?,
            gated: self.gated,
            ..Epilogue::plain(io.out_ty(0).shape.last_axis(), bias, self.act)
        };
        let source = Source::Rows { data: x.values::<T>()?, k: w.ty.shape[1] };
        gemm(io.cpu, &source, &weights, &epilogue, io.outs[0].values()?)
    }
}

/// Rows, inputs and outputs around the edges of every block.
fn sizes(t: DType) -> Vec<Case> {
    let case = |name: &str, m: usize, k: usize, n: usize| Case::new(name, Linear::plain(), vec![normal(t, [m, k]), normal(t, [n, k])]);
    vec![
        case("one of each", 1, 1, 1),
        case("one row", 1, 67, 45),
        case("every tail", 13, 35, 33),
        case("two slices of f32", 14, 301, 40),
        case("two slices of bf16", 14, 1101, 40),
        case("several blocks of rows", 401, 18, 40),
        case("several blocks of columns", 5, 18, 1100),
        case("rows of a small image", 154, 64, 96),
        case("many rows, few features", 1500, 24, 16),
    ]
}

/// Everything that can follow the product.
fn epilogues(t: DType) -> Vec<Case> {
    use Activation::{Gelu, LeakyRelu, QuickGelu, Relu, Sigmoid, Silu};
    let mut cases = Vec::new();
    for act in [Relu, Silu, Gelu, QuickGelu, LeakyRelu(0.1), Sigmoid] {
        cases.push(Case::new(format!("{act:?}"), Linear::with(act), vec![normal(t, [2, 7, 9]), normal(t, [21, 9]), vector(21)]));
    }
    let all = |w: usize, bias| vec![normal(t, [17, 30]), normal(t, [w, 30]), bias, normal(t, [17, 37])];
    cases.push(Case::new("bias and residual", Linear::plain(), all(37, vector(37))));
    cases.push(Case::new("activation before the residual", Linear::with(Gelu), all(37, None)));
    cases.push(Case::new("activation, two slices", Linear::with(Silu), vec![normal(t, [13, 1100]), normal(t, [24, 1100]), vector(24)]));
    let vectors = |rows: usize, n: usize| vec![normal(t, [rows, 1048]), normal(t, [n, 1048]), vector(n), normal(t, [rows, n])];
    cases.push(Case::new("a vector", Linear::with(LeakyRelu(0.2)), vectors(1, 40)));
    cases.push(Case::new("some vectors", Linear::with(Gelu), vectors(6, 37)));
    cases.push(Case::new("gated with residual", Linear::geglu(), all(74, vector(74))));
    cases.push(Case::new("gated without bias", Linear::geglu(), vec![normal(t, [3, 4, 6]), normal(t, [2, 6])]));
    cases.push(Case::new("gated, two slices", Linear::geglu(), vec![normal(t, [13, 1100]), normal(t, [96, 1100]), vector(96)]));
    cases
}

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, bf16, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let plain = AnyOp::from(Linear::plain());
        assert_rejects(vec![
            (plain.clone(), vec![], "input 0 (x) is missing"),
            (plain.clone(), vec![f32([4, 8])], "input 1 (weight) is missing"),
            (plain.clone(), vec![i32([4, 8]), f32([3, 8])], "expected floating point"),
            (plain.clone(), vec![f32([4, 8]), f32([3, 2, 4])], "expected [N, K]"),
            (plain.clone(), vec![f32([4, 7]), f32([3, 8])], "takes 8 features"),
            (plain.clone(), vec![f32([4, 8]), f32([3, 8]), f32([4])], "bias is f32[4], expected shape [3]"),
            (plain.clone(), vec![f32([4, 8]), f32([3, 8]), bf16([3])], "bias is bf16[3], expected f32"),
            (plain.clone(), vec![f32([4, 8]), f32([3, 8]), None, f32([4, 4])], "residual is f32[4,4], expected shape [4,3]"),
            (plain.clone(), vec![f32([4, 8]), f32([3, 8]), None, bf16([4, 3])], "residual is bf16[4,3], expected f32"),
            (plain, vec![f32([4, 8]), f32([3, 8]), None, None, f32([3])], "at most 4 inputs"),
            (Linear::geglu().into(), vec![f32([4, 8]), f32([3, 8])], "even number of rows"),
            (Linear::with(Activation::PRelu).into(), vec![f32([4, 8]), f32([3, 8])], "PReLU is not an activation of linear layers"),
        ]);
    }
}
