//! Gradient of a scaling that clamps.

use super::host::by_each;
use super::lowering::{access, count, flat, typed};
use super::{AnyOp, Case, Cost, HostArray, HostIo, Ins, Op, Scale, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads, Value};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::{Result, Ty};

/// `dx = factor · dy` where `factor · x + offset` is inside the range, 0 where it was clamped.
///
/// Inputs: `x [..]`, `dy [..]` of the forward operation's output type. Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaleGrad {
    /// The forward operation.
    pub forward: Scale,
}

impl ScaleGrad {
    /// Appends the gradient of x; without a range that is a scaling itself.
    pub(crate) fn append(forward: &Scale, g: &mut Builder<'_>, x: Value, dy: Value) -> Result<Value> {
        if forward.range == [f32::NEG_INFINITY, f32::INFINITY] {
            let dtype = g.ty(x).dtype;
            return g.op(Scale::by(forward.factor, dtype), &[Some(dy)]);
        }
        g.op(Self { forward: forward.clone() }, &[Some(x), Some(dy)])
    }
}

impl Op for ScaleGrad {
    const NAME: &'static str = "scale_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        ins.gradient_of(&self.forward)
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(dy)] = ins else { return Err(super::op_error::<Self>("x and dy are required")) };
        let Scale { factor, offset, range, .. } = self.forward;
        let [factor, offset, low, high] = [factor, offset, range[0], range[1]].map(f64::from);
        let inside = |x: f64| (low..=high).contains(&(factor * x + offset));
        Ok(vec![x.data.iter().zip(&dy.data).map(|(&x, dy)| if inside(x) { factor * dy } else { 0.0 }).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let Scale { factor, offset, range: [low, high], .. } = self.forward;
        by_each(io, |ins, i| if (low..=high).contains(&(factor * ins[0].at(i) + offset)) { factor * ins[1].at(i) } else { 0.0 })
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (dx, values) = (outs[0], outs[0].shape.elements());
        let dy = ins[1].map_or(dx.dtype, |dy| dy.dtype);
        let width = access(&[dx.dtype, dy], 16);
        let Scale { factor, offset, range: [low, high], .. } = self.forward;
        let (x, kernel) = (Slot::In(0), typed(KernelKey::new(&FILE, "scale_grad_x"), dx.dtype, dy).define("V", width));
        let params = ScaleGradParams { x, dy: Slot::In(1), dx: Slot::Out(0), count: count(values)?, factor, offset, low, high };
        flat(kernel, values, width, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(3, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let (AnyOp::Scale(forward), Some(x)) = (case.op, case.inputs[0]) else { return None };
            let dy = normal(forward.dtype, x.ty.shape);
            Some(Case::new(case.name, Self { forward }, vec![Some(x), dy]))
        };
        Scale::cases().into_iter().filter_map(gradient).collect()
    }
}

kernel_params! {
    /// Of `scale_grad_x`.
    struct ScaleGradParams { x: ptr, dy: ptr, dx: ptr, count: u32, factor: f32, offset: f32, low: f32, high: f32 }
}
static FILE: KernelFile = kernel_file!("scale_grad", [ScaleGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;
    use crate::DType;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |low| AnyOp::from(ScaleGrad { forward: Scale::clamp(low, 1.0, DType::F32) });
        assert_rejects(vec![
            (op(0.0), vec![], "input 0 (x) is missing"),
            (op(2.0), vec![f32([2]); 2], "range [2.0, 1.0] is empty"),
            (op(0.0), vec![f32([2])], "input 1 (dy) is missing"),
            (op(0.0), vec![bf16([2]), bf16([2])], "dy is bf16[2], expected f32[2]"),
            (op(0.0), vec![f32([2]); 3], "at most 2 inputs"),
        ]);
    }
}
