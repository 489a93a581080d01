//! Some rows of the middle axis: a class token, a slice of a sequence.

use super::host::by_reference;
use super::{Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{Result, Ty};

/// `y = x[:, start .. start + count, :]` of `x [B,S,C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectRows {
    /// First row.
    pub start: usize,
    /// Number of rows; not zero.
    pub count: usize,
}

impl Op for SelectRows {
    const NAME: &'static str = "select_rows";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        let &[b, s, c] = &*x.shape else { return Err(ins.error(format!("x is {x}, expected [B,S,C]"))) };
        ins.ensure(self.count > 0 && self.start + self.count <= s, || format!("rows {}..{} of {x}", self.start, self.start + self.count))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(x.dtype, [b, self.count, c])])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let (s, c) = (x.shape()[1], x.shape()[2]);
        let take = |image: &[f64]| image[self.start * c..(self.start + self.count) * c].to_vec();
        Ok(vec![x.data.chunks_exact(s * c).flat_map(take).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn cost(&self, _ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost { flops: 0, bytes: 2 * outs[0].bytes() as u64 }
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
