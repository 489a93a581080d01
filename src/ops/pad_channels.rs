//! Zero channels after the last one: how BlazeFace widens its shortcuts.

use super::lowering::{count, flat, unit};
use super::{ConcatGrad, Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, normal};
use crate::device::cpu::copy;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::{Result, Ty};

/// `x [..,C]` with zeros up to `channels` in the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct PadChannels {
    /// Channels of the output; at least those of x.
    pub channels: usize,
}

impl Op for PadChannels {
    const NAME: &'static str = "pad_channels";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.ensure(x.shape.last_axis() <= self.channels, || format!("x is {x}, more than {} channels", self.channels))?;
        ins.at_most(1)?;
        Ok(vec![Ty { dtype: x.dtype, shape: x.shape.with_last(self.channels) }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let c = x.shape().last_axis();
        let widen = |row: &[f64]| row.iter().copied().chain(std::iter::repeat_n(0.0, self.channels - c)).collect::<Vec<_>>();
        Ok(vec![x.data.chunks_exact(c).flat_map(widen).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let x = io.input(0)?;
        let bytes = x.ty.dtype.size();
        copy::beside(io.cpu, &[(x.data, x.ty.shape.last_axis() * bytes)], self.channels * bytes, io.outs[0].data);
        Ok(())
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let y = outs[0];
        let [from, to] = [ins[0].map_or(0, |x| x.shape.last_axis()), self.channels].map(|c| c * y.dtype.size());
        let unit = unit([from, to]);
        let (x, rows) = (Slot::In(0), count(y.shape.rows())?);
        let params = PadChannelsParams { x, y: Slot::Out(0), rows, from: (from / unit) as u32, to: (to / unit) as u32 };
        flat(KernelKey::new(&FILE, "pad_channels_forward").define("UNIT", unit), y.bytes() / unit, 1, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let width = g.shape(cx.input(0)?).last_axis();
        Ok(vec![Some(g.op(ConcatGrad { start: 0, width }, &[Some(cx.gradient()?)])?)])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::touching(0, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            vec![
                Case::new("wider", PadChannels { channels: 42 }, vec![normal(t, [2, 5, 5, 28])]),
                Case::new("as wide", PadChannels { channels: 5 }, vec![normal(t, [3, 5])]),
                Case::new("many rows", PadChannels { channels: 9 }, vec![normal(t, [5000, 1])]),
            ]
        })
    }
}

kernel_params! {
    /// Of `pad_channels_forward`: `from` and `to` are units of a row.
    struct PadChannelsParams { x: ptr, y: ptr, rows: u32, from: u32, to: u32 }
}
static FILE: KernelFile = kernel_file!("pad_channels", [PadChannelsParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(PadChannels { channels: 4 });
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (x) is missing"),
            (op.clone(), vec![f32([2, 5])], "more than 4 channels"),
            (op.clone(), vec![i32([2, 3])], "expected floating point"),
            (op, vec![f32([2, 3]); 2], "at most 1 inputs"),
        ]);
    }
}
