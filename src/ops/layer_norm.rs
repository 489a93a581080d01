//! Layer normalisation over the last axis.

use super::host::by_reference;
use super::{Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{DType, Result, Ty};

/// `y = (x − mean) / √(variance + eps) · weight + bias`, statistics over the last axis.
///
/// Inputs: `x [..,C]`, `weight [C]` f32, `bias [C]` f32. Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the (biased) variance.
    pub eps: f32,
}

impl Op for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        for (i, name) in [(1, "weight"), (2, "bias")] {
            ins.get(i, name)?;
            ins.shape(i, name, [x.shape.last_axis()])?;
            ins.dtype(i, name, DType::F32)?;
        }
        ins.at_most(3)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(w), Some(b)] = ins else {
            return Err(super::op_error::<Self>("x, weight and bias are required"));
        };
        let c = x.shape().last_axis();
        let mut y = Vec::with_capacity(x.data.len());
        for row in x.data.chunks_exact(c) {
            let mean = row.iter().sum::<f64>() / c as f64;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64;
            let scale = 1.0 / (var + f64::from(self.eps)).sqrt();
            y.extend(row.iter().enumerate().map(|(i, v)| (v - mean) * scale * w.data[i] + b.data[i]));
        }
        Ok(vec![y])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(8, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
