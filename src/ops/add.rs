//! Sum of two values.

use super::host::by_reference;
use super::{Activation, Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{Result, Ty};

/// `y = act(a + b)`. Inputs and output of one type and shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Add {
    /// Applied to the sum; not PReLU.
    pub act: Activation,
}

impl Op for Add {
    const NAME: &'static str = "add";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (a, b) = (ins.float(0, "a")?, ins.float(1, "b")?);
        ins.ensure(a == b, || format!("a is {a} but b is {b}"))?;
        ins.ensure(self.act != Activation::PRelu, || "PReLU is not an activation of sums".into())?;
        ins.at_most(2)?;
        Ok(vec![a])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(a), Some(b)] = ins else { return Err(super::op_error::<Self>("a and b are required")) };
        Ok(vec![a.data.iter().zip(&b.data).map(|(a, b)| self.act.eval(a + b, 0.0)).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(1, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
