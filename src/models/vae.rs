//! The autoencoder between pictures and latents, under the names of diffusers' `AutoencoderKL`.

use super::blocks::{
    Groups, conv1, conv3, downsample, group_norm, linear_add, resnet, self_attention, shaped_like, stacked, tokens, upsample,
};
use super::config::{ConfigFile, LAYERS, WIDTH};
use crate::Result;
use crate::graph::{Builder, Value};
use crate::ops::{Reshape, Scale, SelectRows};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Epsilon of every group norm.
const EPS: f32 = 1e-6;
/// Most levels of a network: latents this much smaller than pictures are of no use.
const LEVELS: usize = 8;
/// Range of the logarithm of the variance.
const LOGVAR: [f32; 2] = [-30.0, 20.0];

/// `vae/config.json`. Absent keys mean what they mean in diffusers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a decoded picture.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level, from the picture inwards.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Groups of all group norms.
    pub norm_num_groups: usize,
    /// Latents are multiplied by it after encoding, so that the sampler sees unit variance.
    pub scaling_factor: f32,
    /// A 1x1 convolution after the encoder.
    pub use_quant_conv: bool,
    /// A 1x1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Attention over all pixels in the middle.
    pub mid_block_add_attention: bool,
    /// The values leave the range of f16. Other than in diffusers absent means no: pipelines of Stable Diffusion 1 and 2 do not look at it.
    pub force_upcast: bool,
}

impl Default for VaeConfig {
    /// The defaults of diffusers: one level, as it happens.
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            layers_per_block: 1,
            norm_num_groups: 32,
            scaling_factor: 0.182_15,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            force_upcast: false,
        }
    }
}

impl VaeConfig {
    /// The autoencoder of Stable Diffusion 1.x and 2.x.
    pub fn sd21() -> Self {
        Self { block_out_channels: vec![128, 256, 512, 512], layers_per_block: 2, ..Self::default() }
    }

    /// Reads the text of `file`. Options that would change the network and are not implemented are refused by name.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let json = ConfigFile::parse(file, text)?;
        json.class("_class_name", &["AutoencoderKL"])?;
        json.class("act_fn", &["silu", "swish"])?;
        json.only(&[("shift_factor", Json::Null), ("latents_mean", Json::Null), ("latents_std", Json::Null)])?;
        let config: Self = json.read()?;
        let levels = config.block_out_channels.len();
        json.ensure((1..=LEVELS).contains(&levels), || format!("block_out_channels has {levels} levels; supported: 1 to {LEVELS}"))?;
        json.sizes(&[
            ("in_channels", config.in_channels, WIDTH),
            ("out_channels", config.out_channels, WIDTH),
            ("latent_channels", config.latent_channels, WIDTH),
            ("layers_per_block", config.layers_per_block, LAYERS),
        ])?;
        for (key, class) in [("down_block_types", json!("DownEncoderBlock2D")), ("up_block_types", json!("UpDecoderBlock2D"))] {
            json.only(&[(key, json!(vec![class; levels]))])?;
        }
        let groups = config.norm_num_groups;
        for channels in &config.block_out_channels {
            json.sizes(&[("block_out_channels", *channels, WIDTH)])?;
            json.ensure(groups > 0 && channels.is_multiple_of(groups), || {
                format!("{channels} channels do not split into norm_num_groups {groups}")
            })?;
        }
        json.ensure(config.scaling_factor.is_finite() && config.scaling_factor > 0.0, || {
            format!("scaling_factor is {}", config.scaling_factor)
        })?;
        Ok(config)
    }

    /// Pixels along one side of a latent: 8 for Stable Diffusion.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    fn norm(&self) -> Groups {
        Groups { groups: self.norm_num_groups, eps: EPS }
    }

    fn deepest(&self) -> usize {
        self.block_out_channels.last().copied().unwrap_or_default()
    }
}

/// Mean and logarithm of the variance, `[B,h,w,latent_channels]` each and not scaled, of `image [B,H,W,3]` with values from −1 to 1.
///
/// Height and width should be multiples of [`VaeConfig::factor`]; other sizes lose their last rows and columns.
pub fn vae_encode(b: &mut Builder<'_>, config: &VaeConfig, image: Value) -> Result<(Value, Value)> {
    let moments = {
        let mut b = b.scope("encoder");
        let mut x = conv3(&mut b, "conv_in", image, config.block_out_channels[0])?;
        for (i, &channels) in config.block_out_channels.iter().enumerate() {
            let mut b = b.scope(format!("down_blocks.{i}"));
            x = resnets(&mut b, config, x, channels, config.layers_per_block)?;
            if i + 1 < config.block_out_channels.len() {
                x = downsample(&mut b, x, [0, 0, 1, 1])?;
            }
        }
        x = middle(&mut b.scope("mid_block"), config, x)?;
        x = group_norm(&mut b, "conv_norm_out", x, config.norm(), true)?;
        conv3(&mut b, "conv_out", x, 2 * config.latent_channels)?
    };
    let moments = if config.use_quant_conv { conv1(b, "quant_conv", moments, 2 * config.latent_channels)? } else { moments };
    let mean = half(b, moments, 0)?;
    let logvar = half(b, moments, 1)?;
    let clamp = Scale::clamp(LOGVAR[0], LOGVAR[1], b.ty(logvar).dtype);
    Ok((mean, b.op(clamp, &[Some(logvar)])?))
}

/// The picture `[B,H,W,3]`, values mostly from −1 to 1 and not clamped, of `latents [B,h,w,latent_channels]` as the sampler leaves them.
pub fn vae_decode(b: &mut Builder<'_>, config: &VaeConfig, latents: Value) -> Result<Value> {
    let dtype = b.dtype();
    let mut x = b.op(Scale::by(1.0 / config.scaling_factor, dtype), &[Some(latents)])?;
    if config.use_post_quant_conv {
        x = conv1(b, "post_quant_conv", x, config.latent_channels)?;
    }
    let mut b = b.scope("decoder");
    x = conv3(&mut b, "conv_in", x, config.deepest())?;
    x = middle(&mut b.scope("mid_block"), config, x)?;
    for (i, &channels) in config.block_out_channels.iter().rev().enumerate() {
        let mut b = b.scope(format!("up_blocks.{i}"));
        x = resnets(&mut b, config, x, channels, config.layers_per_block + 1)?;
        if i + 1 < config.block_out_channels.len() {
            let size = b.shape(x);
            x = upsample(&mut b, x, [2 * size[1], 2 * size[2]])?;
        }
    }
    x = group_norm(&mut b, "conv_norm_out", x, config.norm(), true)?;
    conv3(&mut b, "conv_out", x, config.out_channels)
}

fn resnets(b: &mut Builder<'_>, config: &VaeConfig, mut x: Value, channels: usize, count: usize) -> Result<Value> {
    for i in 0..count {
        x = resnet(&mut b.scope(format!("resnets.{i}")), x, channels, config.norm(), None)?;
    }
    Ok(x)
}

fn middle(b: &mut Builder<'_>, config: &VaeConfig, x: Value) -> Result<Value> {
    let channels = config.deepest();
    let mut x = resnet(&mut b.scope("resnets.0"), x, channels, config.norm(), None)?;
    if config.mid_block_add_attention {
        x = attention(&mut b.scope("attentions.0"), config, x)?;
    }
    resnet(&mut b.scope("resnets.1"), x, channels, config.norm(), None)
}

/// One head over all pixels.
fn attention(b: &mut Builder<'_>, config: &VaeConfig, x: Value) -> Result<Value> {
    let channels = b.shape(x).last_axis();
    let h = group_norm(b, "group_norm", x, config.norm(), false)?;
    let h = tokens(b, h)?;
    let qkv = stacked(b, &["to_q", "to_k", "to_v"], h, 3 * channels, true)?;
    let h = self_attention(b, qkv, 1, false)?;
    let residual = tokens(b, x)?;
    let h = linear_add(b, "to_out.0", h, channels, residual)?;
    shaped_like(b, h, x)
}

/// The first or second half of the channels of every pixel.
fn half(b: &mut Builder<'_>, x: Value, which: usize) -> Result<Value> {
    let shape = b.shape(x);
    let channels = shape.last_axis() / 2;
    let pairs = b.op(Reshape { shape: [shape.rows(), 2, channels].into() }, &[Some(x)])?;
    let part = b.op(SelectRows { start: which, count: 1 }, &[Some(pairs)])?;
    b.op(Reshape { shape: shape.with_last(channels) }, &[Some(part)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_file_leaves_the_scaling_factor_to_its_default() {
        let text = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "sample_size": 768,
            "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"]}"#;
        let config = VaeConfig::from_json("vae/config.json", text).unwrap();
        assert_eq!(config, VaeConfig::sd21());
        assert_eq!(config.factor(), 8);
    }

    #[test]
    fn other_autoencoders_are_refused_by_name() {
        for (text, word) in [
            (r#"{"_class_name": "VQModel"}"#, "VQModel"),
            (r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#, "AttnDownEncoderBlock2D"),
            (r#"{"shift_factor": 0.1}"#, "shift_factor"),
            (r#"{"block_out_channels": []}"#, "block_out_channels"),
        ] {
            let e = VaeConfig::from_json("vae/config.json", text).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
    }
}
