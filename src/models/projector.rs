//! The M² projector of DreamIdentity (section 3.1): face features at several depths in, k pseudo-words out.

use super::blocks::{concat, layer_norm, linear};
use super::config::{ConfigFile, LAYERS, WIDTH, WORDS};
use crate::graph::{Builder, Value};
use crate::ops::{Activate, Activation, Cast, Reshape};
use crate::{DType, Result};
use serde::{Deserialize, Serialize};

/// Shape of the projector, from the key `config` of its file's metadata.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProjectorConfig {
    /// Number of pseudo-words, k.
    pub words: usize,
    /// Width of the face features: all taps and the final vector side by side.
    pub input_size: usize,
    /// Width between the two layers.
    pub hidden_size: usize,
    /// Width of a word: that of the text encoder.
    pub output_size: usize,
    /// Epsilon of the layer norms.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f32,
    /// Slope of the leaky ReLU below zero.
    #[serde(default = "default_slope")]
    pub negative_slope: f32,
}

fn default_eps() -> f32 {
    1e-5
}

fn default_slope() -> f32 {
    0.2
}

impl ProjectorConfig {
    /// Two words for SD 2.1 from five vectors of a ViT-B, as the paper has it.
    pub fn sd21() -> Self {
        Self {
            words: 2,
            input_size: 5 * 768,
            hidden_size: 1024,
            output_size: 1024,
            layer_norm_eps: default_eps(),
            negative_slope: default_slope(),
        }
    }

    /// Reads the configuration of `file`.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let json = ConfigFile::parse(file, text)?;
        json.class("architecture", &["m2-projector"])?;
        let config: Self = json.read()?;
        json.sizes(&[
            ("words", config.words, LAYERS),
            ("input_size", config.input_size, WORDS),
            ("hidden_size", config.hidden_size, WIDTH),
            ("output_size", config.output_size, WIDTH),
        ])?;
        Ok(config)
    }
}

/// Word embeddings `[B,k,output_size]` f32 of face features `[B,input_size]`.
///
/// Every word has its own perceptron: linear, layer norm, leaky ReLU, linear. All in f32: the result is data that is saved and mixed.
pub fn projector(b: &mut Builder<'_>, config: &ProjectorConfig, features: Value) -> Result<Value> {
    let mut b = b.with_dtype(DType::F32);
    let features = if b.ty(features).dtype == DType::F32 { features } else { b.op(Cast { dtype: DType::F32 }, &[Some(features)])? };
    let mut words = Vec::with_capacity(config.words);
    for i in 0..config.words {
        let mut b = b.scope(format!("words.{i}"));
        let h = linear(&mut b, "fc1", features, config.hidden_size)?;
        let h = layer_norm(&mut b, "norm", h, config.layer_norm_eps)?;
        let h = b.op(Activate { act: Activation::LeakyRelu(config.negative_slope) }, &[Some(h)])?;
        words.push(linear(&mut b, "fc2", h, config.output_size)?);
    }
    let batch = b.shape(features)[0];
    let side_by_side = concat(&mut b, &words)?;
    b.op(Reshape { shape: [batch, config.words, config.output_size].into() }, &[Some(side_by_side)])
}
