//! Scale, offset, clamp and cast by constants: latents at the VAE's door, log-variances, pictures.

use super::host::by_reference;
use super::lowering::{count, flat, typed, access};
use super::{ScaleGrad, Case, Cost, HostArray, HostIo, Ins, Op, normal};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};

/// `y = clamp(factor · x + offset, low, high)`, stored as `dtype`.
///
/// Input: `x [..]` floating point. Output: x's shape, element type `dtype`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Multiplied with x.
    pub factor: f32,
    /// Added to the product.
    pub offset: f32,
    /// Smallest and largest value of the result; infinite for none.
    pub range: [f32; 2],
    /// Type of the output.
    pub dtype: DType,
}

impl Scale {
    /// `factor · x`.
    pub fn by(factor: f32, dtype: DType) -> Self {
        Self { factor, offset: 0.0, range: [f32::NEG_INFINITY, f32::INFINITY], dtype }
    }

    /// x, but at least `low` and at most `high`.
    pub fn clamp(low: f32, high: f32, dtype: DType) -> Self {
        Self { factor: 1.0, offset: 0.0, range: [low, high], dtype }
    }
}

impl Op for Scale {
    const NAME: &'static str = "scale";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.ensure(self.dtype.is_float(), || format!("cannot store the result as {}", self.dtype))?;
        ins.ensure(self.range[0] <= self.range[1], || format!("the range {:?} is empty", self.range))?;
        ins.at_most(1)?;
        Ok(vec![Ty { dtype: self.dtype, shape: x.shape }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let [low, high] = self.range.map(f64::from);
        let (factor, offset) = (f64::from(self.factor), f64::from(self.offset));
        // max and min would turn NaN into a bound and hide it
        let one = |v: f64| if v.is_nan() { v } else { v.max(low).min(high) };
        Ok(vec![x.data.iter().map(|v| one(factor * v + offset)).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (from, y) = (ins[0].map_or(self.dtype, |x| x.dtype), outs[0]);
        let (values, width) = (y.shape.elements(), access(&[from, y.dtype], 16));
        let kernel = typed(KernelKey::new(&FILE, "scale_forward"), from, y.dtype).define("V", width);
        let [low, high] = self.range;
        let (x, y) = (Slot::In(0), Slot::Out(0));
        let params = ScaleParams { x, y, count: count(values)?, factor: self.factor, offset: self.offset, low, high };
        flat(kernel, values, width, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let (x, dy) = (cx.input(0)?, cx.gradient()?);
        Ok(vec![Some(ScaleGrad::append(self, g, x, dy)?)])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(2, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let picture = Self { factor: 0.5, offset: 0.5, range: [0.0, 1.0], dtype: DType::F32 };
        vec![
            Case::new("latents", Self::by(1.0 / 0.182_15, DType::F32), vec![normal(DType::F32, [2, 3, 5, 4])]),
            Case::new("latents to bf16", Self::by(0.7, DType::Bf16), vec![normal(DType::F32, [1, 7])]),
            Case::new("clamp", Self::clamp(-0.5, 1.0, DType::F32), vec![normal(DType::F32, [33])]),
            Case::new("picture from bf16", picture, vec![normal(DType::Bf16, [1, 64, 65, 3])]),
        ]
    }
}

kernel_params! {
    /// Of `scale_forward`.
    struct ScaleParams { x: ptr, y: ptr, count: u32, factor: f32, offset: f32, low: f32, high: f32 }
}
static FILE: KernelFile = kernel_file!("scale", [ScaleParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |range, dtype| AnyOp::from(Scale { factor: 1.0, offset: 0.0, range, dtype });
        assert_rejects(vec![
            (op([0.0, 1.0], DType::F32), vec![None], "input 0 (x) is missing"),
            (op([0.0, 1.0], DType::I32), vec![f32([2])], "cannot store the result as i32"),
            (op([1.0, 0.0], DType::F32), vec![f32([2])], "range [1.0, 0.0] is empty"),
            (op([f32::NAN, 1.0], DType::F32), vec![f32([2])], "is empty"),
            (op([0.0, 1.0], DType::F32), vec![f32([2]); 2], "at most 1 inputs"),
        ]);
    }
}
