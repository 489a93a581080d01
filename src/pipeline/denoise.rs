//! The sampling loop: from noise to latents.

use super::networks::Networks;
use super::picture::check_finite;
use super::precision::Network;
use super::{Pipeline, Steps};
use crate::exec::Executable;
use crate::models::graphs::StepSize;
use crate::{Error, Result, Shape, Tensor};
use std::time::{Duration, Instant};

/// Denoises any number of batches under one prompt. What neither step nor picture changes is computed once, when it is made.
pub(super) struct Denoiser {
    /// Sizes of a full batch.
    size: StepSize,
    /// With one row of keys and values for each half of guidance.
    constants: StepConstants,
    /// Time spent in steps so far, without loading.
    pub(super) time: Duration,
}

impl Denoiser {
    /// For `context [2,T,C]`, the unconditional row first, or `[1,T,C]` without guidance; batches of up to `images` latents of height and width.
    /// Loads the step for such batches.
    pub(super) fn new(
        networks: &mut Networks,
        context: &Tensor,
        steps: &Steps,
        guidance: f32,
        images: usize,
        [height, width]: [usize; 2],
    ) -> Result<Self> {
        let keys_values = networks.keys_values(context)?;
        let time_tables = networks.time_tables(&steps.timesteps)?.clone();
        let guided = context.shape()[0] == 2;
        let size = StepSize { images, height, width, tokens: context.shape()[1], steps: steps.timesteps.len(), guided };
        let constants = StepConstants::new(steps, guided.then_some(guidance), keys_values, time_tables)?;
        networks.step(size)?;
        Ok(Self { size, constants, time: Duration::ZERO })
    }

    /// All steps for one batch of `latents [n,h,w,4]`, n at most the size of a full batch; `on_step` is called after each.
    pub(super) fn run(&mut self, networks: &mut Networks, latents: &Tensor, on_step: &mut dyn FnMut() -> Result<()>) -> Result<Tensor> {
        let size = StepSize { images: latents.shape()[0], ..self.size };
        let step = networks.step(size)?;
        self.constants.write(step, size.images)?;
        let finite =
            |index: usize, t: &Tensor| check_finite(&format!("latents after step {} of {}", index + 1, size.steps), &t.to_f32_vec());
        let (start, mut elsewhere) = (Instant::now(), Duration::ZERO);
        let latents = sampler_steps(step, latents, size.steps, &mut |step, index| {
            // a look at the latents would make a device wait that may be many steps behind
            if !step.is_asynchronous() {
                finite(index, &step.read("next")?)?;
            }
            let called = Instant::now();
            on_step()?;
            elsewhere += called.elapsed();
            Ok(())
        })?;
        self.time += start.elapsed().saturating_sub(elsewhere);
        finite(size.steps.saturating_sub(1), &latents)?;
        Ok(latents)
    }
}

/// What stays the same in all steps of a run; written once into the graph of [`crate::models::graphs::ddim_step`].
pub struct StepConstants {
    places: Vec<(String, Tensor)>,
    /// How many of `places` are keys and values: one row for each half of guidance, to be repeated for each picture.
    keys_values: usize,
}

impl StepConstants {
    /// From the outputs of [`crate::models::graphs::context_keys_values`] and [`crate::models::graphs::time_tables`]; without guidance there is
    /// no unconditional half.
    pub fn new(
        steps: &Steps,
        guidance: Option<f32>,
        keys_values: Vec<(String, Tensor)>,
        time_tables: Vec<(String, Tensor)>,
    ) -> Result<Self> {
        let (count, mut places) = (keys_values.len(), keys_values);
        places.extend(time_tables);
        places.push(("coefficients".into(), Tensor::from_f32([steps.coefficients.len(), 4], steps.coefficients.as_flattened())?));
        if let Some(guidance) = guidance {
            places.push(("guidance".into(), Tensor::from_f32([1], &[guidance])?));
        }
        Ok(Self { places, keys_values: count })
    }

    /// Writes them; each row of keys and values serves `pictures` pictures.
    pub fn write(&self, step: &mut Executable, pictures: usize) -> Result<()> {
        let (keys_values, others) = self.places.split_at(self.keys_values);
        keys_values.iter().try_for_each(|(place, values)| step.write(place, &repeated(values, pictures)?))?;
        others.iter().try_for_each(|(place, values)| step.write(place, values))
    }
}

/// All steps of the sampler on latents `[B,h,w,4]`, which stay on the device in between; `on_step` is called after each with its index.
/// A CUDA device may then still be at it: nothing in the loop waits.
pub fn sampler_steps(
    step: &mut Executable,
    latents: &Tensor,
    steps: usize,
    on_step: &mut dyn FnMut(&Executable, usize) -> Result<()>,
) -> Result<Tensor> {
    step.write("latents", latents)?;
    for index in 0..steps {
        if index > 0 {
            step.feed("next", "latents")?;
        }
        step.write("step", &Tensor::from_i32([1], &[index as i32])?)?;
        step.run()?;
        on_step(step, index)?;
    }
    step.read("next")
}

impl Pipeline {
    /// The sampler alone: latents `[B,4,h,w]` as the last step leaves them, from initial noise `latents` of that shape and hidden states
    /// `context` and `context_uncond [B,T,C]`. Without `context_uncond` there is no guidance.
    pub fn sample(
        &mut self,
        latents: &Tensor,
        context: &Tensor,
        context_uncond: Option<&Tensor>,
        steps: usize,
        guidance: f32,
    ) -> Result<Tensor> {
        let steps = self.schedule.steps(steps)?;
        let noise = latents.nchw_to_nhwc()?;
        let (count, size) = (noise.shape()[0], [noise.shape()[1], noise.shape()[2]]);
        let contexts = [context_uncond, Some(context)];
        if let Some(other) = contexts.into_iter().flatten().find(|c| c.shape().len() != 3 || c.shape()[0] != count) {
            return Err(Error::input(format!("{} latents need as many contexts [B,T,C], got {}", count, other.ty())));
        }
        let mut done = Vec::new();
        for i in 0..count {
            let of_picture: Vec<Tensor> = contexts.into_iter().flatten().map(|c| rows(c, i, 1)).collect::<Result<_>>()?;
            let (context, noise) = (stacked(&of_picture)?, rows(&noise, i, 1)?);
            done.push(self.networks.in_range(Network::Unet, |networks| {
                let mut denoiser = Denoiser::new(networks, &context, &steps, guidance, 1, size)?;
                denoiser.run(networks, &noise, &mut || Ok(()))
            })?);
        }
        stacked(&done)?.nhwc_to_nchw()
    }
}

/// `count` rows of the first axis, as f32.
pub(super) fn rows(tensor: &Tensor, first: usize, count: usize) -> Result<Tensor> {
    let each = tensor.shape().elements() / tensor.shape()[0].max(1);
    Tensor::from_f32(with_first(tensor, count), &tensor.to_f32_vec()[first * each..(first + count) * each])
}

/// Each row of the first axis `times` over: `[a, b]` to `[a, a, b, b]`, as f32.
pub(super) fn repeated(tensor: &Tensor, times: usize) -> Result<Tensor> {
    let values = tensor.to_f32_vec();
    let each = (values.len() / tensor.shape()[0].max(1)).max(1);
    let all: Vec<f32> = values.chunks_exact(each).flat_map(|row| row.repeat(times)).collect();
    Tensor::from_f32(with_first(tensor, tensor.shape()[0] * times), &all)
}

/// Tensors of one shape one after the other along the first axis, as f32.
pub(super) fn stacked(parts: &[Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else { return Err(Error::input("nothing to stack")) };
    let values: Vec<f32> = parts.iter().flat_map(Tensor::to_f32_vec).collect();
    Tensor::from_f32(with_first(first, parts.iter().map(|p| p.shape()[0]).sum()), &values)
}

fn with_first(tensor: &Tensor, extent: usize) -> Shape {
    let mut extents = tensor.shape().to_vec();
    extents[0] = extent;
    Shape::new(&extents)
}
