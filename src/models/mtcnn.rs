//! MTCNN (Zhang et al. 2016): P-Net proposes faces at any size, R-Net refines them, O-Net gives five landmarks.
//!
//! All take upright RGB. Layers keep the names of the converted files; the flatten order is HWC.

use super::face_blocks::{Conv, PixelInput, config_of, image_input};
use crate::graph::{Builder, Graph, Value};
use crate::ops::{Activate, Activation, Linear, Pool2d, Pooling, Reshape, Softmax};
use crate::weights::Weights;
use crate::{DType, Result};
use serde::Deserialize;

/// What a file of one of the three networks says of it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct MtcnnConfig {
    /// Size (the smallest, for P-Net) and normalisation.
    pub input: PixelInput,
}

/// One of the three networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Proposals, fully convolutional: one face probability and box for each 12x12 window at stride 2.
    PNet,
    /// Refinement of 24x24 crops.
    RNet,
    /// Box and landmarks of 48x48 crops.
    ONet,
}

impl MtcnnConfig {
    /// Reads the metadata of a converted file of that stage.
    pub fn of(weights: &Weights, stage: Stage) -> Result<Self> {
        config_of(weights, stage.network())
    }
}

impl Stage {
    fn network(self) -> &'static str {
        match self {
            Self::PNet => "mtcnn-pnet",
            Self::RNet => "mtcnn-rnet",
            Self::ONet => "mtcnn-onet",
        }
    }
}

/// The whole graph of a stage on normalised images `[batch,height,width,3]` (24x24 for R-Net, 48x48 for O-Net).
///
/// Outputs: `face [..,2]`, where the second number is the probability of a face; `box [..,4]`, offsets of x0, y0, x1, y1 in units of the
/// box; and for O-Net `points [..,10]`, five x then five y as fractions of the box. The leading axes are `[batch,h,w]` for P-Net,
/// `[batch]` for the others.
pub fn graph(stage: Stage, batch: usize, height: usize, width: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let image = image_input(&mut b, batch, height, width);
    let found = match stage {
        Stage::PNet => pnet(&mut b, image)?,
        Stage::RNet => rnet(&mut b, image)?,
        Stage::ONet => onet(&mut b, image)?,
    };
    b.output("face", found.face)?;
    b.output("box", found.bbox)?;
    if let Some(points) = found.points {
        b.output("points", points)?;
    }
    Ok(graph)
}

/// Results of a stage; see [`graph`].
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Probabilities of no face and of a face.
    pub face: Value,
    /// Offsets of the corners.
    pub bbox: Value,
    /// Landmarks, from O-Net only.
    pub points: Option<Value>,
}

/// P-Net on `[B,H,W,3]`, both sides at least 12.
pub fn pnet(b: &mut Builder<'_>, image: Value) -> Result<Found> {
    let x = conv(b, "conv1", image, 10, 3)?;
    let odd = [b.shape(x)[1] % 2, b.shape(x)[2] % 2];
    let x = pool(b, x, 2, odd)?;
    let x = conv(b, "conv2", x, 16, 3)?;
    let x = conv(b, "conv3", x, 32, 3)?;
    let face = Conv::new(2, 1).apply(&mut b.scope("face"), x, None)?;
    let bbox = Conv::new(4, 1).apply(&mut b.scope("box"), x, None)?;
    Ok(Found { face: b.op(Softmax, &[Some(face)])?, bbox, points: None })
}

/// R-Net on `[B,24,24,3]`.
pub fn rnet(b: &mut Builder<'_>, image: Value) -> Result<Found> {
    let x = conv(b, "conv1", image, 28, 3)?;
    let x = pool(b, x, 3, [1, 1])?;
    let x = conv(b, "conv2", x, 48, 3)?;
    let x = pool(b, x, 3, [0, 0])?;
    let x = conv(b, "conv3", x, 64, 2)?;
    let x = dense(b, x, 128)?;
    heads(b, x, false)
}

/// O-Net on `[B,48,48,3]`.
pub fn onet(b: &mut Builder<'_>, image: Value) -> Result<Found> {
    let x = conv(b, "conv1", image, 32, 3)?;
    let x = pool(b, x, 3, [1, 1])?;
    let x = conv(b, "conv2", x, 64, 3)?;
    let x = pool(b, x, 3, [0, 0])?;
    let x = conv(b, "conv3", x, 64, 3)?;
    let x = pool(b, x, 2, [0, 0])?;
    let x = conv(b, "conv4", x, 128, 2)?;
    let x = dense(b, x, 256)?;
    heads(b, x, true)
}

fn conv(b: &mut Builder<'_>, name: &str, x: Value, out: usize, kernel: usize) -> Result<Value> {
    Conv::new(out, kernel).act(Activation::PRelu).apply(&mut b.scope(name), x, None)
}

/// Maximum at stride 2 with `extra` rows at the bottom and columns at the right.
fn pool(b: &mut Builder<'_>, x: Value, kernel: usize, extra: [usize; 2]) -> Result<Value> {
    let [bottom, right] = extra;
    b.op(Pool2d { kind: Pooling::Max, kernel: [kernel; 2], stride: 2, padding: [0, 0, bottom, right] }, &[Some(x)])
}

/// Flattens `[B,h,w,C]` in HWC order, then a linear layer with PReLU.
fn dense(b: &mut Builder<'_>, x: Value, out: usize) -> Result<Value> {
    let shape = b.shape(x);
    let x = b.op(Reshape { shape: [shape[0], shape.elements() / shape[0]].into() }, &[Some(x)])?;
    let x = linear(b, "dense", x, out)?;
    let slope = b.scope("dense").param_f32("slope", [out]);
    b.scope("dense").op(Activate { act: Activation::PRelu }, &[Some(x), Some(slope)])
}

fn heads(b: &mut Builder<'_>, x: Value, with_points: bool) -> Result<Found> {
    let face = linear(b, "face", x, 2)?;
    let bbox = linear(b, "box", x, 4)?;
    let points = if with_points { Some(linear(b, "points", x, 10)?) } else { None };
    Ok(Found { face: b.op(Softmax, &[Some(face)])?, bbox, points })
}

fn linear(b: &mut Builder<'_>, name: &str, x: Value, out: usize) -> Result<Value> {
    let inputs = b.shape(x).last_axis();
    let mut b = b.scope(name);
    let (weight, bias) = (b.param("weight", [out, inputs]), b.param_f32("bias", [out]));
    b.op(Linear::plain(), &[Some(x), Some(weight), Some(bias)])
}
