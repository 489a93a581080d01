//! Gradient of scale and shift per channel.

use super::host::by_reference;
use super::lowering::{Spans, activation, count};
use super::{Activation, Affine, AnyOp, Case, Cost, HostArray, HostIo, Ins, Op, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};

/// Gradients of [`Affine`] in all its inputs.
///
/// Inputs: those of the forward operation with `slope` present or none, then `dy` of x's type. Outputs: `dx` of x's type, then f32 `[C]` for
/// mean, variance, weight, bias and, with PReLU, slope.
#[derive(Clone, Debug, PartialEq)]
pub struct AffineGrad {
    /// Added to the variance.
    pub eps: f32,
    /// Applied last by the forward operation.
    pub act: Activation,
}

impl AffineGrad {
    /// Appends the gradients of an affine operation, by its inputs.
    pub(crate) fn append(forward: &Affine, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let mut inputs: Vec<_> = (0..6).map(|i| cx.opt(i)).collect();
        inputs.push(Some(cx.gradient()?));
        let all = g.op_many(Self { eps: forward.eps, act: forward.act }, &inputs)?;
        Ok(all.into_iter().map(Some).collect())
    }
}

impl Op for AffineGrad {
    const NAME: &'static str = "affine_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let forward: Vec<Option<Ty>> = (0..6).map(|i| ins.opt(i)).collect();
        let x = Affine { eps: self.eps, act: self.act }.infer(Ins::new(Self::NAME, &forward))?[0];
        let dy = ins.float(6, "dy")?;
        ins.ensure(dy == x, || format!("dy is {dy} but x is {x}"))?;
        ins.at_most(7)?;
        let parameters = if ins.opt(5).is_some() { 5 } else { 4 };
        let one = Ty::new(DType::F32, [x.shape.last_axis()]);
        Ok([vec![x], vec![one; parameters]].concat())
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(mean), Some(var), Some(w), Some(b), slope, Some(dy)] = ins else {
            return Err(super::op_error::<Self>("x, mean, variance, weight, bias and dy are required"));
        };
        let c = x.shape().last_axis();
        let mut grads: Vec<Vec<f64>> = outs.iter().map(|ty| vec![0.0; ty.shape.elements()]).collect();
        for (i, (&v, dy)) in x.data.iter().zip(&dy.data).enumerate() {
            let j = i % c;
            let r = 1.0 / (var.data[j] + f64::from(self.eps)).sqrt();
            let n = (v - mean.data[j]) * r;
            let z = n * w.data[j] + b.data[j];
            let g = dy * self.act.derivative(z, slope.as_ref().map_or(0.0, |s| s.data[j]));
            grads[0][i] = g * w.data[j] * r;
            grads[1][j] -= g * w.data[j] * r;
            grads[2][j] -= 0.5 * g * w.data[j] * n * r * r;
            grads[3][j] += g * n;
            grads[4][j] += g;
            if slope.is_some() {
                grads[5][j] += dy * z.min(0.0);
            }
        }
        Ok(grads)
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io) // face networks are not trained here: on this no time is spent
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (x, (act, leak)) = (outs[0], activation(self.act));
        let (rows, channels) = (count(x.shape.rows())?, count(x.shape.last_axis())?);
        let spans = Spans::new(&[x.dtype, DType::F32], rows as usize, channels as usize, 1);
        let params = AffineGradParams {
            x: Slot::In(0),
            mean: Slot::In(1),
            variance: Slot::In(2),
            weight: Slot::In(3),
            bias: Slot::In(4),
            slope: Slot::optional(ins, 5),
            dy: Slot::In(6),
            dx: Slot::Out(0),
            dmean: Slot::Out(1),
            dvariance: Slot::Out(2),
            dweight: Slot::Out(3),
            dbias: Slot::Out(4),
            dslope: if outs.len() > 5 { Slot::Out(5) } else { Slot::Null },
            partial: Slot::Scratch(0),
            rows,
            channels,
            span: spans.span as u32,
            spans: spans.count as u32,
            eps: self.eps,
            leak,
        };
        let kernel = |entry| {
            let kernel = KernelKey::new(&FILE, entry).define("T", kernel_type(x.dtype));
            kernel.define("V", spans.vector).define("ACT", act)
        };
        let parts = spans.launch(kernel("affine_grad_x"), params.pack());
        let grid = [channels.div_ceil(256), 1, 1];
        let total = Launch { kernel: kernel("affine_grad_total"), grid, block: [256, 1, 1], shared: 0, params: params.pack() };
        Ok(Lowered::new(vec![parts, total], spans.scratch(3)))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(12, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let (AnyOp::Affine(Affine { eps, act }), Some(x)) = (case.op, case.inputs[0]) else { return None };
            let mut inputs = case.inputs;
            inputs.resize(6, None);
            inputs.push(normal(x.ty.dtype, x.ty.shape));
            Some(Case::new(case.name, Self { eps, act }, inputs))
        };
        Affine::cases().into_iter().filter_map(gradient).collect()
    }
}

kernel_params! {
    /// Of both entries of `affine_grad`; `leak` is the slope of LeakyReLU.
    struct AffineGradParams {
        x: ptr, mean: ptr, variance: ptr, weight: ptr, bias: ptr, slope: ptr, dy: ptr,
        dx: ptr, dmean: ptr, dvariance: ptr, dweight: ptr, dbias: ptr, dslope: ptr, partial: ptr,
        rows: u32, channels: u32, span: u32, spans: u32, eps: f32, leak: f32,
    }
}
static FILE: KernelFile = kernel_file!("affine_grad", [AffineGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |act| AnyOp::from(AffineGrad { eps: 1e-5, act });
        let (x, p) = (f32([2, 3]), f32([3]));
        assert_rejects(vec![
            (op(Activation::None), vec![], "input 0 (x) is missing"),
            (op(Activation::None), vec![x, p, None, p, p, None, x], "(variance) is missing"),
            (op(Activation::None), vec![x, p, p, p, p], "input 6 (dy) is missing"),
            (op(Activation::None), vec![x, p, p, p, p, None, bf16([2, 3])], "dy is bf16[2,3] but x is f32[2,3]"),
            (op(Activation::PRelu), vec![x, p, p, p, p, None, x], "slope goes with PReLU"),
            (op(Activation::None), vec![x, p, p, p, p, None, x, x], "at most 7 inputs"),
        ]);
    }
}
