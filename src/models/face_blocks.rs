//! What the small face networks share: how pixels enter, and a convolution with its padding.

use crate::graph::{Builder, Value};
use crate::ops::{Activation, Conv2d};
use crate::weights::Weights;
use crate::{DType, Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// How pixels enter a network: `(pixel - mean) * scale` with pixels 0..255, RGB, in squares of `size` pixels.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct PixelInput {
    /// Side of the input in pixels.
    pub size: usize,
    /// Subtracted from each value.
    pub mean: f32,
    /// Multiplied with the difference.
    pub scale: f32,
}

impl PixelInput {
    /// Pixels as the network takes them.
    pub fn normalise<T: Copy + Into<f32>>(&self, pixels: &[T]) -> Vec<f32> {
        pixels.iter().map(|&p| (p.into() - self.mean) * self.scale).collect()
    }
}

/// The configuration in a converted network's own metadata, which must be of the kind `network`.
pub(crate) fn config_of<T: DeserializeOwned>(weights: &Weights, network: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Kind {
        network: String,
    }
    let file = weights.label();
    let bad = |e: serde_json::Error| Error::config(&file, format!("the metadata `config` cannot be used: {e}"));
    let text =
        weights.metadata("config").ok_or_else(|| Error::config(&file, format!("has no metadata `config`; it is no {network} network")))?;
    let kind: Kind = serde_json::from_str(text).map_err(bad)?;
    if kind.network != network {
        return Err(Error::config(&file, format!("holds the network {}, expected {network}", kind.network)));
    }
    serde_json::from_str(text).map_err(bad)
}

/// A convolution: `weight [out,in/groups,k,k]`, `bias [out]`, and for PReLU `slope [out]`, below the builder's scope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    out: usize,
    kernel: usize,
    stride: usize,
    padding: [usize; 4],
    depthwise: bool,
    bias: bool,
    act: Activation,
}

impl Conv {
    /// Stride 1, no padding, no activation.
    pub(crate) fn new(out: usize, kernel: usize) -> Self {
        Self { out, kernel, stride: 1, padding: [0; 4], depthwise: false, bias: true, act: Activation::None }
    }

    /// Each channel on its own.
    pub(crate) fn depthwise(channels: usize, kernel: usize) -> Self {
        Self { depthwise: true, ..Self::new(channels, kernel) }
    }

    /// Step, and padding: top, left, bottom, right.
    pub(crate) fn step(self, stride: usize, padding: [usize; 4]) -> Self {
        Self { stride, padding, ..self }
    }

    /// A 3x3 step as TensorFlow pads it (`SAME`): all round at stride 1, bottom and right at stride 2.
    pub(crate) fn same(self, stride: usize) -> Self {
        self.step(stride, if stride == 1 { [1; 4] } else { [0, 0, 1, 1] })
    }

    /// Without a bias.
    pub(crate) fn no_bias(self) -> Self {
        Self { bias: false, ..self }
    }

    /// With an activation, after the residual.
    pub(crate) fn act(self, act: Activation) -> Self {
        Self { act, ..self }
    }

    /// Adds the layer to the graph; `x [B,H,W,C]`, `residual` of the output's shape.
    pub(crate) fn apply(self, b: &mut Builder<'_>, x: Value, residual: Option<Value>) -> Result<Value> {
        let channels = b.shape(x).last_axis();
        let groups = if self.depthwise { channels } else { 1 };
        let weight = b.param_conv("weight", [self.out, self.kernel, self.kernel, channels / groups.max(1)]);
        let bias = self.bias.then(|| b.param_f32("bias", [self.out]));
        let slope = (self.act == Activation::PRelu).then(|| b.param_f32("slope", [self.out]));
        let op = Conv2d { stride: self.stride, padding: self.padding, groups, resize: None, act: self.act };
        b.op(op, &[Some(x), Some(weight), bias, None, residual, slope])
    }
}

/// A graph of one network in f32 with one input `image [batch,height,width,3]`.
pub(crate) fn image_input(b: &mut Builder<'_>, batch: usize, height: usize, width: usize) -> Value {
    b.input("image", DType::F32, [batch, height, width, 3])
}
