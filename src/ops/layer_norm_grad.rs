//! Gradient of layer normalisation.

use super::lowering::{Rows, Spans};
use super::{AnyOp, Case, Cost, HostArray, HostIo, Ins, LayerNorm, Op, no_second_gradient, normal, unsupported};
use crate::device::cpu::layer_norm_grad::layer_norm_grad;
use crate::device::cpu::simd::Elem;
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};
use half::bf16;

/// Gradients of [`LayerNorm`] in x and, if asked for, in its parameters; statistics are computed again.
///
/// Inputs: `x [..,C]`, `weight [C]` f32, `dy` of x's type. Outputs: `dx` of x's type; with parameters `dweight [C]` and `dbias [C]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNormGrad {
    /// Added to the variance.
    pub eps: f32,
    /// Give the gradients of weight and bias too.
    pub parameters: bool,
}

impl Op for LayerNormGrad {
    const NAME: &'static str = "layer_norm_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (x, _, dy) = (ins.float(0, "x")?, ins.get(1, "weight")?, ins.float(2, "dy")?);
        let parameter = Ty::new(DType::F32, [x.shape.last_axis()]);
        ins.shape(1, "weight", parameter.shape)?;
        ins.dtype(1, "weight", DType::F32)?;
        ins.ensure(dy == x, || format!("dy is {dy} but x is {x}"))?;
        ins.at_most(3)?;
        Ok(if self.parameters { vec![x, parameter, parameter] } else { vec![x] })
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(w), Some(dy)] = ins else {
            return Err(super::op_error::<Self>("x, weight and dy are required"));
        };
        let c = x.shape().last_axis();
        let (mut dx, mut dw, mut db) = (Vec::with_capacity(x.data.len()), vec![0.0; c], vec![0.0; c]);
        for (row, dy) in x.data.chunks_exact(c).zip(dy.data.chunks_exact(c)) {
            let mean = row.iter().sum::<f64>() / c as f64;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64;
            let scale = 1.0 / (var + f64::from(self.eps)).sqrt();
            let n: Vec<f64> = row.iter().map(|v| (v - mean) * scale).collect();
            let g: Vec<f64> = dy.iter().zip(&w.data).map(|(d, w)| d * w).collect();
            let plain = g.iter().sum::<f64>() / c as f64;
            let along = g.iter().zip(&n).map(|(g, n)| g * n).sum::<f64>() / c as f64;
            dx.extend(g.iter().zip(&n).map(|(g, n)| scale * (g - plain - n * along)));
            for i in 0..c {
                dw[i] += dy[i] * n[i];
                db[i] += dy[i];
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
        let (dtype, count, channels) = (outs[0].dtype, outs[0].shape.rows(), outs[0].shape.last_axis());
        let rows = Rows::holding(2, &[dtype, DType::F32], count, channels)?;
        let spans = Spans::new(&[dtype, DType::F32], count, channels, 1);
        let of_parameters = |slot| if self.parameters { slot } else { Slot::Null };
        let params = LayerNormGradParams {
            x: Slot::In(0),
            weight: Slot::In(1),
            dy: Slot::In(2),
            dx: Slot::Out(0),
            partial: of_parameters(Slot::Scratch(0)),
            statistics: of_parameters(Slot::Scratch(spans.scratch(2))),
            dweight: of_parameters(Slot::Out(1)),
            dbias: of_parameters(Slot::Out(2)),
            rows: count as u32,
            channels: channels as u32,
            rows_per_block: rows.rows_per_block as u32,
            span: spans.span as u32,
            spans: spans.count as u32,
            eps: self.eps,
        };
        let kernel = |entry| KernelKey::new(&FILE, entry).define("T", kernel_type(dtype));
        let x = rows.launch(kernel("layer_norm_grad_x"), 4 * channels, params.pack());
        if !self.parameters {
            return Ok(x.into());
        }
        let other = |entry| KernelKey { entry, ..x.kernel.clone() };
        let parts = Launch { kernel: other("layer_norm_grad_spans"), ..spans.launch(x.kernel.clone(), params.pack()) };
        let grid = [(channels as u32).div_ceil(256), 1, 1];
        let total = Launch { kernel: other("layer_norm_grad_total"), grid, block: [256, 1, 1], shared: 0, params: params.pack() };
        let scratch = spans.scratch(2) + (8 * count as u64).next_multiple_of(256);
        Ok(Lowered::new(vec![x, parts, total], scratch))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(16, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let both = |case: Case| {
            let (AnyOp::LayerNorm(LayerNorm { eps }), Some(x)) = (&case.op, case.inputs[0]) else { return vec![] };
            let inputs = vec![Some(x), case.inputs[1], normal(x.ty.dtype, x.ty.shape)];
            let one = |name: String, parameters| Case::new(name, Self { eps: *eps, parameters }, inputs.clone());
            vec![one(case.name.clone(), false), one(format!("{}, parameters", case.name), true)]
        };
        LayerNorm::cases().into_iter().flat_map(both).collect()
    }
}

impl LayerNormGrad {
    /// Appends the gradients of a layer norm: x, weight, bias.
    pub(crate) fn append(eps: f32, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let parameters = cx.wants(1) || cx.wants(2);
        let all = g.op_many(Self { eps, parameters }, &[Some(cx.input(0)?), Some(cx.input(1)?), Some(cx.gradient()?)])?;
        Ok(all.into_iter().map(Some).collect())
    }

    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (x, w, dy) = (io.input(0)?.values::<T>()?, io.input(1)?.f32()?, io.input(2)?.values::<T>()?);
        let cpu = io.cpu;
        match &mut *io.outs {
            [dx, dw, db] => layer_norm_grad(cpu, self.eps, [x, dy], w, dx.values()?, Some([dw.f32()?, db.f32()?])),
            [dx, ..] => layer_norm_grad(cpu, self.eps, [x, dy], w, dx.values()?, None),
            [] => {}
        }
        Ok(())
    }
}

kernel_params! {
    /// Of the entries of `layer_norm_grad`; `statistics` and what follows from it are null if only dx is wanted.
    struct LayerNormGradParams {
        x: ptr, weight: ptr, dy: ptr, dx: ptr, statistics: ptr, partial: ptr, dweight: ptr, dbias: ptr,
        rows: u32, channels: u32, rows_per_block: u32, span: u32, spans: u32, eps: f32,
    }
}
static FILE: KernelFile = kernel_file!("layer_norm_grad", [LayerNormGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(LayerNormGrad { eps: 1e-5, parameters: true });
        let x = f32([2, 8]);
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (x) is missing"),
            (op.clone(), vec![x, None, x], "(weight) is missing"),
            (op.clone(), vec![x, f32([4]), x], "weight is f32[4], expected shape [8]"),
            (op.clone(), vec![x, bf16([8]), x], "weight is bf16[8], expected f32"),
            (op.clone(), vec![x, f32([8]), bf16([2, 8])], "dy is bf16[2,8] but x is f32[2,8]"),
            (op, vec![x, f32([8]), x, x], "at most 3 inputs"),
        ]);
    }
}
