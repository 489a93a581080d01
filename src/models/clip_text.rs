//! CLIP's text encoder (Radford et al. 2021; OpenCLIP ViT-H for SD 2.x), with pseudo-words in place of chosen tokens.

use super::blocks::{CLIP_NAMES, EncoderBlock, layer_norm};
use super::config::{ConfigFile, WIDTH, WORDS, activation};
use crate::Result;
use crate::graph::{Builder, Value};
use crate::ops::{Activation, Embedding, Linear};
use serde::Deserialize;

/// `text_encoder/config.json`, as transformers writes it for `CLIPTextModel`.
///
/// SD 2.x files say 23 layers of the 24 that OpenCLIP trained: the penultimate output is what its UNet was trained on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Rows of the token table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the perceptrons.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    pub num_attention_heads: usize,
    /// Longest prompt in tokens.
    pub max_position_embeddings: usize,
    /// Activation of the perceptrons.
    #[serde(deserialize_with = "activation")]
    pub hidden_act: Activation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// Width of text and image features in the common space; read by [`project_text`] only.
    pub projection_dim: usize,
}

impl Default for ClipTextConfig {
    /// The defaults of transformers, for keys that a file leaves out.
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: 512,
        }
    }
}

impl ClipTextConfig {
    /// The text encoder of Stable Diffusion 2.1: 23 blocks of OpenCLIP ViT-H/14.
    pub fn sd21() -> Self {
        Self {
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 23,
            num_attention_heads: 16,
            hidden_act: Activation::Gelu,
            ..Self::default()
        }
    }

    /// Reads the text of `file`: a `CLIPTextModel`, or a `CLIPModel` with a `text_config` inside.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let json = ConfigFile::parse(file, text)?.enter("text_config");
        json.class("model_type", &["clip_text_model"])?;
        let config: Self = json.read()?;
        json.sizes(&[
            ("vocab_size", config.vocab_size, WORDS),
            ("max_position_embeddings", config.max_position_embeddings, WIDTH),
            ("projection_dim", config.projection_dim, WIDTH),
        ])?;
        json.transformer(config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads)?;
        Ok(config)
    }
}

/// Pseudo-words: `slots [B,k]` i32 are positions (−1: unused), `embeds [B,k,H]` f32 what stands there instead of the token's row.
#[derive(Clone, Copy, Debug)]
pub struct Injection {
    /// Positions.
    pub slots: Value,
    /// Embeddings.
    pub embeds: Value,
}

/// Hidden states `[B,T,H]` after the final norm, of token ids `ids [B,T]` i32.
///
/// Pseudo-words enter before positions are added, so they pass through every block as ordinary words do.
pub fn clip_text(b: &mut Builder<'_>, config: &ClipTextConfig, ids: Value, injection: Option<Injection>) -> Result<Value> {
    let mut b = b.scope("text_model");
    let width = config.hidden_size;
    let mut x = {
        let mut b = b.scope("embeddings");
        let table = b.param("token_embedding.weight", [config.vocab_size, width]);
        let positions = b.param("position_embedding.weight", [config.max_position_embeddings, width]);
        b.op(Embedding, &[Some(ids), Some(table), Some(positions), injection.map(|i| i.slots), injection.map(|i| i.embeds)])?
    };
    let block = EncoderBlock {
        names: &CLIP_NAMES,
        heads: config.num_attention_heads,
        inner: config.intermediate_size,
        act: config.hidden_act,
        eps: config.layer_norm_eps,
        causal: true,
        qkv_bias: true,
    };
    for i in 0..config.num_hidden_layers {
        x = block.build(&mut b.scope(format!("encoder.layers.{i}")), x)?;
    }
    layer_norm(&mut b, "final_layer_norm", x, config.layer_norm_eps)
}

/// Text features `[B,projection_dim]` of `pooled [B,H]`, the hidden state at each prompt's end-of-text token (`CLIPTextModelWithProjection`).
pub fn project_text(b: &mut Builder<'_>, config: &ClipTextConfig, pooled: Value) -> Result<Value> {
    let weight = b.param("text_projection.weight", [config.projection_dim, config.hidden_size]);
    b.scope("text_projection").op(Linear::plain(), &[Some(pooled), Some(weight)])
}
