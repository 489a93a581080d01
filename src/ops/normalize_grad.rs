//! Gradient of scaling to unit length.

use super::host::by_reference;
use super::lowering::Rows;
use super::{AnyOp, Case, Cost, HostArray, HostIo, Ins, Normalize, Op, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{Result, Ty};

/// `dx = (dy − y Σ y dy) / ‖x‖` of each row with `y = x / ‖x‖`; `dy / eps` for rows not longer than eps.
///
/// Inputs: `x [..,C]`, `dy` of its type. Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct NormalizeGrad {
    /// Smallest length divided by.
    pub eps: f32,
}

impl Op for NormalizeGrad {
    const NAME: &'static str = "normalize_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (x, dy) = (ins.float(0, "x")?, ins.float(1, "dy")?);
        ins.ensure(dy == x, || format!("dy is {dy} but x is {x}"))?;
        ins.at_most(2)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(dy)] = ins else { return Err(super::op_error::<Self>("x and dy are required")) };
        let c = x.shape().last_axis();
        let mut dx = Vec::with_capacity(x.data.len());
        for (x, dy) in x.data.chunks_exact(c).zip(dy.data.chunks_exact(c)) {
            let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
            let eps = f64::from(self.eps);
            if length <= eps {
                dx.extend(dy.iter().map(|d| d / eps));
                continue;
            }
            let along = x.iter().zip(dy).map(|(x, d)| x * d).sum::<f64>() / (length * length);
            dx.extend(x.iter().zip(dy).map(|(x, d)| (d - x * along) / length));
        }
        Ok(vec![dx])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io) // a handful of identity vectors
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, _ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (dtype, count, channels) = (outs[0].dtype, outs[0].shape.rows(), outs[0].shape.last_axis());
        let rows = Rows::holding(2, &[dtype], count, channels)?;
        let params = NormalizeGradParams {
            x: Slot::In(0),
            dy: Slot::In(1),
            dx: Slot::Out(0),
            rows: count as u32,
            channels: channels as u32,
            rows_per_block: rows.rows_per_block as u32,
            eps: self.eps,
        };
        let kernel = KernelKey::new(&FILE, "normalize_grad_x").define("T", kernel_type(dtype));
        Ok(rows.launch(kernel, 0, params.pack()).into())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(7, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let (AnyOp::Normalize(Normalize { eps }), Some(x)) = (case.op, case.inputs[0]) else { return None };
            Some(Case::new(case.name, Self { eps }, vec![Some(x), normal(x.ty.dtype, x.ty.shape)]))
        };
        Normalize::cases().into_iter().filter_map(gradient).collect()
    }
}

kernel_params! {
    /// Of `normalize_grad_x`.
    struct NormalizeGradParams { x: ptr, dy: ptr, dx: ptr, rows: u32, channels: u32, rows_per_block: u32, eps: f32 }
}
static FILE: KernelFile = kernel_file!("normalize_grad", [NormalizeGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(NormalizeGrad { eps: 1e-12 });
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (x) is missing"),
            (op.clone(), vec![f32([2, 3])], "input 1 (dy) is missing"),
            (op.clone(), vec![i32([2, 3]); 2], "expected floating point"),
            (op.clone(), vec![f32([2, 3]), f32([3, 2])], "but x is f32[2,3]"),
            (op, vec![f32([2, 3]); 3], "at most 2 inputs"),
        ]);
    }
}
