//! Sum of the lengths of rows: what keeps word embeddings near the origin (DreamIdentity, equation 4: the norm is not squared).

use super::{Case, Cost, Fill, HostArray, HostIo, Ins, NormLossGrad, Op, each_dtype, filled, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::ops::host::by_reference;
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
