//! The graphs that are one network each.

use super::inputs::Inputs;
use super::{Outputs, Setting};
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::Graph;
use dreamid_engine::models::graphs::{self, UnetSize};
use dreamid_engine::models::{ClipTextConfig, Component};
use dreamid_engine::{Result, Tensor};

pub(super) fn text(setting: &Setting<'_>, inputs: &mut Inputs) -> Result<Outputs> {
    let config = setting.model.text_config()?;
    let injects = inputs.has("positions") || inputs.has("embeds");
    let prompt = prompt(&config, inputs, injects)?;
    inputs.finish()?;
    let (batch, words) = (prompt[0].1.shape()[0], injects.then(|| prompt[1].1.shape()[1]));
    call(setting, &[Component::TextEncoder], graphs::text(&config, setting.dtype, batch, words)?, &prompt)
}

/// `input_ids` and, with pseudo-words, `positions` and `embeds`, in this order.
pub(super) fn prompt(config: &ClipTextConfig, inputs: &mut Inputs, injects: bool) -> Result<Vec<(&'static str, Tensor)>> {
    let ids = inputs.integer("input_ids", 2)?;
    let (batch, tokens, words) = (ids.shape()[0], config.max_position_embeddings, config.vocab_size as i32);
    inputs.ensure(ids.shape()[1] == tokens, || format!("`input_ids` is {}, expected [B,{tokens}]", ids.ty()))?;
    let stranger = ids.to_i32_vec().into_iter().find(|id| !(0..words).contains(id));
    inputs.ensure(stranger.is_none(), || format!("`input_ids` holds {}, but ids go from 0 to {}", stranger.unwrap_or(0), words - 1))?;
    if !injects {
        return Ok(vec![("input_ids", ids)]);
    }
    let (positions, embeds) = (inputs.integer("positions", 2)?, inputs.float("embeds", 3)?);
    let (k, width) = (positions.shape()[1], config.hidden_size);
    let fits = *positions.shape() == [batch, k] && *embeds.shape() == [batch, k, width];
    inputs.ensure(fits, || {
        format!("`positions` is {} and `embeds` {}, expected [{batch},k] and [{batch},k,{width}]", positions.ty(), embeds.ty())
    })?;
    let outside = positions.to_i32_vec().into_iter().find(|p| !(-1..tokens as i32).contains(p));
    inputs.ensure(outside.is_none(), || format!("`positions` holds {}, beyond {tokens} tokens", outside.unwrap_or(0)))?;
    Ok(vec![("input_ids", ids), ("positions", positions), ("embeds", embeds)])
}

pub(super) fn unet(setting: &Setting<'_>, inputs: &mut Inputs) -> Result<Outputs> {
    let config = setting.model.unet_config()?;
    let latents = inputs.picture("latents", config.in_channels)?;
    let (timesteps, context) = (inputs.float("timesteps", 1)?, inputs.float("context", 3)?);
    inputs.finish()?;
    let (batch, height, width) = (latents.shape()[0], latents.shape()[1], latents.shape()[2]);
    let tokens = context.shape()[1];
    inputs.ensure(timesteps.shape()[0] == batch, || format!("`timesteps` is {}, expected [{batch}]", timesteps.ty()))?;
    let fits = *context.shape() == [batch, tokens, config.cross_attention_dim];
    inputs.ensure(fits, || format!("`context` is {}, expected [{batch},T,{}]", context.ty(), config.cross_attention_dim))?;
    let graph = graphs::unet(&config, setting.dtype, UnetSize { batch, height, width, tokens })?;
    let named = [("latents", latents), ("timesteps", timesteps), ("context", context)];
    call(setting, &[Component::Unet], graph, &named).and_then(to_nchw)
}

pub(super) fn vae_encode(setting: &Setting<'_>, inputs: &mut Inputs) -> Result<Outputs> {
    let config = setting.model.vae_config()?;
    let image = inputs.picture("image", config.in_channels)?;
    inputs.finish()?;
    let (batch, height, width) = (image.shape()[0], image.shape()[1], image.shape()[2]);
    let factor = config.factor();
    inputs
        .ensure(height % factor == 0 && width % factor == 0, || format!("`image` is {height}x{width}, expected multiples of {factor}"))?;
    let graph = graphs::vae_encode(&config, setting.dtype, batch, height, width)?;
    call(setting, &[Component::Vae], graph, &[("image", image)]).and_then(to_nchw)
}

pub(super) fn vae_decode(setting: &Setting<'_>, inputs: &mut Inputs) -> Result<Outputs> {
    let config = setting.model.vae_config()?;
    let latents = inputs.picture("latents", config.latent_channels)?;
    inputs.finish()?;
    let (batch, height, width) = (latents.shape()[0], latents.shape()[1], latents.shape()[2]);
    let graph = graphs::vae_decode(&config, setting.dtype, batch, height, width)?;
    call(setting, &[Component::Vae], graph, &[("latents", latents)]).and_then(to_nchw)
}

/// Without a projector in the model, the taps alone.
pub(super) fn identity(setting: &Setting<'_>, inputs: &mut Inputs) -> Result<Outputs> {
    let config = setting.model.face_config()?;
    let image = inputs.picture("image", config.num_channels)?;
    inputs.finish()?;
    let (batch, height, width) = (image.shape()[0], image.shape()[1], image.shape()[2]);
    let side = config.image_size;
    inputs.ensure(height == side && width == side, || format!("`image` is {height}x{width}, expected {side}x{side}"))?;
    if !setting.model.has(Component::Projector) {
        let graph = graphs::face_encoder(&config, setting.dtype, batch)?;
        return call(setting, &[Component::FaceEncoder], graph, &[("image", image)]);
    }
    let graph = graphs::identity(&config, &setting.model.projector_config()?, setting.dtype, batch)?;
    call(setting, &[Component::FaceEncoder, Component::Projector], graph, &[("image", image)])
}

/// Compiles, after every weight of the components has been accounted for.
pub(super) fn compile(setting: &Setting<'_>, components: &[Component], graph: Graph) -> Result<Executable> {
    components.iter().try_for_each(|c| setting.model.check_weights(*c))?;
    let mut exe = Executable::compile(graph, &setting.model.weights_of(components)?, &setting.device)?;
    exe.watch_non_finite(setting.watch);
    Ok(exe)
}

pub(super) fn call(setting: &Setting<'_>, components: &[Component], graph: Graph, inputs: &[(&str, Tensor)]) -> Result<Outputs> {
    let refs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    compile(setting, components, graph)?.call(&refs)
}

/// All results from channels-last to `[B,C,H,W]`.
pub(super) fn to_nchw(outputs: Outputs) -> Result<Outputs> {
    outputs.into_iter().map(|(name, tensor)| Ok((name, tensor.nhwc_to_nchw()?))).collect()
}
