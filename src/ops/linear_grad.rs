//! Gradients of a linear layer: of what the activation is applied to, of x, of the weight.

use super::host::{Weights, unsupported};
use super::{Activation, AnyOp, Case, Cost, HostArray, HostIo, Ins, Linear, Op, SumRows, no_second_gradient, normal};
use crate::device::cpu::gather::Widens;
use crate::device::cpu::simd::Elem;
use crate::device::cpu::{Epilogue, PackSpec, Source, gemm, weight_grad};
use crate::device::{Lowered, Target};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// One gradient of `y = act(x · Wᵀ + bias)`, or of its gated form.
#[derive(Clone, Debug, PartialEq)]
pub enum LinearGrad {
    /// `dz = dy · act′(z)` with `z = x · Wᵀ + bias` computed again; gated, the gradients of both halves of z.
    ///
    /// Inputs: `x [..,K]`, `weight [N,K]`, `bias [N]` f32 (optional), `dy` (`[..,N]`, gated `[..,N/2]`, of x's type). Output: `[..,N]` of x's type.
    Sum {
        /// The activation.
        act: Activation,
        /// GEGLU.
        gated: bool,
    },
    /// `dx = dz · W`. Inputs: `dz [..,N]`, `weight [N,K]`. Output: `[..,K]` of dz's type.
    Input,
    /// `dW = dzᵀ · x`. Inputs: `dz [..,N]`, `x [..,K]`. Output: `[N,K]` f32.
    Weight,
}

impl LinearGrad {
    /// Appends the gradients of a linear layer: x, weight, bias, residual.
    pub(crate) fn append(layer: &Linear, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let (x, w, bias, dy) = (cx.input(0)?, cx.input(1)?, cx.opt(2), cx.gradient()?);
        let through = cx.wants(0) || cx.wants(1) || cx.wants(2);
        let plain = layer.act == Activation::None && !layer.gated;
        let dz = if plain || !through {
            dy
        } else {
            g.op(Self::Sum { act: layer.act, gated: layer.gated }, &[Some(x), Some(w), bias, Some(dy)])?
        };
        let rows = g.shape(w)[0];
        Ok(vec![
            cx.when(0, || g.op(Self::Input, &[Some(dz), Some(w)]))?,
            cx.when(1, || g.op(Self::Weight, &[Some(dz), Some(x)]))?,
            cx.when(2, || SumRows::over(g, dz, 1, &[rows], DType::F32))?,
            cx.when(3, || Ok(dy))?,
        ])
    }

    fn names(&self) -> [&'static str; 2] {
        match self {
            Self::Sum { .. } => ["x", "weight"],
            Self::Input => ["dz", "weight"],
            Self::Weight => ["dz", "x"],
        }
    }

    /// Elements of the products: rows, N and K.
    fn extents(&self, ins: &[Option<Ty>]) -> Option<[usize; 3]> {
        let [Some(a), Some(b), ..] = ins else { return None };
        Some(match self {
            Self::Sum { .. } | Self::Input => [a.shape.rows(), *b.shape.first()?, b.shape.last_axis()],
            Self::Weight => [a.shape.rows(), a.shape.last_axis(), b.shape.last_axis()],
        })
    }
}

impl Op for LinearGrad {
    const NAME: &'static str = "linear_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let [first, second] = self.names();
        let (a, b) = (ins.float(0, first)?, ins.float(1, second)?);
        if *self == Self::Weight {
            ins.ensure(a.shape.with_last(1) == b.shape.with_last(1), || format!("dz is {a}, which has other rows than x {b}"))?;
            ins.at_most(2)?;
            return Ok(vec![Ty::new(DType::F32, [a.shape.last_axis(), b.shape.last_axis()])]);
        }
        let &[n, k] = &*b.shape else { return Err(ins.error(format!("weight is {b}, expected [N, K]"))) };
        let Self::Sum { act, gated } = self else {
            ins.ensure(a.shape.last_axis() == n, || format!("dz is {a} but weight {b} gives {n} features"))?;
            ins.at_most(2)?;
            return Ok(vec![Ty { dtype: a.dtype, shape: a.shape.with_last(k) }]);
        };
        ins.ensure(a.shape.last_axis() == k, || format!("x is {a} but weight {b} takes {k} features"))?;
        ins.ensure(!gated || n % 2 == 0, || format!("a gated layer needs an even number of rows, weight is {b}"))?;
        ins.ensure(!matches!(act, Activation::PRelu), || "PReLU is not an activation of linear layers".into())?;
        ins.ensure(!gated || *act == Activation::None, || "a gated layer has no other activation".into())?;
        ins.shape(2, "bias", [n])?;
        ins.dtype(2, "bias", DType::F32)?;
        ins.get(3, "dy")?;
        ins.shape(3, "dy", a.shape.with_last(if *gated { n / 2 } else { n }))?;
        ins.dtype(3, "dy", a.dtype)?;
        ins.at_most(4)?;
        Ok(vec![Ty { dtype: a.dtype, shape: a.shape.with_last(n) }])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(a), Some(b), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("two inputs are required"));
        };
        let (wide_a, wide_b) = (a.shape().last_axis(), b.shape().last_axis());
        let mut y = vec![0.0; outs[0].shape.elements()];
        match self {
            Self::Sum { .. } => return self.sum_reference(a, b, rest, y),
            Self::Input => {
                for (dz, dx) in a.data.chunks_exact(wide_a).zip(y.chunks_exact_mut(wide_b)) {
                    for (dz, w) in dz.iter().zip(b.data.chunks_exact(wide_b)) {
                        dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += dz * w);
                    }
                }
            }
            Self::Weight => {
                for (dz, x) in a.data.chunks_exact(wide_a).zip(b.data.chunks_exact(wide_b)) {
                    for (dz, dw) in dz.iter().zip(y.chunks_exact_mut(wide_b)) {
                        dw.iter_mut().zip(x).for_each(|(dw, x)| *dw += dz * x);
                    }
                }
            }
        }
        Ok(vec![y])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.input(0)?.ty.dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn packing(&self, input: usize, ins: &[Option<Ty>]) -> Option<PackSpec> {
        match ins {
            [_, Some(w), ..] if input == 1 => self.spec(w),
            _ => None,
        }
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered> {
        super::product_grads::linear(self, ins, outs, target)
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let macs: usize = self.extents(ins).map_or(0, |e| e.iter().product());
        Cost::touching(2 * macs as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let parts = |case: Case| {
            let AnyOp::Linear(layer) = case.op else { return vec![] };
            let [Some(x), Some(w)] = [case.inputs[0], case.inputs[1]] else { return vec![] };
            let (rows, bias) = (w.ty.shape[0], case.inputs.get(2).copied().flatten());
            let like = |n: usize| normal(x.ty.dtype, x.ty.shape.with_last(n));
            let name = |part: &str| format!("{}, {part}", case.name);
            let mut cases = vec![
                Case::new(name("x"), Self::Input, vec![like(rows), Some(w)]),
                Case::new(name("weight"), Self::Weight, vec![like(rows), Some(x)]),
            ];
            if layer != Linear::plain() {
                let dy = like(if layer.gated { rows / 2 } else { rows });
                cases.push(Case::new(name("sum"), Self::Sum { act: layer.act, gated: layer.gated }, vec![Some(x), Some(w), bias, dy]));
            }
            cases
        };
        Linear::cases().into_iter().flat_map(parts).collect()
    }
}

impl LinearGrad {
    /// The oracle of [`LinearGrad::Sum`].
    fn sum_reference(&self, x: &HostArray, w: &HostArray, rest: &[Option<HostArray>], mut dz: Vec<f64>) -> Result<Vec<Vec<f64>>> {
        let (Self::Sum { act, gated }, [bias, Some(dy)]) = (self, rest) else {
            return Err(super::op_error::<Self>("dy is required"));
        };
        let (n, k, m) = (w.shape()[0], w.shape()[1], dy.shape().last_axis());
        for ((x, dy), dz) in x.data.chunks_exact(k).zip(dy.data.chunks_exact(m)).zip(dz.chunks_exact_mut(n)) {
            let z = |o: usize| {
                let sum: f64 = x.iter().zip(&w.data[o * k..(o + 1) * k]).map(|(a, b)| a * b).sum();
                sum + bias.as_ref().map_or(0.0, |b| b.data[o])
            };
            for (o, dy) in dy.iter().enumerate() {
                if *gated {
                    let (value, gate) = (z(o), z(m + o));
                    dz[o] = dy * super::activation::gelu(gate);
                    dz[m + o] = dy * value * super::activation::gelu_derivative(gate);
                } else {
                    dz[o] = dy * act.derivative(z(o), 0.0);
                }
            }
        }
        Ok(vec![dz])
    }

    /// How the weight is repacked; none where there is no weight.
    fn spec(&self, w: &Ty) -> Option<PackSpec> {
        let (n, k) = (*w.shape.first()?, w.shape.last_axis());
        match self {
            // as the forward pass has it: one copy serves both
            Self::Sum { gated, .. } => Some(PackSpec::Linear { n, k, gated: *gated }),
            Self::Input => Some(PackSpec::LinearInput { n, k }),
            Self::Weight => None,
        }
    }

    fn run<T: Elem + Widens<T>>(&self, io: &mut HostIo<'_>) -> Result<()>
    where
        f32: Widens<T>,
    {
        let (a, b) = (io.input(0)?, io.input(1)?);
        let Some(spec) = self.spec(&b.ty) else {
            return weight::<T>(io);
        };
        let weights = Weights::of(io.cpu, b, spec)?;
        let width = io.out_ty(0).shape.last_axis();
        let epilogue = match self {
            Self::Sum { act, gated } => Epilogue {
                gated: *gated,
                gradient: Some(io.input(3)?.values()?),
                ..Epilogue::plain(if *gated { width / 2 } else { width }, io.opt(2).map(|b| b.f32()).transpose()?, *act)
            },
            _ => Epilogue::plain(width, None, Activation::None),
        };
        let source = Source::Rows { data: a.values::<T>()?, k: a.ty.shape.last_axis() };
        gemm(io.cpu, &source, &weights, &epilogue, io.outs[0].values()?)
    }
}

/// [`LinearGrad::Weight`].
fn weight<T: Elem>(io: &mut HostIo<'_>) -> Result<()> {
    let (dz, x, out) = (io.input(0)?, io.input(1)?, io.outs[0].f32()?);
    let (n, k) = (dz.ty.shape.last_axis(), x.ty.shape.last_axis());
    match x.ty.dtype {
        DType::F32 => weight_grad(io.cpu, dz.values::<T>()?, n, &Source::Rows { data: x.f32()?, k }, 1, out),
        DType::Bf16 => weight_grad(io.cpu, dz.values::<T>()?, n, &Source::Rows { data: x.bf16()?, k }, 1, out),
        other => return Err(unsupported(other)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, bf16, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let sum = |act, gated| AnyOp::from(LinearGrad::Sum { act, gated });
        let (input, weight) = (AnyOp::from(LinearGrad::Input), AnyOp::from(LinearGrad::Weight));
        let (x, w, silu) = (f32([4, 8]), f32([6, 8]), sum(Activation::Silu, false));
        assert_rejects(vec![
            (input.clone(), vec![], "input 0 (dz) is missing"),
            (input.clone(), vec![f32([4, 6]), f32([6, 2, 4])], "expected [N, K]"),
            (input.clone(), vec![f32([4, 5]), w], "gives 6 features"),
            (input, vec![f32([4, 6]), w, x], "at most 2 inputs"),
            (weight.clone(), vec![f32([4, 6])], "input 1 (x) is missing"),
            (weight.clone(), vec![i32([4, 6]), x], "expected floating point"),
            (weight.clone(), vec![f32([5, 6]), x], "has other rows than x"),
            (weight, vec![f32([4, 6]), x, x], "at most 2 inputs"),
            (silu.clone(), vec![f32([4, 7]), w], "takes 8 features"),
            (silu.clone(), vec![x, w, f32([5]), f32([4, 6])], "expected shape [6]"),
            (silu.clone(), vec![x, w, bf16([6]), f32([4, 6])], "bias is bf16[6], expected f32"),
            (silu.clone(), vec![x, w], "input 3 (dy) is missing"),
            (silu.clone(), vec![x, w, None, x], "expected shape [4,6]"),
            (silu.clone(), vec![x, w, None, bf16([4, 6])], "expected f32"),
            (silu, vec![x, w, None, f32([4, 6]), x], "at most 4 inputs"),
            (sum(Activation::None, true), vec![x, f32([5, 8]), None, x], "even number of rows"),
            (sum(Activation::None, true), vec![x, w, None, f32([4, 6])], "expected shape [4,3]"),
            (sum(Activation::Silu, true), vec![x, w, None, f32([4, 3])], "no other activation"),
            (sum(Activation::PRelu, false), vec![x, w, None, f32([4, 6])], "PReLU is not an activation of linear layers"),
        ]);
    }
}
