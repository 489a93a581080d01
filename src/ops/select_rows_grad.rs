//! Rows back in their place among zeros: the gradient of a selection.

use super::lowering::{count, flat, unit};
use super::{AnyOp, Case, Cost, HostArray, HostIo, Ins, Op, SelectRows, no_second_gradient, normal};
use crate::device::cpu::copy;
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::{Result, Ty};

/// `dx[:, start .. start + n, :] = dy`, 0 elsewhere. Input: `dy [B,n,C]`. Output: `[B,rows,C]` of its type.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectRowsGrad {
    /// Place of the first row.
    pub start: usize,
    /// Rows of the output.
    pub rows: usize,
}

impl Op for SelectRowsGrad {
    const NAME: &'static str = "select_rows_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let dy = ins.float(0, "dy")?;
        let &[b, n, c] = &*dy.shape else { return Err(ins.error(format!("dy is {dy}, expected [B,n,C]"))) };
        ins.ensure(self.start.saturating_add(n) <= self.rows, || format!("{dy} from row {} on in {} rows", self.start, self.rows))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(dy.dtype, [b, self.rows, c])])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(dy)] = ins else { return Err(super::op_error::<Self>("dy is required")) };
        let &[_, n, c] = &*dy.shape() else { return Err(super::op_error::<Self>("dy is not [B,n,C]")) };
        let mut dx = vec![0.0; outs[0].shape.elements()];
        for (image, rows) in dx.chunks_exact_mut(self.rows * c).zip(dy.data.chunks_exact(n * c)) {
            image[self.start * c..(self.start + n) * c].copy_from_slice(rows);
        }
        Ok(vec![dx])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let dy = io.input(0)?;
        let row = dy.ty.shape[2] * dy.ty.dtype.size();
        copy::among_zeros(io.cpu, dy.data, dy.ty.shape[0], self.start * row, io.outs[0].data);
        Ok(())
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let dx = outs[0];
        let row = dx.shape.last_axis() * dx.dtype.size();
        let unit = unit([row]);
        let units = |rows: usize| (rows * row / unit) as u32;
        let taken = units(ins[0].map_or(0, |dy| dy.shape[1]));
        let (images, image, start) = (count(dx.shape[0])?, units(self.rows), units(self.start));
        let params = SelectRowsGradParams { dy: Slot::In(0), dx: Slot::Out(0), images, image, start, taken };
        flat(KernelKey::new(&FILE, "select_rows_grad_x").define("UNIT", unit), dx.bytes() / unit, 1, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::touching(0, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let (AnyOp::SelectRows(SelectRows { start, count }), Some(x)) = (case.op, case.inputs[0]) else { return None };
            let dy = normal(x.ty.dtype, [x.ty.shape[0], count, x.ty.shape[2]]);
            Some(Case::new(case.name, Self { start, rows: x.ty.shape[1] }, vec![dy]))
        };
        SelectRows::cases().into_iter().filter_map(gradient).collect()
    }
}

kernel_params! {
    /// Of `select_rows_grad_x`: `image`, `start` and `taken` are units of dx.
    struct SelectRowsGradParams { dy: ptr, dx: ptr, images: u32, image: u32, start: u32, taken: u32 }
}
static FILE: KernelFile = kernel_file!("select_rows_grad", [SelectRowsGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |start, rows| AnyOp::from(SelectRowsGrad { start, rows });
        assert_rejects(vec![
            (op(0, 4), vec![], "input 0 (dy) is missing"),
            (op(0, 4), vec![f32([4, 8])], "expected [B,n,C]"),
            (op(0, 4), vec![i32([1, 4, 8])], "expected floating point"),
            (op(1, 4), vec![f32([1, 4, 8])], "from row 1 on in 4 rows"),
            (op(usize::MAX, 4), vec![f32([1, 4, 8])], "in 4 rows"),
            (op(0, 4), vec![f32([1, 4, 8]); 2], "at most 1 inputs"),
        ]);
    }
}
