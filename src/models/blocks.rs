//! Layers that several networks share.

use crate::graph::{Builder, Value};
use crate::ops::{Activation, Attention, Concat, Conv2d, GroupNorm, Heads, LayerNorm, Linear, Reshape};
use crate::{DType, Result};

/// `x · Wᵀ + bias` with `name.weight [out, in]` and `name.bias`.
pub(crate) fn linear(b: &mut Builder<'_>, name: &str, x: Value, out: usize) -> Result<Value> {
    dense(b, name, x, out, Linear::plain(), None)
}

/// [`linear`], then an activation.
pub(crate) fn linear_act(b: &mut Builder<'_>, name: &str, x: Value, out: usize, act: Activation) -> Result<Value> {
    dense(b, name, x, out, Linear::with(act), None)
}

/// [`linear`], then the sum with a residual.
pub(crate) fn linear_add(b: &mut Builder<'_>, name: &str, x: Value, out: usize, residual: Value) -> Result<Value> {
    dense(b, name, x, out, Linear::plain(), Some(residual))
}

/// GEGLU with `name.weight [2·out, in]`: values in the first half, gates in the second.
pub(crate) fn geglu(b: &mut Builder<'_>, name: &str, x: Value, out: usize) -> Result<Value> {
    dense(b, name, x, out, Linear::geglu(), None)
}

fn dense(b: &mut Builder<'_>, name: &str, x: Value, out: usize, op: Linear, residual: Option<Value>) -> Result<Value> {
    let mut b = b.scope(name);
    let rows = if op.gated { 2 * out } else { out };
    let features = b.shape(x).last_axis();
    let (weight, bias) = (b.param("weight", [rows, features]), b.param_f32("bias", [rows]));
    b.op(op, &[Some(x), Some(weight), Some(bias), residual])
}

/// Several projections of one value side by side in the last axis: the tensors `NAME.weight` stacked, `out` rows in all.
pub(crate) fn stacked(b: &mut Builder<'_>, names: &[&str], x: Value, out: usize, bias: bool) -> Result<Value> {
    let all = |part: &str| names.iter().map(|n| format!("{n}.{part}")).collect::<Vec<_>>();
    let (weights, biases) = (all("weight"), all("bias"));
    fn refs(names: &[String]) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }
    let features = b.shape(x).last_axis();
    let weight = b.param_stacked(&refs(&weights), None, [out, features]);
    let bias = bias.then(|| b.param_stacked(&refs(&biases), Some(DType::F32), [out]));
    b.op(Linear::plain(), &[Some(x), Some(weight), bias])
}

/// What follows the sum of a convolution.
#[derive(Clone, Copy, Default)]
pub(crate) struct After {
    /// `[B,O]`, added to every pixel of an image.
    pub(crate) row_bias: Option<Value>,
    /// `[B,h,w,O]`
    pub(crate) residual: Option<Value>,
}

/// What a norm or a 1x1 convolution reads: one value, or the channels of a second one after those of the first.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) x: Value,
    pub(crate) beside: Option<Value>,
}

impl From<Value> for Parts {
    fn from(x: Value) -> Self {
        Self { x, beside: None }
    }
}

impl Parts {
    fn channels(self, b: &Builder<'_>) -> usize {
        b.shape(self.x).last_axis() + self.beside.map_or(0, |second| b.shape(second).last_axis())
    }
}

/// A convolution with `name.weight [out,in,k,k]` and `name.bias`.
pub(crate) fn conv(b: &mut Builder<'_>, name: &str, x: Value, out: usize, kernel: usize, op: Conv2d, after: After) -> Result<Value> {
    let mut b = b.scope(name);
    let channels = b.shape(x).last_axis();
    let weight = b.param_conv("weight", [out, kernel, kernel, channels]);
    let bias = b.param_f32("bias", [out]);
    b.op(op, &[Some(x), Some(weight), Some(bias), after.row_bias, after.residual])
}

/// A 3x3 convolution of stride 1 that keeps the size.
pub(crate) fn conv3(b: &mut Builder<'_>, name: &str, x: Value, out: usize) -> Result<Value> {
    conv(b, name, x, out, 3, Conv2d::same(1), After::default())
}

/// A 1x1 convolution.
pub(crate) fn conv1(b: &mut Builder<'_>, name: &str, x: impl Into<Parts>, out: usize) -> Result<Value> {
    let (mut b, parts) = (b.scope(name), x.into());
    let channels = parts.channels(&b);
    let (weight, bias) = (b.param_conv("weight", [out, 1, 1, channels]), b.param_f32("bias", [out]));
    let mut inputs = vec![Some(parts.x), Some(weight), Some(bias)];
    if parts.beside.is_some() {
        inputs.extend([None, None, None, parts.beside]);
    }
    b.op(Conv2d::same(0), &inputs)
}

/// Halves the image with a 3x3 convolution of stride 2; `padding` is top, left, bottom, right.
pub(crate) fn downsample(b: &mut Builder<'_>, x: Value, padding: [usize; 4]) -> Result<Value> {
    let channels = b.shape(x).last_axis();
    conv(b, "downsamplers.0.conv", x, channels, 3, Conv2d { stride: 2, padding, ..Conv2d::same(1) }, After::default())
}

/// Brings the image to a height and width by its nearest pixels, then a 3x3 convolution.
pub(crate) fn upsample(b: &mut Builder<'_>, x: Value, size: [usize; 2]) -> Result<Value> {
    let channels = b.shape(x).last_axis();
    conv(b, "upsamplers.0.conv", x, channels, 3, Conv2d { resize: Some(size), ..Conv2d::same(1) }, After::default())
}

/// Layer norm with `name.weight` and `name.bias`.
pub(crate) fn layer_norm(b: &mut Builder<'_>, name: &str, x: Value, eps: f32) -> Result<Value> {
    let mut b = b.scope(name);
    let features = b.shape(x).last_axis();
    let (weight, bias) = (b.param_f32("weight", [features]), b.param_f32("bias", [features]));
    b.op(LayerNorm { eps }, &[Some(x), Some(weight), Some(bias)])
}

/// Number of groups and epsilon of group norms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Groups {
    pub(crate) groups: usize,
    pub(crate) eps: f32,
}

/// Group norm with `name.weight` and `name.bias`, and a SiLU if asked for.
pub(crate) fn group_norm(b: &mut Builder<'_>, name: &str, x: impl Into<Parts>, norm: Groups, silu: bool) -> Result<Value> {
    let (mut b, parts) = (b.scope(name), x.into());
    let channels = parts.channels(&b);
    let (weight, bias) = (b.param_f32("weight", [channels]), b.param_f32("bias", [channels]));
    let mut inputs = vec![Some(parts.x), Some(weight), Some(bias)];
    inputs.extend(parts.beside.map(Some));
    b.op(GroupNorm { groups: norm.groups, eps: norm.eps, silu }, &inputs)
}

/// The residual block of UNet and VAE: norm, SiLU, conv, twice; `time_bias [B,out]` is added after the first convolution.
pub(crate) fn resnet(b: &mut Builder<'_>, x: impl Into<Parts>, out: usize, norm: Groups, time_bias: Option<Value>) -> Result<Value> {
    let x = x.into();
    let h = group_norm(b, "norm1", x, norm, true)?;
    let h = conv(b, "conv1", h, out, 3, Conv2d::same(1), After { row_bias: time_bias, residual: None })?;
    let h = group_norm(b, "norm2", h, norm, true)?;
    let shortcut = match x.beside {
        _ if x.channels(b) != out => conv1(b, "conv_shortcut", x, out)?,
        Some(second) => concat(b, &[x.x, second])?,
        None => x.x,
    };
    conv(b, "conv2", h, out, 3, Conv2d::same(1), After { row_bias: None, residual: Some(shortcut) })
}

/// `[B,H,W,C]` seen as `[B,HW,C]`.
pub(crate) fn tokens(b: &mut Builder<'_>, x: Value) -> Result<Value> {
    let shape = b.shape(x);
    let rows = shape.rows() / shape[0].max(1);
    b.op(Reshape { shape: [shape[0], rows, shape.last_axis()].into() }, &[Some(x)])
}

/// `x` with the shape of `like`, which has as many elements.
pub(crate) fn shaped_like(b: &mut Builder<'_>, x: Value, like: Value) -> Result<Value> {
    let shape = b.shape(like);
    b.op(Reshape { shape }, &[Some(x)])
}

/// Values side by side along the last axis.
pub(crate) fn concat(b: &mut Builder<'_>, parts: &[Value]) -> Result<Value> {
    let inputs: Vec<_> = parts.iter().copied().map(Some).collect();
    b.op(Concat { count: parts.len() }, &inputs)
}

/// Self-attention over q, k and v packed in the last axis.
pub(crate) fn self_attention(b: &mut Builder<'_>, qkv: Value, heads: usize, causal: bool) -> Result<Value> {
    b.op(Attention { heads, causal, packing: Heads::PackedQkv }, &[Some(qkv)])
}

/// Names inside one block of a transformer encoder.
pub(crate) struct BlockNames {
    pub(crate) norm1: &'static str,
    /// One fused projection or q, k and v.
    pub(crate) qkv: &'static [&'static str],
    pub(crate) out: &'static str,
    pub(crate) norm2: &'static str,
    pub(crate) fc1: &'static str,
    pub(crate) fc2: &'static str,
}

/// transformers' CLIP, text and vision.
pub(crate) const CLIP_NAMES: BlockNames = BlockNames {
    norm1: "layer_norm1",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    out: "self_attn.out_proj",
    norm2: "layer_norm2",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
};

/// A pre-norm transformer block: attention, then a two-layer perceptron, each added to its input.
pub(crate) struct EncoderBlock<'a> {
    pub(crate) names: &'a BlockNames,
    pub(crate) heads: usize,
    pub(crate) inner: usize,
    pub(crate) act: Activation,
    pub(crate) eps: f32,
    pub(crate) causal: bool,
    pub(crate) qkv_bias: bool,
}

impl EncoderBlock<'_> {
    /// Adds the block to the graph; `x [B,S,C]`.
    pub(crate) fn build(&self, b: &mut Builder<'_>, x: Value) -> Result<Value> {
        let width = b.shape(x).last_axis();
        let h = layer_norm(b, self.names.norm1, x, self.eps)?;
        let qkv = stacked(b, self.names.qkv, h, 3 * width, self.qkv_bias)?;
        let h = self_attention(b, qkv, self.heads, self.causal)?;
        let x = linear_add(b, self.names.out, h, width, x)?;
        let h = layer_norm(b, self.names.norm2, x, self.eps)?;
        let h = linear_act(b, self.names.fc1, h, self.inner, self.act)?;
        linear_add(b, self.names.fc2, h, width, x)
    }
}
