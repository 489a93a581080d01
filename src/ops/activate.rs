//! An activation on its own, where no other operation can carry it.

use super::lowering::{Columns, activation, count, flat, access};
use super::{ActivateGrad, Activation, Case, Cost, HostArray, HostIo, Ins, Op, Fill, each_dtype, filled, normal, vector, unsupported};
use crate::device::cpu::elementwise::{self, Channels};
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

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
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn lower(&self, _ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (y, (act, slope)) = (outs[0], activation(self.act));
        let kernel = |entry| KernelKey::new(&FILE, entry).define("T", kernel_type(y.dtype)).define("ACT", act);
        if self.act == Activation::PRelu {
            let (rows, channels) = (y.shape.rows(), y.shape.last_axis());
            let columns = Columns::new(&[y.dtype, DType::F32], rows, channels)?;
            let rows_per_block = columns.rows_per_block as u32;
            let (rows, channels) = (rows as u32, channels as u32);
            let params = ActivatePreluParams { x: Slot::In(0), slope: Slot::In(1), y: Slot::Out(0), rows, channels, rows_per_block };
            return Ok(columns.launch(kernel("activate_prelu"), params.pack()));
        }
        let (values, width) = (y.shape.elements(), access(&[y.dtype], 16));
        let params = ActivateParams { x: Slot::In(0), y: Slot::Out(0), count: count(values)?, slope };
        flat(kernel("activate_forward").define("V", width), values, width, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let [dx, dslope] = ActivateGrad::append(g, cx, self.act, [0, 1])?;
        Ok(vec![dx, dslope])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(4, ins, outs)
    }

    fn cases() -> Vec<Case> {
        use Activation::{Gelu, LeakyRelu, None as Identity, PRelu, QuickGelu, Relu, Sigmoid, Silu};
        each_dtype(|t| {
            let mut cases: Vec<Case> = [Identity, Relu, Silu, Gelu, QuickGelu, LeakyRelu(0.1), Sigmoid]
                .into_iter()
                .map(|act| Case::new(format!("{act:?}"), Activate { act }, vec![filled(t, [3, 7, 41], Fill::Normal(3.0))]))
                .collect();
            cases.push(Case::new("PRelu", Activate { act: PRelu }, vec![normal(t, [2, 5, 5, 19]), vector(19)]));
            for act in [Silu, Gelu, QuickGelu, Sigmoid] {
                // far out both tails must be flat, not NaN
                cases.push(Case::new(format!("{act:?} far out"), Activate { act }, vec![filled(t, [2, 111], Fill::Normal(200.0))]));
                // near zero the error of a tail would drown in the scale of the others
                cases.push(Case::new(format!("{act:?} tail"), Activate { act }, vec![filled(t, [2000], Fill::Uniform(-6.0, -3.0))]));
            }
            cases.push(Case::new("many", Activate { act: Gelu }, vec![normal(t, [50_003])]));
            cases
        })
    }
}

impl Activate {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (x, slope) = (io.input(0)?.values::<T>()?, io.opt(1));
        let y = io.outs[0].values::<T>()?;
        match slope {
            None => elementwise::map(io.cpu, self.act, x, y),
            Some(slope) => {
                let slope = slope.f32()?;
                let (zeros, ones) = (vec![0.0; slope.len()], vec![1.0; slope.len()]);
                let channels = Channels { mean: &zeros, scale: &ones, shift: &zeros, slope: Some(slope) };
                elementwise::per_channel(io.cpu, self.act, &[x], 1, |_| channels, y);
            }
        }
        Ok(())
    }
}

kernel_params! {
    /// Of `activate_forward`; `slope` is LeakyReLU's.
    struct ActivateParams { x: ptr, y: ptr, count: u32, slope: f32 }
}
kernel_params! {
    /// Of `activate_prelu`.
    struct ActivatePreluParams { x: ptr, slope: ptr, y: ptr, rows: u32, channels: u32, rows_per_block: u32 }
}
static FILE: KernelFile = kernel_file!("activate", [ActivateParams, ActivatePreluParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |act| AnyOp::from(Activate { act });
        assert_rejects(vec![
            (op(Activation::Relu), vec![], "input 0 (x) is missing"),
            (op(Activation::Relu), vec![i32([2, 3])], "expected floating point"),
            (op(Activation::PRelu), vec![f32([2, 3])], "slope goes with PReLU"),
            (op(Activation::Relu), vec![f32([2, 3]), f32([3])], "slope goes with PReLU"),
            (op(Activation::PRelu), vec![f32([2, 3]), f32([2])], "expected shape [3]"),
            (op(Activation::PRelu), vec![bf16([2, 3]), bf16([3])], "expected f32"),
            (op(Activation::PRelu), vec![f32([2, 3]), f32([3]), f32([3])], "at most 2 inputs"),
        ]);
    }
}
