//! An activation on its own, where no other operation can carry it.

use super::host::by_reference;
use super::{Activation, Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{DType, Result, Ty};

/// `y = act(x)`.
///
/// Inputs: `x [..,C]`, `slope [C]` f32 (PReLU only). Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Activate {
    /// The function.
    pub act: Activation,
}

impl Op for Activate {
    const NAME: &'static str = "activate";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.shape(1, "slope", [x.shape.last_axis()])?;
        ins.dtype(1, "slope", DType::F32)?;
        ins.ensure((self.act == Activation::PRelu) == ins.opt(1).is_some(), || "slope goes with PReLU and only with it".into())?;
        ins.at_most(2)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let Some(Some(x)) = ins.first() else { return Err(super::op_error::<Self>("x is required")) };
        let slope = ins.get(1).and_then(Option::as_ref);
        let c = x.shape().last_axis();
        let y = x.data.iter().enumerate().map(|(i, &v)| self.act.eval(v, slope.map_or(0.0, |s| s.data[i % c])));
        Ok(vec![y.collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(4, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
