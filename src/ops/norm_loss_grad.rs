//! Gradient of the sum of lengths.

use super::host::by_reference;
use super::lowering::Rows;
use super::{Case, Cost, Fill, HostArray, HostIo, Ins, NormLoss, Op, filled, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};

/// `dx = dy · x / ‖x‖` of each row; 0 for a row of zeros, where the length has no gradient.
///
/// Inputs: `x [..,C]`, `dy` one f32, shape `[]`. Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct NormLossGrad;

impl Op for NormLossGrad {
    const NAME: &'static str = "norm_loss_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.get(1, "dy")?;
        ins.shape(1, "dy", [])?;
        ins.dtype(1, "dy", DType::F32)?;
        ins.at_most(2)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(dy)] = ins else { return Err(super::op_error::<Self>("x and dy are required")) };
        let row = |row: &[f64]| {
            let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            let factor = if length == 0.0 { 0.0 } else { dy.data[0] / length };
            row.iter().map(|v| v * factor).collect::<Vec<_>>()
        };
        Ok(vec![x.data.chunks_exact(x.shape().last_axis()).flat_map(row).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io) // a few words once in a step
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, _ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (dtype, count, channels) = (outs[0].dtype, outs[0].shape.rows(), outs[0].shape.last_axis());
        let rows = Rows::new(&[dtype], count, channels)?;
        let (x, dy, dx, rows_per_block) = (Slot::In(0), Slot::In(1), Slot::Out(0), rows.rows_per_block as u32);
        let params = NormLossGradParams { x, dy, dx, rows: count as u32, channels: channels as u32, rows_per_block };
        let kernel = KernelKey::new(&FILE, "norm_loss_grad_x").define("T", kernel_type(dtype));
        Ok(rows.launch(kernel, 0, params.pack()).into())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(3, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let dy = normal(DType::F32, []);
        let mut cases: Vec<Case> = NormLoss::cases().into_iter().map(|case| Case::new(case.name, Self, vec![case.inputs[0], dy])).collect();
        cases.push(Case::new("zeros", Self, vec![filled(DType::F32, [2, 5], Fill::Uniform(0.0, 0.0)), dy]));
        cases
    }
}

kernel_params! {
    /// Of `norm_loss_grad_x`.
    struct NormLossGradParams { x: ptr, dy: ptr, dx: ptr, rows: u32, channels: u32, rows_per_block: u32 }
}
static FILE: KernelFile = kernel_file!("norm_loss_grad", [NormLossGradParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(NormLossGrad);
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (x) is missing"),
            (op.clone(), vec![f32([2, 3])], "input 1 (dy) is missing"),
            (op.clone(), vec![f32([2, 3]), f32([1])], "expected shape []"),
            (op.clone(), vec![f32([2, 3]), bf16([])], "dy is bf16[], expected f32"),
            (op, vec![f32([2, 3]), f32([]), f32([])], "at most 2 inputs"),
        ]);
    }
}
