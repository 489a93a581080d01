//! Gradient of adding noise.

use super::host::by_reference;
use super::lowering::count;
use super::{AddNoise, AnyOp, Case, Cost, HostArray, HostIo, Ins, Op, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};

/// Gradients of [`AddNoise`] in x, noise and coefficients.
///
/// Inputs: those of the forward operation, then `dy [B,..]`. Outputs: like the first three inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct AddNoiseGrad;

impl Op for AddNoiseGrad {
    const NAME: &'static str = "add_noise_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let forward: Vec<Option<Ty>> = (0..3).map(|i| ins.opt(i)).collect();
        let y = AddNoise { dtype: DType::F32 }.infer(Ins::new(Self::NAME, &forward))?[0];
        let dy = ins.float(3, "dy")?;
        ins.ensure(dy.shape == y.shape, || format!("dy is {dy}, expected shape {}", y.shape))?;
        ins.at_most(4)?;
        Ok(forward.into_iter().flatten().collect())
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(noise), Some(c), Some(dy)] = ins else {
            return Err(super::op_error::<Self>("x, noise, coefficients and dy are required"));
        };
        let image = x.data.len() / x.shape()[0];
        let mut grads: Vec<Vec<f64>> = outs.iter().map(|ty| vec![0.0; ty.shape.elements()]).collect();
        for (i, dy) in dy.data.iter().enumerate() {
            for (which, values) in [&x.data, &noise.data].into_iter().enumerate() {
                let at = i / image * 2 + which;
                grads[which][i] = c.data[at] * dy;
                grads[2][at] += values[i] * dy;
            }
        }
        Ok(grads)
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io) // nothing is trained before the noise
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (images, values) = (outs[0].shape[0], outs[0].shape.elements());
        let dtype = ins[3].map_or(DType::F32, |dy| dy.dtype);
        let params = AddNoiseGradParams {
            x: Slot::In(0),
            noise: Slot::In(1),
            coefficients: Slot::In(2),
            dy: Slot::In(3),
            dx: Slot::Out(0),
            dnoise: Slot::Out(1),
            dcoefficients: Slot::Out(2),
            image: count(values)? / count(images)?,
        };
        let kernel = KernelKey::new(&FILE, "add_noise_grad_all").define("T", kernel_type(dtype));
        Ok(Launch { kernel, grid: [images as u32, 1, 1], block: [256, 1, 1], shared: 0, params: params.pack() }.into())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(6, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let (AnyOp::AddNoise(AddNoise { dtype }), Some(x)) = (case.op, case.inputs[0]) else { return None };
            Some(Case::new(case.name, Self, [case.inputs, vec![normal(dtype, x.ty.shape)]].concat()))
        };
        AddNoise::cases().into_iter().filter_map(gradient).collect()
    }
}

kernel_params! {
    /// Of `add_noise_grad_all`; `image` is the number of values of one.
    struct AddNoiseGradParams { x: ptr, noise: ptr, coefficients: ptr, dy: ptr, dx: ptr, dnoise: ptr, dcoefficients: ptr, image: u32 }
}
static FILE: KernelFile = kernel_file!("add_noise_grad", [AddNoiseGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(AddNoiseGrad);
        let (x, c) = (f32([2, 8]), f32([2, 2]));
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (x) is missing"),
            (op.clone(), vec![x, x, f32([2])], "expected shape [2,2]"),
            (op.clone(), vec![x, x, c], "input 3 (dy) is missing"),
            (op.clone(), vec![x, x, c, i32([2, 8])], "expected floating point"),
            (op.clone(), vec![x, x, c, f32([2, 7])], "expected shape [2,8]"),
            (op, vec![x, x, c, x, x], "at most 4 inputs"),
        ]);
    }
}
