//! Sum of two values.

use super::lowering::{activation, count, flat, access};
use super::{ActivateGrad, Activation, Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, normal, unsupported};
use crate::device::cpu::elementwise;
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Shape, Ty};
use half::bf16;

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
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn lower(&self, _ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (y, (act, leak)) = (outs[0], activation(self.act));
        let (values, width) = (y.shape.elements(), access(&[y.dtype], 16));
        let kernel = KernelKey::new(&FILE, "add_forward").define("T", kernel_type(y.dtype)).define("ACT", act).define("V", width);
        let params = AddParams { a: Slot::In(0), b: Slot::In(1), y: Slot::Out(0), count: count(values)?, leak };
        flat(kernel, values, width, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let mut dy = cx.gradient()?;
        if self.act != Activation::None {
            let sum = g.op(Self { act: Activation::None }, &[Some(cx.input(0)?), Some(cx.input(1)?)])?;
            dy = g.op(ActivateGrad { act: self.act, of_slope: false }, &[Some(sum), None, Some(dy)])?;
        }
        Ok(vec![Some(dy); 2])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(1, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, act, shape: &[usize]| Case::new(name, Add { act }, vec![normal(t, Shape::new(shape)); 2]);
            vec![
                case("plain", Activation::None, &[2, 5, 7, 19]),
                case("relu", Activation::Relu, &[3, 64]),
                case("silu", Activation::Silu, &[1]),
                case("many", Activation::None, &[3, 100, 101]),
            ]
        })
    }
}

impl Add {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (a, b) = (io.input(0)?.values::<T>()?, io.input(1)?.values::<T>()?);
        elementwise::add(io.cpu, self.act, a, b, io.outs[0].values::<T>()?);
        Ok(())
    }
}

kernel_params! {
    /// Of `add_forward`; `leak` is the slope of LeakyReLU.
    struct AddParams { a: ptr, b: ptr, y: ptr, count: u32, leak: f32 }
}
static FILE: KernelFile = kernel_file!("add", [AddParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |act| AnyOp::from(Add { act });
        assert_rejects(vec![
            (op(Activation::None), vec![f32([2])], "input 1 (b) is missing"),
            (op(Activation::None), vec![f32([2]), f32([3])], "but b is"),
            (op(Activation::None), vec![f32([2]), bf16([2])], "but b is"),
            (op(Activation::None), vec![i32([2]); 2], "expected floating point"),
            (op(Activation::PRelu), vec![f32([2]); 2], "PReLU is not an activation of sums"),
            (op(Activation::None), vec![f32([2]); 3], "at most 2 inputs"),
        ]);
    }
}
