//! Whole graphs that are differentiated: losses, and what their gradients are taken of. Named as [`super::graphs`] are.

use super::Component;
use super::clip_text::{self, ClipTextConfig, Injection};
use super::unet::{self, Conditioning, Context, Time};
use super::unet_config::UnetConfig;
use crate::graph::{Builder, Graph, Value, grad};
use crate::ops::{AddNoise, Cast, Mse};
use crate::{DType, Error, Result};

/// Sizes of a batch of the denoising loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BatchSize {
    /// Images, each with its prompt.
    pub batch: usize,
    /// Height of the latents.
    pub height: usize,
    /// Width of the latents.
    pub width: usize,
    /// Pseudo-words of each prompt.
    pub words: usize,
}

/// A denoising loss in its graph.
#[derive(Clone, Debug)]
pub struct DenoisingLoss {
    /// The graph, without outputs.
    pub graph: Graph,
    /// Mean-squared noise error, one f32.
    pub loss: Value,
    /// The pseudo-words, an input `[B,k,H]` f32.
    pub embeds: Value,
    /// Hidden states of the text encoder, `[B,T,H]`.
    pub context: Value,
}

/// The loss that DreamIdentity is trained with (equation 3): how well the UNet predicts the noise in latents when the prompt holds
/// pseudo-words.
///
/// Inputs: `latents [B,h,w,4]` f32, clean and scaled; `noise [B,h,w,4]` f32; `timesteps [B]` f32; `coefficients [B,2]` f32, √ā and √(1−ā) of each
/// timestep; `input_ids [B,T]` i32; `positions [B,k]` i32 (−1: unused); `embeds [B,k,H]` f32.
pub fn denoising_loss(text: &ClipTextConfig, config: &UnetConfig, dtype: DType, size: BatchSize) -> Result<DenoisingLoss> {
    if text.hidden_size != config.cross_attention_dim {
        let what = format!("cross_attention_dim is {}, but the text encoder gives {}", config.cross_attention_dim, text.hidden_size);
        return Err(Error::config("unet/config.json", what));
    }
    if config.in_channels != config.out_channels {
        let what = format!("the UNet takes {} channels and gives {}: it does not predict noise", config.in_channels, config.out_channels);
        return Err(Error::config("unet/config.json", what));
    }
    let BatchSize { batch, height, width, words } = size;
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let [latents, noise] = ["latents", "noise"].map(|name| b.input(name, DType::F32, [batch, height, width, config.in_channels]));
    let timesteps = b.input("timesteps", DType::F32, [batch]);
    let coefficients = b.input("coefficients", DType::F32, [batch, 2]);
    let ids = b.input("input_ids", DType::I32, [batch, text.max_position_embeddings]);
    let slots = b.input("positions", DType::I32, [batch, words]);
    let embeds = b.input("embeds", DType::F32, [batch, words, text.hidden_size]);
    let context = clip_text::clip_text(&mut b.scope(Component::TextEncoder), text, ids, Some(Injection { slots, embeds }))?;
    let noisy = b.scope("noise").op(AddNoise { dtype }, &[Some(latents), Some(noise), Some(coefficients)])?;
    let predicted = {
        let mut b = b.scope(Component::Unet);
        let time = Time::Embedding(unet::embed_time(&mut b, config, timesteps)?);
        unet::unet(&mut b, config, noisy, &Conditioning { context: Context::Hidden(context), time })?
    };
    let loss = b.scope("loss").op(Mse, &[Some(predicted), Some(noise)])?;
    Ok(DenoisingLoss { graph, loss, embeds, context })
}

/// [`denoising_loss`] with its gradients in what an identity changes. No gradient of a weight is computed.
///
/// Outputs: `loss` f32, `grad_embeds [B,k,H]` f32, `grad_context [B,T,H]`, the gradient in the hidden states of the text encoder.
pub fn denoising_gradient(text: &ClipTextConfig, config: &UnetConfig, dtype: DType, size: BatchSize) -> Result<Graph> {
    let DenoisingLoss { mut graph, loss, embeds, context } = denoising_loss(text, config, dtype, size)?;
    let gradients = grad(&mut graph, loss, &[embeds, context])?;
    let mut b = Builder::new(&mut graph, DType::F32);
    b.output("loss", loss)?;
    for (name, gradient) in ["grad_embeds", "grad_context"].into_iter().zip(gradients) {
        let gradient = if b.ty(gradient).dtype == DType::F32 { gradient } else { b.op(Cast { dtype: DType::F32 }, &[Some(gradient)])? };
        b.output(name, gradient)?;
    }
    Ok(graph)
}
