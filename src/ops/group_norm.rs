//! Group normalisation of channels-last values, with an optional SiLU.

pub(super) mod lower;

use super::{GroupNormGrad, Case, Cost, HostArray, HostIo, Ins, Op, CaseInput, Fill, each_dtype, filled, normal, vector, unsupported};
use crate::device::cpu::group_norm::{Shape, group_norm};
use crate::device::cpu::simd::Elem;
use crate::device::{Lowered, Target};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// `y = silu?((x − mean) / √(variance + eps) · weight + bias)`, statistics over each image and group of channels.
///
/// Inputs: `x [B,..,C]`, `weight [C]` f32, `bias [C]` f32. Where x is in two parts, `x` holds the first channels of each pixel and a
/// fourth input, `beside [B,..,C − ..]` of x's type, the others. Output: `[B,..,C]` of x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups.
    pub groups: usize,
    /// Added to the (biased) variance.
    pub eps: f32,
    /// Apply SiLU to the result.
    pub silu: bool,
}

impl Op for GroupNorm {
    const NAME: &'static str = "group_norm";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.beside(3, ins.float(0, "x")?)?;
        ins.ensure(x.shape.len() >= 2, || format!("x is {x}, expected [B,..,C]"))?;
        let c = x.shape.last_axis();
        ins.ensure(self.groups > 0 && c % self.groups == 0, || format!("{c} channels do not split into {} groups", self.groups))?;
        for (i, name) in [(1, "weight"), (2, "bias")] {
            ins.get(i, name)?;
            ins.shape(i, name, [c])?;
            ins.dtype(i, name, DType::F32)?;
        }
        ins.at_most(4)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(w), Some(b), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("x, weight and bias are required"));
        };
        let x = &x.beside(rest.first().and_then(Option::as_ref));
        let c = x.shape().last_axis();
        let image = x.data.len() / x.shape()[0];
        let width = c / self.groups;
        let mut y = vec![0.0; x.data.len()];
        for (xs, ys) in x.data.chunks_exact(image).zip(y.chunks_exact_mut(image)) {
            for g in 0..self.groups {
                let inside = |i: &usize| i % c / width == g;
                let n = (image / c * width) as f64;
                let mean = (0..image).filter(inside).map(|i| xs[i]).sum::<f64>() / n;
                let var = (0..image).filter(inside).map(|i| (xs[i] - mean).powi(2)).sum::<f64>() / n;
                let scale = 1.0 / (var + f64::from(self.eps)).sqrt();
                for i in (0..image).filter(inside) {
                    let value = (xs[i] - mean) * scale * w.data[i % c] + b.data[i % c];
                    ys[i] = if self.silu { value * super::activation::sigmoid(value) } else { value };
                }
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

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let first = ins.first().copied().flatten().unwrap_or(outs[0]).shape.last_axis();
        lower::launches(self, &outs[0], first)
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        GroupNormGrad::append(self, g, cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(if self.silu { 12 } else { 8 }, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let norm = |groups, silu| GroupNorm { groups, eps: 1e-5, silu };
        each_dtype(|t| {
            let parts = |name: &str, op, pixels: usize, [a, b]: [usize; 2]| {
                let [first, second] = [a, b].map(|c| normal(t, [2, pixels, c]));
                Case::new(name, op, vec![first, vector(a + b), vector(a + b), second])
            };
            let case = |name: &str, op, x: Option<CaseInput>| {
                let c = x.map_or(1, |x| x.ty.shape.last_axis());
                Case::new(name, op, vec![x, vector(c), vector(c)])
            };
            vec![
                case("unet", norm(32, true), normal(t, [2, 9, 7, 320])),
                case("tokens", norm(32, false), normal(t, [2, 63, 64])),
                case("one channel in a group", norm(32, false), normal(t, [1, 5, 5, 32])),
                case("one group", norm(1, true), normal(t, [3, 4, 5, 24])),
                case("odd", norm(3, true), normal(t, [2, 7, 3, 15])),
                case("one pixel", norm(4, false), normal(t, [2, 1, 1, 64])),
                case("vectors", norm(2, true), normal(t, [3, 8])),
                case("many rows", norm(8, true), normal(t, [1, 61, 53, 48])),
                // values far from zero: a sum of squares would lose the variance
                case("far from zero", norm(4, false), filled(t, [2, 30, 20, 16], Fill::Uniform(99.0, 101.0))),
                case("constant", norm(4, true), filled(t, [1, 10, 10, 16], Fill::Uniform(3.0, 3.0))),
                // groups 60 wide across the seam, as where 1280 channels meet 640
                parts("two parts", norm(4, true), 35, [160, 80]),
                parts("two parts, odd", norm(3, true), 21, [7, 14]),
                parts("two parts, few beside many", norm(2, false), 9, [2, 30]),
                parts("two parts, many rows", norm(8, true), 3233, [24, 40]),
            ]
        })
    }
}

impl GroupNorm {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (x, weight, bias) = (io.input(0)?, io.input(1)?.f32()?, io.input(2)?.f32()?);
        let mut parts = vec![x.values::<T>()?];
        parts.extend(io.opt(3).map(|second| second.values::<T>()).transpose()?);
        let shape = Shape { images: x.ty.shape[0], groups: self.groups, eps: self.eps, silu: self.silu };
        group_norm(io.cpu, shape, &parts, weight, bias, io.outs[0].values::<T>()?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |groups| AnyOp::from(GroupNorm { groups, eps: 1e-5, silu: false });
        assert_rejects(vec![
            (op(2), vec![], "input 0 (x) is missing"),
            (op(2), vec![f32([8]), f32([8]), f32([8])], "expected [B,..,C]"),
            (op(3), vec![f32([1, 4, 8]), f32([8]), f32([8])], "8 channels do not split into 3 groups"),
            (op(0), vec![f32([1, 4, 8]), f32([8]), f32([8])], "do not split into 0 groups"),
            (op(2), vec![f32([1, 4, 8]), None, f32([8])], "(weight) is missing"),
            (op(2), vec![f32([1, 4, 8]), f32([4]), f32([8])], "expected shape [8]"),
            (op(2), vec![bf16([1, 4, 8]), f32([8]), bf16([8])], "bias is bf16[8], expected f32"),
            (op(2), vec![f32([1, 4, 8]), f32([8]), f32([8]), f32([1, 3, 8])], "beside is f32[1,3,8], which does not stand beside f32[1,4,8]"),
            (op(2), vec![f32([1, 4, 8]), f32([8]), f32([8]), bf16([1, 4, 8])], "does not stand beside"),
            (op(2), vec![f32([1, 4, 8]), f32([8]), f32([8]), f32([1, 4, 8])], "weight is f32[8], expected shape [16]"),
            (op(2), [vec![f32([1, 4, 8]), f32([8]), f32([8])], vec![None; 2]].concat(), "at most 4 inputs"),
            (op(2), vec![i32([1, 4, 8]), f32([8]), f32([8])], "expected floating point"),
            (op(2), vec![f32([0, 4, 8]), f32([8]), f32([8])], "has no elements"),
        ]);
    }
}
