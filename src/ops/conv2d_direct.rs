//! Launches of convolutions in groups, which have no use for tensor cores: depthwise, and the rest by plain loops.

use super::conv2d::Conv2d;
use super::lowering::{Columns, activation, count};
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};

kernel_params! {
    /// Of both entries of `conv2d_direct`; `leak` is the slope of LeakyReLU.
    struct Conv2dDirectParams {
        x: ptr, weight: ptr, bias: ptr, row_bias: ptr, residual: ptr, slope: ptr, y: ptr,
        pixels: u32, height: u32, width: u32, resized_height: u32, resized_width: u32, channels: u32, outputs: u32, groups: u32,
        out_height: u32, out_width: u32, kernel_height: u32, kernel_width: u32, stride: u32, top: u32, left: u32,
        chunk: u32, span: u32, leak: f32,
    }
}
static FILE: KernelFile = kernel_file!("conv2d_direct", [Conv2dDirectParams]);

/// Shared memory that every device grants unasked.
const SHARED: usize = 48 << 10;

/// The launch of `op` on types that its `infer` has accepted, for more than one group.
pub(super) fn lower(op: &Conv2d, ins: &[Option<Ty>], outs: &[Ty]) -> Result<Lowered> {
    let (Some(Some(x)), Some(Some(w)), y) = (ins.first(), ins.get(1), outs[0]) else {
        return Err(super::op_error::<Conv2d>("x and weight are required"));
    };
    count(x.shape.elements())?;
    let (pixels, outputs, taps) = (y.shape.rows(), y.shape[3], w.shape[1] * w.shape[2]);
    let depthwise = op.groups == outputs && op.groups == x.shape[3];
    // biases are f32, so that accesses of both are whole vectors
    let columns = Columns::new(&[x.dtype, DType::F32], pixels, outputs)?;
    let fitting = SHARED / (4 * taps) / columns.vector * columns.vector;
    let chunk = (columns.block[0] as usize * columns.vector).min(fitting);
    let (act, leak) = activation(op.act);
    let [resized_height, resized_width] = op.input_size(x).map(|n| n as u32);
    let params = Conv2dDirectParams {
        x: Slot::In(0),
        weight: Slot::In(1),
        bias: Slot::optional(ins, 2),
        row_bias: Slot::optional(ins, 3),
        residual: Slot::optional(ins, 4),
        slope: Slot::optional(ins, 5),
        y: Slot::Out(0),
        pixels: pixels as u32,
        height: x.shape[1] as u32,
        width: x.shape[2] as u32,
        resized_height,
        resized_width,
        channels: x.shape[3] as u32,
        outputs: outputs as u32,
        groups: op.groups as u32,
        out_height: y.shape[1] as u32,
        out_width: y.shape[2] as u32,
        kernel_height: w.shape[1] as u32,
        kernel_width: w.shape[2] as u32,
        stride: op.stride as u32,
        top: op.padding[0] as u32,
        left: op.padding[1] as u32,
        chunk: chunk as u32,
        span: columns.rows_per_block as u32,
        leak,
    };
    let kernel = |entry, vector: usize| {
        let kernel = KernelKey::new(&FILE, entry).define("T", kernel_type(x.dtype)).define("W", kernel_type(w.dtype));
        kernel.define("V", vector).define("ACT", act)
    };
    if depthwise && chunk > 0 {
        let grid = [columns.blocks, outputs.div_ceil(chunk) as u32, 1];
        let shared = (4 * taps * chunk) as u32;
        let kernel = kernel("conv2d_depthwise", columns.vector);
        return Ok(Launch { kernel, grid, block: columns.block, shared, params: params.pack() }.into());
    }
    let grid = [(pixels * outputs).div_ceil(256) as u32, 1, 1];
    Ok(Launch { kernel: kernel("conv2d_grouped", 1), grid, block: [256, 1, 1], shared: 0, params: params.pack() }.into())
}
