//! CLIP's image towers (B/32, L/14, H/14): what text-alignment and image similarity are measured with.

use super::blocks::{CLIP_NAMES, EncoderBlock, layer_norm, tokens};
use super::config::{ConfigFile, SIDE, WIDTH, activation};
use crate::Result;
use crate::graph::{Builder, Value};
use crate::ops::{Activation, Conv2d, Linear, PrependToken, Reshape, SelectRows};
use serde::Deserialize;

/// `config.json` of a `CLIPVisionModelWithProjection`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Height and width of the picture.
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// Channels of the picture.
    pub num_channels: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the perceptrons.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Activation of the perceptrons.
    #[serde(deserialize_with = "activation")]
    pub hidden_act: Activation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// Width of the features.
    pub projection_dim: usize,
}

impl Default for ClipVisionConfig {
    /// OpenAI's ViT-B/32, which is also what transformers takes for keys that a file leaves out.
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 32,
            num_channels: 3,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: 512,
        }
    }
}

impl ClipVisionConfig {
    /// OpenAI's ViT-L/14.
    pub fn l14() -> Self {
        Self {
            patch_size: 14,
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            projection_dim: 768,
            ..Self::default()
        }
    }

    /// OpenCLIP's ViT-H/14.
    pub fn h14() -> Self {
        Self {
            patch_size: 14,
            hidden_size: 1280,
            intermediate_size: 5120,
            num_hidden_layers: 32,
            num_attention_heads: 16,
            hidden_act: Activation::Gelu,
            projection_dim: 1024,
            ..Self::default()
        }
    }

    /// Reads the text of `file`: a vision model, or a `CLIPModel` with a `vision_config` inside.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let json = ConfigFile::parse(file, text)?.enter("vision_config");
        json.class("model_type", &["clip_vision_model"])?;
        let config: Self = json.read()?;
        json.sizes(&[
            ("image_size", config.image_size, SIDE),
            ("patch_size", config.patch_size, config.image_size),
            ("num_channels", config.num_channels, WIDTH),
            ("projection_dim", config.projection_dim, WIDTH),
        ])?;
        json.transformer(config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads)?;
        Ok(config)
    }

    /// Patches along one side of the picture.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// Image features `[B,projection_dim]`, not normalised, of `image [B,S,S,3]` with CLIP's mean and deviation taken out.
pub fn clip_vision(b: &mut Builder<'_>, config: &ClipVisionConfig, image: Value) -> Result<Value> {
    let width = config.hidden_size;
    let pooled = {
        let mut b = b.scope("vision_model");
        let x = embeddings(&mut b.scope("embeddings"), config, image)?;
        // the misspelling is transformers' own
        let mut x = layer_norm(&mut b, "pre_layrnorm", x, config.layer_norm_eps)?;
        let block = EncoderBlock {
            names: &CLIP_NAMES,
            heads: config.num_attention_heads,
            inner: config.intermediate_size,
            act: config.hidden_act,
            eps: config.layer_norm_eps,
            causal: false,
            qkv_bias: true,
        };
        for i in 0..config.num_hidden_layers {
            x = block.build(&mut b.scope(format!("encoder.layers.{i}")), x)?;
        }
        let batch = b.shape(x)[0];
        let class = b.op(SelectRows { start: 0, count: 1 }, &[Some(x)])?;
        let class = b.op(Reshape { shape: [batch, width].into() }, &[Some(class)])?;
        layer_norm(&mut b, "post_layernorm", class, config.layer_norm_eps)?
    };
    let weight = b.param("visual_projection.weight", [config.projection_dim, width]);
    b.scope("visual_projection").op(Linear::plain(), &[Some(pooled), Some(weight)])
}

fn embeddings(b: &mut Builder<'_>, config: &ClipVisionConfig, image: Value) -> Result<Value> {
    let (width, patch, grid) = (config.hidden_size, config.patch_size, config.grid());
    let weight = b.param_conv("patch_embedding.weight", [width, patch, patch, config.num_channels]);
    let class = b.param_f32("class_embedding", [width]);
    let positions = b.param_f32("position_embedding.weight", [1 + grid * grid, width]);
    let patches = b.scope("patch_embedding").op(Conv2d { stride: patch, ..Conv2d::same(0) }, &[Some(image), Some(weight)])?;
    let patches = tokens(b, patches)?;
    b.op(PrependToken, &[Some(patches), Some(class), Some(positions)])
}
