//! The denoising UNet of Stable Diffusion 1.x and 2.x (Rombach et al. 2022), under the names of diffusers' `UNet2DConditionModel`.
//!
//! What depends on the prompt alone (keys and values of cross-attention) and on the timestep alone (the bias of each residual block) enters
//! as a [`Conditioning`]: computed inside, or made beforehand by [`context_keys_values`] and [`time_biases`], once instead of at every step.

use super::blocks::{
    Groups, Parts, conv3, downsample, geglu, group_norm, layer_norm, linear, linear_act, linear_add, resnet, self_attention, shaped_like,
    stacked, tokens, upsample,
};
use super::unet_config::{Level, Transformer, UnetConfig};
use crate::graph::{Builder, Value};
use crate::ops::{Activation, Attention, Heads, Linear, TimestepEmbedding};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Epsilon of the group norm before a transformer, whatever the file says of the others.
const TRANSFORMER_NORM_EPS: f32 = 1e-6;
const LAYER_NORM_EPS: f32 = 1e-5;

/// Values by their place in the model, such as `unet.mid_block.attentions.0.transformer_blocks.0.attn2`.
pub type ByPlace = BTreeMap<String, Value>;

/// What the UNet is told about the picture and the moment.
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// The prompt.
    pub context: Context,
    /// The timestep.
    pub time: Time,
}

/// The prompt, as the UNet takes it.
#[derive(Clone, Debug)]
pub enum Context {
    /// Hidden states of the text encoder, `[B,T,cross_attention_dim]`.
    Hidden(Value),
    /// Keys and values of each cross-attention side by side, `[B,T,2C]`, by its place.
    KeysValues(ByPlace),
}

/// The timestep, as the UNet takes it.
#[derive(Clone, Debug)]
pub enum Time {
    /// What [`embed_time`] gives, `[B,D]`.
    Embedding(Value),
    /// The bias of each residual block, `[B,C]`, by its place.
    Biases(ByPlace),
}

/// The predicted noise `[B,h,w,out_channels]` in `latents [B,h,w,in_channels]`; all values of the builder's type.
///
/// The builder's scope is the root of the file. Height and width may be odd: each upsampling goes to the size of the skip it meets.
pub fn unet(b: &mut Builder<'_>, config: &UnetConfig, latents: Value, conditioning: &Conditioning) -> Result<Value> {
    let layout = config.layout();
    let mut x = conv3(b, "conv_in", latents, config.block_out_channels[0])?;
    let mut skips = vec![x];
    for level in &layout.down {
        let mut b = b.scope(&level.path);
        for i in 0..level.resnets {
            x = layer(&mut b, config, level, i, x.into(), conditioning)?;
            skips.push(x);
        }
        if level.resample {
            x = downsample(&mut b, x, config.downsample_pads())?;
            skips.push(x);
        }
    }
    x = middle(&mut b.scope(&layout.middle.path), config, &layout.middle, x, conditioning)?;
    for level in &layout.up {
        let mut b = b.scope(&level.path);
        for i in 0..level.resnets {
            let skip = skips.pop().ok_or_else(|| Error::Graph(format!("`{}` finds no skip connection left", b.path())))?;
            x = layer(&mut b, config, level, i, Parts { x, beside: Some(skip) }, conditioning)?;
        }
        if level.resample {
            let next = skips.last().map_or(b.shape(x), |&skip| b.shape(skip));
            x = upsample(&mut b, x, [next[1], next[2]])?;
        }
    }
    let x = group_norm(b, "conv_norm_out", x, config.norm(), true)?;
    conv3(b, "conv_out", x, config.out_channels)
}

/// The timestep embedding `[B,D]` of `timesteps [B]` f32, with the SiLU that every residual block would apply to it.
pub fn embed_time(b: &mut Builder<'_>, config: &UnetConfig, timesteps: Value) -> Result<Value> {
    let (dim, dtype) = (config.block_out_channels[0], b.dtype());
    let waves = TimestepEmbedding { dim, flip_sin_to_cos: config.flip_sin_to_cos, freq_shift: config.freq_shift, dtype };
    let mut b = b.scope("time_embedding");
    let t = b.op(waves, &[Some(timesteps)])?;
    let t = linear_act(&mut b, "linear_1", t, config.time_width(), Activation::Silu)?;
    linear_act(&mut b, "linear_2", t, config.time_width(), Activation::Silu)
}

/// Keys and values of every cross-attention for `context [B,T,cross_attention_dim]`: `[B,T,2C]` each.
pub fn context_keys_values(b: &mut Builder<'_>, config: &UnetConfig, context: Value) -> Result<ByPlace> {
    let mut all = ByPlace::new();
    for (place, channels) in config.cross_attentions() {
        let mut b = b.scope(place);
        let value = keys_values(&mut b, context, channels)?;
        all.insert(b.path().to_owned(), value);
    }
    Ok(all)
}

/// The bias of every residual block for an `embedding [T,D]` from [`embed_time`]: `[T,C]` each.
pub fn time_biases(b: &mut Builder<'_>, config: &UnetConfig, embedding: Value) -> Result<ByPlace> {
    let mut all = ByPlace::new();
    for (place, channels) in config.residual_blocks() {
        let mut b = b.scope(place);
        let value = linear(&mut b, "time_emb_proj", embedding, channels)?;
        all.insert(b.path().to_owned(), value);
    }
    Ok(all)
}

/// A residual block and, where the level has them, the transformer after it.
fn layer(b: &mut Builder<'_>, config: &UnetConfig, level: &Level, i: usize, x: Parts, conditioning: &Conditioning) -> Result<Value> {
    let x = residual(b, config, level, i, x, conditioning)?;
    match &level.transformer {
        Some(t) => transformer(&mut b.scope(format!("attentions.{i}")), config, t, x, conditioning),
        None => Ok(x),
    }
}

/// Residual block, transformer, residual block.
fn middle(b: &mut Builder<'_>, config: &UnetConfig, level: &Level, x: Value, conditioning: &Conditioning) -> Result<Value> {
    let x = layer(b, config, level, 0, x.into(), conditioning)?;
    residual(b, config, level, 1, x.into(), conditioning)
}

fn residual(b: &mut Builder<'_>, config: &UnetConfig, level: &Level, i: usize, x: Parts, conditioning: &Conditioning) -> Result<Value> {
    let mut b = b.scope(format!("resnets.{i}"));
    let bias = match &conditioning.time {
        Time::Embedding(embedding) => linear(&mut b, "time_emb_proj", *embedding, level.channels)?,
        Time::Biases(all) => given(all, &b)?,
    };
    resnet(&mut b, x, level.channels, config.norm(), Some(bias))
}

/// diffusers' `Transformer2DModel`: norm, projection, blocks over the pixels as tokens, projection, sum with the input.
///
/// The projections of SD 1.x files are 1x1 convolutions; channels-last, that is the same linear layer.
fn transformer(b: &mut Builder<'_>, config: &UnetConfig, t: &Transformer, x: Value, conditioning: &Conditioning) -> Result<Value> {
    let channels = b.shape(x).last_axis();
    let norm = Groups { eps: TRANSFORMER_NORM_EPS, ..config.norm() };
    let h = group_norm(b, "norm", x, norm, false)?;
    let seq = tokens(b, h)?;
    let seq = linear(b, "proj_in", seq, channels)?;
    let seq = transformer_blocks(b, t, seq, conditioning)?;
    let residual = tokens(b, x)?;
    let seq = linear_add(b, "proj_out", seq, channels, residual)?;
    shaped_like(b, seq, x)
}

fn transformer_blocks(b: &mut Builder<'_>, t: &Transformer, mut seq: Value, conditioning: &Conditioning) -> Result<Value> {
    for i in 0..t.depth {
        seq = transformer_block(&mut b.scope(format!("transformer_blocks.{i}")), t.heads, seq, conditioning)?;
    }
    Ok(seq)
}

/// Self-attention, cross-attention and a GEGLU perceptron, each normed before and added to its input.
fn transformer_block(b: &mut Builder<'_>, heads: usize, x: Value, conditioning: &Conditioning) -> Result<Value> {
    let channels = b.shape(x).last_axis();
    let h = layer_norm(b, "norm1", x, LAYER_NORM_EPS)?;
    let x = {
        let mut b = b.scope("attn1");
        let qkv = stacked(&mut b, &["to_q", "to_k", "to_v"], h, 3 * channels, false)?;
        let h = self_attention(&mut b, qkv, heads, false)?;
        linear_add(&mut b, "to_out.0", h, channels, x)?
    };
    let h = layer_norm(b, "norm2", x, LAYER_NORM_EPS)?;
    let x = {
        let mut b = b.scope("attn2");
        let query = b.param("to_q.weight", [channels, channels]);
        let query = b.op(Linear::plain(), &[Some(h), Some(query)])?;
        let kv = match &conditioning.context {
            Context::Hidden(context) => keys_values(&mut b, *context, channels)?,
            Context::KeysValues(all) => given(all, &b)?,
        };
        let h = b.op(Attention { heads, causal: false, packing: Heads::PackedKv }, &[Some(query), Some(kv)])?;
        linear_add(&mut b, "to_out.0", h, channels, x)?
    };
    let h = layer_norm(b, "norm3", x, LAYER_NORM_EPS)?;
    let h = geglu(b, "ff.net.0.proj", h, 4 * channels)?;
    linear_add(b, "ff.net.2", h, channels, x)
}

fn keys_values(b: &mut Builder<'_>, context: Value, channels: usize) -> Result<Value> {
    stacked(b, &["to_k", "to_v"], context, 2 * channels, false)
}

fn given(all: &ByPlace, b: &Builder<'_>) -> Result<Value> {
    all.get(b.path()).copied().ok_or_else(|| Error::Graph(format!("nothing was made beforehand for `{}`", b.path())))
}
