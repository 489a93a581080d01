//! How a convolution becomes a product of its windows with the weights.

use super::{BESIDE, Conv2d};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::ops::lowering::{activation, count};
use crate::ops::op_error;
use crate::ops::products::{Classes, Entries, Product, ProductParams};
use crate::ops::Op;
use crate::{Result, Ty};

kernel_params! {
    /// What the windows of a convolution read, and for which outputs (`kernels/include/windows.cuh`).
    pub(in crate::ops) struct Geometry {
        height: u32, width: u32, channels: u32, resized_height: u32, resized_width: u32, kernel_width: u32, stride_y: u32,
        stride_x: u32, top: i32, left: i32, out_height: u32, out_width: u32,
    }
}
kernel_params! {
    /// Of both entries of `conv2d`.
    struct Conv2dParams {
        x: ptr, beside: ptr, weight: ptr, bias: ptr, row_bias: ptr, residual: ptr, slope: ptr, y: ptr,
        product: {ProductParams}, geometry: {Geometry}, negative: f32,
    }
}
static FILE: KernelFile = kernel_file!("conv2d", [ProductParams, Geometry, Conv2dParams]);
const ENTRIES: Entries = Entries { file: &FILE, tensor: "conv2d_tensor", plain: "conv2d_plain" };

/// One launch, of a convolution without groups.
pub(super) fn launches(conv: &Conv2d, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered> {
    let [Some(x), Some(w), ..] = ins else { return Err(op_error::<Conv2d>("x and weight are required")) };
    let &[_, out_height, out_width, columns] = &*outs[0].shape else { return Err(op_error::<Conv2d>("output is not [B,h,w,O]")) };
    let (rows, channels) = (outs[0].shape.rows(), w.shape[3]);
    let (rows_per_image, depth) = (out_height * out_width, w.shape.elements() / columns);
    // the same values in the same order, read a row of a patch at a time
    let patches = patches(conv, x, w);
    let (seen, taps, step) = patches.as_ref().map_or((x, w, [conv.stride; 2]), |(x, w)| (x, w, [conv.stride, 1]));
    let aligned = taps.shape[3].is_multiple_of(8) && seen.shape[3].is_multiple_of(8);
    let (classes, types) = (Classes::ONE, [x.dtype, w.dtype]);
    let product = Product { rows, rows_per_image, classes, columns, depth, gated: false, aligned, across: [false; 2], types };
    let cut = product.cut(target, &ENTRIES)?;
    let (act, negative) = activation(conv.act);
    let params = Conv2dParams {
        x: Slot::In(0),
        weight: Slot::In(1),
        bias: Slot::optional(ins, 2),
        row_bias: Slot::optional(ins, 3),
        residual: Slot::optional(ins, 4),
        slope: Slot::optional(ins, 5),
        y: Slot::Out(0),
        beside: Slot::optional(ins, BESIDE),
        product: cut.params()?,
        geometry: Geometry::of(conv, step, seen, conv.input_size(seen), taps, &outs[0])?,
        negative,
    };
    let (of_parts, resize) = (channels > x.shape[3], resize_mode(conv, x));
    let source = |key: KernelKey| if of_parts { key.define("PARTS", 2) } else { key.define("RESIZE", resize) };
    cut.lower(&ENTRIES, params.pack(), |key| source(key.define("ACTIVATION", act)))
}

/// Image and weight of patches side by side that have few channels, as those of a kernel one pixel wide: a row of a patch is contiguous
/// in both, and counts as one pixel. None where windows lie otherwise or a row is no multiple of 16 bytes either.
fn patches(conv: &Conv2d, x: &Ty, w: &Ty) -> Option<(Ty, Ty)> {
    let &[images, height, width, channels] = &*x.shape else { return None };
    let &[outputs, kernel_height, kernel_width, of_weight] = &*w.shape else { return None };
    let beside_each_other = conv.padding == [0; 4] && conv.stride == kernel_width && width % kernel_width == 0;
    let plain = conv.groups == 1 && conv.resize.is_none() && of_weight == channels && !channels.is_multiple_of(8);
    let row = kernel_width * channels;
    (beside_each_other && plain && row.is_multiple_of(8)).then(|| {
        let image = Ty::new(x.dtype, [images, height, width / kernel_width, row]);
        (image, Ty::new(w.dtype, [outputs, kernel_height, 1, row]))
    })
}

impl Geometry {
    /// Windows of `conv` with a weight `w`, steps down and across as given, over an image `from`, seen at the size `resized`, for the
    /// pixels of `over`.
    pub(in crate::ops) fn of(conv: &Conv2d, step: [usize; 2], from: &Ty, resized: [usize; 2], w: &Ty, over: &Ty) -> Result<Self> {
        let side = |n: usize| extent::<Conv2d>(n);
        Ok(Self {
            height: side(from.shape[1])?,
            width: side(from.shape[2])?,
            channels: count(from.shape[3])?,
            resized_height: side(resized[0])?,
            resized_width: side(resized[1])?,
            kernel_width: count(w.shape[2])?,
            stride_y: side(step[0])?,
            stride_x: side(step[1])?,
            top: side(conv.padding[0])? as i32,
            left: side(conv.padding[1])? as i32,
            out_height: side(over.shape[1])?,
            out_width: side(over.shape[2])?,
        })
    }
}

/// A height, width, step or padding, of which kernels hold 16 bits with their sign.
pub(in crate::ops) fn extent<O: Op>(n: usize) -> Result<u32> {
    let fits = u32::try_from(n).ok().filter(|&n| n <= 16_000);
    fits.ok_or_else(|| op_error::<O>(format!("has an extent of {n}, a CUDA kernel holds up to 16000; run it on --device cpu")))
}

/// How kernels find pixels of x (`windows.cuh`).
pub(in crate::ops) fn resize_mode(conv: &Conv2d, x: &Ty) -> &'static str {
    let [h, w] = conv.input_size(x);
    match (h, w) {
        _ if [h, w] == [x.shape[1], x.shape[2]] => "RESIZE_NONE",
        _ if [h, w] == [2 * x.shape[1], 2 * x.shape[2]] => "RESIZE_DOUBLE",
        _ => "RESIZE_ANY",
    }
}
