//! Pooling of channels-last images.

use super::lowering::{count, flat, access};
use super::{Pool2dGrad, Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, normal, unsupported};
use crate::device::cpu::pool::{Window, pool};
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// Largest or mean value of each window. Padding never counts: it is neither a maximum nor part of a mean.
///
/// Input: `x [B,H,W,C]`. Output: `[B,h,w,C]` of x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool2d {
    /// Maximum or mean.
    pub kind: Pooling,
    /// Height and width of the window.
    pub kernel: [usize; 2],
    /// Step in both directions.
    pub stride: usize,
    /// Rows and columns around the image: top, left, bottom, right.
    pub padding: [usize; 4],
}

/// What [`Pool2d`] takes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The largest value.
    Max,
    /// The mean of the values inside the image.
    Mean,
}

impl Op for Pool2d {
    const NAME: &'static str = "pool2d";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        ins.ensure(x.shape.len() == 4, || format!("x is {x}, expected [B,H,W,C]"))?;
        let [top, left, bottom, right] = self.padding;
        let (h, w) = (x.shape[1] + top + bottom, x.shape[2] + left + right);
        let [kh, kw] = self.kernel;
        ins.ensure(kh > 0 && kw > 0 && self.stride > 0, || "window and stride must not be empty".into())?;
        ins.ensure(kh <= h && kw <= w, || format!("window {kh}x{kw} is larger than the padded image {x}"))?;
        let pads_fit = top.max(bottom) < kh && left.max(right) < kw;
        ins.ensure(pads_fit, || format!("padding {:?} leaves windows without a pixel", self.padding))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(x.dtype, [x.shape[0], (h - kh) / self.stride + 1, (w - kw) / self.stride + 1, x.shape[3]])])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let (&[_, h, w, c], &[_, oh, ow, _]) = (&*x.shape(), &*outs[0].shape) else {
            return Err(super::op_error::<Self>("x and output are images"));
        };
        let mut y = Vec::with_capacity(outs[0].shape.elements());
        for i in 0..outs[0].shape.elements() {
            let (ch, ox, oy, b) = (i % c, i / c % ow, i / c / ow % oh, i / c / ow / oh);
            let (mut top, mut sum, mut count) = (f64::NEG_INFINITY, 0.0, 0.0);
            for (ky, kx) in (0..self.kernel[0]).flat_map(|ky| (0..self.kernel[1]).map(move |kx| (ky, kx))) {
                let iy = (oy * self.stride + ky).checked_sub(self.padding[0]).filter(|&v| v < h);
                let ix = (ox * self.stride + kx).checked_sub(self.padding[1]).filter(|&v| v < w);
                if let (Some(iy), Some(ix)) = (iy, ix) {
                    let v = x.data[((b * h + iy) * w + ix) * c + ch];
                    (top, sum, count) = (top.max(v), sum + v, count + 1.0);
                }
            }
            y.push(if self.kind == Pooling::Max { top } else { sum / count });
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

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (y, Some(x)) = (outs[0], ins[0]) else { return Err(super::op_error::<Self>("x is required")) };
        let (values, width) = (y.shape.elements(), access(&[y.dtype], y.shape[3]));
        let mean = u32::from(self.kind == Pooling::Mean);
        let kernel = KernelKey::new(&FILE, "pool2d_forward").define("T", kernel_type(y.dtype)).define("V", width).define("MEAN", mean);
        let params = Pool2dParams {
            x: Slot::In(0),
            y: Slot::Out(0),
            count: count(values)?,
            height: count(x.shape[1])?,
            width: count(x.shape[2])?,
            channels: count(x.shape[3])?,
            out_height: y.shape[1] as u32,
            out_width: y.shape[2] as u32,
            kernel_height: count(self.kernel[0])?,
            kernel_width: count(self.kernel[1])?,
            stride: count(self.stride)?,
            top: self.padding[0] as u32,
            left: self.padding[1] as u32,
        };
        flat(kernel, values, width, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        Ok(vec![Some(g.op(Pool2dGrad { forward: self.clone() }, &[Some(cx.input(0)?), Some(cx.gradient()?)])?)])
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise((self.kernel[0] * self.kernel[1]) as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let pool = |kind, kernel, stride, padding| Pool2d { kind, kernel, stride, padding };
        each_dtype(|t| {
            let mut cases = Vec::new();
            for kind in [Pooling::Max, Pooling::Mean] {
                let mut case = |name: &str, op, shape: [usize; 4]| cases.push(Case::new(format!("{kind:?} {name}"), op, vec![normal(t, shape)]));
                case("2x2", pool(kind, [2, 2], 2, [0; 4]), [2, 8, 6, 19]);
                // as MTCNN pools: windows may hang over the lower right edge
                case("3x3 over the edge", pool(kind, [3, 3], 2, [0, 0, 1, 1]), [1, 8, 8, 28]);
                case("3x3 padded", pool(kind, [3, 3], 1, [1; 4]), [1, 5, 4, 3]);
                case("whole image", pool(kind, [7, 5], 1, [0; 4]), [2, 7, 5, 33]);
                case("larger images", pool(kind, [2, 2], 2, [0; 4]), [1, 64, 64, 32]);
            }
            cases
        })
    }
}

impl Pool2d {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (x, out) = (io.input(0)?, io.out_ty(0));
        let size = [x.ty.shape[1], x.ty.shape[2], x.ty.shape[3]];
        let window = Window {
            kernel: self.kernel,
            stride: self.stride,
            before: [self.padding[0], self.padding[1]],
            max: self.kind == Pooling::Max,
        };
        pool(io.cpu, window, x.values::<T>()?, size, [out.shape[1], out.shape[2]], io.outs[0].values::<T>()?);
        Ok(())
    }
}

kernel_params! {
    /// Of `pool2d_forward`.
    struct Pool2dParams {
        x: ptr, y: ptr, count: u32, height: u32, width: u32, channels: u32, out_height: u32, out_width: u32,
        kernel_height: u32, kernel_width: u32, stride: u32, top: u32, left: u32,
    }
}
static FILE: KernelFile = kernel_file!("pool2d", [Pool2dParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |kernel, stride, padding| AnyOp::from(Pool2d { kind: Pooling::Max, kernel, stride, padding });
        let plain = op([2, 2], 2, [0; 4]);
        assert_rejects(vec![
            (plain.clone(), vec![], "input 0 (x) is missing"),
            (plain.clone(), vec![f32([4, 4, 3])], "expected [B,H,W,C]"),
            (plain.clone(), vec![i32([1, 4, 4, 3])], "expected floating point"),
            (plain.clone(), vec![f32([1, 1, 4, 3])], "larger than the padded image"),
            (plain, vec![f32([1, 4, 4, 3]); 2], "at most 1 inputs"),
            (op([0, 2], 2, [0; 4]), vec![f32([1, 4, 4, 3])], "must not be empty"),
            (op([2, 2], 0, [0; 4]), vec![f32([1, 4, 4, 3])], "must not be empty"),
            (op([2, 2], 1, [2, 0, 0, 0]), vec![f32([1, 4, 4, 3])], "windows without a pixel"),
        ]);
    }
}
