//! The class token before the patches, and positions on all of them.

use super::host::by_reference;
use super::{Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{DType, Result, Ty};

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
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(1, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
