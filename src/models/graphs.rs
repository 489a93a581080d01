//! Whole graphs, ready to be compiled: names, types and shapes of everything that goes in and comes out.
//!
//! Pictures and latents are channels-last f32; callers turn NCHW tensors with [`crate::Tensor::nchw_to_nhwc`]. `dtype` is the storage of
//! activations and large weights. Parameters are named below the component (`unet.conv_in.weight`), as the weights that
//! [`super::ModelFolder::weights`] gives are.

use super::Component;
use super::clip_text::{self, ClipTextConfig, Injection};
use super::clip_vision::{self, ClipVisionConfig};
use super::projector::{self, ProjectorConfig};
use super::unet::{self, ByPlace, Conditioning, Context, Time};
use super::unet_config::UnetConfig;
use super::vae::{self, VaeConfig};
use super::vit::{self, VitConfig};
use crate::graph::{Builder, Graph, Value};
use crate::ops::{Cast, DdimStep, Repeat, Reshape, TableRow};
use crate::pipeline::clip_resample;
use crate::{DType, Error, Result, Shape};

/// Text encoder: `input_ids [B,T]` i32, and with `words` pseudo-words `positions [B,k]` i32 (−1: unused) and `embeds [B,k,H]` f32
/// -> `hidden [B,T,H]`. T is the longest prompt, 77.
pub fn text(config: &ClipTextConfig, dtype: DType, batch: usize, words: Option<usize>) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let ids = b.input("input_ids", DType::I32, [batch, config.max_position_embeddings]);
    let injection = words.map(|k| Injection {
        slots: b.input("positions", DType::I32, [batch, k]),
        embeds: b.input("embeds", DType::F32, [batch, k, config.hidden_size]),
    });
    let hidden = clip_text::clip_text(&mut b.scope(Component::TextEncoder), config, ids, injection)?;
    b.output("hidden", hidden)?;
    Ok(graph)
}

/// CLIP's text projection: `pooled [B,H]`, the hidden state at each end-of-text token -> `text_embeds [B,projection_dim]`.
pub fn text_projection(config: &ClipTextConfig, dtype: DType, batch: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let pooled = stored_input(&mut b, "pooled", [batch, config.hidden_size])?;
    let features = clip_text::project_text(&mut b.scope(Component::TextEncoder), config, pooled)?;
    b.output("text_embeds", features)?;
    Ok(graph)
}

/// CLIP's image tower: `image [B,S,S,3]`, normalised -> `image_embeds [B,projection_dim]`, not normalised.
pub fn image_features(config: &ClipVisionConfig, dtype: DType, batch: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let image = stored_input(&mut b, "image", [batch, config.image_size, config.image_size, config.num_channels])?;
    let features = clip_vision::clip_vision(&mut b.scope(Component::ImageEncoder), config, image)?;
    b.output("image_embeds", features)?;
    Ok(graph)
}

/// CLIP's image tower with its preprocessing: `pictures [B,H,W,3]` f32 from 0 to 255, `size` is `[H, W]` -> `image_embeds` as in
/// [`image_features`].
pub fn picture_features(config: &ClipVisionConfig, dtype: DType, batch: usize, size: [usize; 2]) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let pictures = b.input("pictures", DType::F32, [batch, size[0], size[1], 3]);
    let mut b = b.scope(Component::ImageEncoder);
    let image = b.op(clip_resample(size, config.image_size, dtype), &[Some(pictures)])?;
    let features = clip_vision::clip_vision(&mut b, config, image)?;
    b.output("image_embeds", features)?;
    Ok(graph)
}

/// Sizes of what the UNet works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnetSize {
    /// Images, both halves of guidance counted.
    pub batch: usize,
    /// Height of the latents.
    pub height: usize,
    /// Width of the latents.
    pub width: usize,
    /// Tokens of the prompt, 77.
    pub tokens: usize,
}

/// One UNet evaluation: `latents [B,h,w,4]` f32, `timesteps [B]` f32, `context [B,T,C]` f32 -> `eps [B,h,w,4]`.
pub fn unet(config: &UnetConfig, dtype: DType, size: UnetSize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let latents = stored_input(&mut b, "latents", [size.batch, size.height, size.width, config.in_channels])?;
    let timesteps = b.input("timesteps", DType::F32, [size.batch]);
    let context = stored_input(&mut b, "context", [size.batch, size.tokens, config.cross_attention_dim])?;
    let mut b = b.scope(Component::Unet);
    let time = Time::Embedding(unet::embed_time(&mut b, config, timesteps)?);
    let eps = unet::unet(&mut b, config, latents, &Conditioning { context: Context::Hidden(context), time })?;
    b.output("eps", eps)?;
    Ok(graph)
}

/// What depends on the prompt only: `context [B,T,C]` f32 -> the keys and values `[B,T,2C]` of every cross-attention, named by its place.
pub fn context_keys_values(config: &UnetConfig, dtype: DType, batch: usize, tokens: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let context = stored_input(&mut b, "context", [batch, tokens, config.cross_attention_dim])?;
    let all = unet::context_keys_values(&mut b.scope(Component::Unet), config, context)?;
    output_all(&mut b, &all)?;
    Ok(graph)
}

/// What depends on the timestep only: `timesteps [T]` f32 -> the bias `[T,C]` of every residual block, named by its place.
pub fn time_tables(config: &UnetConfig, dtype: DType, steps: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let timesteps = b.input("timesteps", DType::F32, [steps]);
    let all = {
        let mut b = b.scope(Component::Unet);
        let embedding = unet::embed_time(&mut b, config, timesteps)?;
        unet::time_biases(&mut b, config, embedding)?
    };
    output_all(&mut b, &all)?;
    Ok(graph)
}

/// Sizes of a denoising step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepSize {
    /// Images made together.
    pub images: usize,
    /// Height of the latents.
    pub height: usize,
    /// Width of the latents.
    pub width: usize,
    /// Tokens of the prompt, 77.
    pub tokens: usize,
    /// Steps of the whole run: rows of the tables.
    pub steps: usize,
    /// Classifier-free guidance: the UNet sees every image twice, the unconditional half first.
    pub guided: bool,
}

impl StepSize {
    /// Images that the UNet sees.
    pub fn unet_batch(&self) -> usize {
        if self.guided { 2 * self.images } else { self.images }
    }
}

/// One guided DDIM step. All that varies from step to step is `step`, so the same executable (later: the same captured CUDA graph) serves
/// every step, prompt and identity.
///
/// Inputs: `latents [n,h,w,4]` f32, `step [1]` i32, `coefficients [steps,4]` f32 (√ā, √(1−ā), √ā′, √(1−ā′)), with guidance `guidance [1]` f32,
/// the outputs of [`context_keys_values`] for the UNet's batch (as `dtype`) and of [`time_tables`] (f32) under their names.
/// Output: `next [n,h,w,4]` f32.
pub fn ddim_step(config: &UnetConfig, dtype: DType, size: StepSize) -> Result<Graph> {
    if config.in_channels != config.out_channels {
        let what = format!(
            "the UNet takes {} channels and gives {}; plain sampling needs as many of both",
            config.in_channels, config.out_channels
        );
        return Err(Error::config("unet/config.json", what));
    }
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let latents = b.input("latents", DType::F32, [size.images, size.height, size.width, config.in_channels]);
    let step = b.input("step", DType::I32, [1]);
    let coefficients = b.input("coefficients", DType::F32, [size.steps, 4]);
    let guidance = size.guided.then(|| b.input("guidance", DType::F32, [1]));
    let x = stored(&mut b, latents)?;
    let x = if size.guided { b.op(Repeat { times: 2 }, &[Some(x)])? } else { x };
    let eps = {
        let mut b = b.scope(Component::Unet);
        let conditioning = made_beforehand(&mut b, config, size, step)?;
        unet::unet(&mut b, config, x, &conditioning)?
    };
    let mut sampler = b.scope("sampler");
    let row = sampler.op(TableRow { batch: 1, dtype: DType::F32 }, &[Some(step), Some(coefficients)])?;
    let next = sampler.op(DdimStep, &[Some(latents), Some(eps), Some(row), guidance])?;
    b.output("next", next)?;
    Ok(graph)
}

/// Declares what the step graph takes ready-made, and chooses the current step's rows.
fn made_beforehand(b: &mut Builder<'_>, config: &UnetConfig, size: StepSize, step: Value) -> Result<Conditioning> {
    let batch = size.unet_batch();
    let mut keys_values = ByPlace::new();
    for (place, channels) in config.cross_attentions() {
        let name = b.name(place);
        let value = b.input(&name, b.dtype(), [batch, size.tokens, 2 * channels]);
        keys_values.insert(name, value);
    }
    let tables: Vec<(String, Value)> = config
        .residual_blocks()
        .into_iter()
        .map(|(place, channels)| {
            let name = b.name(&place);
            let table = b.input(&name, DType::F32, [size.steps, channels]);
            (name, table)
        })
        .collect();
    let mut biases = ByPlace::new();
    let dtype = b.dtype();
    for some in tables.chunks(TableRow::MOST) {
        let inputs: Vec<Option<Value>> = [Some(step)].into_iter().chain(some.iter().map(|(_, table)| Some(*table))).collect();
        let rows = b.scope("time").op_many(TableRow { batch, dtype }, &inputs)?;
        biases.extend(some.iter().zip(rows).map(|((name, _), row)| (name.clone(), row)));
    }
    Ok(Conditioning { context: Context::KeysValues(keys_values), time: Time::Biases(biases) })
}

/// VAE encoder: `image [B,H,W,3]` f32 from −1 to 1 -> `mean` and `logvar` `[B,h,w,4]`, not scaled.
pub fn vae_encode(config: &VaeConfig, dtype: DType, batch: usize, height: usize, width: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let image = stored_input(&mut b, "image", [batch, height, width, config.in_channels])?;
    let (mean, logvar) = vae::vae_encode(&mut b.scope(Component::Vae), config, image)?;
    b.output("mean", mean)?;
    b.output("logvar", logvar)?;
    Ok(graph)
}

/// VAE decoder: `latents [B,h,w,4]` f32 as the sampler leaves them -> `image [B,H,W,3]`, not clamped.
pub fn vae_decode(config: &VaeConfig, dtype: DType, batch: usize, height: usize, width: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let latents = b.input("latents", DType::F32, [batch, height, width, config.latent_channels]);
    let image = vae::vae_decode(&mut b.scope(Component::Vae), config, latents)?;
    b.output("image", image)?;
    Ok(graph)
}

/// Face encoder and projector: `image [B,S,S,3]` f32, aligned and normalised -> `taps` (`[B,n,D]`, the last vector included, if all have
/// one width; side by side `[B,feature_size]` otherwise) and `embeds [B,k,H]` f32.
pub fn identity(encoder: &VitConfig, projector: &ProjectorConfig, dtype: DType, batch: usize) -> Result<Graph> {
    let (gives, takes) = (encoder.feature_size(), projector.input_size);
    if gives != takes {
        let what = format!("input_size is {takes}, but the face encoder gives {gives} features: they do not belong together");
        return Err(Error::config("projector", what));
    }
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let joined = face_features(&mut b, encoder, batch)?;
    let embeds = projector::projector(&mut b.scope(Component::Projector), projector, joined)?;
    b.output("embeds", embeds)?;
    Ok(graph)
}

/// The projector alone: `features [B,input_size]` f32 -> `embeds [B,k,H]` f32, computed in f32 whatever `dtype` is.
pub fn projector(config: &ProjectorConfig, dtype: DType, batch: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let features = stored_input(&mut b, "features", [batch, config.input_size])?;
    let embeds = projector::projector(&mut b.scope(Component::Projector), config, features)?;
    b.output("embeds", embeds)?;
    Ok(graph)
}

/// The face encoder alone: `image` -> `taps`, as in [`identity`].
pub fn face_encoder(config: &VitConfig, dtype: DType, batch: usize) -> Result<Graph> {
    let mut graph = Graph::new();
    face_features(&mut Builder::new(&mut graph, dtype), config, batch)?;
    Ok(graph)
}

/// Declares `image` and `taps`; gives the features side by side.
fn face_features(b: &mut Builder<'_>, config: &VitConfig, batch: usize) -> Result<Value> {
    let image = stored_input(b, "image", [batch, config.image_size, config.image_size, config.num_channels])?;
    let mut b = b.scope(Component::FaceEncoder);
    let features = vit::vit(&mut b, config, image)?;
    let mut taps = features.joined;
    if config.final_size() == config.hidden_size {
        taps = b.op(Reshape { shape: [batch, features.taps.len() + 1, config.hidden_size].into() }, &[Some(taps)])?;
    }
    b.output("taps", taps)?;
    Ok(features.joined)
}

/// An f32 input, in the builder's storage.
fn stored_input(b: &mut Builder<'_>, name: &str, shape: impl Into<Shape>) -> Result<Value> {
    let input = b.input(name, DType::F32, shape);
    stored(b, input)
}

/// The value in the builder's storage.
fn stored(b: &mut Builder<'_>, value: Value) -> Result<Value> {
    let dtype = b.dtype();
    if b.ty(value).dtype == dtype { Ok(value) } else { b.op(Cast { dtype }, &[Some(value)]) }
}

fn output_all(b: &mut Builder<'_>, values: &ByPlace) -> Result<()> {
    values.iter().try_for_each(|(place, &value)| b.output(place, value))
}
