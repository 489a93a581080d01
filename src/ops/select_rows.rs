//! Some rows of the middle axis: a class token, a slice of a sequence.

use super::lowering::{count, flat, unit};
use super::{SelectRowsGrad, Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, normal};
use crate::device::cpu::copy;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::{Result, Ty};

/// `y = x[:, start .. start + count, :]` of `x [B,S,C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectRows {
    /// First row.
    pub start: usize,
    /// Number of rows; not zero.
    pub count: usize,
}

impl Op for SelectRows {
    const NAME: &'static str = "select_rows";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        let &[b, s, c] = &*x.shape else { return Err(ins.error(format!("x is {x}, expected [B,S,C]"))) };
        let end = self.start.saturating_add(self.count);
        ins.ensure(self.count > 0 && end <= s, || format!("rows {}..{end} of {x}", self.start))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(x.dtype, [b, self.count, c])])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let (s, c) = (x.shape()[1], x.shape()[2]);
        let take = |image: &[f64]| image[self.start * c..(self.start + self.count) * c].to_vec();
        Ok(vec![x.data.chunks_exact(s * c).flat_map(take).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let x = io.input(0)?;
        let row = x.ty.shape[2] * x.ty.dtype.size();
        copy::part(io.cpu, x.data, x.ty.shape[0], self.start * row, io.outs[0].data);
        Ok(())
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let y = outs[0];
        let row = y.shape.last_axis() * y.dtype.size();
        let unit = unit([row]);
        let units = |rows: usize| (rows * row / unit) as u32;
        let image = units(ins[0].map_or(0, |x| x.shape[1]));
        let (x, images) = (Slot::In(0), count(y.shape[0])?);
        let params = SelectRowsParams { x, y: Slot::Out(0), images, image, start: units(self.start), taken: units(self.count) };
        flat(KernelKey::new(&FILE, "select_rows_forward").define("UNIT", unit), y.bytes() / unit, 1, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let rows = g.shape(cx.input(0)?)[1];
        Ok(vec![Some(g.op(SelectRowsGrad { start: self.start, rows }, &[Some(cx.gradient()?)])?)])
    }

    fn cost(&self, _ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost { flops: 0, bytes: 2 * outs[0].bytes() as u64 }
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            vec![
                Case::new("class token", SelectRows { start: 0, count: 1 }, vec![normal(t, [3, 50, 24])]),
                Case::new("slice", SelectRows { start: 5, count: 7 }, vec![normal(t, [2, 20, 9])]),
                Case::new("all", SelectRows { start: 0, count: 4 }, vec![normal(t, [2, 4, 3])]),
            ]
        })
    }
}

kernel_params! {
    /// Of `select_rows_forward`: `image`, `start` and `taken` are units of x.
    struct SelectRowsParams { x: ptr, y: ptr, images: u32, image: u32, start: u32, taken: u32 }
}
static FILE: KernelFile = kernel_file!("select_rows", [SelectRowsParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |start, count| AnyOp::from(SelectRows { start, count });
        assert_rejects(vec![
            (op(0, 1), vec![], "input 0 (x) is missing"),
            (op(0, 1), vec![f32([4, 8])], "expected [B,S,C]"),
            (op(0, 0), vec![f32([1, 4, 8])], "rows 0..0 of"),
            (op(3, 2), vec![f32([1, 4, 8])], "rows 3..5 of"),
            (op(usize::MAX, 2), vec![f32([1, 4, 8])], "of f32[1,4,8]"),
            (op(0, 1), vec![f32([1, 4, 8]); 2], "at most 1 inputs"),
        ]);
    }
}
