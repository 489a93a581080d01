//! The denoising loss and its gradients in the pseudo-words and in the prompt.

use super::inputs::Inputs;
use super::networks::{call, prompt};
use super::{Outputs, Setting};
use dreamid_engine::models::Component;
use dreamid_engine::models::gradients::{self, BatchSize};
use dreamid_engine::pipeline::Schedule;
use dreamid_engine::{Error, Result, Tensor};

pub(super) fn denoising_gradient(setting: &Setting<'_>, inputs: &mut Inputs) -> Result<Outputs> {
    let (text, unet) = (setting.model.text_config()?, setting.model.unet_config()?);
    let (latents, noise) = (inputs.picture("latents", unet.in_channels)?, inputs.picture("noise", unet.in_channels)?);
    let timesteps = inputs.float("timesteps", 1)?;
    let prompt = prompt(&text, inputs, true)?;
    inputs.finish()?;
    let (batch, height, width) = (latents.shape()[0], latents.shape()[1], latents.shape()[2]);
    inputs.ensure(noise.shape() == latents.shape(), || format!("`noise` is {}, but `latents` {}", noise.ty(), latents.ty()))?;
    let fits = timesteps.shape()[0] == batch && prompt[0].1.shape()[0] == batch;
    inputs.ensure(fits, || format!("`timesteps` is {} and `input_ids` {} for {batch} latents", timesteps.ty(), prompt[0].1.ty()))?;
    let coefficients = coefficients(setting, &timesteps.to_f32_vec())?;
    let size = BatchSize { batch, height, width, words: prompt[1].1.shape()[1] };
    let graph = gradients::denoising_gradient(&text, &unet, setting.dtype, size)?;
    let mut named = vec![("latents", latents), ("noise", noise), ("timesteps", timesteps)];
    named.push(("coefficients", Tensor::from_f32([batch, 2], coefficients.as_flattened())?));
    named.extend(prompt);
    call(setting, &[Component::TextEncoder, Component::Unet], graph, &named)
}

/// The shares of picture and noise at each timestep of the model's own schedule.
fn coefficients(setting: &Setting<'_>, timesteps: &[f32]) -> Result<Vec<[f32; 2]>> {
    let file = "scheduler/scheduler_config.json";
    let schedule = Schedule::from_json(&setting.model.read(file)?, file)?;
    let one = |&t: &f32| {
        if t < 0.0 || t.fract() != 0.0 {
            return Err(Error::input(format!("`timesteps` holds {t}, expected whole numbers from 0 on")));
        }
        schedule.shares(t as usize)
    };
    timesteps.iter().map(one).collect()
}
