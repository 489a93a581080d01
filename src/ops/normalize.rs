//! Vectors of unit length.

use super::lowering::Rows;
use super::{NormalizeGrad, Case, Cost, HostArray, HostIo, Ins, Op, Fill, each_dtype, filled, normal, unsupported};
use crate::device::cpu::rows;
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// `y = x / max(‖x‖, eps)` over the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalize {
    /// Smallest length divided by.
    pub eps: f32,
}

impl Op for Normalize {
    const NAME: &'static str = "normalize";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.at_most(1)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let unit = |row: &[f64]| {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::from(self.eps));
            row.iter().map(|v| v / norm).collect::<Vec<_>>()
        };
        Ok(vec![x.data.chunks_exact(x.shape().last_axis()).flat_map(unit).collect()])
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
        let (rows_per_block, eps) = (rows.rows_per_block as u32, self.eps);
        let params = NormalizeParams { x: Slot::In(0), y: Slot::Out(0), rows: count as u32, channels: channels as u32, rows_per_block, eps };
        let kernel = KernelKey::new(&FILE, "normalize_forward").define("T", kernel_type(dtype));
        Ok(rows.launch(kernel, 0, params.pack()).into())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        Ok(vec![Some(g.op(NormalizeGrad { eps: self.eps }, &[Some(cx.input(0)?), Some(cx.gradient()?)])?)])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(3, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, x| Case::new(name, Normalize { eps: 1e-12 }, vec![x]);
            vec![
                case("identity vectors", normal(t, [3, 512])),
                case("odd", normal(t, [2, 2, 37])),
                case("one", normal(t, [5, 1])),
                case("zero", filled(t, [2, 20], Fill::Uniform(0.0, 0.0))),
                case("small", filled(t, [4, 100], Fill::Normal(1e-6))),
            ]
        })
    }
}

impl Normalize {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let x = io.input(0)?;
        rows::normalize(io.cpu, self.eps, x.ty.shape.last_axis(), x.values::<T>()?, io.outs[0].values::<T>()?);
        Ok(())
    }
}

kernel_params! {
    /// Of `normalize_forward`.
    struct NormalizeParams { x: ptr, y: ptr, rows: u32, channels: u32, rows_per_block: u32, eps: f32 }
}
static FILE: KernelFile = kernel_file!("normalize", [NormalizeParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(Normalize { eps: 1e-12 });
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (x) is missing"),
            (op.clone(), vec![i32([2, 3])], "expected floating point"),
            (op.clone(), vec![f32([2, 0])], "has no elements"),
            (op, vec![f32([2, 3]); 2], "at most 1 inputs"),
        ]);
    }
}
