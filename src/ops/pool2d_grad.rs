//! Gradient of pooling.

use super::host::by_reference;
use super::lowering::{access, count, flat};
use super::{AnyOp, Case, Cost, HostArray, HostIo, Ins, Op, Pool2d, Pooling, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{Result, Ty};

/// Gradient of [`Pool2d`]: a maximum's goes to the first pixel that has it, row by row; a mean's is shared by the pixels of the window.
///
/// Inputs: `x [B,H,W,C]`, `dy [B,h,w,C]` of its type. Output: x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool2dGrad {
    /// Attributes of the forward operation.
    pub forward: Pool2d,
}

impl Op for Pool2dGrad {
    const NAME: &'static str = "pool2d_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        ins.gradient_of(&self.forward)
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(dy)] = ins else { return Err(super::op_error::<Self>("x and dy are required")) };
        let (&[_, h, w, c], &[_, oh, ow, _]) = (&*x.shape(), &*dy.shape()) else {
            return Err(super::op_error::<Self>("x and dy are images"));
        };
        let Pool2d { kind, kernel, stride, padding } = self.forward;
        let mut dx = vec![0.0; x.data.len()];
        for (i, dy) in dy.data.iter().enumerate() {
            let (channel, ox, oy, b) = (i % c, i / c % ow, i / c / ow % oh, i / c / ow / oh);
            let inside = |start: usize, before: usize, kernel: usize, extent: usize| {
                start.saturating_sub(before)..(start + kernel).saturating_sub(before).min(extent)
            };
            let columns = inside(ox * stride, padding[1], kernel[1], w);
            let window: Vec<usize> = inside(oy * stride, padding[0], kernel[0], h)
                .flat_map(|y| columns.clone().map(move |x| ((b * h + y) * w + x) * c + channel))
                .collect();
            if kind == Pooling::Mean {
                window.iter().for_each(|&at| dx[at] += dy / window.len() as f64);
            } else if let Some(at) = window.into_iter().reduce(|best, at| if x.data[at] > x.data[best] { at } else { best }) {
                dx[at] += dy;
            }
        }
        Ok(vec![dx])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io) // face networks are not trained here: on this no time is spent
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (dx, Some(Some(dy))) = (outs[0], ins.get(1)) else { return Err(super::op_error::<Self>("x and dy are required")) };
        let (values, width) = (dx.shape.elements(), access(&[dx.dtype], dx.shape[3]));
        let Pool2d { kind, kernel, stride, padding } = self.forward;
        let mean = u32::from(kind == Pooling::Mean);
        let params = Pool2dGradParams {
            x: Slot::In(0),
            dy: Slot::In(1),
            dx: Slot::Out(0),
            count: count(values)?,
            height: count(dx.shape[1])?,
            width: count(dx.shape[2])?,
            channels: count(dx.shape[3])?,
            out_height: count(dy.shape[1])?,
            out_width: count(dy.shape[2])?,
            kernel_height: count(kernel[0])?,
            kernel_width: count(kernel[1])?,
            stride: count(stride)?,
            top: padding[0] as u32,
            left: padding[1] as u32,
        };
        let kernel = KernelKey::new(&FILE, "pool2d_grad_x").define("T", kernel_type(dx.dtype)).define("V", width).define("MEAN", mean);
        flat(kernel, values, width, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise((self.forward.kernel[0] * self.forward.kernel[1]) as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let (AnyOp::Pool2d(forward), Some(x)) = (case.op, case.inputs[0]) else { return None };
            let y = *forward.infer(Ins::new(Self::NAME, &[Some(x.ty)])).ok()?.first()?;
            Some(Case::new(case.name, Self { forward }, vec![Some(x), normal(y.dtype, y.shape)]))
        };
        Pool2d::cases().into_iter().filter_map(gradient).collect()
    }
}

kernel_params! {
    /// Of `pool2d_grad_x`.
    struct Pool2dGradParams {
        x: ptr, dy: ptr, dx: ptr, count: u32, height: u32, width: u32, channels: u32, out_height: u32, out_width: u32,
        kernel_height: u32, kernel_width: u32, stride: u32, top: u32, left: u32,
    }
}
static FILE: KernelFile = kernel_file!("pool2d_grad", [Pool2dGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let forward = Pool2d { kind: Pooling::Max, kernel: [2, 2], stride: 2, padding: [0; 4] };
        let op = AnyOp::from(Pool2dGrad { forward });
        let (x, dy) = (f32([1, 4, 4, 3]), f32([1, 2, 2, 3]));
        assert_rejects(vec![
            (op.clone(), vec![], "input 0 (x) is missing"),
            (op.clone(), vec![i32([1, 4, 4, 3]), dy], "expected floating point"),
            (op.clone(), vec![f32([4, 4, 3]), dy], "expected [B,H,W,C]"),
            (op.clone(), vec![x], "input 1 (dy) is missing"),
            (op.clone(), vec![x, x], "expected f32[1,2,2,3]"),
            (op, vec![x, dy, dy], "at most 2 inputs"),
        ]);
    }
}
