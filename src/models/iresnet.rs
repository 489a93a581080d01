//! IResNet (ArcFace's backbone) under the names of arcface_torch: any number of blocks and any widths, IR-50 and IR-100 among them.

use crate::graph::{Builder, Graph, Value};
use crate::ops::{Activation, Add, Affine, Conv2d, Normalize, Reshape};
use crate::weights::Weights;
use crate::{DType, Error, Result};
use serde::Deserialize;

/// Shape of an IResNet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IresnetConfig {
    /// Channels of the stem, then of the four stages.
    pub widths: [usize; 5],
    /// Blocks of the four stages.
    pub blocks: [usize; 4],
    /// Side of the input in pixels.
    pub input_size: usize,
    /// Numbers of an embedding.
    pub embedding: usize,
}

/// Added to the variances.
const EPS: f32 = 1e-5;

impl IresnetConfig {
    /// IResNet-50: 3, 4, 14, 3 blocks, 112x112 to 512 numbers.
    pub fn ir50() -> Self {
        Self { widths: [64, 64, 128, 256, 512], blocks: [3, 4, 14, 3], input_size: 112, embedding: 512 }
    }

    /// IResNet-100: 3, 13, 30, 3 blocks.
    pub fn ir100() -> Self {
        Self { blocks: [3, 13, 30, 3], ..Self::ir50() }
    }

    /// The shape that the tensors of a file have. Fails with the name of the first that is not there or cannot be.
    pub fn of(weights: &Weights) -> Result<Self> {
        let bad = |what: String| Error::config(weights.label(), format!("{what}: not an IResNet with the names of arcface_torch"));
        let extents =
            |name: &str| weights.describe(name).map(|(_, extents)| extents).ok_or_else(|| bad(format!("there is no tensor `{name}`")));
        let first = |name: &str| Ok::<_, Error>(extents(name)?.first().copied().unwrap_or(0));
        let mut widths = [first("conv1.weight")?; 5];
        let mut blocks = [0; 4];
        for (stage, count) in blocks.iter_mut().enumerate() {
            widths[stage + 1] = first(&format!("layer{}.0.conv2.weight", stage + 1))?;
            *count = (0..).take_while(|i| weights.describe(&format!("layer{}.{i}.conv2.weight", stage + 1)).is_some()).count();
        }
        let &[embedding, flat] = extents("fc.weight")?.as_slice() else { return Err(bad("`fc.weight` is no matrix".into())) };
        let side = (flat / widths[4].max(1)).isqrt();
        if side == 0 || side * side * widths[4] != flat {
            return Err(bad(format!("`fc.weight` takes {flat} numbers, which are no square of {} channels", widths[4])));
        }
        // four halvings that round up, of which only multiples of 16 are in use
        Ok(Self { widths, blocks, input_size: side * 16, embedding })
    }

    /// Pixels as the network takes them: `(pixel - 127.5) / 127.5`, RGB, aligned to ArcFace's template.
    pub fn normalise(pixels: &[f32]) -> Vec<f32> {
        pixels.iter().map(|p| (p - 127.5) / 127.5).collect()
    }
}

/// The whole graph: input `image [batch,S,S,3]` normalised; outputs `embedding [batch,E]`, `unit [batch,E]` of length 1, and
/// `stages.N [batch,h,w,C]`.
pub fn graph(config: &IresnetConfig, batch: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let image = b.input("image", DType::F32, [batch, config.input_size, config.input_size, 3]);
    let (embedding, stages) = iresnet(&mut b, config, image)?;
    let unit = b.op(Normalize { eps: 1e-12 }, &[Some(embedding)])?;
    b.output("embedding", embedding)?;
    b.output("unit", unit)?;
    for (i, stage) in stages.into_iter().enumerate() {
        b.output(&format!("stages.{i}"), stage)?;
    }
    Ok(graph)
}

/// The network on normalised images `[B,S,S,3]`: embedding `[B,E]`, not of unit length, and the outputs of the four stages.
pub fn iresnet(b: &mut Builder<'_>, config: &IresnetConfig, image: Value) -> Result<(Value, Vec<Value>)> {
    let x = conv(b, "conv1", image, config.widths[0], 3, 1)?;
    let mut x = batch_norm(b, "bn1", x, Some("prelu"))?;
    let mut stages = Vec::with_capacity(4);
    for (stage, &count) in config.blocks.iter().enumerate() {
        for i in 0..count {
            let name = format!("layer{}.{i}", stage + 1);
            x = block(&mut b.scope(name), x, config.widths[stage + 1], if i == 0 { 2 } else { 1 })?;
        }
        stages.push(x);
    }
    let x = batch_norm(b, "bn2", x, None)?;
    let x = flatten_and_project(&mut b.scope("fc"), x, config.embedding)?;
    Ok((batch_norm(b, "features", x, None)?, stages))
}

/// norm, 3x3, norm, PReLU, 3x3 with the stride, norm; the first of each stage has a 1x1 shortcut with a norm.
fn block(b: &mut Builder<'_>, x: Value, width: usize, stride: usize) -> Result<Value> {
    let y = batch_norm(b, "bn1", x, None)?;
    let y = conv(b, "conv1", y, width, 3, 1)?;
    let y = batch_norm(b, "bn2", y, Some("prelu"))?;
    let y = conv(b, "conv2", y, width, 3, stride)?;
    let y = batch_norm(b, "bn3", y, None)?;
    let shortcut = if stride == 1 {
        x
    } else {
        let x = conv(b, "downsample.0", x, width, 1, stride)?;
        batch_norm(b, "downsample.1", x, None)?
    };
    b.op(Add { act: Activation::None }, &[Some(y), Some(shortcut)])
}

fn conv(b: &mut Builder<'_>, name: &str, x: Value, out: usize, kernel: usize, stride: usize) -> Result<Value> {
    let mut b = b.scope(name);
    let channels = b.shape(x).last_axis();
    let weight = b.param_conv("weight", [out, kernel, kernel, channels]);
    b.op(Conv2d { stride, ..Conv2d::same(kernel / 2) }, &[Some(x), Some(weight)])
}

/// A normalisation by running statistics, then PReLU with the slopes in `prelu.weight` if given.
fn batch_norm(b: &mut Builder<'_>, name: &str, x: Value, prelu: Option<&str>) -> Result<Value> {
    let channels = b.shape(x).last_axis();
    let slope = prelu.map(|prelu| b.scope(prelu).param_f32("weight", [channels]));
    let mut b = b.scope(name);
    let statistics = ["running_mean", "running_var", "weight", "bias"].map(|n| Some(b.param_f32(n, [channels])));
    let act = if slope.is_some() { Activation::PRelu } else { Activation::None };
    let inputs: Vec<_> = std::iter::once(Some(x)).chain(statistics).chain(slope.map(Some)).collect();
    b.op(Affine { eps: EPS, act }, &inputs)
}

/// The published layer flattens `[C,h,w]`, channels first: over our `[B,h,w,C]` it is a convolution as large as the image.
fn flatten_and_project(b: &mut Builder<'_>, x: Value, out: usize) -> Result<Value> {
    let &[batch, h, w, c] = &*b.shape(x) else { return Err(Error::Graph("fc of IResNet needs an image".into())) };
    let (weight, bias) = (b.param_conv("weight", [out, h, w, c]), b.param_f32("bias", [out]));
    let x = b.op(Conv2d::same(0), &[Some(x), Some(weight), Some(bias)])?;
    b.op(Reshape { shape: [batch, out].into() }, &[Some(x)])
}
