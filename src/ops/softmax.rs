//! Softmax over the last axis: class probabilities. Attention has its own.

use super::lowering::Rows;
use super::{SoftmaxGrad, Case, Cost, HostArray, HostIo, Ins, Op, Fill, each_dtype, filled, normal, unsupported};
use crate::device::cpu::rows;
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// `y = exp(x − max) / Σ exp(x − max)` over the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax;

impl Op for Softmax {
    const NAME: &'static str = "softmax";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.at_most(1)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let row = |row: &[f64]| {
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = row.iter().map(|v| (v - top).exp()).sum();
            row.iter().map(|v| (v - top).exp() / total).collect::<Vec<_>>()
        };
        Ok(vec![x.data.chunks_exact(x.shape().last_axis()).flat_map(row).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn lower(&self, _ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (dtype, count, channels) = (outs[0].dtype, outs[0].shape.rows(), outs[0].shape.last_axis());
        let rows = Rows::new(&[dtype], count, channels)?;
        let rows_per_block = rows.rows_per_block as u32;
        let params = SoftmaxParams { x: Slot::In(0), y: Slot::Out(0), rows: count as u32, channels: channels as u32, rows_per_block };
        let kernel = KernelKey::new(&FILE, "softmax_forward").define("T", kernel_type(dtype));
        Ok(rows.launch(kernel, 0, params.pack()).into())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        Ok(vec![Some(g.op(SoftmaxGrad, &[Some(cx.output()?), Some(cx.gradient()?)])?)])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(5, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, x| Case::new(name, Softmax, vec![x]);
            vec![
                case("two classes", normal(t, [7, 9, 2])),
                case("many classes", normal(t, [5, 1000])),
                case("odd", normal(t, [3, 37])),
                case("one class", normal(t, [4, 1])),
                case("many rows", normal(t, [5000, 6])),
                case("large", filled(t, [6, 50], Fill::Normal(200.0))),
            ]
        })
    }
}

impl Softmax {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let x = io.input(0)?;
        rows::softmax(io.cpu, x.ty.shape.last_axis(), x.values::<T>()?, io.outs[0].values::<T>()?);
        Ok(())
    }
}

kernel_params! {
    /// Of `softmax_forward`.
    struct SoftmaxParams { x: ptr, y: ptr, rows: u32, channels: u32, rows_per_block: u32 }
}
static FILE: KernelFile = kernel_file!("softmax", [SoftmaxParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        assert_rejects(vec![
            (Softmax.into(), vec![], "input 0 (x) is missing"),
            (Softmax.into(), vec![i32([2, 3])], "expected floating point"),
            (Softmax.into(), vec![f32([2, 0])], "has no elements"),
            (Softmax.into(), vec![f32([2, 3]), f32([2, 3])], "at most 1 inputs"),
        ]);
    }
}
