//! Vectors of unit length.

use super::host::by_reference;
use super::{Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{Result, Ty};

/// `y = x / max(‖x‖, eps)` over the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    /// Smallest length divided by.
    pub eps: f32,
}

impl Op for Normalize {
    const NAME: &'static str = "normalize";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.at_most(1)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let unit = |row: &[f64]| {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::from(self.eps));
            row.iter().map(|v| v / norm).collect::<Vec<_>>()
        };
        Ok(vec![x.data.chunks_exact(x.shape().last_axis()).flat_map(unit).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(3, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
