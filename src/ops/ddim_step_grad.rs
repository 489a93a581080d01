//! Gradient of one guided DDIM update.

use super::host::by_reference;
use super::lowering::{ENOUGH_BLOCKS, count};
use super::{AnyOp, Case, Cost, DdimStep, HostArray, HostIo, Ins, Op, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{Result, Ty};

/// Gradients of [`DdimStep`] in all its inputs.
///
/// Inputs: those of the forward operation with `guidance` present or none, then `dy` f32 like the latents. Outputs: the gradients of
/// latents, eps, coefficients and, where it is given, guidance, each of the input's type.
#[derive(Clone, Debug, PartialEq)]
pub struct DdimStepGrad;

impl DdimStepGrad {
    /// Appends the gradients of a step, by its inputs.
    pub(crate) fn append(g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let inputs = [cx.opt(0), cx.opt(1), cx.opt(2), cx.opt(3), Some(cx.gradient()?)];
        Ok(g.op_many(Self, &inputs)?.into_iter().map(Some).collect())
    }
}

impl Op for DdimStepGrad {
    const NAME: &'static str = "ddim_step_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let forward: Vec<Option<Ty>> = (0..4).map(|i| ins.opt(i)).collect();
        let x = DdimStep.infer(Ins::new(Self::NAME, &forward))?[0];
        let dy = ins.get(4, "dy")?;
        ins.ensure(dy == x, || format!("dy is {dy}, expected {x}"))?;
        ins.at_most(5)?;
        Ok(forward.into_iter().flatten().collect())
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(eps), Some(c), guidance, Some(dy)] = ins else {
            return Err(super::op_error::<Self>("latents, eps, coefficients and dy are required"));
        };
        let (n, c) = (x.data.len(), &c.data);
        let mut grads: Vec<Vec<f64>> = outs.iter().map(|ty| vec![0.0; ty.shape.elements()]).collect();
        // y = c2 (x − c1 e) / c0 + c3 e
        let of_e = c[3] - c[2] * c[1] / c[0];
        for (i, dy) in dy.data.iter().enumerate() {
            let (g, change) = guidance.as_ref().map_or((0.0, 0.0), |g| (g.data[0], eps.data[n + i] - eps.data[i]));
            let e = eps.data[i] + g * change;
            let x0 = (x.data[i] - c[1] * e) / c[0];
            grads[0][i] = dy * c[2] / c[0];
            grads[1][i] = dy * of_e * (1.0 - g);
            for (at, part) in [-c[2] * x0 / c[0], -c[2] * e / c[0], x0, e].into_iter().enumerate() {
                grads[2][at] += dy * part;
            }
            if guidance.is_some() {
                grads[1][n + i] = dy * of_e * g;
                grads[3][0] += dy * of_e * change;
            }
        }
        Ok(grads)
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (values, guided) = (outs[0].shape.elements(), outs.len() == 4);
        let span = values.div_ceil(ENOUGH_BLOCKS).next_multiple_of(256) as u32;
        let spans = count(values)?.div_ceil(span);
        let params = DdimStepGradParams {
            x: Slot::In(0),
            eps: Slot::In(1),
            coefficients: Slot::In(2),
            guidance: Slot::optional(ins, 3),
            dy: Slot::In(4),
            dx: Slot::Out(0),
            deps: Slot::Out(1),
            dcoefficients: Slot::Out(2),
            dguidance: if guided { Slot::Out(3) } else { Slot::Null },
            partial: Slot::Scratch(0),
            count: values as u32,
            span,
            spans,
        };
        let launch = |entry, blocks| {
            let kernel = KernelKey::new(&FILE, entry).define("T", kernel_type(outs[1].dtype)).define("GUIDED", u32::from(guided));
            Launch { kernel, grid: [blocks, 1, 1], block: [256, 1, 1], shared: 0, params: params.pack() }
        };
        let launches = vec![launch("ddim_step_grad_parts", spans), launch("ddim_step_grad_total", 1)];
        Ok(Lowered::new(launches, u64::from(20 * spans).next_multiple_of(256)))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(20, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let (AnyOp::DdimStep(DdimStep), Some(x)) = (case.op, case.inputs[0]) else { return None };
            let mut inputs = case.inputs;
            inputs.resize(4, None);
            inputs.push(normal(x.ty.dtype, x.ty.shape));
            Some(Case::new(case.name, Self, inputs))
        };
        DdimStep::cases().into_iter().filter_map(gradient).collect()
    }
}

kernel_params! {
    /// Of both entries of `ddim_step_grad`.
    struct DdimStepGradParams {
        x: ptr, eps: ptr, coefficients: ptr, guidance: ptr, dy: ptr, dx: ptr, deps: ptr, dcoefficients: ptr, dguidance: ptr, partial: ptr,
        count: u32, span: u32, spans: u32,
    }
}
static FILE: KernelFile = kernel_file!("ddim_step_grad", [DdimStepGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(DdimStepGrad);
        let (x, c, g) = (f32([2, 8]), f32([1, 4]), f32([1]));
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (latents) is missing"),
            (op.clone(), vec![x, f32([4, 8]), None, g, x], "(coefficients) is missing"),
            (op.clone(), vec![x, x, c, g, x], "expected 2 times the batch"),
            (op.clone(), vec![x, f32([4, 8]), c, g], "input 4 (dy) is missing"),
            (op.clone(), vec![x, x, c, None, f32([4, 8])], "dy is f32[4,8], expected f32[2,8]"),
            (op, vec![x, x, c, None, x, x], "at most 5 inputs"),
        ]);
    }
}
