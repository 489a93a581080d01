//! The forward process of diffusion: latents at a moment of the schedule.

use super::host::by_each;
use super::lowering::{access, count, flat};
use super::{AddNoiseGrad, Case, Cost, Fill, HostArray, HostIo, Ins, Op, filled, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};

/// `y[b] = c[b,0] · x[b] + c[b,1] · noise[b]` with `c = (√ā, √(1−ā))` of each image's timestep (Ho et al. 2020, equation 4).
///
/// Inputs: `x [B,..]` f32, `noise [B,..]` f32, `coefficients [B,2]` f32. Output: `[B,..]` of `dtype`.
#[derive(Clone, Debug, PartialEq)]
pub struct AddNoise {
    /// Type of the output.
    pub dtype: DType,
}

impl Op for AddNoise {
    const NAME: &'static str = "add_noise";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.get(0, "x")?;
        ins.ensure(!x.shape.is_empty() && self.dtype.is_float(), || format!("x is {x}, stored as {}", self.dtype))?;
        for (i, name) in ["x", "noise", "coefficients"].into_iter().enumerate() {
            ins.get(i, name)?;
            ins.dtype(i, name, DType::F32)?;
        }
        ins.shape(1, "noise", x.shape)?;
        ins.shape(2, "coefficients", [x.shape[0], 2])?;
        ins.at_most(3)?;
        Ok(vec![Ty { dtype: self.dtype, shape: x.shape }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(noise), Some(c)] = ins else {
            return Err(super::op_error::<Self>("x, noise and coefficients are required"));
        };
        let image = x.data.len() / x.shape()[0];
        let one = |i: usize| c.data[i / image * 2] * x.data[i] + c.data[i / image * 2 + 1] * noise.data[i];
        Ok(vec![(0..x.data.len()).map(one).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let shape = io.out_ty(0).shape;
        let image = shape.elements() / shape[0];
        by_each(io, |ins, i| ins[2].at(i / image * 2) * ins[0].at(i) + ins[2].at(i / image * 2 + 1) * ins[1].at(i))
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let inputs = [cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.gradient()?].map(Some);
        Ok(g.op_many(AddNoiseGrad, &inputs)?.into_iter().map(Some).collect())
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (values, images) = (outs[0].shape.elements(), ins[0].map_or(1, |x| x.shape[0]));
        let image = values / images.max(1);
        let width = access(&[DType::F32], image);
        let kernel = KernelKey::new(&FILE, "add_noise_forward").define("U", kernel_type(self.dtype)).define("V", width);
        let (x, noise, coefficients, y) = (Slot::In(0), Slot::In(1), Slot::In(2), Slot::Out(0));
        let params = AddNoiseParams { x, noise, coefficients, y, count: count(values)?, image: image as u32 };
        flat(kernel, values, width, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(3, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let case = |name: &str, dtype, shape: &[usize]| {
            let shape = crate::Shape::new(shape);
            let coefficients = filled(DType::F32, [shape[0], 2], Fill::Uniform(0.0, 1.0));
            Case::new(name, AddNoise { dtype }, vec![normal(DType::F32, shape), normal(DType::F32, shape), coefficients])
        };
        vec![
            case("latents", DType::F32, &[3, 8, 8, 4]),
            case("latents as bf16", DType::Bf16, &[2, 5, 7, 4]),
            case("numbers", DType::F32, &[5]),
            case("larger", DType::F32, &[1, 64, 80, 4]),
        ]
    }
}

kernel_params! {
    /// Of `add_noise_forward`; `image` is the number of values of one.
    struct AddNoiseParams { x: ptr, noise: ptr, coefficients: ptr, y: ptr, count: u32, image: u32 }
}
static FILE: KernelFile = kernel_file!("add_noise", [AddNoiseParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |dtype| AnyOp::from(AddNoise { dtype });
        let (x, c) = (f32([2, 8]), f32([2, 2]));
        assert_rejects(vec![
            (op(DType::F32), vec![], "input 0 (x) is missing"),
            (op(DType::F32), vec![f32([]), f32([]), c], "x is f32[]"),
            (op(DType::I32), vec![x, x, c], "stored as i32"),
            (op(DType::F32), vec![bf16([2, 8]), x, c], "x is bf16[2,8], expected f32"),
            (op(DType::F32), vec![x, f32([2, 7]), c], "expected shape [2,8]"),
            (op(DType::F32), vec![x, x], "(coefficients) is missing"),
            (op(DType::F32), vec![x, x, f32([1, 2])], "expected shape [2,2]"),
            (op(DType::F32), vec![x, x, c, c], "at most 3 inputs"),
        ]);
    }
}
