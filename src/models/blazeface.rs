//! BlazeFace (Bazarevsky et al. 2019), MediaPipe's face detector, front (128) and back (256).
//!
//! Scores and raw boxes of 896 anchors: two at each cell of a 16x16 grid, then six at each cell of an 8x8 grid.

use super::face_blocks::{Conv, PixelInput, config_of, image_input};
use crate::graph::{Builder, Graph, Value};
use crate::ops::{Activation, PadChannels, Pool2d, Pooling};
use crate::weights::Weights;
use crate::{DType, Error, Result};
use serde::Deserialize;

/// Numbers of a raw box: centre and size, then x and y of six keypoints.
pub const BOX_VALUES: usize = 16;

/// What a BlazeFace file says of its network.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BlazeFaceConfig {
    /// Size and normalisation.
    pub input: PixelInput,
    /// Blocks in order.
    pub blocks: Vec<BlazeBlock>,
    /// Blocks whose outputs the heads read, one for each entry of `anchors`.
    pub features: Vec<usize>,
    /// Anchor grids.
    pub anchors: Vec<AnchorGrid>,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BlazeBlock {
    /// Channels of the input.
    #[serde(rename = "in")]
    pub input: usize,
    /// Channels of the output.
    #[serde(rename = "out")]
    pub output: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Whether the block's input is added to its result.
    pub residual: bool,
}

/// A grid of anchors.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct AnchorGrid {
    /// Cells in each direction.
    pub grid: usize,
    /// Anchors at each cell's centre.
    pub per_cell: usize,
}

impl BlazeFaceConfig {
    /// Reads the metadata of a converted file.
    pub fn of(weights: &Weights) -> Result<Self> {
        let config: Self = config_of(weights, "blazeface")?;
        let fits = config.features.len() == config.anchors.len() && config.features.iter().all(|&f| f < config.blocks.len());
        if !fits || config.blocks.is_empty() {
            return Err(Error::config(weights.label(), "features must name one block for each anchor grid"));
        }
        Ok(config)
    }

    /// Centres of all anchors in the unit square, in the order of scores and boxes.
    pub fn anchor_centres(&self) -> Vec<[f64; 2]> {
        let cell = |grid: usize, i: usize| [(i % grid) as f64 + 0.5, (i / grid) as f64 + 0.5].map(|v| v / grid as f64);
        let of_grid = |a: &AnchorGrid| {
            let a = *a;
            (0..a.grid * a.grid * a.per_cell).map(move |i| cell(a.grid, i / a.per_cell))
        };
        self.anchors.iter().flat_map(of_grid).collect()
    }
}

/// The whole graph: input `image [batch,S,S,3]` normalised, outputs `scores.N [batch,g,g,n]` (logits) and `boxes.N [batch,g,g,16 n]`.
pub fn graph(config: &BlazeFaceConfig, batch: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let image = image_input(&mut b, batch, config.input.size, config.input.size);
    for (i, head) in blazeface(&mut b, config, image)?.into_iter().enumerate() {
        b.output(&format!("scores.{i}"), head.scores)?;
        b.output(&format!("boxes.{i}"), head.boxes)?;
    }
    Ok(graph)
}

/// Results of one anchor grid.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Logits `[B,g,g,n]`.
    pub scores: Value,
    /// Raw boxes `[B,g,g,16 n]`.
    pub boxes: Value,
}

/// The network on normalised images `[B,S,S,3]`.
pub fn blazeface(b: &mut Builder<'_>, config: &BlazeFaceConfig, image: Value) -> Result<Vec<Head>> {
    let stem = config.blocks.first().map_or(0, |block| block.input);
    let mut x = Conv::new(stem, 5).step(2, [1, 1, 2, 2]).act(Activation::Relu).apply(&mut b.scope("stem"), image, None)?;
    let mut outputs = Vec::with_capacity(config.blocks.len());
    for (i, block) in config.blocks.iter().enumerate() {
        x = blaze_block(&mut b.scope("blocks").scope(i), block, x)?;
        outputs.push(x);
    }
    let heads = config.features.iter().zip(&config.anchors).enumerate();
    heads
        .map(|(i, (&feature, anchors))| {
            let conv =
                |b: &mut Builder<'_>, name: &str, out: usize| Conv::new(out, 1).apply(&mut b.scope(name).scope(i), outputs[feature], None);
            Ok(Head { scores: conv(b, "scores", anchors.per_cell)?, boxes: conv(b, "boxes", anchors.per_cell * BOX_VALUES)? })
        })
        .collect()
}

fn blaze_block(b: &mut Builder<'_>, block: &BlazeBlock, x: Value) -> Result<Value> {
    let y = Conv::depthwise(block.input, 3).same(block.stride).no_bias().apply(&mut b.scope("depthwise"), x, None)?;
    let skip = if block.residual { Some(shortcut(b, block, x)?) } else { None };
    Conv::new(block.output, 1).act(Activation::Relu).apply(&mut b.scope("pointwise"), y, skip)
}

/// The input at the block's stride, with zero channels up to its width.
fn shortcut(b: &mut Builder<'_>, block: &BlazeBlock, x: Value) -> Result<Value> {
    let pool = Pool2d { kind: Pooling::Max, kernel: [2, 2], stride: 2, padding: [0; 4] };
    let x = if block.stride == 1 { x } else { b.op(pool, &[Some(x)])? };
    if block.output == block.input { Ok(x) } else { b.op(PadChannels { channels: block.output }, &[Some(x)]) }
}
