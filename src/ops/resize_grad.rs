//! Gradient of the nearest-neighbour resize that convolutions fold into their reads.

use super::host::by_each;
use super::lowering::{access, count, flat};
use super::{Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{Result, Ty};

/// `dx[y,x] = Σ` of `dy` over the pixels that show the pixel `(y, x)`; pixels that none shows get 0.
///
/// Input: `dy [B,H,W,C]` at the size after the resize. Output: `[B,h,w,C]` of its type at the size before.
#[derive(Clone, Debug, PartialEq)]
pub struct ResizeGrad {
    /// Height and width before the resize.
    pub size: [usize; 2],
}

/// The places of `large` that show place `at` of `small`: those i with `i · small / large = at`, rounded down.
fn showing(at: usize, small: usize, large: usize) -> std::ops::Range<usize> {
    (at * large).div_ceil(small)..((at + 1) * large).div_ceil(small)
}

impl ResizeGrad {
    /// Index of the output as image, row, column, channel.
    fn place(&self, i: usize, channels: usize) -> [usize; 4] {
        let [h, w] = self.size;
        [i / channels / w / h, i / channels / w % h, i / channels % w, i % channels]
    }
}

impl Op for ResizeGrad {
    const NAME: &'static str = "resize_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let dy = ins.float(0, "dy")?;
        ins.ensure(dy.shape.len() == 4, || format!("dy is {dy}, expected [B,H,W,C]"))?;
        ins.ensure(!self.size.contains(&0), || format!("the size {:?} is empty", self.size))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(dy.dtype, [dy.shape[0], self.size[0], self.size[1], dy.shape[3]])])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(dy)] = ins else { return Err(super::op_error::<Self>("dy is required")) };
        let &[_, h, w, c] = &*dy.shape() else { return Err(super::op_error::<Self>("dy is not an image")) };
        let mut dx = vec![0.0; outs[0].shape.elements()];
        for (i, v) in dy.data.iter().enumerate() {
            let (b, y, x, channel) = (i / c / w / h, i / c / w % h, i / c % w, i % c);
            let (sy, sx) = (y * self.size[0] / h, x * self.size[1] / w);
            dx[((b * self.size[0] + sy) * self.size[1] + sx) * c + channel] += v;
        }
        Ok(vec![dx])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let dy = io.input(0)?.ty.shape;
        let (h, w, c) = (dy[1], dy[2], dy[3]);
        by_each(io, |ins, i| {
            let [b, y, x, channel] = self.place(i, c);
            let columns = showing(x, self.size[1], w);
            let row = |sy: usize| columns.clone().map(|sx| ins[0].at(((b * h + sy) * w + sx) * c + channel)).sum::<f32>();
            showing(y, self.size[0], h).map(row).sum()
        })
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (Some(dy), dx) = (ins[0], outs[0]) else { return Err(super::op_error::<Self>("dy is required")) };
        let (values, width) = (dx.shape.elements(), access(&[dx.dtype], dx.shape[3]));
        let [height, small_width] = self.size.map(|n| n as u32);
        let params = ResizeGradParams {
            dy: Slot::In(0),
            dx: Slot::Out(0),
            count: count(values)?,
            height,
            width: small_width,
            large_height: count(dy.shape[1])?,
            large_width: count(dy.shape[2])?,
            channels: dx.shape[3] as u32,
        };
        let kernel = KernelKey::new(&FILE, "resize_grad_x").define("T", kernel_type(dx.dtype)).define("V", width);
        flat(kernel, values, width, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let elements = ins.first().copied().flatten().map_or(0, |x| x.shape.elements());
        Cost::touching(elements as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, size, shape: [usize; 4]| Case::new(name, ResizeGrad { size }, vec![normal(t, shape)]);
            vec![
                case("twice", [5, 6], [2, 10, 12, 8]),
                case("odd", [5, 7], [1, 9, 13, 5]),
                case("smaller", [7, 7], [1, 4, 3, 6]),
                case("same", [3, 2], [1, 3, 2, 9]),
            ]
        })
    }
}

kernel_params! {
    /// Of `resize_grad_x`.
    struct ResizeGradParams { dy: ptr, dx: ptr, count: u32, height: u32, width: u32, large_height: u32, large_width: u32, channels: u32 }
}
static FILE: KernelFile = kernel_file!("resize_grad", [ResizeGradParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |size| AnyOp::from(ResizeGrad { size });
        assert_rejects(vec![
            (op([2, 2]), vec![], "input 0 (dy) is missing"),
            (op([2, 2]), vec![f32([4, 4, 3])], "expected [B,H,W,C]"),
            (op([2, 2]), vec![i32([1, 4, 4, 3])], "expected floating point"),
            (op([2, 0]), vec![f32([1, 4, 4, 3])], "is empty"),
            (op([2, 2]), vec![f32([1, 4, 4, 3]); 2], "at most 1 inputs"),
        ]);
    }
}
