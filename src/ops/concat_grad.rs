//! Some columns of every row: the gradient of one part of a concatenation, or of what was padded.

use super::lowering::{count, flat, unit};
use super::{Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, no_second_gradient, normal};
use crate::device::cpu::copy;
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::{Result, Ty};

/// `dx = dy[.., start .. start + width]`. Input: `dy [..,C]`. Output: `[..,width]` of its type.
#[derive(Clone, Debug, PartialEq)]
pub struct ConcatGrad {
    /// First column.
    pub start: usize,
    /// Number of columns; not zero.
    pub width: usize,
}

impl Op for ConcatGrad {
    const NAME: &'static str = "concat_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let dy = ins.float(0, "dy")?;
        let end = self.start.saturating_add(self.width);
        ins.ensure(self.width > 0 && end <= dy.shape.last_axis(), || format!("columns {}..{end} of {dy}", self.start))?;
        ins.at_most(1)?;
        Ok(vec![Ty { dtype: dy.dtype, shape: dy.shape.with_last(self.width) }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(dy)] = ins else { return Err(super::op_error::<Self>("dy is required")) };
        let rows = dy.data.chunks_exact(dy.shape().last_axis());
        Ok(vec![rows.flat_map(|row| &row[self.start..self.start + self.width]).copied().collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let dy = io.input(0)?;
        let size = dy.ty.dtype.size();
        copy::columns(io.cpu, dy.data, dy.ty.shape.last_axis() * size, self.start * size, self.width * size, io.outs[0].data);
        Ok(())
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let dx = outs[0];
        let sizes = [ins[0].map_or(0, |dy| dy.shape.last_axis()), self.start, self.width].map(|n| n * dx.dtype.size());
        let unit = unit(sizes);
        let [pitch, start, width] = sizes.map(|n| (n / unit) as u32);
        let params = ConcatGradParams { dy: Slot::In(0), dx: Slot::Out(0), rows: count(dx.shape.rows())?, pitch, start, width };
        flat(KernelKey::new(&FILE, "concat_grad_x").define("UNIT", unit), dx.bytes() / unit, 1, params.pack())
    }

    fn cost(&self, _ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost { flops: 0, bytes: 2 * outs[0].bytes() as u64 }
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, start, width, shape: [usize; 2]| Case::new(name, ConcatGrad { start, width }, vec![normal(t, shape)]);
            vec![
                case("first part", 0, 40, [30, 64]),
                case("second part", 40, 24, [30, 64]),
                case("middle, odd", 1, 3, [7, 9]),
                case("all", 0, 9, [2, 9]),
                case("many rows", 2, 5, [5000, 7]),
            ]
        })
    }
}

kernel_params! {
    /// Of `concat_grad_x`: `pitch`, `start` and `width` are units of a row.
    struct ConcatGradParams { dy: ptr, dx: ptr, rows: u32, pitch: u32, start: u32, width: u32 }
}
static FILE: KernelFile = kernel_file!("concat_grad", [ConcatGradParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |start, width| AnyOp::from(ConcatGrad { start, width });
        assert_rejects(vec![
            (op(0, 1), vec![], "input 0 (dy) is missing"),
            (op(0, 1), vec![i32([2, 3])], "expected floating point"),
            (op(0, 0), vec![f32([2, 3])], "columns 0..0 of"),
            (op(2, 2), vec![f32([2, 3])], "columns 2..4 of"),
            (op(usize::MAX, 2), vec![f32([2, 3])], "of f32[2,3]"),
            (op(0, 1), vec![f32([2, 3]); 2], "at most 1 inputs"),
        ]);
    }
}
