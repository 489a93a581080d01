//! Softmax over the last axis: class probabilities. Attention has its own.

use super::host::by_reference;
use super::{Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{Result, Ty};

/// `y = exp(x − max) / Σ exp(x − max)` over the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax;

impl Op for Softmax {
    const NAME: &'static str = "softmax";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.at_most(1)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let row = |row: &[f64]| {
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = row.iter().map(|v| (v - top).exp()).sum();
            row.iter().map(|v| (v - top).exp() / total).collect::<Vec<_>>()
        };
        Ok(vec![x.data.chunks_exact(x.shape().last_axis()).flat_map(row).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(5, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
