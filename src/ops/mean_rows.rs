//! Mean over the middle axis: pooled image features.

use super::lowering::{count, access};
use super::{MeanRowsGrad, Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, normal, unsupported};
use crate::device::cpu::pool::mean_rows;
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// `y[b,c] = mean over s of x[b,s,c]`. Input `[B,S,C]`, output `[B,C]` of x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanRows;

impl Op for MeanRows {
    const NAME: &'static str = "mean_rows";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        let &[b, _, c] = &*x.shape else { return Err(ins.error(format!("x is {x}, expected [B,S,C]"))) };
        ins.at_most(1)?;
        Ok(vec![Ty::new(x.dtype, [b, c])])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let (s, c) = (x.shape()[1], x.shape()[2]);
        let mean = |image: &[f64]| (0..c).map(|j| (0..s).map(|i| image[i * c + j]).sum::<f64>() / s as f64).collect::<Vec<_>>();
        Ok(vec![x.data.chunks_exact(s * c).flat_map(mean).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (dtype, images, channels) = (outs[0].dtype, count(outs[0].shape[0])?, count(outs[0].shape[1])?);
        let rows = count(ins[0].map_or(0, |x| x.shape[1]))?;
        let width = access(&[dtype], channels as usize);
        let kernel = KernelKey::new(&FILE, "mean_rows_forward").define("T", kernel_type(dtype)).define("V", width);
        let params = MeanRowsParams { x: Slot::In(0), y: Slot::Out(0), rows, channels };
        let lanes = 16;
        let grid = [channels.div_ceil(lanes * width as u32), images, 1];
        Ok(Launch { kernel, grid, block: [lanes, 256 / lanes, 1], shared: 0, params: params.pack() }.into())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let (x, dy) = (g.ty(cx.input(0)?), cx.gradient()?);
        let rows = x.shape[1];
        Ok(vec![Some(g.op(MeanRowsGrad { rows, scale: 1.0 / rows as f32, dtype: x.dtype }, &[Some(dy)])?)])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let flops = ins.first().copied().flatten().map_or(0, |x| x.shape.elements()) as u64;
        Cost::touching(flops, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, shape: [usize; 3]| Case::new(name, MeanRows, vec![normal(t, shape)]);
            vec![case("patches", [2, 197, 40]), case("odd", [3, 5, 7]), case("one row", [2, 1, 33]), case("long", [1, 4096, 65])]
        })
    }
}

impl MeanRows {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let x = io.input(0)?;
        mean_rows(io.cpu, x.ty.shape[0], x.ty.shape[2], x.values::<T>()?, io.outs[0].values::<T>()?);
        Ok(())
    }
}

kernel_params! {
    /// Of `mean_rows_forward`.
    struct MeanRowsParams { x: ptr, y: ptr, rows: u32, channels: u32 }
}
static FILE: KernelFile = kernel_file!("mean_rows", [MeanRowsParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        assert_rejects(vec![
            (MeanRows.into(), vec![], "input 0 (x) is missing"),
            (MeanRows.into(), vec![f32([4, 8])], "expected [B,S,C]"),
            (MeanRows.into(), vec![f32([1, 0, 8])], "has no elements"),
            (MeanRows.into(), vec![i32([1, 4, 8])], "expected floating point"),
            (MeanRows.into(), vec![f32([1, 4, 8]); 2], "at most 1 inputs"),
        ]);
    }
}
