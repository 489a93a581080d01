//! A whole picture: every network in its order, and all steps.

use super::super::graphs::{self, Sizes};
use super::memory;
use super::stage::{Measured, Runs, Seen, repeat, timed};
use dreamid_engine::exec::Executable;
use dreamid_engine::models::ModelFolder;
use dreamid_engine::ops::Cost;
use dreamid_engine::{Result, Tensor};
use std::time::Instant;

/// The compiled networks.
struct Networks {
    text: Executable,
    context: Executable,
    time: Executable,
    step: Executable,
    decode: Executable,
    steps: usize,
    /// Initial noise.
    latents: Tensor,
}

/// From the tokens of a prompt and its negative to one picture, on the host; none if the model lacks a component. The numbers are made up,
/// so that models without a tokenizer can be measured.
pub(super) fn measure(model: &ModelFolder, runs: &Runs<'_>) -> Result<Option<Measured>> {
    memory::reset_peak();
    let start = Instant::now();
    let Some(mut networks) = Networks::load(model, runs)? else { return Ok(None) };
    let load = start.elapsed();
    let first = timed(|| networks.picture())?;
    let times = repeat(first, runs.repeat, || networks.picture())?;
    let seen = Seen { load, first, times, cost: networks.cost(), arena: networks.arena(), on_device: None };
    Ok(Some(seen.figures("generate")))
}

impl Networks {
    fn load(model: &ModelFolder, runs: &Runs<'_>) -> Result<Option<Self>> {
        let sizes = Sizes { images: 1, picture: runs.size, steps: runs.steps };
        let compile = |name: &str| -> Result<Option<Executable>> {
            let Some(named) = graphs::build(model, name, runs.dtype, sizes)? else { return Ok(None) };
            let mut exe = Executable::compile(named.graph, &model.weights_of(&named.components)?, runs.device)?;
            exe.write_ordinary_inputs()?;
            Ok(Some(exe))
        };
        let (Some(text), Some(context), Some(time)) = (compile("text")?, compile("context")?, compile("time")?) else { return Ok(None) };
        let (Some(step), Some(decode)) = (compile("ddim-step")?, compile("vae-decode")?) else { return Ok(None) };
        let [height, width] = graphs::latent_size(model, runs.size)?;
        let channels = model.unet_config()?.in_channels;
        let noise: Vec<f32> = (0..height * width * channels).map(|i| (i % 29) as f32 / 14.0 - 1.0).collect();
        let latents = Tensor::from_f32([1, height, width, channels], &noise)?;
        Ok(Some(Self { text, context, time, step, decode, steps: runs.steps, latents }))
    }

    fn picture(&mut self) -> Result<()> {
        self.text.run()?;
        self.context.write("context", &self.text.read("hidden")?)?;
        for once in [&mut self.context, &mut self.time] {
            once.run()?;
            let names: Vec<String> = once.graph().outputs().iter().map(|(name, _)| name.clone()).collect();
            names.iter().try_for_each(|name| self.step.write(name, &once.read(name)?))?;
        }
        self.step.write("latents", &self.latents)?;
        for step in 0..self.steps {
            self.step.write("step", &Tensor::from_i32([1], &[step as i32])?)?;
            self.step.run()?;
            if step + 1 < self.steps {
                self.step.feed("next", "latents")?;
            }
        }
        self.decode.write("latents", &self.step.read("next")?)?;
        self.decode.run()?;
        self.decode.read("image").map(drop)
    }

    fn all(&self) -> [&Executable; 5] {
        [&self.text, &self.context, &self.time, &self.step, &self.decode]
    }

    fn cost(&self) -> Cost {
        let step = self.step.graph().total_cost();
        let more = (1..self.steps).map(|_| step);
        self.all().into_iter().map(|exe| exe.graph().total_cost()).chain(more).sum()
    }

    fn arena(&self) -> usize {
        self.all().into_iter().map(|exe| exe.plan().arena_bytes()).sum()
    }
}
