//! Convolution of channels-last images, with everything that usually follows it.

use super::host::by_reference;
use super::{Activation, Case, Cost, HostArray, HostIo, Ins, Op};
use crate::device::cpu::PackSpec;
use crate::{DType, Result, Ty};

/// `y = act(conv(x) + bias + row_bias + residual)`.
///
/// Inputs: `x [B,H,W,C]`, `weight [O,kh,kw,C/groups]`, `bias [O]` f32 (optional), `row_bias [B,O]` added to every pixel of an image
/// (optional, the type of x: the time embedding), `residual [B,h,w,O]` (optional, the type of x), `slope [O]` f32 (PReLU only).
/// Output: `[B,h,w,O]` of x's type.
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
        let (x, w) = (ins.float(0, "x")?, ins.float(1, "weight")?);
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
        ins.at_most(6)?;
        Ok(vec![out])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x), Some(w), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("x and weight are required"));
        };
        let extra = |i: usize| rest.get(i).and_then(Option::as_ref).map(|a| a.data.as_slice());
        let (bias, row_bias, residual, slope) = (extra(0), extra(1), extra(2), extra(3));
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
        by_reference(self, io)
    }

    fn packing(&self, _input: usize, _ins: &[Option<Ty>]) -> Option<PackSpec> {
        None
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let window = ins.get(1).copied().flatten().map_or(0, |w| w.shape.elements() / w.shape[0].max(1));
        Cost::touching(2 * (window * outs[0].shape.elements()) as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}

impl Conv2d {
    /// Sum over the window of one output `[b, oy, ox, o]`.
    fn window(&self, x: &HostArray, w: &HostArray, [b, oy, ox, o]: [usize; 4], group: usize) -> f64 {
        let &[_, h, width, c] = &*x.shape() else { return f64::NAN };
        let &[_, kh, kw, cg] = &*w.shape() else { return f64::NAN };
        let [rh, rw] = self.input_size(&x.ty);
        let mut sum = 0.0;
        for ky in 0..kh {
            let Some(iy) = (oy * self.stride + ky).checked_sub(self.padding[0]).filter(|&y| y < rh) else { continue };
            for kx in 0..kw {
                let Some(ix) = (ox * self.stride + kx).checked_sub(self.padding[1]).filter(|&x| x < rw) else { continue };
                // nearest neighbour, as torch computes it: floor(i * in / out)
                let (sy, sx) = (iy * h / rh, ix * width / rw);
                let xs = &x.data[((b * h + sy) * width + sx) * c + group * cg..][..cg];
                let ws = &w.data[((o * kh + ky) * kw + kx) * cg..][..cg];
                sum += xs.iter().zip(ws).map(|(a, b)| a * b).sum::<f64>();
            }
        }
        sum
    }
}
