//! Sum of the lengths of rows: what keeps word embeddings near the origin (DreamIdentity, equation 4: the norm is not squared).

use super::lowering::Rows;
use super::{Case, Cost, Fill, HostArray, HostIo, Ins, NormLossGrad, Op, each_dtype, filled, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::ops::host::by_reference;
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};

/// `y = Σ over rows of √(Σ x²)`. Input: `x [..,C]`. Output: one f32, shape `[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NormLoss;

impl Op for NormLoss {
    const NAME: &'static str = "norm_loss";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        ins.float(0, "x")?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(DType::F32, [])])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let rows = x.data.chunks_exact(x.shape().last_axis());
        Ok(vec![vec![rows.map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt()).sum()]])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io) // a few words once in a step
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let inputs = [cx.input(0)?, cx.gradient()?].map(Some);
        Ok(vec![cx.when(0, || g.op(NormLossGrad, &inputs))?])
    }

    fn lower(&self, ins: &[Option<Ty>], _outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let Some(Some(x)) = ins.first() else { return Err(super::op_error::<Self>("x is required")) };
        let (count, channels) = (x.shape.rows(), x.shape.last_axis());
        let rows = Rows::new(&[x.dtype], count, channels)?;
        let (y, lengths, rows_per_block) = (Slot::Out(0), Slot::Scratch(0), rows.rows_per_block as u32);
        let params = NormLossParams { x: Slot::In(0), lengths, y, rows: count as u32, channels: channels as u32, rows_per_block };
        let lengths = rows.launch(KernelKey::new(&FILE, "norm_loss_rows").define("T", kernel_type(x.dtype)), 0, params.pack());
        let kernel = KernelKey { entry: "norm_loss_total", ..lengths.kernel.clone() };
        let total = Launch { kernel, grid: [1; 3], block: [256, 1, 1], shared: 0, params: params.pack() };
        Ok(Lowered::new(vec![lengths, total], (4 * count).next_multiple_of(256) as u64))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let elements = ins.first().copied().flatten().map_or(0, |x| x.shape.elements());
        Cost::touching(2 * elements as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, x| Case::new(name, NormLoss, vec![x]);
            vec![case("words", normal(t, [3, 2, 64])), case("odd", normal(t, [5, 7])), case("small", filled(t, [2, 9], Fill::Normal(1e-3)))]
        })
    }
}

kernel_params! {
    /// Of both entries of `norm_loss`.
    struct NormLossParams { x: ptr, lengths: ptr, y: ptr, rows: u32, channels: u32, rows_per_block: u32 }
}
static FILE: KernelFile = kernel_file!("norm_loss", [NormLossParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        assert_rejects(vec![
            (NormLoss.into(), vec![], "input 0 (x) is missing"),
            (NormLoss.into(), vec![i32([2, 3])], "expected floating point"),
            (NormLoss.into(), vec![f32([2, 3]); 2], "at most 1 inputs"),
        ]);
    }
}
