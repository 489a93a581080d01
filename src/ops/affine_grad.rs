//! Gradient of scale and shift per channel.

use super::host::by_reference;
use super::{Activation, Affine, AnyOp, Case, Cost, HostArray, HostIo, Ins, Op, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
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
