//! Pictures as image towers take them: resized as Pillow does it, cropped to the middle, standardised.

use super::lowering::{count, typed};
use super::{Case, Cost, Fill, HostArray, HostIo, Ins, Op, filled};
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::pipeline::{Filter, Image, Sample, resize, taps};
use crate::{DType, Error, Result, Ty};

/// `y = factor[c] · crop(resize(x)) + offset[c]`, with the bytes that `Image.resize` of Pillow gives: a filter as wide as the reduction, columns
/// first, then rows, each rounded to bytes.
///
/// Input: `x [B,H,W,3]` f32, values from 0 to 255; others, and fractions, are rounded to the nearest byte, NaN to 0. Output: `[B,h,w,3]`
/// of `dtype`, where `crop` is `[h, w]`. It has no gradient: bytes are steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Resample {
    /// Height and width after the resize.
    pub size: [usize; 2],
    /// Height and width of the part in the middle that is kept.
    pub crop: [usize; 2],
    /// Bilinear or bicubic.
    pub filter: Filter,
    /// Multiplied with the bytes of each channel.
    pub factor: [f32; 3],
    /// Added to the product.
    pub offset: [f32; 3],
    /// Type of the output.
    pub dtype: DType,
}

impl Resample {
    /// CLIP's published preprocessing of a picture of `[height, width]`: shorter side to `side` by bicubic, the square in the middle, `mean`
    /// and `std` of values from 0 to 1.
    pub fn clip(picture: [usize; 2], side: usize, mean: [f32; 3], std: [f32; 3], dtype: DType) -> Self {
        let factor = std.map(|std| 1.0 / (255.0 * std));
        let offset = [0, 1, 2].map(|c| -mean[c] / std[c]);
        Self { size: Self::shorter_side(picture, side), crop: [side; 2], filter: Filter::Bicubic, factor, offset, dtype }
    }

    /// Height and width of a picture of `[height, width]` whose shorter side becomes `side`; the other one is rounded down.
    pub fn shorter_side([height, width]: [usize; 2], side: usize) -> [usize; 2] {
        let long = |long: usize, short: usize| (side * long / short.max(1)).max(side);
        if width <= height { [long(height, width), side] } else { [side, long(width, height)] }
    }

    /// Topmost row and leftmost column that are kept: the middle, halves to the even number.
    pub fn corner(&self) -> [usize; 2] {
        [0, 1].map(|axis| ((self.size[axis] - self.crop[axis]) as f64 / 2.0).round_ties_even() as usize)
    }

    /// The bytes of one picture, resized and cropped: plain loops over Pillow's weights, which are whole numbers, so every sum is exact.
    fn bytes(&self, picture: &[f64], [height, width]: [usize; 2]) -> Vec<f64> {
        let ([top, left], [kept_height, kept_width]) = (self.corner(), self.crop);
        let (columns, rows) = (taps(width, self.size[1], self.filter), taps(height, self.size[0], self.filter));
        let whole = |weight: &f64| f64::from(<u8 as Sample>::weight(*weight));
        let level = |sum: f64| ((sum + f64::from(1 << 21)) / f64::from(1 << 22)).floor().clamp(0.0, 255.0);
        let mut narrow = vec![0.0; height * kept_width * 3];
        for (i, value) in narrow.iter_mut().enumerate() {
            let (y, x, c) = (i / 3 / kept_width, i / 3 % kept_width, i % 3);
            let of = &columns[left + x];
            let pixels = (of.first..).map(|place| byte(picture[(y * width + place) * 3 + c]));
            *value = level(of.weights.iter().zip(pixels).map(|(weight, pixel)| whole(weight) * pixel).sum());
        }
        let mut kept = vec![0.0; kept_height * kept_width * 3];
        for (i, value) in kept.iter_mut().enumerate() {
            let (y, column) = (i / 3 / kept_width, i % (3 * kept_width));
            let of = &rows[top + y];
            let pixels = (of.first..).map(|place| narrow[place * kept_width * 3 + column]);
            *value = level(of.weights.iter().zip(pixels).map(|(weight, pixel)| whole(weight) * pixel).sum());
        }
        kept
    }

    /// Most places that one output has weights for, along an axis of `input` places.
    fn reach(&self, axis: usize, input: usize) -> usize {
        let support = match self.filter {
            Filter::Bilinear => 1,
            _ => 2,
        };
        (2 * support * input.div_ceil(self.size[axis]) + 2).min(input)
    }
}

/// Pixels are bytes; NaN is 0, as casts have it.
fn byte(value: f64) -> f64 {
    f64::from(value.round_ties_even() as u8)
}

impl Op for Resample {
    const NAME: &'static str = "resample";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.get(0, "x")?;
        ins.dtype(0, "x", DType::F32)?;
        let &[batch, _, _, 3] = &*x.shape else { return Err(ins.error(format!("x is {x}, expected [B,H,W,3]"))) };
        let [size, crop] = [self.size, self.crop];
        ins.ensure((0..2).all(|axis| 0 < crop[axis] && crop[axis] <= size[axis]), || format!("cannot keep {crop:?} of {size:?}"))?;
        ins.ensure(self.filter != Filter::Lanczos, || "resizes by the filters Bilinear and Bicubic, not by Lanczos".to_owned())?;
        ins.ensure(self.dtype.is_float(), || format!("cannot store the result as {}", self.dtype))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(self.dtype, [batch, crop[0], crop[1], 3])])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let (height, width) = (x.shape()[1], x.shape()[2]);
        let kept = x.data.chunks_exact(3 * height * width).flat_map(|picture| self.bytes(picture, [height, width]));
        let standard = |(i, v): (usize, f64)| f64::from(self.factor[i % 3]) * v + f64::from(self.offset[i % 3]);
        Ok(vec![kept.enumerate().map(standard).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let x = io.input(0)?;
        let (height, width, values) = (x.ty.shape[1], x.ty.shape[2], x.f32()?);
        let ([top, left], [kept_height, kept_width]) = (self.corner(), self.crop);
        let mut standard = Vec::with_capacity(io.out_ty(0).shape.elements());
        for picture in values.chunks_exact(3 * height * width) {
            let bytes = picture.iter().map(|v| v.round_ties_even() as u8).collect();
            let small = resize(&Image::from_pixels(width, height, bytes)?, self.size[1], self.size[0], self.filter);
            for y in 0..kept_height {
                let row = &small.pixels()[3 * ((top + y) * self.size[1] + left)..][..3 * kept_width];
                standard.extend(row.iter().enumerate().map(|(i, &v)| self.factor[i % 3].mul_add(f32::from(v), self.offset[i % 3])));
            }
        }
        let out = &mut io.outs[0];
        match self.dtype {
            DType::F32 => out.f32()?.copy_from_slice(&standard),
            DType::Bf16 => out.bf16()?.iter_mut().zip(standard).for_each(|(o, v)| *o = half::bf16::from_f32(v)),
            other => return Err(super::unsupported(other)),
        }
        Ok(())
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        Err(cx.error("has no gradient: its values are rounded to bytes".into()))
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let Some(x) = ins[0] else { return Err(super::op_error::<Self>("x is required")) };
        let (batch, [height, width], [top, left]) = (x.shape[0], [x.shape[1], x.shape[2]], self.corner());
        let [kept_height, kept_width] = self.crop;
        let passes = [Pass::new(kept_width, self.reach(1, width))?, Pass::new(1, self.reach(0, height))?];
        count(batch * height * width * 3)?;
        let params = |pass: &Pass| ResampleParams {
            x: Slot::In(0),
            bytes: Slot::Scratch(0),
            y: Slot::Out(0),
            lines: (batch * height) as u32,
            height: height as u32,
            width: width as u32,
            size_height: self.size[0] as u32,
            size_width: self.size[1] as u32,
            top: top as u32,
            left: left as u32,
            kept_height: kept_height as u32,
            kept_width: kept_width as u32,
            together: pass.together,
            reach: pass.reach,
            factor0: self.factor[0],
            factor1: self.factor[1],
            factor2: self.factor[2],
            offset0: self.offset[0],
            offset1: self.offset[1],
            offset2: self.offset[2],
        };
        let key = |entry| typed(KernelKey::new(&FILE, entry), x.dtype, outs[0].dtype).define("CUBIC", u32::from(self.filter == Filter::Bicubic));
        let [columns, rows] = &passes;
        let launches = vec![
            columns.launch(
                key("resample_columns"),
                [(kept_width as u32).div_ceil(columns.together), ((batch * height).div_ceil(LINES)) as u32, 1],
                params(columns),
            ),
            rows.launch(key("resample_rows"), [(3 * kept_width).div_ceil(THREADS) as u32, kept_height as u32, batch as u32], params(rows)),
        ];
        Ok(Lowered { launches, scratch: (batch * height * kept_width * 3).next_multiple_of(256) as u64, ..Lowered::default() })
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let Some(Some(x)) = ins.first() else { return Cost::default() };
        let (batch, height, width, [kept_height, kept_width]) = (x.shape[0], x.shape[1], x.shape[2], self.crop);
        let places = height * kept_width * self.reach(1, width) + kept_height * kept_width * self.reach(0, height);
        Cost::touching((6 * batch * places) as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let pictures = |shape: [usize; 4]| vec![filled(DType::F32, shape, Fill::Index(256))];
        let (mean, std) = ([0.48, 0.46, 0.41], [0.27, 0.26, 0.28]);
        let clip = |picture: [usize; 2], side, dtype| Self::clip(picture, side, mean, std, dtype);
        let plain = |size, crop, filter| Self { size, crop, filter, factor: [1.0; 3], offset: [0.0; 3], dtype: DType::F32 };
        vec![
            Case::new("tall to a square", clip([61, 40], 23, DType::F32), pictures([2, 61, 40, 3])),
            Case::new("wide to a square, bf16", clip([37, 90], 16, DType::Bf16), pictures([1, 37, 90, 3])),
            Case::new("larger", plain([50, 47], [49, 40], Filter::Bicubic), pictures([1, 21, 33, 3])),
            Case::new("bilinear both ways", plain([9, 71], [9, 71], Filter::Bilinear), pictures([3, 40, 30, 3])),
            Case::new("only standardised", clip([20, 20], 20, DType::F32), pictures([1, 20, 20, 3])),
            Case::new("a line to two pixels", plain([1, 2], [1, 2], Filter::Bicubic), pictures([1, 2, 3000, 3])),
            Case::new("fractions and beyond", clip([30, 31], 12, DType::F32), vec![filled(DType::F32, [1, 30, 31, 3], Fill::Uniform(-40.0, 300.0))]),
        ]
    }
}

const THREADS: usize = 256;
/// Rows of all pictures that a block of the first pass does.
const LINES: usize = 32;
/// Bytes of weights of a block.
const WEIGHTS: usize = 32 << 10;

/// How a pass holds the weights of the outputs that a block computes.
struct Pass {
    /// Outputs along the axis whose weights a block holds at once.
    together: u32,
    /// Most weights of an output.
    reach: u32,
}

impl Pass {
    fn new(outputs: usize, reach: usize) -> Result<Self> {
        let together = (WEIGHTS / (4 * reach)).min(outputs).min(32);
        if together == 0 {
            return Err(Error::Graph(format!("{reach} pixels to one are more than a CUDA block holds; run it on --device cpu")));
        }
        Ok(Self { together: together as u32, reach: reach as u32 })
    }

    fn launch(&self, kernel: KernelKey, grid: [u32; 3], params: ResampleParams) -> Launch {
        // a weight for each place, the first place and the number of places of each output
        let shared = 4 * self.together * (self.reach + 2);
        Launch { kernel, grid, block: [THREADS as u32, 1, 1], shared, params: params.pack() }
    }
}

kernel_params! {
    /// Of both entries.
    struct ResampleParams {
        x: ptr, bytes: ptr, y: ptr, lines: u32, height: u32, width: u32, size_height: u32, size_width: u32, top: u32, left: u32,
        kept_height: u32, kept_width: u32, together: u32, reach: u32, factor0: f32, factor1: f32, factor2: f32, offset0: f32, offset1: f32,
        offset2: f32
    }
}
static FILE: KernelFile = kernel_file!("resample", [ResampleParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    fn op(size: [usize; 2], crop: [usize; 2], filter: Filter, dtype: DType) -> AnyOp {
        Resample { size, crop, filter, factor: [1.0; 3], offset: [0.0; 3], dtype }.into()
    }

    #[test]
    fn bad_inputs_are_refused() {
        let good = || op([4, 4], [2, 2], Filter::Bilinear, DType::F32);
        let x = || vec![f32([1, 8, 8, 3])];
        assert_rejects(vec![
            (good(), vec![], "input 0 (x) is missing"),
            (good(), vec![i32([1, 8, 8, 3])], "expected f32"),
            (good(), vec![f32([1, 8, 8, 4])], "expected [B,H,W,3]"),
            (good(), vec![f32([1, 0, 8, 3])], "has no elements"),
            (op([4, 4], [5, 2], Filter::Bilinear, DType::F32), x(), "cannot keep [5, 2] of [4, 4]"),
            (op([4, 4], [0, 2], Filter::Bilinear, DType::F32), x(), "cannot keep"),
            (op([4, 4], [2, 2], Filter::Lanczos, DType::F32), x(), "not by Lanczos"),
            (op([4, 4], [2, 2], Filter::Bicubic, DType::I32), x(), "cannot store the result as i32"),
            (good(), vec![f32([1, 8, 8, 3]); 2], "at most 1 inputs"),
        ]);
    }

    #[test]
    fn the_middle_is_kept() {
        let of = |size, crop| Resample { size, crop, ..Resample::clip([1, 1], 1, [0.0; 3], [1.0; 3], DType::F32) }.corner();
        assert_eq!((of([9, 4], [4, 4]), of([7, 5], [4, 4])), ([2, 0], [2, 0]));
        assert_eq!(Resample::shorter_side([61, 40], 20), [30, 20]);
        assert_eq!(Resample::shorter_side([40, 61], 20), [20, 30]);
    }

    #[test]
    fn a_picture_narrower_than_its_reach_is_refused_only_where_a_block_cannot_hold_it() {
        assert!(Pass::new(10, 8192).is_ok_and(|pass| pass.together == 1));
        assert!(Pass::new(10, 8193).is_err());
    }
}
