//! Scale and shift per channel: an inference-time batch normalisation.

use super::host::by_reference;
use super::{Activation, Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{DType, Result, Ty};

/// `y = act((x − mean) / √(variance + eps) · weight + bias)` with stored statistics.
///
/// Inputs: `x [..,C]`, then `mean`, `variance`, `weight`, `bias`, and for PReLU `slope`, each `[C]` f32. Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// Added to the variance.
    pub eps: f32,
    /// Applied last.
    pub act: Activation,
}

impl Op for Affine {
    const NAME: &'static str = "affine";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        for (i, name) in ["mean", "variance", "weight", "bias", "slope"].into_iter().enumerate() {
            if i < 4 {
                ins.get(i + 1, name)?;
            }
            ins.shape(i + 1, name, [x.shape.last_axis()])?;
            ins.dtype(i + 1, name, DType::F32)?;
        }
        ins.ensure((self.act == Activation::PRelu) == ins.opt(5).is_some(), || "slope goes with PReLU and only with it".into())?;
        ins.at_most(6)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(mean), Some(var), Some(w), Some(b), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("x, mean, variance, weight and bias are required"));
        };
        let slope = rest.first().and_then(Option::as_ref);
        let c = x.shape().last_axis();
        let y = x.data.iter().enumerate().map(|(i, &v)| {
            let j = i % c;
            let value = (v - mean.data[j]) / (var.data[j] + f64::from(self.eps)).sqrt() * w.data[j] + b.data[j];
            self.act.eval(value, slope.map_or(0.0, |s| s.data[j]))
        });
        Ok(vec![y.collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(2, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
