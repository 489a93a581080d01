//! The class token before the patches, and positions on all of them.

use super::lowering::{count, flat, access};
use super::{SelectRows, SumRows, Activation, Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, normal, vector, unsupported};
use crate::device::cpu::elementwise::add;
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// `y[:,0] = class + positions[0]`, `y[:,1+p] = patches[:,p] + positions[1+p]`.
///
/// Inputs: `patches [B,P,C]`, `class [C]` f32, `positions [1+P,C]` f32. Output: `[B,1+P,C]` of the patches' type.
#[derive(Clone, Debug, PartialEq)]
pub struct PrependToken;

impl Op for PrependToken {
    const NAME: &'static str = "prepend_token";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "patches")?;
        let &[b, p, c] = &*x.shape else { return Err(ins.error(format!("patches is {x}, expected [B,P,C]"))) };
        ins.get(1, "class")?;
        ins.get(2, "positions")?;
        ins.shape(1, "class", [c])?;
        ins.shape(2, "positions", [1 + p, c])?;
        ins.dtype(1, "class", DType::F32)?;
        ins.dtype(2, "positions", DType::F32)?;
        ins.at_most(3)?;
        Ok(vec![Ty::new(x.dtype, [b, 1 + p, c])])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(class), Some(positions)] = ins else {
            return Err(super::op_error::<Self>("patches, class and positions are required"));
        };
        let &[_, tokens, c] = &*outs[0].shape else { return Err(super::op_error::<Self>("output is not [B,T,C]")) };
        let image = |patches: &[f64]| -> Vec<f64> { class.data.iter().chain(patches).zip(&positions.data).map(|(a, b)| a + b).collect() };
        Ok(vec![x.data.chunks_exact((tokens - 1) * c).flat_map(image).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn lower(&self, _ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let &[b, t, c] = &*outs[0].shape else { return Err(super::op_error::<Self>("output is not [B,T,C]")) };
        let width = access(&[outs[0].dtype, DType::F32], c);
        let kernel = KernelKey::new(&FILE, "prepend_token_forward").define("T", kernel_type(outs[0].dtype)).define("V", width);
        let (patches, token, positions, y) = (Slot::In(0), Slot::In(1), Slot::In(2), Slot::Out(0));
        let (images, tokens, channels) = (count(b)?, count(t)?, count(c)?);
        let params = PrependTokenParams { patches, token, positions, y, images, tokens, channels };
        flat(kernel, t * c, width, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let (patches, dy) = (g.ty(cx.input(0)?), cx.gradient()?);
        let (p, c) = (patches.shape[1], patches.shape[2]);
        Ok(vec![
            cx.when(0, || g.op(SelectRows { start: 1, count: p }, &[Some(dy)]))?,
            cx.when(1, || {
                let tokens = g.op(SelectRows { start: 0, count: 1 }, &[Some(dy)])?;
                SumRows::over(g, tokens, 1, &[c], DType::F32)
            })?,
            cx.when(2, || SumRows::over(g, dy, 1, &[1 + p, c], DType::F32))?,
        ])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(1, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, [b, p, c]: [usize; 3]| {
                Case::new(name, PrependToken, vec![normal(t, [b, p, c]), vector(c), normal(DType::F32, [p + 1, c])])
            };
            vec![case("patches", [2, 49, 40]), case("odd", [3, 1, 7]), case("larger", [2, 196, 192])]
        })
    }
}

impl PrependToken {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (x, class, positions) = (io.input(0)?, io.input(1)?.f32()?, io.input(2)?.f32()?);
        let (patches, c) = (x.values::<T>()?, class.len());
        let image = patches.len() / x.ty.shape[0];
        let (first, rest) = positions.split_at(c);
        let images = io.outs[0].values::<T>()?.chunks_exact_mut(image + c).zip(patches.chunks_exact(image));
        for (y, patches) in images {
            let (token, y) = y.split_at_mut(c);
            add(io.cpu, Activation::None, class, first, token);
            add(io.cpu, Activation::None, patches, rest, y);
        }
        Ok(())
    }
}

kernel_params! {
    /// Of `prepend_token_forward`.
    struct PrependTokenParams { patches: ptr, token: ptr, positions: ptr, y: ptr, images: u32, tokens: u32, channels: u32 }
}
static FILE: KernelFile = kernel_file!("prepend_token", [PrependTokenParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(PrependToken);
        assert_rejects(vec![
            (op.clone(), vec![f32([4, 8])], "expected [B,P,C]"),
            (op.clone(), vec![f32([1, 4, 8]), f32([8])], "(positions) is missing"),
            (op.clone(), vec![f32([1, 4, 8]), f32([4]), f32([5, 8])], "class is f32[4], expected shape [8]"),
            (op.clone(), vec![f32([1, 4, 8]), f32([8]), f32([4, 8])], "positions is f32[4,8], expected shape [5,8]"),
            (op.clone(), vec![bf16([1, 4, 8]), bf16([8]), f32([5, 8])], "class is bf16[8], expected f32"),
            (op, vec![f32([1, 4, 8]), f32([8]), f32([5, 8]), f32([8])], "at most 3 inputs"),
        ]);
    }
}
