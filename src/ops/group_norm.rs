//! Group normalisation of channels-last values, with an optional SiLU.

use super::host::by_reference;
use super::{Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{DType, Result, Ty};

/// `y = silu?((x − mean) / √(variance + eps) · weight + bias)`, statistics over each image and group of channels.
///
/// Inputs: `x [B,..,C]`, `weight [C]` f32, `bias [C]` f32. Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups.
    pub groups: usize,
    /// Added to the (biased) variance.
    pub eps: f32,
    /// Apply SiLU to the result.
    pub silu: bool,
}

impl Op for GroupNorm {
    const NAME: &'static str = "group_norm";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.ensure(x.shape.len() >= 2, || format!("x is {x}, expected [B,..,C]"))?;
        let c = x.shape.last_axis();
        ins.ensure(self.groups > 0 && c % self.groups == 0, || format!("{c} channels do not split into {} groups", self.groups))?;
        for (i, name) in [(1, "weight"), (2, "bias")] {
            ins.get(i, name)?;
            ins.shape(i, name, [c])?;
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
        let image = x.data.len() / x.shape()[0];
        let width = c / self.groups;
        let mut y = vec![0.0; x.data.len()];
        for (xs, ys) in x.data.chunks_exact(image).zip(y.chunks_exact_mut(image)) {
            for g in 0..self.groups {
                let inside = |i: &usize| i % c / width == g;
                let n = (image / c * width) as f64;
                let mean = (0..image).filter(inside).map(|i| xs[i]).sum::<f64>() / n;
                let var = (0..image).filter(inside).map(|i| (xs[i] - mean).powi(2)).sum::<f64>() / n;
                let scale = 1.0 / (var + f64::from(self.eps)).sqrt();
                for i in (0..image).filter(inside) {
                    let value = (xs[i] - mean) * scale * w.data[i % c] + b.data[i % c];
                    ys[i] = if self.silu { value * super::activation::sigmoid(value) } else { value };
                }
            }
        }
        Ok(vec![y])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(if self.silu { 12 } else { 8 }, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
