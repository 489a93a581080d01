//! MobileFaceNet (Chen et al. 2018): a small face recogniser.

use super::face_blocks::{Conv, PixelInput, config_of, image_input};
use crate::graph::{Builder, Graph, Value};
use crate::ops::{Activation, Normalize, Reshape};
use crate::weights::Weights;
use crate::{DType, Error, Result};
use serde::Deserialize;

/// What a MobileFaceNet file says of its network.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct MobileFaceNetConfig {
    /// Size and normalisation.
    pub input: PixelInput,
    /// Bottlenecks in order.
    pub blocks: Vec<Bottleneck>,
    /// Blocks whose outputs are the multi-scale features.
    pub taps: Vec<usize>,
    /// Numbers of an embedding.
    pub embedding: usize,
    /// Id of the alignment template.
    pub template: String,
}

/// One inverted bottleneck: 1x1 up, 3x3 depthwise, 1x1 down.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Bottleneck {
    /// Channels of the input.
    #[serde(rename = "in")]
    pub input: usize,
    /// Channels between.
    pub hidden: usize,
    /// Channels of the output.
    #[serde(rename = "out")]
    pub output: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Whether the block's input is added to its result.
    pub residual: bool,
}

/// Channels before the embedding.
const WIDE: usize = 512;

impl MobileFaceNetConfig {
    /// Reads the metadata of a converted file.
    pub fn of(weights: &Weights) -> Result<Self> {
        let config: Self = config_of(weights, "mobilefacenet")?;
        if config.blocks.is_empty() || config.taps.iter().any(|&t| t >= config.blocks.len()) {
            return Err(Error::config(weights.label(), "taps must be indices of blocks, of which there must be some"));
        }
        Ok(config)
    }
}

/// The whole graph: input `image [batch,S,S,3]` normalised; outputs `embedding [batch,E]` as the network gives it, `unit [batch,E]` of
/// length 1, which is what is compared, and `taps.N [batch,h,w,C]`.
pub fn graph(config: &MobileFaceNetConfig, batch: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let image = image_input(&mut b, batch, config.input.size, config.input.size);
    let (embedding, taps) = mobilefacenet(&mut b, config, image)?;
    let unit = b.op(Normalize { eps: 1e-12 }, &[Some(embedding)])?;
    b.output("embedding", embedding)?;
    b.output("unit", unit)?;
    for (i, tap) in taps.into_iter().enumerate() {
        b.output(&format!("taps.{i}"), tap)?;
    }
    Ok(graph)
}

/// The network on normalised images `[B,S,S,3]`: embedding `[B,E]`, not of unit length, and the outputs of `config.taps`.
pub fn mobilefacenet(b: &mut Builder<'_>, config: &MobileFaceNetConfig, image: Value) -> Result<(Value, Vec<Value>)> {
    let width = config.blocks.first().map_or(0, |block| block.input);
    let prelu = Activation::PRelu;
    let mut x = Conv::new(width, 3).same(2).act(prelu).apply(&mut b.scope("stem"), image, None)?;
    x = Conv::depthwise(width, 3).same(1).act(prelu).apply(&mut b.scope("first.depthwise"), x, None)?;
    x = Conv::new(width, 1).apply(&mut b.scope("first.pointwise"), x, None)?;
    let mut outputs = Vec::with_capacity(config.blocks.len());
    for (i, block) in config.blocks.iter().enumerate() {
        x = bottleneck(&mut b.scope("blocks").scope(i), block, x)?;
        outputs.push(x);
    }
    x = Conv::new(WIDE, 1).act(prelu).apply(&mut b.scope("last"), x, None)?;
    let side = b.shape(x)[1];
    x = Conv::depthwise(WIDE, side).apply(&mut b.scope("global.depthwise"), x, None)?;
    x = Conv::new(WIDE, 1).apply(&mut b.scope("global.pointwise"), x, None)?;
    x = Conv::new(config.embedding, 1).apply(&mut b.scope("embedding"), x, None)?;
    let batch = b.shape(x)[0];
    let embedding = b.op(Reshape { shape: [batch, config.embedding].into() }, &[Some(x)])?;
    Ok((embedding, config.taps.iter().map(|&t| outputs[t]).collect()))
}

fn bottleneck(b: &mut Builder<'_>, block: &Bottleneck, x: Value) -> Result<Value> {
    let prelu = Activation::PRelu;
    let y = Conv::new(block.hidden, 1).act(prelu).apply(&mut b.scope("expand"), x, None)?;
    let y = Conv::depthwise(block.hidden, 3).same(block.stride).act(prelu).apply(&mut b.scope("depthwise"), y, None)?;
    Conv::new(block.output, 1).apply(&mut b.scope("project"), y, block.residual.then_some(x))
}
