//! Gradient of group normalisation, SiLU included.

use super::group_norm::lower::{Cut, Sizes, statistics};
use super::lowering::count;
use super::parts::Parts;
use super::{AnyOp, Case, Cost, GroupNorm, HostArray, HostIo, Ins, Op, no_second_gradient, normal, unsupported};
use crate::device::cpu::group_norm::Shape;
use crate::device::cpu::group_norm_grad::group_norm_grad;
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// Gradients of [`GroupNorm`] in x and, if asked for, in its parameters; statistics are computed again.
///
/// Inputs: `x [B,..,C]`, `weight [C]` f32, `bias [C]` f32, `dy` of x's type. Outputs: `dx` of x's type; with parameters `dweight [C]` and
/// `dbias [C]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNormGrad {
    /// Attributes of the forward operation.
    pub norm: GroupNorm,
    /// Give the gradients of weight and bias too.
    pub parameters: bool,
}

impl Op for GroupNormGrad {
    const NAME: &'static str = "group_norm_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (x, dy) = (ins.float(0, "x")?, ins.float(3, "dy")?);
        ins.ensure(x.shape.len() >= 2, || format!("x is {x}, expected [B,..,C]"))?;
        let (c, groups) = (x.shape.last_axis(), self.norm.groups);
        ins.ensure(groups > 0 && c % groups == 0, || format!("{c} channels do not split into {groups} groups"))?;
        for (i, name) in [(1, "weight"), (2, "bias")] {
            ins.get(i, name)?;
            ins.shape(i, name, [c])?;
            ins.dtype(i, name, DType::F32)?;
        }
        ins.ensure(dy == x, || format!("dy is {dy} but x is {x}"))?;
        ins.at_most(4)?;
        let parameter = Ty::new(DType::F32, [c]);
        Ok(if self.parameters { vec![x, parameter, parameter] } else { vec![x] })
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(w), Some(b), Some(dy)] = ins else {
            return Err(super::op_error::<Self>("x, weight, bias and dy are required"));
        };
        let c = x.shape().last_axis();
        let image = x.data.len() / x.shape()[0];
        let width = c / self.norm.groups;
        let silu = super::Activation::Silu;
        let (mut dx, mut dw, mut db) = (vec![0.0; x.data.len()], vec![0.0; c], vec![0.0; c]);
        for (at, xs) in x.data.chunks_exact(image).enumerate().map(|(i, xs)| (i * image, xs)) {
            for group in 0..self.norm.groups {
                let inside: Vec<usize> = (0..image).filter(|i| i % c / width == group).collect();
                let count = inside.len() as f64;
                let mean = inside.iter().map(|&i| xs[i]).sum::<f64>() / count;
                let var = inside.iter().map(|&i| (xs[i] - mean).powi(2)).sum::<f64>() / count;
                let scale = 1.0 / (var + f64::from(self.norm.eps)).sqrt();
                let n = |i: usize| (xs[i] - mean) * scale;
                let g = |i: usize| {
                    let slope = if self.norm.silu { silu.derivative(n(i) * w.data[i % c] + b.data[i % c], 0.0) } else { 1.0 };
                    dy.data[at + i] * slope
                };
                let plain = inside.iter().map(|&i| g(i) * w.data[i % c]).sum::<f64>() / count;
                let along = inside.iter().map(|&i| g(i) * w.data[i % c] * n(i)).sum::<f64>() / count;
                for &i in &inside {
                    dx[at + i] = scale * (g(i) * w.data[i % c] - plain - n(i) * along);
                    dw[i % c] += g(i) * n(i);
                    db[i % c] += g(i);
                }
            }
        }
        Ok(if self.parameters { vec![dx, dw, db] } else { vec![dx] })
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, _ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let x = outs[0];
        count(x.shape.elements())?;
        let sizes = Sizes::new(&self.norm, &x, x.shape.last_axis());
        let cut = sizes.spans();
        let (pairs, [spans, ..]) = (cut.pairs(&sizes), cut.grid(&sizes));
        let params = self.params(&sizes, &cut, spans, pairs);
        let launch = |entry, grid, block, floats: usize| {
            let kernel = KernelKey::new(&FILE, entry).define("T", kernel_type(x.dtype)).define("V", cut.vector);
            let kernel = kernel.define("SILU", u32::from(self.norm.silu)).define("PARAMETERS", u32::from(self.parameters));
            Launch { kernel, grid, block, shared: 4 * floats as u32, params: params.pack() }
        };
        let (grid, block) = (cut.grid(&sizes), [cut.lanes as u32, cut.rows as u32, 1]);
        let constants = 5 * (cut.chunk + cut.chunk / sizes.width);
        let mut launches = vec![
            statistics(&self.norm, &x, &sizes, &cut),
            launch("group_norm_grad_sums", grid, block, constants + 2 * cut.sums()),
            launch("group_norm_grad_x", grid, block, constants),
        ];
        let mut scratch = 2 * pairs;
        if self.parameters {
            launches.push(launch("group_norm_grad_total", [(sizes.channels as u32).div_ceil(256), 1, 1], [256, 1, 1], 0));
            scratch += (8 * sizes.images * spans as usize * sizes.channels).next_multiple_of(256) as u64;
        }
        Ok(Lowered::new(launches, scratch))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(if self.norm.silu { 26 } else { 18 }, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let both = |case: Case| {
            let (AnyOp::GroupNorm(norm), Some(x), 3) = (&case.op, case.inputs[0], case.inputs.len()) else { return vec![] };
            let inputs = vec![Some(x), case.inputs[1], case.inputs[2], normal(x.ty.dtype, x.ty.shape)];
            let one = |name: String, parameters| Case::new(name, Self { norm: norm.clone(), parameters }, inputs.clone());
            vec![one(case.name.clone(), false), one(format!("{}, parameters", case.name), true)]
        };
        GroupNorm::cases().into_iter().flat_map(both).collect()
    }
}

impl GroupNormGrad {
    /// Appends the gradients of a group norm: x, weight, bias.
    pub(crate) fn append(norm: &GroupNorm, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let parameters = cx.wants(1) || cx.wants(2);
        let parts = Parts::of(cx, 3)?;
        let inputs = [parts.joined(g)?, cx.input(1)?, cx.input(2)?, cx.gradient()?].map(Some);
        let all = g.op_many(Self { norm: norm.clone(), parameters }, &inputs)?;
        let [dx, dbeside] = parts.cut(g, cx, all[0])?;
        let mut parameters = all[1..].iter().copied().map(Some);
        Ok(vec![dx, parameters.next().flatten(), parameters.next().flatten(), dbeside])
    }

    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (x, w, b) = (io.input(0)?, io.input(1)?.f32()?, io.input(2)?.f32()?);
        let shape = Shape { images: x.ty.shape[0], groups: self.norm.groups, eps: self.norm.eps, silu: self.norm.silu };
        let (values, cpu) = ([x.values::<T>()?, io.input(3)?.values::<T>()?], io.cpu);
        match &mut *io.outs {
            [dx, dw, db] => group_norm_grad(cpu, shape, values, [w, b], dx.values()?, Some([dw.f32()?, db.f32()?])),
            [dx, ..] => group_norm_grad(cpu, shape, values, [w, b], dx.values()?, None),
            [] => {}
        }
        Ok(())
    }
}

kernel_params! {
    /// Of the entries of `group_norm_grad`: a block takes `chunk` channels, in groups of `width`, and `span` pixels.
    struct GroupNormGradParams {
        x: ptr, weight: ptr, bias: ptr, dy: ptr, dx: ptr, partial: ptr, group_sums: ptr, channel_sums: ptr, dweight: ptr, dbias: ptr,
        images: u32, pixels: u32, channels: u32, chunk: u32, width: u32, span: u32, spans: u32, eps: f32,
    }
}
static FILE: KernelFile = kernel_file!("group_norm_grad", [GroupNormGradParams]);

impl GroupNormGrad {
    /// The workspace holds the moments of each group and span, then their sums, then the sums per channel.
    fn params(&self, sizes: &Sizes, cut: &Cut, spans: u32, pairs: u64) -> GroupNormGradParams {
        let of_parameters = |slot| if self.parameters { slot } else { Slot::Null };
        GroupNormGradParams {
            x: Slot::In(0),
            weight: Slot::In(1),
            bias: Slot::In(2),
            dy: Slot::In(3),
            dx: Slot::Out(0),
            partial: Slot::Scratch(0),
            group_sums: Slot::Scratch(pairs),
            channel_sums: of_parameters(Slot::Scratch(2 * pairs)),
            dweight: of_parameters(Slot::Out(1)),
            dbias: of_parameters(Slot::Out(2)),
            images: sizes.images as u32,
            pixels: sizes.pixels as u32,
            channels: sizes.channels as u32,
            chunk: cut.chunk as u32,
            width: sizes.width as u32,
            span: cut.span as u32,
            spans,
            eps: self.norm.eps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |groups| AnyOp::from(GroupNormGrad { norm: GroupNorm { groups, eps: 1e-5, silu: false }, parameters: false });
        let (x, p) = (f32([1, 4, 8]), f32([8]));
        assert_rejects(vec![
            (op(2), vec![], "input 0 (x) is missing"),
            (op(2), vec![p, p, p, p], "expected [B,..,C]"),
            (op(3), vec![x, p, p, x], "8 channels do not split into 3 groups"),
            (op(2), vec![x, None, p, x], "(weight) is missing"),
            (op(2), vec![x, p, f32([4]), x], "expected shape [8]"),
            (op(2), vec![x, bf16([8]), p, x], "weight is bf16[8], expected f32"),
            (op(2), vec![x, p, p], "input 3 (dy) is missing"),
            (op(2), vec![x, p, p, f32([1, 3, 8])], "but x is"),
            (op(2), vec![x, p, p, x, x], "at most 4 inputs"),
        ]);
    }
}
