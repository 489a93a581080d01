//! Launches of the gradients of linear layers, convolutions and attention.

use super::attention::{Span, row_bytes};
use super::conv2d::lower::{Geometry, extent, resize_mode};
use super::lowering::{activation, count};
use super::products::{Classes, Entries, Product, ProductParams, rows_per_image};
use super::{Activation, Attention, Conv2d, Conv2dGrad, LinearGrad, op_error};
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};

kernel_params! {
    /// Of both entries of `linear_grad`.
    struct LinearGradParams { a: ptr, b: ptr, bias: ptr, dy: ptr, out: ptr, product: {ProductParams}, negative: f32 }
}
static LINEAR: KernelFile = kernel_file!("linear_grad", [ProductParams, LinearGradParams]);
const LINEAR_ENTRIES: Entries = Entries { file: &LINEAR, tensor: "linear_grad_tensor", plain: "linear_grad_plain" };

/// Launches of one gradient of a linear layer.
pub(super) fn linear(op: &LinearGrad, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered> {
    let [Some(a), Some(b), ..] = ins else { return Err(op_error::<LinearGrad>("two inputs are required")) };
    let (wide_a, wide_b, m) = (a.shape.last_axis(), b.shape.last_axis(), a.shape.rows());
    let (part, rows, depth, columns) = match op {
        LinearGrad::Sum { .. } => ("SUM", m, wide_b, b.shape[0]),
        LinearGrad::Input => ("INPUT", m, wide_a, wide_b),
        LinearGrad::Weight => ("WEIGHT", wide_a, m, wide_b),
    };
    let (act, gated) = if let LinearGrad::Sum { act, gated } = *op { (act, gated) } else { (Activation::None, false) };
    let product = Product {
        rows,
        rows_per_image: if part == "WEIGHT" { rows } else { rows_per_image(a) },
        classes: Classes::ONE,
        columns: if gated { columns / 2 } else { columns },
        depth,
        gated,
        aligned: wide_a.is_multiple_of(8) && wide_b.is_multiple_of(8),
        across: [part == "WEIGHT", part != "SUM"],
        types: [a.dtype, b.dtype],
    };
    let cut = product.cut(target, &LINEAR_ENTRIES)?;
    let (act, negative) = activation(act);
    let params = LinearGradParams {
        a: Slot::In(0),
        b: Slot::In(1),
        bias: Slot::optional(ins, 2),
        dy: Slot::optional(ins, 3),
        out: Slot::Out(0),
        product: cut.params()?,
        negative,
    };
    let (out, gated) = (kernel_type(outs[0].dtype), u8::from(gated));
    let special = |key: KernelKey| key.define("PART", part).define("OUT", out).define("ACTIVATION", act).define("GATED", gated);
    cut.lower(&LINEAR_ENTRIES, params.pack(), special)
}

kernel_params! {
    /// Of both entries of `conv2d_grad`. The geometry is that of what is gathered: dz for the input, x for the weight. `class_tiles` are
    /// rows of tiles that each class of pixels has.
    struct Conv2dGradParams {
        dz: ptr, other: ptr, out: ptr, product: {ProductParams}, geometry: {Geometry}, kernel_height: u32, class_tiles: u32,
    }
}
static CONV2D: KernelFile = kernel_file!("conv2d_grad", [ProductParams, Geometry, Conv2dGradParams]);
const CONV2D_ENTRIES: Entries = Entries { file: &CONV2D, tensor: "conv2d_grad_tensor", plain: "conv2d_grad_plain" };

/// Launches of one gradient of a convolution.
pub(super) fn conv2d(op: &Conv2dGrad, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered> {
    let (Conv2dGrad::Input { conv, .. } | Conv2dGrad::Weight { conv, .. }) = op;
    let [Some(dz), Some(other)] = ins else { return Err(op_error::<Conv2dGrad>("two inputs are required")) };
    let of_input = matches!(op, Conv2dGrad::Input { .. });
    let (x, w) = if of_input { (outs[0], *other) } else { (*other, outs[0]) };
    if conv.groups > 1 {
        return grouped(conv, of_input, [dz, &x, &w], outs[0].dtype);
    }
    let (outputs, channels, stride) = (w.shape[0], w.shape[3], if of_input { conv.stride } else { 1 });
    // of the class of pixels that most of them reach
    let taps = w.shape[1].div_ceil(stride) * w.shape[2].div_ceil(stride);
    let [rows, depth, columns] =
        if of_input { [x.shape.rows(), taps * outputs, channels] } else { [outputs, dz.shape.rows(), taps * channels] };
    let pixels = |step: usize| x.shape[1].div_ceil(step) * x.shape[2].div_ceil(step);
    let product = Product {
        rows,
        rows_per_image: if of_input { pixels(1) } else { rows },
        classes: if stride > 1 { Classes { count: stride * stride, image: pixels(1), each: pixels(stride) } } else { Classes::ONE },
        columns,
        depth,
        gated: false,
        aligned: outputs.is_multiple_of(8) && channels.is_multiple_of(8),
        across: [!of_input, true],
        types: [dz.dtype, other.dtype],
    };
    let cut = product.cut(target, &CONV2D_ENTRIES)?;
    // what is gathered, and over whose pixels
    let (from, over) = if of_input { (dz, &x) } else { (&x, dz) };
    let resized = if of_input { [from.shape[1], from.shape[2]] } else { conv.input_size(&x) };
    let params = Conv2dGradParams {
        dz: Slot::In(0),
        other: Slot::In(1),
        out: Slot::Out(0),
        product: cut.params()?,
        geometry: Geometry::of(conv, [conv.stride; 2], from, resized, &w, over)?,
        kernel_height: count(w.shape[1])?,
        class_tiles: cut.class_tiles()?,
    };
    let (part, out) = (if of_input { "INPUT" } else { "WEIGHT" }, kernel_type(outs[0].dtype));
    let resize = if of_input { "RESIZE_NONE" } else { resize_mode(conv, &x) };
    let special = |key: KernelKey| key.define("PART", part).define("OUT", out).define("RESIZE", resize).define("STRIDE", stride);
    cut.lower(&CONV2D_ENTRIES, params.pack(), special)
}

kernel_params! {
    /// Of both entries of `conv2d_grad_grouped`.
    struct Conv2dGradGroupedParams {
        dz: ptr, other: ptr, out: ptr,
        count: u32, pixels: u32, height: u32, width: u32, resized_height: u32, resized_width: u32, channels: u32, outputs: u32, groups: u32,
        out_height: u32, out_width: u32, kernel_height: u32, kernel_width: u32, stride: u32, top: u32, left: u32,
    }
}
static GROUPED: KernelFile = kernel_file!("conv2d_grad_grouped", [Conv2dGradGroupedParams]);

/// The gradient of a convolution in groups, of types dz, x, w.
fn grouped(conv: &Conv2d, of_input: bool, [dz, x, w]: [&Ty; 3], out: DType) -> Result<Lowered> {
    let values = if of_input { x.shape.elements() } else { w.shape.elements() };
    let side = |n: usize| extent::<Conv2dGrad>(n);
    let [resized_height, resized_width] = if of_input { [x.shape[1], x.shape[2]] } else { conv.input_size(x) };
    let params = Conv2dGradGroupedParams {
        dz: Slot::In(0),
        other: Slot::In(1),
        out: Slot::Out(0),
        count: count(values)?,
        pixels: count(dz.shape.rows())?,
        height: side(x.shape[1])?,
        width: side(x.shape[2])?,
        resized_height: side(resized_height)?,
        resized_width: side(resized_width)?,
        channels: count(x.shape[3])?,
        outputs: count(w.shape[0])?,
        groups: count(conv.groups)?,
        out_height: side(dz.shape[1])?,
        out_width: side(dz.shape[2])?,
        kernel_height: side(w.shape[1])?,
        kernel_width: side(w.shape[2])?,
        stride: side(conv.stride)?,
        top: side(conv.padding[0])?,
        left: side(conv.padding[1])?,
    };
    let (entry, threads, other) =
        if of_input { ("conv2d_grad_grouped_input", values, w) } else { ("conv2d_grad_grouped_weight", values * 32, x) };
    let kernel = KernelKey::new(&GROUPED, entry).define("T", kernel_type(dz.dtype));
    let kernel = kernel.define("W", kernel_type(other.dtype)).define("OUT", kernel_type(out));
    Ok(Launch { kernel, grid: [count(threads)?.div_ceil(256), 1, 1], block: [256, 1, 1], shared: 0, params: params.pack() }.into())
}

kernel_params! {
    /// Of all entries of `attention_grad`. `factor` is 1 / √head_dim, `scale` the same over ln 2.
    struct AttentionGradParams {
        q: ptr, k: ptr, v: ptr, y: ptr, dy: ptr, dq: ptr, dk: ptr, dv: ptr, log_sum: ptr, delta: ptr,
        queries: u32, keys: u32, heads: u32, head_dim: u32, q_pitch: u32, kv_pitch: u32, scale: f32, factor: f32,
    }
}
static ATTENTION: KernelFile = kernel_file!("attention_grad", [AttentionGradParams]);

/// Launches of the gradients of attention: those of the queries with each row's sums, then those of keys and values.
pub(super) fn attention(forward: &Attention, ins: &[Option<Ty>]) -> Result<Lowered> {
    let tensors = ins.len() - 2;
    let Some(Some(y)) = ins.get(tensors) else { return Err(op_error::<Attention>("y is required")) };
    let &[images, queries, channels] = &*y.shape else { return Err(op_error::<Attention>("y is not [B,S,C]")) };
    let (dtype, head_dim) = (y.dtype, channels / forward.heads);
    let [q, k, v] = forward.spans(|i| ins.get(i).copied().flatten().map_or(0, |t| t.shape[1]), channels);
    for ty in ins.iter().flatten() {
        count(ty.shape.elements())?;
    }
    let at = |s: Span| (s.column * dtype.size()) as u64;
    let rows = (images * forward.heads * queries * 4).next_multiple_of(256) as u64;
    let params = AttentionGradParams {
        q: Slot::In(q.input).at(at(q)),
        k: Slot::In(k.input).at(at(k)),
        v: Slot::In(v.input).at(at(v)),
        y: Slot::In(tensors),
        dy: Slot::In(tensors + 1),
        dq: Slot::Out(q.input).at(at(q)),
        dk: Slot::Out(k.input).at(at(k)),
        dv: Slot::Out(v.input).at(at(v)),
        log_sum: Slot::Scratch(0),
        delta: Slot::Scratch(rows),
        queries: count(queries)?,
        keys: count(k.rows)?,
        heads: count(forward.heads)?,
        head_dim: count(head_dim)?,
        q_pitch: count(q.stride)?,
        kv_pitch: count(k.stride)?,
        scale: std::f32::consts::LOG2_E / (head_dim as f32).sqrt(),
        factor: 1.0 / (head_dim as f32).sqrt(),
    };
    let plain = dtype == DType::F32 || head_dim > 128;
    if head_dim > 512 {
        return Err(op_error::<Attention>(format!("has no CUDA gradient for heads of {head_dim} values, only up to 512")));
    }
    let (entries, own, shared, defines) = if plain {
        (["attention_grad_queries_plain", "attention_grad_keys_plain"], 4, 0, vec![("PLAIN", 1), ("HEAD", head_dim.next_multiple_of(32))])
    } else {
        let head = head_dim.next_multiple_of(16);
        let (step, stages) = if head <= 64 { (64, 2) } else { (32, 2) };
        let shared = row_bytes(head) * (2 * 64 + 2 * stages * step);
        (["attention_grad_queries", "attention_grad_keys"], 64, shared, vec![("HEAD", head), ("STAGE_ROWS", step), ("STAGES", stages)])
    };
    let launch = |entry, rows: usize| {
        let key = KernelKey::new(&ATTENTION, entry).define("T", kernel_type(dtype));
        let key = key.define("ALIGNED", u8::from(head_dim.is_multiple_of(8))).define("CAUSAL", u8::from(forward.causal));
        let kernel = defines.iter().fold(key, |key, &(name, value)| key.define(name, value));
        let grid = [rows.div_ceil(own) as u32, params.heads, images as u32];
        Launch { kernel, grid, block: [128, 1, 1], shared: shared as u32, params: params.pack() }
    };
    Ok(Lowered::new(vec![launch(entries[0], queries), launch(entries[1], k.rows)], 2 * rows))
}
