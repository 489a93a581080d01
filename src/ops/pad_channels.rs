//! Zero channels after the last one: how BlazeFace widens its shortcuts.

use super::host::by_reference;
use super::{Case, Cost, HostArray, HostIo, Ins, Op};
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
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::touching(0, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
