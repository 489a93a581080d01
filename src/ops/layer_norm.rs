//! Layer normalisation over the last axis.

use super::lowering::Rows;
use super::{LayerNormGrad, Case, Cost, HostArray, HostIo, Ins, Op, CaseInput, Fill, each_dtype, filled, normal, vector, unsupported};
use crate::device::cpu::rows;
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// `y = (x − mean) / √(variance + eps) · weight + bias`, statistics over the last axis.
///
/// Inputs: `x [..,C]`, `weight [C]` f32, `bias [C]` f32. Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the (biased) variance.
    pub eps: f32,
}

impl Op for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        for (i, name) in [(1, "weight"), (2, "bias")] {
            ins.get(i, name)?;
            ins.shape(i, name, [x.shape.last_axis()])?;
            ins.dtype(i, name, DType::F32)?;
        }
        ins.at_most(3)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(w), Some(b)] = ins else {
            return Err(super::op_error::<Self>("x, weight and bias are required"));
        };
        let c = x.shape().last_axis();
        let mut y = Vec::with_capacity(x.data.len());
        for row in x.data.chunks_exact(c) {
            let mean = row.iter().sum::<f64>() / c as f64;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64;
            let scale = 1.0 / (var + f64::from(self.eps)).sqrt();
            y.extend(row.iter().enumerate().map(|(i, v)| (v - mean) * scale * w.data[i] + b.data[i]));
        }
        Ok(vec![y])
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
        let rows = Rows::new(&[dtype, DType::F32], count, channels)?.sharing(8 * channels, 2 * channels * dtype.size());
        let (x, weight, bias, y) = (Slot::In(0), Slot::In(1), Slot::In(2), Slot::Out(0));
        let rows_per_block = rows.rows_per_block as u32;
        let params = LayerNormParams { x, weight, bias, y, rows: count as u32, channels: channels as u32, rows_per_block, eps: self.eps };
        let kernel = KernelKey::new(&FILE, "layer_norm_forward").define("T", kernel_type(dtype)).define("ROW_THREADS", rows.threads);
        Ok(rows.launch(kernel, 8 * channels, params.pack()).into())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        LayerNormGrad::append(self.eps, g, cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(8, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let op = LayerNorm { eps: 1e-5 };
        each_dtype(|t| {
            let case = |name: &str, x: Option<CaseInput>| {
                let c = x.map_or(1, |x| x.ty.shape.last_axis());
                Case::new(name, op.clone(), vec![x, vector(c), vector(c)])
            };
            vec![
                case("text", normal(t, [2, 77, 64])),
                case("unet", normal(t, [1, 40, 320])),
                case("wide", normal(t, [3, 1280])),
                case("odd", normal(t, [2, 3, 37])),
                case("narrow", normal(t, [5, 3])),
                case("one", normal(t, [4, 1])),
                case("many rows", normal(t, [3000, 20])),
                case("far from zero", filled(t, [9, 128], Fill::Uniform(99.0, 101.0))),
            ]
        })
    }
}

impl LayerNorm {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (x, w, b) = (io.input(0)?.values::<T>()?, io.input(1)?.f32()?, io.input(2)?.f32()?);
        rows::layer_norm(io.cpu, self.eps, x, w, b, io.outs[0].values::<T>()?);
        Ok(())
    }
}

kernel_params! {
    /// Of `layer_norm_forward`.
    struct LayerNormParams { x: ptr, weight: ptr, bias: ptr, y: ptr, rows: u32, channels: u32, rows_per_block: u32, eps: f32 }
}
static FILE: KernelFile = kernel_file!("layer_norm", [LayerNormParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(LayerNorm { eps: 1e-5 });
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (x) is missing"),
            (op.clone(), vec![f32([2, 8]), f32([8])], "(bias) is missing"),
            (op.clone(), vec![f32([2, 8]), f32([4]), f32([8])], "weight is f32[4], expected shape [8]"),
            (op.clone(), vec![f32([2, 8]), f32([8]), bf16([8])], "bias is bf16[8], expected f32"),
            (op.clone(), vec![f32([2, 0]), f32([0]), f32([0])], "has no elements"),
            (op, vec![f32([2, 8]), f32([8]), f32([8]), f32([8])], "at most 3 inputs"),
        ]);
    }
}
