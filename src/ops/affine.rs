//! Scale and shift per channel: an inference-time batch normalisation.

use super::lowering::{Columns, activation};
use super::{AffineGrad, Activation, Case, Cost, HostArray, HostIo, Ins, Op, Fill, each_dtype, filled, normal, vector, unsupported};
use crate::device::cpu::elementwise::{self, Channels};
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Shape, Ty};
use half::bf16;

/// `y = act((x − mean) / √(variance + eps) · weight + bias)` with stored statistics.
///
/// Inputs: `x [..,C]`, then `mean`, `variance`, `weight`, `bias`, and for PReLU `slope`, each `[C]` f32. Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// Added to the variance.
    pub eps: f32,
    /// Applied last.
    pub act: Activation,
}

impl Op for Affine {
    const NAME: &'static str = "affine";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        for (i, name) in ["mean", "variance", "weight", "bias", "slope"].into_iter().enumerate() {
            if i < 4 {
                ins.get(i + 1, name)?;
            }
            ins.shape(i + 1, name, [x.shape.last_axis()])?;
            ins.dtype(i + 1, name, DType::F32)?;
        }
        ins.ensure((self.act == Activation::PRelu) == ins.opt(5).is_some(), || "slope goes with PReLU and only with it".into())?;
        ins.at_most(6)?;
        Ok(vec![x])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(mean), Some(var), Some(w), Some(b), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("x, mean, variance, weight and bias are required"));
        };
        let slope = rest.first().and_then(Option::as_ref);
        let c = x.shape().last_axis();
        let y = x.data.iter().enumerate().map(|(i, &v)| {
            let j = i % c;
            let value = (v - mean.data[j]) / (var.data[j] + f64::from(self.eps)).sqrt() * w.data[j] + b.data[j];
            self.act.eval(value, slope.map_or(0.0, |s| s.data[j]))
        });
        Ok(vec![y.collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (y, (act, leak)) = (outs[0], activation(self.act));
        let (rows, channels) = (y.shape.rows(), y.shape.last_axis());
        let columns = Columns::new(&[y.dtype, DType::F32], rows, channels)?;
        let params = AffineParams {
            x: Slot::In(0),
            mean: Slot::In(1),
            variance: Slot::In(2),
            weight: Slot::In(3),
            bias: Slot::In(4),
            slope: Slot::optional(ins, 5),
            y: Slot::Out(0),
            rows: rows as u32,
            channels: channels as u32,
            rows_per_block: columns.rows_per_block as u32,
            eps: self.eps,
            leak,
        };
        let kernel = KernelKey::new(&FILE, "affine_forward").define("T", kernel_type(y.dtype)).define("ACT", act);
        Ok(columns.launch(kernel, params.pack()))
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        AffineGrad::append(self, g, cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(2, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, act, shape: &[usize]| {
                let c = shape[shape.len() - 1];
                let variance = filled(DType::F32, [c], Fill::Uniform(0.1, 2.0));
                let mut inputs = vec![normal(t, Shape::new(shape)), vector(c), variance, vector(c), vector(c)];
                if act == Activation::PRelu {
                    inputs.push(vector(c));
                }
                Case::new(name, Affine { eps: 1e-3, act }, inputs)
            };
            vec![
                case("plain", Activation::None, &[2, 5, 7, 19]),
                case("prelu", Activation::PRelu, &[1, 9, 9, 64]),
                case("relu", Activation::Relu, &[4, 3]),
                case("vector", Activation::None, &[130]),
                case("many rows", Activation::Silu, &[1, 70, 70, 10]),
            ]
        })
    }
}

impl Affine {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let x = io.input(0)?.values::<T>()?;
        let [mean, variance, weight, shift] = [io.input(1)?.f32()?, io.input(2)?.f32()?, io.input(3)?.f32()?, io.input(4)?.f32()?];
        let slope = io.opt(5).map(|s| s.f32()).transpose()?;
        let scale = |(w, v): (&f32, &f32)| (f64::from(*w) / (f64::from(*v) + f64::from(self.eps)).sqrt()) as f32;
        let scale: Vec<f32> = weight.iter().zip(variance).map(scale).collect();
        let channels = Channels { mean, scale: &scale, shift, slope };
        elementwise::per_channel(io.cpu, self.act, &[x], 1, |_| channels, io.outs[0].values::<T>()?);
        Ok(())
    }
}

kernel_params! {
    /// Of `affine_forward`; `leak` is the slope of LeakyReLU.
    struct AffineParams {
        x: ptr, mean: ptr, variance: ptr, weight: ptr, bias: ptr, slope: ptr, y: ptr,
        rows: u32, channels: u32, rows_per_block: u32, eps: f32, leak: f32,
    }
}
static FILE: KernelFile = kernel_file!("affine", [AffineParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |act| AnyOp::from(Affine { eps: 1e-5, act });
        let with = |bad: usize, ty| {
            let mut ins = vec![f32([2, 3]), f32([3]), f32([3]), f32([3]), f32([3])];
            ins[bad] = ty;
            ins
        };
        assert_rejects(vec![
            (op(Activation::None), with(0, None), "input 0 (x) is missing"),
            (op(Activation::None), with(2, None), "(variance) is missing"),
            (op(Activation::None), with(3, f32([2])), "weight is f32[2], expected shape [3]"),
            (op(Activation::None), with(4, bf16([3])), "bias is bf16[3], expected f32"),
            (op(Activation::PRelu), with(1, f32([3])), "slope goes with PReLU"),
            (op(Activation::None), vec![f32([3]); 6], "slope goes with PReLU"),
            (op(Activation::PRelu), vec![f32([3]); 7], "at most 6 inputs"),
        ]);
    }
}
