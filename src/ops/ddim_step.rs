//! Classifier-free guidance and one deterministic DDIM update.

use super::host::by_reference;
use super::lowering::{count, flat, access};
use super::{DdimStepGrad, Case, Cost, HostArray, HostIo, Ins, Op, Fill, each_dtype, filled, normal};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};

/// `e = e_u + g (e_c − e_u)`, `x0 = (x − √(1−ā) e) / √ā`, `y = √ā′ x0 + √(1−ā′) e` (Song et al. 2020, eta 0).
///
/// Inputs: `latents [B,..]` f32, `eps [2B,..]` with the unconditional half first (or `[B,..]` without guidance),
/// `coefficients [1,4]` f32: √ā, √(1−ā), √ā′, √(1−ā′), `guidance [1]` f32 (with `[2B,..]` only). Output: f32, the shape of latents.
#[derive(Clone, Debug, PartialEq)]
pub struct DdimStep;

impl Op for DdimStep {
    const NAME: &'static str = "ddim_step";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (x, eps) = (ins.get(0, "latents")?, ins.float(1, "eps")?);
        ins.get(2, "coefficients")?;
        ins.shape(2, "coefficients", [1, 4])?;
        for (i, name) in [(0, "latents"), (2, "coefficients"), (3, "guidance")] {
            ins.dtype(i, name, DType::F32)?;
        }
        ins.shape(3, "guidance", [1])?;
        let halves = if ins.opt(3).is_some() { 2 } else { 1 };
        let fits = !x.shape.is_empty() && eps.shape.len() == x.shape.len() && eps.shape[0] == halves * x.shape[0] && eps.shape[1..] == x.shape[1..];
        ins.ensure(fits, || format!("eps is {eps}, expected {halves} times the batch of latents {x}"))?;
        ins.at_most(4)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(eps), Some(c), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("latents, eps and coefficients are required"));
        };
        let n = x.data.len();
        let y = (0..n).map(|i| {
            let e = match rest.first() {
                Some(Some(g)) => eps.data[i] + g.data[0] * (eps.data[n + i] - eps.data[i]),
                _ => eps.data[i],
            };
            let x0 = (x.data[i] - c.data[1] * e) / c.data[0];
            c.data[2] * x0 + c.data[3] * e
        });
        Ok(vec![y.collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let eps = ins[1].map_or(DType::F32, |eps| eps.dtype);
        let (values, width) = (outs[0].shape.elements(), access(&[DType::F32, eps], 16));
        let guidance = Slot::optional(ins, 3);
        let guided = u32::from(guidance != Slot::Null);
        let kernel = KernelKey::new(&FILE, "ddim_step_forward").define("T", kernel_type(eps)).define("V", width).define("GUIDED", guided);
        let (x, eps, coefficients, y) = (Slot::In(0), Slot::In(1), Slot::In(2), Slot::Out(0));
        let params = DdimStepParams { x, eps, coefficients, guidance, y, count: count(values)? };
        flat(kernel, values, width, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        DdimStepGrad::append(g, cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(9, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let f32 = DType::F32;
            let coefficients = filled(f32, [1, 4], Fill::Uniform(0.1, 1.0));
            let guidance = filled(f32, [1], Fill::Uniform(7.5, 7.5));
            vec![
                Case::new("guided", DdimStep, vec![normal(f32, [1, 8, 8, 4]), normal(t, [2, 8, 8, 4]), coefficients, guidance]),
                Case::new("guided batch", DdimStep, vec![normal(f32, [3, 5, 7, 4]), normal(t, [6, 5, 7, 4]), coefficients, guidance]),
                Case::new("unguided", DdimStep, vec![normal(f32, [2, 5, 5, 4]), normal(t, [2, 5, 5, 4]), coefficients]),
            ]
        })
    }
}

kernel_params! {
    /// Of `ddim_step_forward`.
    struct DdimStepParams { x: ptr, eps: ptr, coefficients: ptr, guidance: ptr, y: ptr, count: u32 }
}
static FILE: KernelFile = kernel_file!("ddim_step", [DdimStepParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(DdimStep);
        let (x, c, g) = (f32([2, 8]), f32([1, 4]), f32([1]));
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (latents) is missing"),
            (op.clone(), vec![x, f32([4, 8]), None, g], "(coefficients) is missing"),
            (op.clone(), vec![x, f32([4, 8]), f32([4]), g], "expected shape [1,4]"),
            (op.clone(), vec![bf16([2, 8]), f32([4, 8]), c, g], "latents is bf16[2,8], expected f32"),
            (op.clone(), vec![x, f32([4, 8]), c, f32([2])], "expected shape [1]"),
            (op.clone(), vec![x, f32([2, 8]), c, g], "expected 2 times the batch"),
            (op.clone(), vec![x, f32([4, 8]), c], "expected 1 times the batch"),
            (op, vec![x, f32([4, 8]), c, g, g], "at most 4 inputs"),
        ]);
    }
}
