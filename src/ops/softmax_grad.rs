//! Gradient of the softmax over the last axis.

use super::host::by_reference;
use super::lowering::Rows;
use super::{AnyOp, Case, Cost, Fill, HostArray, HostIo, Ins, Op, Softmax, filled, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{Result, Ty};

/// `dx = y (dy − Σ y dy)` of each row. Inputs: the softmax `y [..,C]`, `dy` of its type. Output: y's type.
#[derive(Clone, Debug, PartialEq)]
pub struct SoftmaxGrad;

impl Op for SoftmaxGrad {
    const NAME: &'static str = "softmax_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (y, dy) = (ins.float(0, "y")?, ins.float(1, "dy")?);
        ins.ensure(dy == y, || format!("dy is {dy} but y is {y}"))?;
        ins.at_most(2)?;
        Ok(vec![y])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(y), Some(dy)] = ins else { return Err(super::op_error::<Self>("y and dy are required")) };
        let c = y.shape().last_axis();
        let mut dx = Vec::with_capacity(y.data.len());
        for (y, dy) in y.data.chunks_exact(c).zip(dy.data.chunks_exact(c)) {
            let mean: f64 = y.iter().zip(dy).map(|(y, d)| y * d).sum();
            dx.extend(y.iter().zip(dy).map(|(y, d)| y * (d - mean)));
        }
        Ok(vec![dx])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io) // only classifiers of faces end in one; attention has its own
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, _ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (dtype, count, channels) = (outs[0].dtype, outs[0].shape.rows(), outs[0].shape.last_axis());
        let rows = Rows::holding(2, &[dtype], count, channels)?;
        let params = SoftmaxGradParams {
            y: Slot::In(0),
            dy: Slot::In(1),
            dx: Slot::Out(0),
            rows: count as u32,
            channels: channels as u32,
            rows_per_block: rows.rows_per_block as u32,
        };
        let kernel = KernelKey::new(&FILE, "softmax_grad_x").define("T", kernel_type(dtype));
        Ok(rows.launch(kernel, 0, params.pack()).into())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(4, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let (AnyOp::Softmax(Softmax), Some(x)) = (case.op, case.inputs[0]) else { return None };
            let share = 2.0 / x.ty.shape.last_axis() as f32;
            let y = filled(x.ty.dtype, x.ty.shape, Fill::Uniform(0.0, share));
            Some(Case::new(case.name, Self, vec![y, normal(x.ty.dtype, x.ty.shape)]))
        };
        Softmax::cases().into_iter().filter_map(gradient).collect()
    }
}

kernel_params! {
    /// Of `softmax_grad_x`.
    struct SoftmaxGradParams { y: ptr, dy: ptr, dx: ptr, rows: u32, channels: u32, rows_per_block: u32 }
}
static FILE: KernelFile = kernel_file!("softmax_grad", [SoftmaxGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(SoftmaxGrad);
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (y) is missing"),
            (op.clone(), vec![f32([2, 3])], "input 1 (dy) is missing"),
            (op.clone(), vec![i32([2, 3]); 2], "expected floating point"),
            (op.clone(), vec![f32([2, 3]), f32([3, 2])], "but y is f32[2,3]"),
            (op, vec![f32([2, 3]); 3], "at most 2 inputs"),
        ]);
    }
}
