//! A batch several times over: both halves of guidance from one latent.

use super::lowering::{count, flat, unit};
use super::{SumRows, Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, normal};
use crate::device::cpu::copy;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::{Result, Shape, Ty};

/// `[x, x, ...]` along the first axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Repeat {
    /// How many times; at least once.
    pub times: usize,
}

impl Op for Repeat {
    const NAME: &'static str = "repeat";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.ensure(self.times > 0 && !x.shape.is_empty(), || format!("{x} repeated {} times", self.times))?;
        ins.at_most(1)?;
        let mut extents = x.shape.to_vec();
        extents[0] *= self.times;
        Ok(vec![Ty { dtype: x.dtype, shape: Shape::new(&extents) }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        Ok(vec![x.data.repeat(self.times)])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        copy::repeat(io.cpu, io.input(0)?.data, io.outs[0].data);
        Ok(())
    }

    fn lower(&self, ins: &[Option<Ty>], _outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let bytes = ins[0].map_or(0, |x| x.bytes());
        let unit = unit([bytes]);
        let params = RepeatParams { x: Slot::In(0), y: Slot::Out(0), count: count(bytes / unit)?, times: count(self.times)? };
        flat(KernelKey::new(&FILE, "repeat_forward").define("UNIT", unit), bytes / unit, 1, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let x = g.ty(cx.input(0)?);
        Ok(vec![Some(SumRows::over(g, cx.gradient()?, 1, &x.shape, x.dtype)?)])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::touching(0, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            vec![
                Case::new("guidance", Repeat { times: 2 }, vec![normal(t, [1, 8, 8, 4])]),
                Case::new("once", Repeat { times: 1 }, vec![normal(t, [3, 5])]),
                Case::new("vector", Repeat { times: 5 }, vec![normal(t, [3])]),
            ]
        })
    }
}

kernel_params! {
    /// Of `repeat_forward`: `count` is units of x.
    struct RepeatParams { x: ptr, y: ptr, count: u32, times: u32 }
}
static FILE: KernelFile = kernel_file!("repeat", [RepeatParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |times| AnyOp::from(Repeat { times });
        assert_rejects(vec![
            (op(2), vec![], "input 0 (x) is missing"),
            (op(0), vec![f32([2])], "repeated 0 times"),
            (op(2), vec![f32([])], "repeated 2 times"),
            (op(2), vec![i32([2])], "expected floating point"),
            (op(2), vec![f32([2]); 2], "at most 1 inputs"),
        ]);
    }
}
