//! The face encoder's backbone: a vision transformer (Dosovitskiy et al. 2021) that is tapped at several depths, under timm's names.

use super::blocks::{After, BlockNames, EncoderBlock, concat, conv, layer_norm, linear, tokens};
use super::config::{ConfigFile, SIDE, WIDTH, activation};
use crate::Result;
use crate::graph::{Builder, Value};
use crate::ops::{Activation, Add, Conv2d, MeanRows, PrependToken, Repeat, Reshape, SelectRows};
use serde::Deserialize;

/// Inside one block, as timm has it; transformers' names are among the spellings that [`crate::weights`] knows.
const NAMES: BlockNames =
    BlockNames { norm1: "norm1", qkv: &["attn.qkv"], out: "attn.proj", norm2: "norm2", fc1: "mlp.fc1", fc2: "mlp.fc2" };

/// A face encoder: the key `config` of its file's metadata, or a `config.json` beside it (transformers' `ViTModel` included).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct VitConfig {
    /// Height and width of the aligned face.
    #[serde(alias = "img_size")]
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// Channels of the picture.
    pub num_channels: usize,
    /// Width of the hidden states.
    #[serde(alias = "embed_dim")]
    pub hidden_size: usize,
    /// Number of blocks.
    #[serde(alias = "depth")]
    pub num_hidden_layers: usize,
    /// Heads of each attention.
    #[serde(alias = "num_heads")]
    pub num_attention_heads: usize,
    /// Width inside the perceptrons.
    pub intermediate_size: usize,
    /// Activation of the perceptrons.
    #[serde(deserialize_with = "activation")]
    pub hidden_act: Activation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f32,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// A class token before the patches.
    pub class_token: bool,
    /// Blocks, counted from 1, whose output is a feature: the paper takes 3, 6, 9 and 12.
    pub tap_layers: Vec<usize>,
    /// What is taken of a block's output.
    pub tap_source: TapSource,
    /// The last feature.
    pub final_source: FinalSource,
    /// Width of the head's output; read with [`FinalSource::Head`] only.
    pub embedding_size: usize,
    /// Taken from each colour channel (0 to 1) before division by [`VitConfig::std`].
    pub mean: [f32; 3],
    /// Divides each colour channel.
    pub std: [f32; 3],
    /// Name of the alignment that the encoder was trained with.
    pub alignment: String,
    /// The five points of that alignment in 112x112, if it is not a well-known one.
    pub alignment_points: Option<[[f64; 2]; 5]>,
    /// Licence of the weights, if the file states it.
    pub licence: Option<String>,
}

/// What a tap takes of a block's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TapSource {
    /// The class token.
    Cls,
    /// The mean over the patches.
    Mean,
}

/// Where the last feature comes from. The token or mean is taken after the final norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum FinalSource {
    /// The head's output: the identity vector that the backbone was trained to give.
    #[serde(rename = "head")]
    Head,
    /// The normed token (or mean) itself, for backbones without a head.
    #[serde(rename = "cls_norm")]
    ClsNorm,
}

impl Default for VitConfig {
    /// ViT-B/16 at 224 as transformers' `ViTModel`, tapped as the paper does.
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 16,
            num_channels: 3,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            qkv_bias: true,
            class_token: true,
            tap_layers: vec![3, 6, 9, 12],
            tap_source: TapSource::Cls,
            final_source: FinalSource::ClsNorm,
            embedding_size: 512,
            mean: [0.5; 3],
            std: [0.5; 3],
            alignment: "arcface-112".to_owned(),
            alignment_points: None,
            licence: None,
        }
    }
}

impl VitConfig {
    /// Reads the configuration of `file`.
    pub fn from_json(file: &str, text: &str) -> Result<Self> {
        let json = ConfigFile::parse(file, text)?;
        json.class("architecture", &["vit"])?;
        json.class("model_type", &["vit"])?;
        let config: Self = json.read()?;
        json.sizes(&[
            ("image_size", config.image_size, SIDE),
            ("patch_size", config.patch_size, config.image_size),
            ("num_channels", config.num_channels, WIDTH),
            ("embedding_size", config.embedding_size, WIDTH),
        ])?;
        json.transformer(config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads)?;
        let blocks = config.num_hidden_layers;
        let taps_fit =
            !config.tap_layers.is_empty() && config.tap_layers.is_sorted() && config.tap_layers.iter().all(|&t| (1..=blocks).contains(&t));
        json.ensure(taps_fit, || format!("tap_layers is {:?}; expected rising numbers from 1 to {blocks}", config.tap_layers))?;
        json.ensure(config.class_token || config.tap_source == TapSource::Mean, || {
            "without a class_token, tap_source must be \"mean\"".into()
        })?;
        json.ensure(config.std.iter().all(|s| *s > 0.0), || format!("std is {:?}", config.std))?;
        Ok(config)
    }

    /// Width of all features side by side: what the projector takes.
    pub fn feature_size(&self) -> usize {
        self.tap_layers.len() * self.hidden_size + self.final_size()
    }

    /// Width of the last feature.
    pub fn final_size(&self) -> usize {
        if self.final_source == FinalSource::Head { self.embedding_size } else { self.hidden_size }
    }
}

/// What the face encoder knows of a face.
#[derive(Clone, Debug)]
pub struct FaceFeatures {
    /// One vector `[B,hidden_size]` for each tapped block.
    pub taps: Vec<Value>,
    /// The last vector, `[B,final_size]`.
    pub last: Value,
    /// All of them side by side, `[B,feature_size]`.
    pub joined: Value,
}

/// Features of `image [B,S,S,3]`: an aligned face with the encoder's mean and deviation taken out.
pub fn vit(b: &mut Builder<'_>, config: &VitConfig, image: Value) -> Result<FaceFeatures> {
    let mut x = embeddings(b, config, image)?;
    let block = EncoderBlock {
        names: &NAMES,
        heads: config.num_attention_heads,
        inner: config.intermediate_size,
        act: config.hidden_act,
        eps: config.layer_norm_eps,
        causal: false,
        qkv_bias: config.qkv_bias,
    };
    let mut taps = Vec::with_capacity(config.tap_layers.len());
    for i in 0..config.num_hidden_layers {
        x = block.build(&mut b.scope(format!("blocks.{i}")), x)?;
        if config.tap_layers.contains(&(i + 1)) {
            taps.push(pooled(b, config, x)?);
        }
    }
    let x = layer_norm(b, "norm", x, config.layer_norm_eps)?;
    let mut last = pooled(b, config, x)?;
    if config.final_source == FinalSource::Head {
        last = linear(b, "head", last, config.embedding_size)?;
    }
    let all: Vec<Value> = taps.iter().copied().chain([last]).collect();
    let joined = concat(b, &all)?;
    Ok(FaceFeatures { taps, last, joined })
}

/// Patches as tokens with their positions, after the class token if there is one.
fn embeddings(b: &mut Builder<'_>, config: &VitConfig, image: Value) -> Result<Value> {
    let (width, patch) = (config.hidden_size, config.patch_size);
    let batch = b.shape(image)[0];
    let patches = conv(b, "patch_embed.proj", image, width, patch, Conv2d { stride: patch, ..Conv2d::same(0) }, After::default())?;
    let patches = tokens(b, patches)?;
    let count = b.shape(patches)[1];
    if config.class_token {
        let (class, positions) = (b.param_f32("cls_token", [width]), b.param_f32("pos_embed", [1 + count, width]));
        return b.scope("pos_embed").op(PrependToken, &[Some(patches), Some(class), Some(positions)]);
    }
    let positions = b.param("pos_embed", [1, count, width]);
    let mut b = b.scope("pos_embed");
    let positions = b.op(Repeat { times: batch }, &[Some(positions)])?;
    b.op(Add { act: Activation::None }, &[Some(patches), Some(positions)])
}

/// The class token or the mean over the patches of `x [B,S,C]`, as `[B,C]`.
fn pooled(b: &mut Builder<'_>, config: &VitConfig, x: Value) -> Result<Value> {
    let shape = b.shape(x);
    let first_patch = usize::from(config.class_token);
    match config.tap_source {
        TapSource::Cls => {
            let class = b.op(SelectRows { start: 0, count: 1 }, &[Some(x)])?;
            b.op(Reshape { shape: [shape[0], shape[2]].into() }, &[Some(class)])
        }
        TapSource::Mean if first_patch == 0 => b.op(MeanRows, &[Some(x)]),
        TapSource::Mean => {
            let patches = b.op(SelectRows { start: first_patch, count: shape[1] - first_patch }, &[Some(x)])?;
            b.op(MeanRows, &[Some(patches)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_own_description_is_read() {
        let text = r#"{"architecture":"vit","image_size":112,"patch_size":16,"hidden_size":192,"num_hidden_layers":12,"num_attention_heads":3,
            "intermediate_size":768,"hidden_act":"gelu","layer_norm_eps":1e-6,"tap_layers":[3,6,9,12],"tap_source":"cls","final_source":"head",
            "embedding_size":128,"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5],"alignment":"dreamid-112","licence":"MIT OR Apache-2.0"}"#;
        let config = VitConfig::from_json("face_encoder", text).unwrap();
        assert_eq!((config.feature_size(), config.final_size()), (4 * 192 + 128, 128));
        assert_eq!(config.alignment, "dreamid-112");
    }

    #[test]
    fn impossible_taps_are_refused() {
        for (text, word) in [
            (r#"{"num_hidden_layers": 6}"#, "tap_layers"),
            (r#"{"class_token": false}"#, "class_token"),
            (r#"{"architecture": "resnet"}"#, "resnet"),
            (r#"{"hidden_act": "gelu_new"}"#, "gelu_new"),
            (r#"{"final_source": "pooler"}"#, "pooler"),
        ] {
            let e = VitConfig::from_json("face_encoder", text).unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        }
    }
}
