//! Mean squared error: the denoising loss.

use super::lowering::{ENOUGH_BLOCKS, access, count, typed};
use super::{Case, Cost, HostArray, HostIo, Ins, MseGrad, Op, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::ops::host::by_reference;
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::{DType, Result, Ty};

/// `y = mean((a − b)²)` over all elements.
///
/// Inputs: `a [..]`, `b [..]` of one shape, floating point, the types may differ. Output: one f32, shape `[]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mse;

impl Op for Mse {
    const NAME: &'static str = "mse";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (a, b) = (ins.float(0, "a")?, ins.float(1, "b")?);
        ins.ensure(a.shape == b.shape, || format!("a is {a} but b is {b}"))?;
        ins.at_most(2)?;
        Ok(vec![Ty::new(DType::F32, [])])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(a), Some(b)] = ins else { return Err(super::op_error::<Self>("a and b are required")) };
        let sum: f64 = a.data.iter().zip(&b.data).map(|(a, b)| (a - b).powi(2)).sum();
        Ok(vec![vec![sum / a.data.len() as f64]])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        // latents: a few ten thousand values once in a step, and f64 is what such a sum wants
        by_reference(self, io)
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let inputs = [cx.input(0)?, cx.input(1)?, cx.gradient()?].map(Some);
        Ok(vec![cx.when(0, || g.op(MseGrad { of_second: false }, &inputs))?, cx.when(1, || g.op(MseGrad { of_second: true }, &inputs))?])
    }

    fn lower(&self, ins: &[Option<Ty>], _outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let [Some(a), Some(b)] = ins else { return Err(super::op_error::<Self>("a and b are required")) };
        let (values, width) = (a.shape.elements(), access(&[a.dtype, b.dtype], 16));
        let span = values.div_ceil(ENOUGH_BLOCKS).next_multiple_of(256 * width);
        let spans = count(values)?.div_ceil(span as u32);
        let (slots, partial, y) = ([Slot::In(0), Slot::In(1)], Slot::Scratch(0), Slot::Out(0));
        let params = MseParams { a: slots[0], b: slots[1], partial, y, count: values as u32, span: span as u32, spans };
        let launch = |entry, blocks| {
            let kernel = typed(KernelKey::new(&FILE, entry), a.dtype, b.dtype).define("V", width);
            Launch { kernel, grid: [blocks, 1, 1], block: [256, 1, 1], shared: 0, params: params.pack() }
        };
        Ok(Lowered::new(vec![launch("mse_parts", spans), launch("mse_total", 1)], u64::from(4 * spans).next_multiple_of(256)))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let elements = ins.first().copied().flatten().map_or(0, |x| x.shape.elements());
        Cost::touching(3 * elements as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let case = |name: &str, a, b, shape: &[usize]| {
            Case::new(name, Mse, vec![normal(a, crate::Shape::new(shape)), normal(b, crate::Shape::new(shape))])
        };
        vec![
            case("latents", DType::F32, DType::F32, &[2, 8, 8, 4]),
            case("bf16 against f32", DType::Bf16, DType::F32, &[1, 5, 7, 4]),
            case("bf16", DType::Bf16, DType::Bf16, &[33]),
            case("one", DType::F32, DType::F32, &[1]),
        ]
    }
}

kernel_params! {
    /// Of both entries of `mse`.
    struct MseParams { a: ptr, b: ptr, partial: ptr, y: ptr, count: u32, span: u32, spans: u32 }
}
static FILE: KernelFile = kernel_file!("mse", [MseParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(Mse);
        assert_rejects(vec![
            (op.clone(), vec![f32([2])], "input 1 (b) is missing"),
            (op.clone(), vec![f32([2]), f32([3])], "a is f32[2] but b is f32[3]"),
            (op.clone(), vec![i32([2]), f32([2])], "expected floating point"),
            (op, vec![f32([2]); 3], "at most 2 inputs"),
        ]);
    }
}
