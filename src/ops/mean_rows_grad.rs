//! The same row many times, scaled: gradient of a mean or a sum over rows.

use super::host::by_each;
use super::lowering::{access, count, flat, typed};
use super::{Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::{DType, Result, Ty};

/// `y[b,s,c] = scale · x[b,c]` for each of `rows` s. Input `[B,C]`, output `[B,rows,C]` of `dtype`.
#[derive(Clone, Debug, PartialEq)]
pub struct MeanRowsGrad {
    /// Rows of the output.
    pub rows: usize,
    /// 1 over the rows for a mean, 1 for a sum.
    pub scale: f32,
    /// Type of the output.
    pub dtype: DType,
}

impl Op for MeanRowsGrad {
    const NAME: &'static str = "mean_rows_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "dy")?;
        let &[b, c] = &*x.shape else { return Err(ins.error(format!("dy is {x}, expected [B,C]"))) };
        ins.ensure(self.rows > 0 && self.dtype.is_float(), || format!("{} rows of {}", self.rows, self.dtype))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(self.dtype, [b, self.rows, c])])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("dy is required")) };
        let c = x.shape()[1];
        let one = |i: usize| x.data[i / c / self.rows * c + i % c] * f64::from(self.scale);
        Ok(vec![(0..outs[0].shape.elements()).map(one).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let c = io.out_ty(0).shape[2];
        by_each(io, |ins, i| ins[0].at(i / c / self.rows * c + i % c) * self.scale)
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (from, dx) = (ins[0].map_or(self.dtype, |dy| dy.dtype), outs[0]);
        let (values, channels) = (dx.shape.elements(), dx.shape.last_axis());
        let width = access(&[from, self.dtype], channels);
        let (rows, scale) = (count(self.rows)?, self.scale);
        let params = MeanRowsGradParams { dy: Slot::In(0), dx: Slot::Out(0), count: count(values)?, rows, channels: channels as u32, scale };
        flat(typed(KernelKey::new(&FILE, "mean_rows_grad_x"), from, self.dtype).define("V", width), values, width, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(1, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, rows, dtype, shape: [usize; 2]| {
                Case::new(name, MeanRowsGrad { rows, scale: 1.0 / rows as f32, dtype }, vec![normal(t, shape)])
            };
            vec![
                case("patches", 197, t, [2, 40]),
                case("odd", 5, DType::F32, [3, 7]),
                case("as bf16", 3, DType::Bf16, [2, 9]),
                case("one row", 1, t, [2, 33]),
            ]
        })
    }
}

kernel_params! {
    /// Of `mean_rows_grad_x`.
    struct MeanRowsGradParams { dy: ptr, dx: ptr, count: u32, rows: u32, channels: u32, scale: f32 }
}
static FILE: KernelFile = kernel_file!("mean_rows_grad", [MeanRowsGradParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |rows, dtype| AnyOp::from(MeanRowsGrad { rows, scale: 1.0, dtype });
        assert_rejects(vec![
            (op(2, DType::F32), vec![], "input 0 (dy) is missing"),
            (op(2, DType::F32), vec![f32([8])], "expected [B,C]"),
            (op(2, DType::F32), vec![i32([1, 8])], "expected floating point"),
            (op(0, DType::F32), vec![f32([1, 8])], "0 rows of f32"),
            (op(2, DType::I32), vec![f32([1, 8])], "2 rows of i32"),
            (op(2, DType::F32), vec![f32([1, 8]); 2], "at most 1 inputs"),
        ]);
    }
}
