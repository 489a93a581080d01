//! Values side by side along the last axis. Norms and 1x1 convolutions need none of it: they read two parts where they lie.

use super::lowering::{count, unit};
use super::{ConcatGrad, Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, normal};
use crate::device::cpu::copy;
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::{Result, Ty};

/// `[a, b, ...]` along the last axis. All inputs agree in type and in every other axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    /// Number of inputs; at least one.
    pub count: usize,
}

impl Op for Concat {
    const NAME: &'static str = "concat";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let first = ins.float(0, "input")?;
        let mut width = 0;
        for i in 0..self.count {
            let ty = ins.float(i, "input")?;
            let fits = ty.dtype == first.dtype && ty.shape.with_last(1) == first.shape.with_last(1);
            ins.ensure(fits, || format!("input {i} is {ty}, which does not stand beside {first}"))?;
            width += ty.shape.last_axis();
        }
        ins.at_most(self.count)?;
        Ok(vec![Ty { dtype: first.dtype, shape: first.shape.with_last(width) }])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let mut y = Vec::with_capacity(outs[0].shape.elements());
        for row in 0..outs[0].shape.rows() {
            for a in ins.iter().flatten() {
                let c = a.shape().last_axis();
                y.extend_from_slice(&a.data[row * c..(row + 1) * c]);
            }
        }
        Ok(vec![y])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let inputs: Vec<(&[u8], usize)> = io.ins.iter().flatten().map(|x| (x.data, x.ty.shape.last_axis() * x.ty.dtype.size())).collect();
        let width = io.out_ty(0).shape.last_axis() * io.out_ty(0).dtype.size();
        copy::beside(io.cpu, &inputs, width, io.outs[0].data);
        Ok(())
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let bytes: Vec<usize> = ins.iter().flatten().map(|x| x.shape.last_axis() * x.dtype.size()).collect();
        let unit = unit(bytes.iter().copied());
        let widths: Vec<u32> = bytes.iter().map(|b| (b / unit) as u32).collect();
        let rows = count(outs[0].shape.rows())?;
        count(outs[0].bytes() / unit)?;
        let launch = |(k, some): (usize, &[u32])| {
            let slot = |i: usize| if i < some.len() { Slot::In(4 * k + i) } else { Slot::Null };
            let width = |i: usize| some.get(i).copied().unwrap_or(0);
            let params = ConcatParams {
                x0: slot(0),
                x1: slot(1),
                x2: slot(2),
                x3: slot(3),
                y: Slot::Out(0),
                width0: width(0),
                width1: width(1),
                width2: width(2),
                width3: width(3),
                start: widths[..4 * k].iter().sum(),
                width: widths.iter().sum(),
                rows,
            };
            let kernel = KernelKey::new(&FILE, "concat_forward").define("UNIT", unit);
            let units = rows * some.iter().copied().max().unwrap_or(0);
            Launch { kernel, grid: [units.div_ceil(256), some.len() as u32, 1], block: [256, 1, 1], shared: 0, params: params.pack() }
        };
        Ok(Lowered::new(widths.chunks(4).enumerate().map(launch).collect(), 0))
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let (dy, mut start, mut grads) = (cx.gradient()?, 0, Vec::with_capacity(self.count));
        for i in 0..self.count {
            let width = g.shape(cx.input(i)?).last_axis();
            grads.push(cx.when(i, || g.op(ConcatGrad { start, width }, &[Some(dy)]))?);
            start += width;
        }
        Ok(grads)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::touching(0, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            vec![
                Case::new("skip", Concat { count: 2 }, vec![normal(t, [2, 5, 3, 40]), normal(t, [2, 5, 3, 24])]),
                Case::new("three odd", Concat { count: 3 }, vec![normal(t, [7, 1]), normal(t, [7, 3]), normal(t, [7, 5])]),
                Case::new("one", Concat { count: 1 }, vec![normal(t, [2, 9])]),
                Case::new("many rows", Concat { count: 2 }, vec![normal(t, [5000, 7]), normal(t, [5000, 2])]),
            ]
        })
    }
}

kernel_params! {
    /// Of `concat_forward`: widths are units of a row, `start` is where x0 goes.
    struct ConcatParams {
        x0: ptr, x1: ptr, x2: ptr, x3: ptr, y: ptr,
        width0: u32, width1: u32, width2: u32, width3: u32, start: u32, width: u32, rows: u32,
    }
}
static FILE: KernelFile = kernel_file!("concat", [ConcatParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |count| AnyOp::from(Concat { count });
        assert_rejects(vec![
            (op(0), vec![], "input 0 (input) is missing"),
            (op(2), vec![f32([2, 3])], "input 1 (input) is missing"),
            (op(2), vec![f32([2, 3]), f32([3, 3])], "does not stand beside"),
            (op(2), vec![f32([2, 3]), bf16([2, 3])], "does not stand beside"),
            (op(1), vec![f32([2, 3]), f32([2, 3])], "at most 1 inputs"),
        ]);
    }
}
