//! Gradient of an activation that stands on its own, and of the slopes of PReLU.

use super::lowering::{Columns, access, activation, count, flat};
use super::{Activate, Activation, AnyOp, Case, Cost, HostArray, HostIo, Ins, Op, no_second_gradient, unsupported};
use crate::device::cpu::elementwise;
use crate::device::cpu::simd::Elem;
use crate::graph::{Builder, GradCx, Grads, Value};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};
use half::bf16;

/// `dx = dy · act′(x)`, or for each element what it adds to the gradient of its channel's slope: `dy · min(x, 0)`.
///
/// Inputs: `x [..,C]` before the activation, `slope [C]` f32 (PReLU only), `dy` of x's type. Output: x's type; for slopes f32.
#[derive(Clone, Debug, PartialEq)]
pub struct ActivateGrad {
    /// The function.
    pub act: Activation,
    /// Of PReLU's slopes, not of x.
    pub of_slope: bool,
}

impl ActivateGrad {
    /// Appends the gradients of x and of the slopes, as far as they are wanted, by index of the input.
    pub(crate) fn append(g: &mut Builder<'_>, cx: &GradCx<'_>, act: Activation, [x, slope]: [usize; 2]) -> Result<[Option<Value>; 2]> {
        let (inputs, dy) = ([Some(cx.input(x)?), cx.opt(slope)], cx.gradient()?);
        let ins = [inputs[0], inputs[1], Some(dy)];
        let dx = cx.when(x, || g.op(Self { act, of_slope: false }, &ins))?;
        let dslope = cx.when(slope, || {
            let each = g.op(Self { act, of_slope: true }, &ins)?;
            let channels = g.shape(each).last_axis();
            super::SumRows::over(g, each, 1, &[channels], DType::F32)
        })?;
        Ok([dx, dslope])
    }
}

impl Op for ActivateGrad {
    const NAME: &'static str = "activate_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (x, dy) = (ins.float(0, "x")?, ins.float(2, "dy")?);
        ins.ensure(dy == x, || format!("dy is {dy} but x is {x}"))?;
        ins.shape(1, "slope", [x.shape.last_axis()])?;
        ins.dtype(1, "slope", DType::F32)?;
        ins.ensure((self.act == Activation::PRelu) == ins.opt(1).is_some(), || "slope goes with PReLU and only with it".into())?;
        ins.ensure(!self.of_slope || self.act == Activation::PRelu, || "only PReLU has slopes".into())?;
        ins.at_most(3)?;
        Ok(vec![if self.of_slope { Ty { dtype: DType::F32, ..x } } else { x }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), slope, Some(dy)] = ins else { return Err(super::op_error::<Self>("x and dy are required")) };
        let c = x.shape().last_axis();
        let factor = |i: usize, v: f64| match self.of_slope {
            true => v.min(0.0),
            false => self.act.derivative(v, slope.as_ref().map_or(0.0, |s| s.data[i % c])),
        };
        Ok(vec![x.data.iter().zip(&dy.data).enumerate().map(|(i, (&v, dy))| dy * factor(i, v)).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.input(0)?.ty.dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let ((act, leak), dx) = (activation(self.act), outs[0]);
        let dtype = ins[0].map_or(dx.dtype, |x| x.dtype);
        let kernel = |entry| {
            let kernel = KernelKey::new(&FILE, entry).define("T", kernel_type(dtype)).define("ACT", act);
            kernel.define("OF_SLOPE", u32::from(self.of_slope))
        };
        if self.act == Activation::PRelu && !self.of_slope {
            let (rows, channels) = (dx.shape.rows(), dx.shape.last_axis());
            let columns = Columns::new(&[dtype, DType::F32], rows, channels)?;
            let (rows_per_block, rows, channels) = (columns.rows_per_block as u32, rows as u32, channels as u32);
            let (x, slope, dy, dx) = (Slot::In(0), Slot::In(1), Slot::In(2), Slot::Out(0));
            let params = ActivateGradPreluParams { x, slope, dy, dx, rows, channels, rows_per_block };
            return Ok(columns.launch(kernel("activate_grad_prelu"), params.pack()));
        }
        let (values, width) = (dx.shape.elements(), access(&[dtype, dx.dtype], 16));
        let params = ActivateGradParams { x: Slot::In(0), dy: Slot::In(2), dx: Slot::Out(0), count: count(values)?, leak };
        flat(kernel("activate_grad_flat").define("V", width), values, width, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(6, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let mut cases: Vec<Case> = Activate::cases().into_iter().filter_map(|case| Self::case(case, false)).collect();
        let slopes = Activate::cases().into_iter().filter(|case| case.inputs.len() == 2);
        cases.extend(slopes.filter_map(|case| Self::case(Case { name: format!("{} slope", case.name), ..case }, true)));
        cases
    }
}

impl ActivateGrad {
    /// The gradient in a case of [`Activate`].
    fn case(case: Case, of_slope: bool) -> Option<Case> {
        let AnyOp::Activate(Activate { act }) = case.op else { return None };
        let x = case.inputs[0]?;
        let slope = case.inputs.get(1).copied().flatten();
        Some(Case::new(case.name, Self { act, of_slope }, vec![Some(x), slope, super::normal(x.ty.dtype, x.ty.shape)]))
    }

    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (x, dy) = (io.input(0)?.values::<T>()?, io.input(2)?.values::<T>()?);
        let slope = io.opt(1).map(|s| s.f32()).transpose()?;
        if self.of_slope {
            return super::host::by_each(io, |ins, i| ins[2].at(i) * ins[0].at(i).min(0.0));
        }
        elementwise::activate_grad(io.cpu, self.act, [x, dy], slope, io.outs[0].values::<T>()?);
        Ok(())
    }
}

kernel_params! {
    /// Of `activate_grad_flat`; `leak` is the slope of LeakyReLU.
    struct ActivateGradParams { x: ptr, dy: ptr, dx: ptr, count: u32, leak: f32 }
}
kernel_params! {
    /// Of `activate_grad_prelu`.
    struct ActivateGradPreluParams { x: ptr, slope: ptr, dy: ptr, dx: ptr, rows: u32, channels: u32, rows_per_block: u32 }
}
static FILE: KernelFile = kernel_file!("activate_grad", [ActivateGradParams, ActivateGradPreluParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |act, of_slope| AnyOp::from(ActivateGrad { act, of_slope });
        let x = f32([2, 3]);
        assert_rejects(vec![
            (op(Activation::Silu, false), vec![], "input 0 (x) is missing"),
            (op(Activation::Silu, false), vec![x], "input 2 (dy) is missing"),
            (op(Activation::Silu, false), vec![x, None, bf16([2, 3])], "dy is bf16[2,3] but x is f32[2,3]"),
            (op(Activation::Silu, false), vec![x, f32([3]), x], "slope goes with PReLU"),
            (op(Activation::PRelu, false), vec![x, None, x], "slope goes with PReLU"),
            (op(Activation::PRelu, true), vec![x, f32([2]), x], "expected shape [3]"),
            (op(Activation::Silu, true), vec![x, None, x], "only PReLU has slopes"),
            (op(Activation::Silu, false), vec![x, None, x, x], "at most 3 inputs"),
        ]);
    }
}
