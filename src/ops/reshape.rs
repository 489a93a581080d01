//! The same elements under another shape.

use super::{Case, Cost, HostArray, HostIo, Ins, Op};
use crate::device::{Lowered, Target};
use crate::graph::{Builder, GradCx, Grads};
use crate::{Result, Shape, Ty};

/// A view: no bytes move.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshape {
    /// New extents; as many elements as the input.
    pub shape: Shape,
}

impl Op for Reshape {
    const NAME: &'static str = "reshape";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.get(0, "x")?;
        ins.ensure(x.shape.elements() == self.shape.elements(), || format!("cannot view {x} as {}", self.shape))?;
        ins.at_most(1)?;
        Ok(vec![Ty { dtype: x.dtype, shape: self.shape }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        Ok(vec![x.data.clone()])
    }

    fn cpu(&self, _io: &mut HostIo<'_>) -> Result<()> {
        Ok(()) // input and output are the same memory
    }

    fn is_view(&self) -> bool {
        true
    }

    fn lower(&self, _ins: &[Option<Ty>], _outs: &[Ty], _target: &Target) -> Result<Lowered> {
        Ok(Lowered::default())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let shape = g.shape(cx.input(0)?);
        Ok(vec![Some(g.op(Self { shape }, &[Some(cx.gradient()?)])?)])
    }

    fn cost(&self, _ins: &[Option<Ty>], _outs: &[Ty]) -> Cost {
        Cost::default()
    }

    fn cases() -> Vec<Case> {
        vec![] // moves nothing; the plan's tests cover it
    }
}

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(Reshape { shape: [2, 6].into() });
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (x) is missing"),
            (op.clone(), vec![f32([2, 5])], "cannot view f32[2,5] as [2,6]"),
            (op, vec![f32([12]); 2], "at most 1 inputs"),
        ]);
    }
}
