//! A whole denoising run, from given latents and contexts.

use super::inputs::Inputs;
use super::networks::{compile, to_nchw};
use super::{Outputs, Setting};
use dreamid_engine::models::Component;
use dreamid_engine::models::graphs::{self, StepSize};
use dreamid_engine::pipeline::{Schedule, StepConstants, sampler_steps};
use dreamid_engine::{Result, Tensor};

pub(super) fn ddim(setting: &Setting<'_>, inputs: &mut Inputs, steps: usize, guidance: f32) -> Result<Outputs> {
    let config = setting.model.unet_config()?;
    let latents = inputs.picture("latents", config.in_channels)?;
    let (images, height, width) = (latents.shape()[0], latents.shape()[1], latents.shape()[2]);
    let guided = guidance != 1.0;
    let context = contexts(inputs, images, config.cross_attention_dim, guided)?;
    inputs.finish()?;
    let file = "scheduler/scheduler_config.json";
    let schedule = Schedule::from_json(&setting.model.read(file)?, file)?.steps(steps)?;

    let unet = [Component::Unet];
    let size = StepSize { images, height, width, tokens: context.shape()[1], steps, guided };
    let mut keys_values = compile(setting, &unet, graphs::context_keys_values(&config, setting.dtype, size.unet_batch(), size.tokens)?)?;
    let mut tables = compile(setting, &unet, graphs::time_tables(&config, setting.dtype, steps)?)?;
    let mut step = compile(setting, &unet, graphs::ddim_step(&config, setting.dtype, size)?)?;

    let timesteps: Vec<f32> = schedule.timesteps.iter().map(|&t| t as f32).collect();
    let keys_values = keys_values.call(&[("context", &context)])?;
    let tables = tables.call(&[("timesteps", &Tensor::from_f32([steps], &timesteps)?)])?;
    StepConstants::new(&schedule, guided.then_some(guidance), keys_values, tables)?.write(&mut step, 1)?;
    let last = sampler_steps(&mut step, &latents, steps, &mut |_, _| Ok(()))?;
    to_nchw(vec![("final".to_owned(), last)])
}

/// Both halves of guidance in the UNet's order, the unconditional one first; without guidance the context alone.
fn contexts(inputs: &mut Inputs, images: usize, width: usize, guided: bool) -> Result<Tensor> {
    let context = inputs.float("context", 3)?;
    let tokens = context.shape()[1];
    let fits = |t: &Tensor| *t.shape() == [images, tokens, width];
    inputs.ensure(fits(&context), || format!("`context` is {}, expected [{images},T,{width}]", context.ty()))?;
    if !guided {
        return Ok(context);
    }
    let unconditional = inputs.float("context_uncond", 3)?;
    inputs.ensure(fits(&unconditional), || format!("`context_uncond` is {}, expected {}", unconditional.ty(), context.shape()))?;
    let both: Vec<f32> = unconditional.to_f32_vec().into_iter().chain(context.to_f32_vec()).collect();
    Tensor::from_f32([2 * images, tokens, width], &both)
}
