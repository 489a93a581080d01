//! Gradients of a convolution: of its input and of its weight.

use super::conv2d::BESIDE;
use super::host::{Weights, unsupported};
use super::parts::Parts;
use super::{
    ActivateGrad, Activation, AnyOp, Case, Conv2d, Cost, HostArray, HostIo, Ins, Op, ResizeGrad, SumRows, no_second_gradient, normal,
};
use crate::device::cpu::gather::Widens;
use crate::device::cpu::simd::Elem;
use crate::device::cpu::{Epilogue, PackSpec, Source, Windows, gemm, weight_grad};
use crate::device::{Lowered, Target};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Shape, Ty};
use half::bf16;

/// One gradient of `z = conv(x)`. Of the convolution's attributes, the activation plays no part: `dz` is the gradient before it.
#[derive(Clone, Debug, PartialEq)]
pub enum Conv2dGrad {
    /// Of the image that is convolved, after the resize if there is one.
    ///
    /// Inputs: `dz [B,h,w,O]`, `weight [O,kh,kw,C/groups]`. Output: `[B,H,W,C]` of dz's type.
    Input {
        /// Attributes of the convolution.
        conv: Conv2d,
        /// Height and width of the output.
        size: [usize; 2],
    },
    /// Of the weight. Inputs: `dz [B,h,w,O]`, `x [B,H,W,C]` before the resize. Output: `[O,kh,kw,C/groups]` f32.
    Weight {
        /// Attributes of the convolution.
        conv: Conv2d,
        /// Height and width of the kernel.
        kernel: [usize; 2],
    },
}

impl Conv2dGrad {
    /// Appends the gradients of a convolution: x, weight, bias, row bias, residual, slope, second part of x.
    pub(crate) fn append(conv: &Conv2d, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let (x, w, mut dz, parts) = (cx.input(0)?, cx.input(1)?, cx.gradient()?, Parts::of(cx, BESIDE)?);
        let plain = Conv2d { act: Activation::None, ..conv.clone() };
        let mut dslope = None;
        if conv.act != Activation::None {
            let inputs = [Some(x), Some(w), cx.opt(2), cx.opt(3), cx.opt(4), None, cx.opt(BESIDE)];
            let z = g.op(plain.clone(), &inputs)?;
            let ins = [Some(z), cx.opt(5), Some(dz)];
            dslope = cx.when(5, || {
                let each = g.op(ActivateGrad { act: conv.act, of_slope: true }, &ins)?;
                let channels = g.shape(each).last_axis();
                SumRows::over(g, each, 1, &[channels], DType::F32)
            })?;
            dz = g.op(ActivateGrad { act: conv.act, of_slope: false }, &ins)?;
        }
        let (image, kernel, out) = (g.ty(x), g.shape(w), g.ty(dz));
        let (batch, channels) = (out.shape[0], out.shape[3]);
        let mut of_parts = [None; 2];
        if parts.wanted(cx) {
            let input = Self::Input { conv: plain.clone(), size: conv.input_size(&image) };
            let dx = g.op(input, &[Some(dz), Some(w)])?;
            let size = [image.shape[1], image.shape[2]];
            let dx = if conv.input_size(&image) == size { dx } else { g.op(ResizeGrad { size }, &[Some(dx)])? };
            of_parts = parts.cut(g, cx, dx)?;
        }
        Ok(vec![
            of_parts[0],
            cx.when(1, || {
                let x = parts.joined(g)?;
                g.op(Self::Weight { conv: plain.clone(), kernel: [kernel[1], kernel[2]] }, &[Some(dz), Some(x)])
            })?,
            cx.when(2, || SumRows::over(g, dz, 1, &[channels], DType::F32))?,
            cx.when(3, || SumRows::over(g, dz, batch, &[batch, channels], out.dtype))?,
            cx.when(4, || Ok(dz))?,
            dslope,
            of_parts[1],
        ])
    }

    fn conv(&self) -> &Conv2d {
        match self {
            Self::Input { conv, .. } | Self::Weight { conv, .. } => conv,
        }
    }
}

impl Op for Conv2dGrad {
    const NAME: &'static str = "conv2d_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (dz, second) = (ins.float(0, "dz")?, ins.float(1, "weight or x")?);
        ins.ensure(dz.shape.len() == 4, || format!("dz is {dz}, expected [B,h,w,O]"))?;
        ins.ensure(second.shape.len() == 4, || format!("the second input is {second}, expected four axes"))?;
        let (batch, outputs, groups) = (dz.shape[0], dz.shape[3], self.conv().groups);
        ins.ensure(groups > 0 && outputs % groups == 0, || format!("{groups} groups do not divide {outputs} outputs"))?;
        // the forward pass must give an output like dz: all its preconditions hold then
        let (x, w, out) = match self {
            Self::Input { size, .. } => {
                let x = Ty::new(dz.dtype, [batch, size[0], size[1], second.shape[3] * groups]);
                (x, second, x)
            }
            Self::Weight { kernel, .. } => {
                ins.ensure(second.shape[3] % groups == 0, || format!("{groups} groups do not divide the channels of x {second}"))?;
                let shape = [outputs, kernel[0], kernel[1], second.shape[3] / groups];
                (second, Ty::new(second.dtype, shape), Ty::new(DType::F32, shape))
            }
        };
        let forward = match self {
            Self::Input { conv, .. } => Conv2d { resize: None, act: Activation::None, ..conv.clone() },
            Self::Weight { conv, .. } => Conv2d { act: Activation::None, ..conv.clone() },
        };
        let z = forward.infer(Ins::new(Self::NAME, &[Some(x), Some(w)]))?[0];
        ins.ensure(z.shape == dz.shape, || format!("dz is {dz}, but the convolution gives {}", z.shape))?;
        ins.at_most(2)?;
        Ok(vec![out])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(dz), Some(second)] = ins else { return Err(super::op_error::<Self>("two inputs are required")) };
        let mut grad = vec![0.0; outs[0].shape.elements()];
        let conv = self.conv();
        let (x, w) = match self {
            Self::Input { .. } => (outs[0].shape, second.shape()),
            Self::Weight { .. } => (second.shape(), outs[0].shape),
        };
        let resized = match self {
            Self::Input { .. } => [x[1], x[2]],
            Self::Weight { .. } => conv.input_size(&second.ty),
        };
        let group_outputs = w[0] / conv.groups;
        for (i, dz_value) in dz.data.iter().enumerate() {
            let (o, pixel) = (i % w[0], i / w[0]);
            let place = [pixel / dz.shape()[2] / dz.shape()[1], pixel / dz.shape()[2] % dz.shape()[1], pixel % dz.shape()[2]];
            for tap in 0..w[1] * w[2] {
                let Some(at) = conv.tap(place, [tap / w[2], tap % w[2]], x, resized) else { continue };
                for c in 0..w[3] {
                    let (x_at, w_at) = (at * x[3] + o / group_outputs * w[3] + c, (o * w[1] * w[2] + tap) * w[3] + c);
                    match self {
                        Self::Input { .. } => grad[x_at] += dz_value * second.data[w_at],
                        Self::Weight { .. } => grad[w_at] += dz_value * second.data[x_at],
                    }
                }
            }
        }
        Ok(vec![grad])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.input(0)?.ty.dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn packing(&self, input: usize, ins: &[Option<Ty>]) -> Option<PackSpec> {
        match (self, ins) {
            (Self::Input { .. }, [_, Some(w), ..]) if input == 1 && w.shape.len() == 4 => Some(self.spec(w.shape)),
            _ => None,
        }
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered> {
        super::product_grads::conv2d(self, ins, outs, target)
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let [Some(dz), Some(second), ..] = ins else { return Cost::default() };
        let w = if matches!(self, Self::Input { .. }) { second.shape } else { outs[0].shape };
        Cost::touching(2 * (dz.shape.rows() * w.elements()) as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let parts = |case: Case| {
            let (AnyOp::Conv2d(conv), Some(x), Some(w), ..=BESIDE) = (case.op, case.inputs[0], case.inputs[1], case.inputs.len()) else {
                return vec![];
            };
            let plain = Conv2d { act: Activation::None, ..conv };
            let types = [Some(x.ty), Some(w.ty)];
            let Ok(z) = plain.infer(Ins::new(Self::NAME, &types)) else { return vec![] };
            let dz = normal(x.ty.dtype, z[0].shape);
            let input = Self::Input { size: plain.input_size(&x.ty), conv: plain.clone() };
            let weight = Self::Weight { conv: plain, kernel: [w.ty.shape[1], w.ty.shape[2]] };
            let name = |part: &str| format!("{}, {part}", case.name);
            vec![Case::new(name("x"), input, vec![dz, Some(w)]), Case::new(name("weight"), weight, vec![dz, Some(x)])]
        };
        Conv2d::cases().into_iter().flat_map(parts).collect()
    }
}

impl Conv2dGrad {
    fn spec(&self, w: Shape) -> PackSpec {
        PackSpec::ConvInput { outputs: w[0], taps: w[1] * w[2], inputs: w[3], groups: self.conv().groups }
    }

    fn run<T: Elem + Widens<T>>(&self, io: &mut HostIo<'_>) -> Result<()>
    where
        f32: Widens<T>,
    {
        let (dz, w) = (io.input(0)?, io.input(1)?);
        let Self::Input { conv, size } = self else { return self.weight::<T>(io) };
        let weights = Weights::of(io.cpu, w, self.spec(w.ty.shape))?;
        let (dz_shape, kernel) = (dz.ty.shape, [w.ty.shape[1], w.ty.shape[2]]);
        // a convolution of dz, with zeros between its pixels where the stride skipped some, by the mirrored kernel
        let before = |side: usize| kernel[side] as isize - 1 - conv.padding[side] as isize;
        let windows = Windows {
            data: dz.values::<T>()?,
            stored: [dz_shape[1], dz_shape[2]],
            size: [dz_shape[1], dz_shape[2]],
            channels: dz_shape[3],
            output: *size,
            kernel,
            stride: 1,
            padding: [before(0), before(1)],
            spread: conv.stride,
        };
        let same = *size == windows.stored && kernel == [1, 1] && conv.stride == 1 && conv.padding == [0; 4] && conv.groups == 1;
        let source = if same { Source::Rows { data: windows.data, k: windows.channels } } else { Source::Windows(windows) };
        let epilogue = Epilogue::plain(io.out_ty(0).shape.last_axis(), None, Activation::None);
        gemm(io.cpu, &source, &weights, &epilogue, io.outs[0].values()?)
    }

    /// [`Conv2dGrad::Weight`].
    fn weight<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (dz, x) = (io.input(0)?, io.input(1)?);
        let (conv, dz_shape, w) = (self.conv(), dz.ty.shape, io.out_ty(0));
        let (dz, out) = (dz.values::<T>()?, io.outs[0].f32()?);
        let output = [dz_shape[1], dz_shape[2]];
        match x.ty.dtype {
            DType::F32 => weight_grad(io.cpu, dz, dz_shape[3], &conv.source(conv.windows(x.f32()?, &x.ty, &w, output)), conv.groups, out),
            DType::Bf16 => weight_grad(io.cpu, dz, dz_shape[3], &conv.source(conv.windows(x.bf16()?, &x.ty, &w, output)), conv.groups, out),
            other => return Err(unsupported(other)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let input = |conv, size| AnyOp::from(Conv2dGrad::Input { conv, size });
        let weight = |conv, kernel| AnyOp::from(Conv2dGrad::Weight { conv, kernel });
        let (dz, w, x) = (f32([2, 5, 6, 8]), f32([8, 3, 3, 4]), f32([2, 5, 6, 4]));
        let same = Conv2d::same(1);
        let grouped = |groups| Conv2d { groups, ..Conv2d::same(1) };
        assert_rejects(vec![
            (input(same.clone(), [5, 6]), vec![], "input 0 (dz) is missing"),
            (input(same.clone(), [5, 6]), vec![i32([2, 5, 6, 8]), w], "expected floating point"),
            (input(same.clone(), [5, 6]), vec![f32([5, 6, 8]), w], "expected [B,h,w,O]"),
            (input(same.clone(), [5, 6]), vec![dz, f32([8, 36])], "expected four axes"),
            (input(same.clone(), [5, 7]), vec![dz, w], "but the convolution gives [2,5,7,8]"),
            (input(same.clone(), [5, 6]), vec![dz, f32([6, 3, 3, 4])], "but the convolution gives [2,5,6,6]"),
            (input(grouped(3), [5, 6]), vec![dz, w], "3 groups do not divide 8 outputs"),
            (input(same.clone(), [5, 6]), vec![dz, w, w], "at most 2 inputs"),
            (weight(same.clone(), [3, 3]), vec![dz], "input 1 (weight or x) is missing"),
            (weight(same.clone(), [5, 3]), vec![dz, x], "but the convolution gives [2,3,6,8]"),
            (weight(same.clone(), [9, 3]), vec![dz, x], "larger than the padded image"),
            (weight(grouped(8), [3, 3]), vec![dz, x], "8 groups do not divide the channels of x"),
            (weight(same, [3, 3]), vec![dz, x, x], "at most 2 inputs"),
        ]);
    }
}
