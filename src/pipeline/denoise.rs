//! The sampling loop: from noise to latents.

use super::networks::{Networks, Places};
use super::picture::check_finite;
use super::{Pipeline, Steps};
use crate::models::graphs::StepSize;
use crate::{Error, Result, Shape, Tensor};
use std::time::{Duration, Instant};

/// Denoises any number of batches under one prompt. What neither step nor picture changes is computed once, when it is made.
pub(super) struct Denoiser<'a> {
    networks: &'a mut Networks,
    /// Sizes of a full batch.
    size: StepSize,
    /// One row of keys and values for each half of guidance.
    keys_values: Places,
    coefficients: Tensor,
    guidance: f32,
    timesteps: Vec<usize>,
    /// Time spent in steps so far, without loading.
    pub(super) time: Duration,
}

impl<'a> Denoiser<'a> {
    /// For `context [2,T,C]`, the unconditional row first, or `[1,T,C]` without guidance; batches of up to `images` latents of height and width.
    pub(super) fn new(
        networks: &'a mut Networks,
        context: &Tensor,
        steps: &Steps,
        guidance: f32,
        images: usize,
        [height, width]: [usize; 2],
    ) -> Result<Self> {
        let keys_values = networks.keys_values(context)?;
        networks.time_tables(&steps.timesteps)?;
        let guided = context.shape()[0] == 2;
        Ok(Self {
            networks,
            size: StepSize { images, height, width, tokens: context.shape()[1], steps: steps.timesteps.len(), guided },
            keys_values,
            coefficients: Tensor::from_f32([steps.coefficients.len(), 4], steps.coefficients.as_flattened())?,
            guidance,
            timesteps: steps.timesteps.clone(),
            time: Duration::ZERO,
        })
    }

    /// All steps for one batch of `latents [n,h,w,4]`, n at most the size of a full batch; `on_step` is called after each.
    pub(super) fn run(&mut self, latents: Tensor, on_step: &mut dyn FnMut() -> Result<()>) -> Result<Tensor> {
        let size = StepSize { images: latents.shape()[0], ..self.size };
        self.load(size)?;
        (0..size.steps).try_fold(latents, |latents, step| {
            let next = self.step(size, step, &latents)?;
            on_step()?;
            Ok(next)
        })
    }

    /// Compiles the step for a batch of this size and writes everything that stays the same from step to step.
    pub(super) fn load(&mut self, size: StepSize) -> Result<()> {
        let tables = self.networks.time_tables(&self.timesteps)?.clone();
        let network = self.networks.step(size)?;
        network.write("coefficients", &self.coefficients)?;
        if size.guided {
            network.write("guidance", &Tensor::from_f32([1], &[self.guidance])?)?;
        }
        for (place, values) in &self.keys_values {
            network.write(place, &repeated(values, size.images)?)?;
        }
        tables.iter().try_for_each(|(place, table)| network.write(place, table))
    }

    fn step(&mut self, size: StepSize, step: usize, latents: &Tensor) -> Result<Tensor> {
        let start = Instant::now();
        let network = self.networks.step(size)?;
        network.write("latents", latents)?;
        network.write("step", &Tensor::from_i32([1], &[step as i32])?)?;
        network.run()?;
        let next = network.read("next")?;
        check_finite(&format!("latents after step {} of {}", step + 1, size.steps), &next.to_f32_vec())?;
        self.time += start.elapsed();
        Ok(next)
    }

    /// Sizes of a full batch.
    pub(super) fn size(&self) -> StepSize {
        self.size
    }
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
            let mut denoiser = Denoiser::new(&mut self.networks, &stacked(&of_picture)?, &steps, guidance, 1, size)?;
            done.push(denoiser.run(rows(&noise, i, 1)?, &mut || Ok(()))?);
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
