//! Conversion between storage types.

use super::host::by_reference;
use super::{Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{DType, Result, Ty};

/// The same values in another floating-point type, rounded to nearest even.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    /// Type of the output.
    pub dtype: DType,
}

impl Op for Cast {
    const NAME: &'static str = "cast";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.ensure(self.dtype.is_float(), || format!("cannot cast {x} to {}", self.dtype))?;
        ins.at_most(1)?;
        Ok(vec![Ty { dtype: self.dtype, shape: x.shape }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        Ok(vec![x.data.clone()])
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
