//! Conversion between storage types.

use super::host::by_reference;
use super::lowering::{count, flat, typed, access};
use super::{Activation, Case, Cost, HostArray, HostIo, Ins, Op, Fill, filled, normal};
use crate::device::cpu::copy;
use crate::device::cpu::elementwise::map;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};

/// The same values in another floating-point type, rounded to nearest even.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    /// Type of the output.
    pub dtype: DType,
}

impl Op for Cast {
    const NAME: &'static str = "cast";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.ensure(self.dtype.is_float(), || format!("cannot cast {x} to {}", self.dtype))?;
        ins.at_most(1)?;
        Ok(vec![Ty { dtype: self.dtype, shape: x.shape }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        Ok(vec![x.data.clone()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let x = io.input(0)?;
        match (x.ty.dtype, self.dtype) {
            (DType::F32, DType::Bf16) => map(io.cpu, Activation::None, x.f32()?, io.outs[0].bf16()?),
            (DType::Bf16, DType::F32) => map(io.cpu, Activation::None, x.bf16()?, io.outs[0].f32()?),
            (from, to) if from == to => copy::repeat(io.cpu, x.data, io.outs[0].data),
            // f16 comes from files only: speed is no concern
            _ => by_reference(self, io)?,
        }
        Ok(())
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (from, y) = (ins[0].map_or(self.dtype, |x| x.dtype), outs[0]);
        let (values, width) = (y.shape.elements(), access(&[from, y.dtype], 16));
        let kernel = typed(KernelKey::new(&FILE, "cast_forward"), from, y.dtype).define("V", width);
        let params = CastParams { x: Slot::In(0), y: Slot::Out(0), count: count(values)? };
        flat(kernel, values, width, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let dtype = g.ty(cx.input(0)?).dtype;
        Ok(vec![Some(g.op(Self { dtype }, &[Some(cx.gradient()?)])?)])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::touching(0, ins, outs)
    }

    fn cases() -> Vec<Case> {
        use DType::{Bf16, F16, F32};
        let pairs = [(F32, Bf16), (Bf16, F32), (F16, F32), (F16, Bf16), (F32, F32), (Bf16, Bf16)];
        let case = |(from, to): (DType, DType), name: &str, x| Case::new(format!("{from} to {to}, {name}"), Cast { dtype: to }, vec![x]);
        let sizes = |pair: (DType, DType)| {
            [
                case(pair, "small", normal(pair.0, [3, 7])),
                case(pair, "many", normal(pair.0, [2, 33, 501])),
                case(pair, "wide range", filled(pair.0, [1000], Fill::Normal(1e4))),
            ]
        };
        pairs.into_iter().flat_map(sizes).collect()
    }
}

kernel_params! {
    /// Of `cast_forward`.
    struct CastParams { x: ptr, y: ptr, count: u32 }
}
static FILE: KernelFile = kernel_file!("cast", [CastParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |dtype| AnyOp::from(Cast { dtype });
        assert_rejects(vec![
            (op(DType::F32), vec![], "input 0 (x) is missing"),
            (op(DType::F32), vec![i32([2])], "expected floating point"),
            (op(DType::I32), vec![f32([2])], "cannot cast f32[2] to i32"),
            (op(DType::F32), vec![f32([2]); 2], "at most 1 inputs"),
        ]);
    }
}
