//! Convolution of channels-last images, with everything that usually follows it.

pub(super) mod lower;

use super::host::{Weights, unsupported};
use super::{Conv2dGrad, Activation, Case, Cost, HostArray, HostIo, Ins, Op, each_dtype, normal, vector};
use crate::device::cpu::gather::Widens;
use crate::device::cpu::simd::Elem;
use crate::device::cpu::{Epilogue, PackSpec, Source, Windows, gemm};
use crate::device::{Lowered, Target};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Shape, Ty};
use half::bf16;

/// The input that holds the second part of x.
pub(super) const BESIDE: usize = 6;

/// `y = act(conv(x) + bias + row_bias + residual)`.
///
/// Inputs: `x [B,H,W,C]`, `weight [O,kh,kw,C/groups]`, `bias [O]` f32 (optional), `row_bias [B,O]` added to every pixel of an image
/// (optional, the type of x: the time embedding), `residual [B,h,w,O]` (optional, the type of x), `slope [O]` f32 (PReLU only).
/// Where the x of a 1x1 convolution is in two parts, `x` holds the first channels of each pixel and a seventh input,
/// `beside [B,H,W,C − ..]` of x's type, the others. Output: `[B,h,w,O]` of x's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv2d {
    /// Step in both directions.
    pub stride: usize,
    /// Zero rows and columns around the image: top, left, bottom, right.
    pub padding: [usize; 4],
    /// Channel groups: 1, or C for a depthwise convolution, or any common divisor.
    pub groups: usize,
    /// Nearest-neighbour resize of x to this height and width before the convolution; the resized image is never stored.
    pub resize: Option<[usize; 2]>,
    /// Applied last.
    pub act: Activation,
}

impl Conv2d {
    /// Stride 1 and the same padding on all sides.
    pub fn same(padding: usize) -> Self {
        Self { stride: 1, padding: [padding; 4], groups: 1, resize: None, act: Activation::None }
    }

    /// Height and width of the image that is convolved, after the resize.
    pub fn input_size(&self, x: &Ty) -> [usize; 2] {
        self.resize.unwrap_or([x.shape[1], x.shape[2]])
    }

    /// Whether it is a product of each pixel, resized or not, with the weights.
    fn is_each_pixel(&self, kernel: [usize; 2]) -> bool {
        kernel == [1, 1] && self.stride == 1 && self.padding == [0; 4] && self.groups == 1
    }

    fn output_size(&self, x: &Ty, w: &Ty) -> Option<[usize; 2]> {
        let [h, width] = self.input_size(x);
        let [top, left, bottom, right] = self.padding;
        let steps = |extent: usize, kernel: usize| Some(extent.checked_sub(kernel)? / self.stride.max(1) + 1);
        Some([steps(h + top + bottom, w.shape[1])?, steps(width + left + right, w.shape[2])?])
    }
}

impl Op for Conv2d {
    const NAME: &'static str = "conv2d";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (x, w) = (ins.beside(BESIDE, ins.float(0, "x")?)?, ins.float(1, "weight")?);
        ins.ensure(x.shape.len() == 4, || format!("x is {x}, expected [B,H,W,C]"))?;
        ins.ensure(w.shape.len() == 4, || format!("weight is {w}, expected [O,kh,kw,I]"))?;
        let (channels, out_channels) = (x.shape[3], w.shape[0]);
        let groups_fit = self.groups > 0 && channels % self.groups == 0 && out_channels % self.groups == 0;
        ins.ensure(groups_fit, || format!("{} groups do not divide {channels} inputs and {out_channels} outputs", self.groups))?;
        ins.ensure(channels / self.groups == w.shape[3], || format!("x is {x} but weight {w} takes {} channels in each of {} groups", w.shape[3], self.groups))?;
        ins.ensure(self.stride > 0, || "stride is 0".into())?;
        let size = self.output_size(&x, &w);
        let Some([h, width]) = size.filter(|_| w.shape.elements() > 0) else {
            return Err(ins.error(format!("kernel of {w} is larger than the padded image {x}")));
        };
        let out = Ty::new(x.dtype, [x.shape[0], h, width, out_channels]);
        ins.shape(2, "bias", [out_channels])?;
        ins.dtype(2, "bias", DType::F32)?;
        ins.shape(3, "row_bias", [x.shape[0], out_channels])?;
        ins.dtype(3, "row_bias", x.dtype)?;
        ins.shape(4, "residual", out.shape)?;
        ins.dtype(4, "residual", x.dtype)?;
        ins.shape(5, "slope", [out_channels])?;
        ins.dtype(5, "slope", DType::F32)?;
        ins.ensure((self.act == Activation::PRelu) == ins.opt(5).is_some(), || "slope goes with PReLU and only with it".into())?;
        let each_pixel = self.is_each_pixel([w.shape[1], w.shape[2]]) && self.resize.is_none();
        ins.ensure(ins.opt(BESIDE).is_none() || each_pixel, || "x in two parts goes with a 1x1 convolution of every pixel, without groups".into())?;
        ins.at_most(BESIDE + 1)?;
        Ok(vec![out])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(w), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("x and weight are required"));
        };
        let extra = |i: usize| rest.get(i).and_then(Option::as_ref).map(|a| a.data.as_slice());
        let (bias, row_bias, residual, slope) = (extra(0), extra(1), extra(2), extra(3));
        let x = &x.beside(rest.get(BESIDE - 2).and_then(Option::as_ref));
        let &[_, oh, ow, oc] = &*outs[0].shape else { return Err(super::op_error::<Self>("output is not [B,h,w,O]")) };
        let group_out = oc / self.groups;
        let mut y = Vec::with_capacity(outs[0].shape.elements());
        for i in 0..outs[0].shape.elements() {
            let (o, pixel) = (i % oc, i / oc);
            let (ox, oy, b) = (pixel % ow, pixel / ow % oh, pixel / (ow * oh));
            let mut sum = self.window(x, w, [b, oy, ox, o], o / group_out);
            sum += bias.map_or(0.0, |v| v[o]) + row_bias.map_or(0.0, |v| v[b * oc + o]) + residual.map_or(0.0, |v| v[i]);
            y.push(self.act.eval(sum, slope.map_or(0.0, |v| v[o])));
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

    fn packing(&self, input: usize, ins: &[Option<Ty>]) -> Option<PackSpec> {
        match ins {
            [_, Some(w), ..] if input == 1 => Some(self.spec(w)),
            _ => None,
        }
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered> {
        if self.groups > 1 { super::conv2d_direct::lower(self, ins, outs) } else { lower::launches(self, ins, outs, target) }
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        Conv2dGrad::append(self, g, cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let window = ins.get(1).copied().flatten().map_or(0, |w| w.shape.elements() / w.shape[0].max(1));
        Cost::touching(2 * (window * outs[0].shape.elements()) as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| [windows(t), groups(t), epilogues(t), parts(t)].concat())
    }
}

impl Conv2d {
    /// Sum over the window of one output `[b, oy, ox, o]`.
    fn window(&self, x: &HostArray, w: &HostArray, [b, oy, ox, o]: [usize; 4], group: usize) -> f64 {
        let &[_, kh, kw, cg] = &*w.shape() else { return f64::NAN };
        let mut sum = 0.0;
        for tap in 0..kh * kw {
            let Some(at) = self.tap([b, oy, ox], [tap / kw, tap % kw], x.shape(), self.input_size(&x.ty)) else { continue };
            let xs = &x.data[at * x.shape()[3] + group * cg..][..cg];
            let ws = &w.data[(o * kh * kw + tap) * cg..][..cg];
            sum += xs.iter().zip(ws).map(|(a, b)| a * b).sum::<f64>();
        }
        sum
    }

    /// Index of the pixel of an image of shape `x`, seen at the size `resized`, that a tap of the window at `[b, oy, ox]` reads; none in
    /// the padding.
    pub(crate) fn tap(&self, [b, oy, ox]: [usize; 3], [ky, kx]: [usize; 2], x: Shape, [rh, rw]: [usize; 2]) -> Option<usize> {
        let iy = (oy * self.stride + ky).checked_sub(self.padding[0]).filter(|&y| y < rh)?;
        let ix = (ox * self.stride + kx).checked_sub(self.padding[1]).filter(|&x| x < rw)?;
        // nearest neighbour, as torch computes it: floor(i * in / out)
        Some((b * x[1] + iy * x[1] / rh) * x[2] + ix * x[2] / rw)
    }
}

impl Conv2d {
    fn spec(&self, w: &Ty) -> PackSpec {
        PackSpec::Conv { outputs: w.shape[0], taps: w.shape[1] * w.shape[2], inputs: w.shape[3], groups: self.groups }
    }

    fn run<T: Elem + Widens<T>>(&self, io: &mut HostIo<'_>) -> Result<()>
    where
        f32: Widens<T>,
    {
        let (x, w, out) = (io.input(0)?, io.input(1)?, io.out_ty(0).shape);
        let weights = Weights::of(io.cpu, w, self.spec(&w.ty))?;
        let bias = io.opt(2).map(|b| b.values()).transpose()?;
        let epilogue = Epilogue {
            row_bias: io.opt(3).map(|b| b.values()).transpose()?,
            rows_per_image: out[1] * out[2],
            residual: io.opt(4).map(|r| r.values()).transpose()?,
            residual_first: true,
            slope: io.opt(5).map(|s| s.values()).transpose()?,
            ..Epilogue::plain(out[3], bias, self.act)
        };
        let windows = self.windows(x.values::<T>()?, &x.ty, &w.ty, [out[1], out[2]]);
        let source = match io.opt(BESIDE) {
            Some(second) => Source::Beside { data: [windows.data, second.values()?], k: [windows.channels, second.ty.shape[3]] },
            None => self.source(windows),
        };
        gemm(io.cpu, &source, &weights, &epilogue, io.outs[0].values()?)
    }

    /// The windows of an image of type `x` that meet a weight of type `w`.
    pub(crate) fn windows<'a, X>(&self, data: &'a [X], x: &Ty, w: &Ty, output: [usize; 2]) -> Windows<'a, X> {
        Windows {
            data,
            stored: [x.shape[1], x.shape[2]],
            size: self.input_size(x),
            channels: x.shape[3],
            output,
            kernel: [w.shape[1], w.shape[2]],
            stride: self.stride,
            padding: [self.padding[0] as isize, self.padding[1] as isize],
            spread: 1,
        }
    }

    /// A 1x1 convolution of every pixel is a product of the image's rows.
    pub(crate) fn source<'a, T>(&self, windows: Windows<'a, T>) -> Source<'a, T> {
        if self.is_each_pixel(windows.kernel) && windows.size == windows.stored {
            return Source::Rows { data: windows.data, k: windows.channels };
        }
        Source::Windows(windows)
    }
}

impl Conv2d {
    /// A case without anything that follows the convolution.
    fn case(self, name: &str, t: DType, x: [usize; 4], w: [usize; 4]) -> Case {
        Case::new(name, self, vec![normal(t, x), normal(t, w)])
    }
}

/// Kernels, strides, paddings and resizes.
fn windows(t: DType) -> Vec<Case> {
    let strided = |stride, padding| Conv2d { stride, padding, ..Conv2d::same(0) };
    let resized = |padding, size| Conv2d { resize: Some(size), ..Conv2d::same(padding) };
    vec![
        Conv2d::same(1).case("3x3", t, [2, 7, 9, 18], [20, 3, 3, 18]),
        Conv2d::same(1).case("3x3, several slices", t, [1, 4, 5, 130], [33, 3, 3, 130]),
        Conv2d::same(1).case("3x3, several blocks of rows", t, [2, 15, 17, 5], [8, 3, 3, 5]),
        Conv2d::same(1).case("3x3, many pixels of few channels", t, [1, 32, 45, 8], [8, 3, 3, 8]),
        Conv2d::same(1).case("pixels", t, [1, 9, 8, 3], [35, 3, 3, 3]),
        Conv2d::same(1).case("latents", t, [2, 5, 6, 4], [40, 3, 3, 4]),
        Conv2d::same(0).case("1x1", t, [2, 5, 6, 33], [17, 1, 1, 33]),
        strided(2, [0; 4]).case("1x1 stride 2", t, [1, 7, 6, 9], [5, 1, 1, 9]),
        strided(2, [0, 0, 1, 1]).case("downsampling, padded below and right", t, [1, 8, 6, 12], [12, 3, 3, 12]),
        strided(2, [1; 4]).case("downsampling, padded all around", t, [2, 7, 8, 12], [12, 3, 3, 12]),
        strided(8, [0; 4]).case("patches", t, [2, 26, 16, 3], [20, 8, 8, 3]),
        strided(8, [0; 4]).case("patches that leave a margin", t, [1, 24, 18, 3], [20, 8, 8, 3]),
        strided(6, [0; 4]).case("patches whose rows are not aligned", t, [1, 12, 18, 3], [20, 6, 6, 3]),
        strided(3, [3, 1, 0, 2]).case("uneven", t, [1, 9, 11, 6], [7, 4, 3, 6]),
        Conv2d::same(0).case("1x3", t, [1, 4, 9, 10], [6, 1, 3, 10]),
        Conv2d::same(0).case("whole image", t, [2, 5, 5, 16], [9, 5, 5, 16]),
        strided(1, [6; 4]).case("more padding than image", t, [1, 2, 3, 4], [5, 3, 3, 4]),
        resized(1, [10, 12]).case("upsampling", t, [2, 5, 6, 8], [9, 3, 3, 8]),
        resized(1, [9, 13]).case("upsampling to odd sizes", t, [1, 5, 7, 8], [9, 3, 3, 8]),
        resized(0, [4, 3]).case("1x1 after a resize", t, [1, 7, 7, 6], [5, 1, 1, 6]),
    ]
}

/// Depthwise, and groups of one or many channels.
fn groups(t: DType) -> Vec<Case> {
    let grouped = |groups, stride, padding| Conv2d { stride, groups, ..Conv2d::same(padding) };
    let resized = Conv2d { resize: Some([7, 9]), ..grouped(20, 1, 1) };
    vec![
        grouped(37, 1, 1).case("depthwise", t, [2, 6, 5, 37], [37, 3, 3, 1]),
        grouped(64, 2, 1).case("depthwise stride 2", t, [1, 7, 8, 64], [64, 3, 3, 1]),
        grouped(24, 1, 2).case("depthwise 5x5", t, [1, 6, 6, 24], [24, 5, 5, 1]),
        grouped(40, 1, 0).case("depthwise over the whole image", t, [2, 7, 7, 40], [40, 7, 7, 1]),
        resized.case("depthwise after a resize", t, [1, 4, 5, 20], [20, 3, 3, 1]),
        grouped(4, 1, 1).case("small groups", t, [1, 5, 4, 12], [20, 3, 3, 3]),
        grouped(6, 2, 1).case("two outputs of each channel", t, [1, 5, 4, 6], [12, 3, 3, 1]),
        grouped(2, 1, 1).case("large groups", t, [2, 4, 5, 20], [90, 3, 3, 10]),
        grouped(2, 1, 0).case("1x1 groups", t, [1, 4, 5, 20], [90, 1, 1, 10]),
    ]
}

/// Everything that can follow the convolution.
fn epilogues(t: DType) -> Vec<Case> {
    use Activation::{Gelu, LeakyRelu, PRelu, QuickGelu, Relu, Sigmoid, Silu};
    let with = |act, groups| Conv2d { act, groups, ..Conv2d::same(1) };
    let (x, w, out) = ([2, 5, 6, 10], [40, 3, 3, 10], [2, 5, 6, 40]);
    let mut cases = Vec::new();
    for act in [Relu, Silu, Gelu, QuickGelu, LeakyRelu(0.1), Sigmoid] {
        cases.push(Case::new(format!("{act:?}"), with(act, 1), vec![normal(t, x), normal(t, w), vector(40)]));
    }
    let all = |x, w| vec![normal(t, x), normal(t, w), vector(40), normal(t, [2, 40]), normal(t, out), vector(40)];
    cases.push(Case::new("everything", with(PRelu, 1), all(x, w)));
    cases.push(Case::new("everything, depthwise", with(PRelu, 40), all([2, 5, 6, 40], [40, 3, 3, 1])));
    cases.push(Case::new("everything, groups", with(PRelu, 4), all([2, 5, 6, 20], [40, 3, 3, 5])));
    let residual = vec![normal(t, x), normal(t, w), None, None, normal(t, out)];
    cases.push(Case::new("activation after the residual", with(Silu, 1), residual));
    cases
}

/// A 1x1 convolution of an image in two parts of so many channels.
fn parts(t: DType) -> Vec<Case> {
    let case = |name: &str, act, [a, b]: [usize; 2], outputs| {
        let image = |c| normal(t, [2, 5, 7, c]);
        let inputs = vec![image(a), normal(t, [outputs, 1, 1, a + b]), vector(outputs), None, None, None, image(b)];
        Case::new(name, Conv2d { act, ..Conv2d::same(0) }, inputs)
    };
    vec![
        case("two parts", Activation::None, [64, 32], 48),
        case("two parts, the seam inside of a slice", Activation::Silu, [24, 40], 33),
        case("two parts, odd", Activation::None, [13, 6], 20),
        case("two parts, few beside many", Activation::None, [3, 1000], 9),
        case("two parts, large", Activation::None, [1280, 640], 40),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, bf16, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let same = AnyOp::from(Conv2d::same(1));
        let with = |change: &dyn Fn(&mut Conv2d)| {
            let mut op = Conv2d::same(1);
            change(&mut op);
            AnyOp::from(op)
        };
        let (x, w) = (f32([2, 5, 6, 4]), f32([8, 3, 3, 4]));
        assert_rejects(vec![
            (same.clone(), vec![], "input 0 (x) is missing"),
            (same.clone(), vec![x], "input 1 (weight) is missing"),
            (same.clone(), vec![i32([2, 5, 6, 4]), w], "expected floating point"),
            (same.clone(), vec![f32([5, 6, 4]), w], "expected [B,H,W,C]"),
            (same.clone(), vec![x, f32([8, 36])], "expected [O,kh,kw,I]"),
            (same.clone(), vec![x, f32([8, 3, 3, 2])], "takes 2 channels in each of 1 groups"),
            (with(&|op| op.groups = 3), vec![x, w], "3 groups do not divide"),
            (with(&|op| op.groups = 0), vec![x, w], "0 groups do not divide"),
            (with(&|op| op.stride = 0), vec![x, w], "stride is 0"),
            (with(&|op| op.padding = [0; 4]), vec![f32([2, 2, 6, 4]), w], "larger than the padded image"),
            (same.clone(), vec![x, w, f32([4])], "bias is f32[4], expected shape [8]"),
            (same.clone(), vec![x, w, bf16([8])], "bias is bf16[8], expected f32"),
            (same.clone(), vec![x, w, None, f32([1, 8])], "row_bias is f32[1,8], expected shape [2,8]"),
            (same.clone(), vec![x, w, None, None, x], "expected shape [2,5,6,8]"),
            (same.clone(), vec![x, w, None, None, None, f32([8])], "slope goes with PReLU"),
            (with(&|op| op.act = Activation::PRelu), vec![x, w], "slope goes with PReLU"),
            (same.clone(), vec![x, f32([8, 3, 3, 8]), None, None, None, None, x], "goes with a 1x1 convolution of every pixel"),
            (with(&|op| op.padding = [0; 4]), vec![x, f32([8, 1, 1, 8]), None, None, None, None, bf16([2, 5, 6, 4])], "does not stand beside"),
            (with(&|op| op.padding = [0; 4]), vec![x, f32([8, 1, 1, 4]), None, None, None, None, x], "takes 4 channels"),
            (same, vec![x, w, None, None, None, None, None, x], "at most 7 inputs"),
        ]);
    }
}
