//! Matrix product with a weight, and everything that usually follows it.

use super::host::by_reference;
use super::{Activation, Case, Cost, HostArray, HostIo, Ins, Op};
use crate::device::cpu::PackSpec;
use crate::{DType, Result, Ty};

/// `y = act(x · Wᵀ + bias) + residual`, or with [`Linear::gated`] GEGLU: `y = a · gelu(b) + residual` of the two halves of `x · Wᵀ + bias`.
///
/// Inputs: `x [.., K]`, `weight [N, K]` (gated: `[2N, K]`, values first, gates second), `bias [N]` f32 (optional; gated `[2N]`),
/// `residual [.., N]` (optional, the type of the output). Output: `[.., N]` of x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Applied before the residual is added.
    pub act: Activation,
    /// GEGLU: exact GELU of the second half times the first half.
    pub gated: bool,
}

impl Linear {
    /// A plain linear layer.
    pub fn plain() -> Self {
        Self { act: Activation::None, gated: false }
    }

    /// A linear layer with an activation.
    pub fn with(act: Activation) -> Self {
        Self { act, gated: false }
    }

    /// A GEGLU layer.
    pub fn geglu() -> Self {
        Self { act: Activation::None, gated: true }
    }
}

impl Op for Linear {
    const NAME: &'static str = "linear";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (x, w) = (ins.float(0, "x")?, ins.float(1, "weight")?);
        let &[rows, k] = &*w.shape else {
            return Err(ins.error(format!("weight is {w}, expected [N, K]")));
        };
        ins.ensure(x.shape.last_axis() == k, || format!("x is {x} but weight {w} takes {k} features"))?;
        ins.ensure(!self.gated || rows % 2 == 0, || format!("a gated layer needs an even number of rows, weight is {w}"))?;
        ins.ensure(!matches!(self.act, Activation::PRelu), || "PReLU is not an activation of linear layers".into())?;
        let n = if self.gated { rows / 2 } else { rows };
        let out = Ty { dtype: x.dtype, shape: x.shape.with_last(n) };
        ins.shape(2, "bias", [rows])?;
        ins.dtype(2, "bias", DType::F32)?;
        ins.shape(3, "residual", out.shape)?;
        ins.dtype(3, "residual", out.dtype)?;
        ins.at_most(4)?;
        Ok(vec![out])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(w), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("x and weight are required"));
        };
        let (rows_w, k) = (w.shape()[0], w.shape()[1]);
        let n = outs[0].shape.last_axis();
        let bias = rest.first().and_then(Option::as_ref);
        let residual = rest.get(1).and_then(Option::as_ref);
        let mut y = Vec::with_capacity(outs[0].shape.elements());
        for (row, x) in x.data.chunks_exact(k).enumerate() {
            let dot = |o: usize| {
                let sum: f64 = x.iter().zip(&w.data[o * k..(o + 1) * k]).map(|(a, b)| a * b).sum();
                sum + bias.map_or(0.0, |b| b.data[o])
            };
            for o in 0..n {
                let value = if self.gated { dot(o) * super::activation::gelu(dot(rows_w / 2 + o)) } else { self.act.eval(dot(o), 0.0) };
                y.push(value + residual.map_or(0.0, |r| r.data[row * n + o]));
            }
        }
        Ok(vec![y])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn packing(&self, _input: usize, _ins: &[Option<Ty>]) -> Option<PackSpec> {
        None
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let macs = match ins {
            [Some(x), Some(w), ..] => x.shape.rows() * w.shape.elements(),
            _ => 0,
        };
        Cost::touching(2 * macs as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
