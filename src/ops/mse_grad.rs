//! Gradient of the mean squared error.

use super::host::by_each;
use super::lowering::{access, count, flat, typed};
use super::{Case, Cost, HostArray, HostIo, Ins, Mse, Op, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};

/// `da = dy · 2 (a − b) / n`, or `db = −da`.
///
/// Inputs: `a [..]`, `b [..]`, `dy` one f32, shape `[]`. Output: the type of a, or of b.
#[derive(Clone, Debug, PartialEq)]
pub struct MseGrad {
    /// Of b, not of a.
    pub of_second: bool,
}

impl MseGrad {
    /// 2 / n, with the sign.
    fn factor(&self, elements: usize) -> f64 {
        let factor = 2.0 / elements as f64;
        if self.of_second { -factor } else { factor }
    }
}

impl Op for MseGrad {
    const NAME: &'static str = "mse_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (a, b) = (ins.float(0, "a")?, ins.float(1, "b")?);
        ins.ensure(a.shape == b.shape, || format!("a is {a} but b is {b}"))?;
        ins.get(2, "dy")?;
        ins.shape(2, "dy", [])?;
        ins.dtype(2, "dy", DType::F32)?;
        ins.at_most(3)?;
        Ok(vec![if self.of_second { b } else { a }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(a), Some(b), Some(dy)] = ins else { return Err(super::op_error::<Self>("a, b and dy are required")) };
        let factor = self.factor(a.data.len()) * dy.data[0];
        Ok(vec![a.data.iter().zip(&b.data).map(|(a, b)| factor * (a - b)).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let factor = self.factor(io.out_ty(0).shape.elements()) as f32;
        by_each(io, |ins, i| factor * ins[2].at(0) * (ins[0].at(i) - ins[1].at(i)))
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let [Some(a), Some(b), ..] = ins else { return Err(super::op_error::<Self>("a and b are required")) };
        let (values, width) = (a.shape.elements(), access(&[a.dtype, b.dtype], 16));
        let (slots, dy, dx) = ([Slot::In(0), Slot::In(1)], Slot::In(2), Slot::Out(0));
        let factor = self.factor(values) as f32;
        let params = MseGradParams { a: slots[0], b: slots[1], dy, dx, count: count(values)?, factor };
        let kernel = typed(KernelKey::new(&FILE, "mse_grad_x"), a.dtype, b.dtype).define("R", kernel_type(outs[0].dtype));
        flat(kernel.define("V", width), values, width, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(2, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let both = |case: Case| {
            let inputs = [case.inputs.clone(), vec![normal(DType::F32, [])]].concat();
            [("a", false), ("b", true)]
                .map(|(name, of_second)| Case::new(format!("{}, {name}", case.name), Self { of_second }, inputs.clone()))
        };
        Mse::cases().into_iter().flat_map(both).collect()
    }
}

kernel_params! {
    /// Of `mse_grad_x`.
    struct MseGradParams { a: ptr, b: ptr, dy: ptr, dx: ptr, count: u32, factor: f32 }
}
static FILE: KernelFile = kernel_file!("mse_grad", [MseGradParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(MseGrad { of_second: false });
        let x = f32([2]);
        assert_rejects(vec![
            (op.clone(), vec![x], "input 1 (b) is missing"),
            (op.clone(), vec![x, f32([3]), f32([])], "a is f32[2] but b is f32[3]"),
            (op.clone(), vec![x, x], "input 2 (dy) is missing"),
            (op.clone(), vec![x, x, f32([1])], "expected shape []"),
            (op.clone(), vec![x, x, bf16([])], "dy is bf16[], expected f32"),
            (op, vec![x, x, f32([]), x], "at most 3 inputs"),
        ]);
    }
}
