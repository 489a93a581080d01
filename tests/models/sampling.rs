//! Thirty guided steps through the step graph, against diffusers' DDIM.

use crate::golden::{DTYPES, Golden, PIPELINES, device, model, relative, run, waves};
use dreamid_engine::exec::Executable;
use dreamid_engine::models::graphs::{self, StepSize};
use dreamid_engine::models::{Component, ModelFolder};
use dreamid_engine::pipeline::Schedule;
use dreamid_engine::{DType, Tensor};

/// What a run of the sampler needs.
pub(crate) struct Run<'a> {
    pub(crate) model: &'a ModelFolder,
    pub(crate) dtype: DType,
    pub(crate) steps: usize,
    /// Scale of guidance; none: the conditional half alone.
    pub(crate) guidance: Option<f32>,
    /// `[B,T,C]`, the unconditional half first.
    pub(crate) context: &'a Tensor,
    pub(crate) latents: &'a Tensor,
}

impl Run<'_> {
    pub(crate) fn finish(&self) -> Tensor {
        let config = self.model.unet_config().unwrap();
        let weights = self.model.weights(Component::Unet).unwrap();
        let (l, c) = (self.latents.shape(), self.context.shape());
        let guided = self.guidance.is_some();
        let size = StepSize { images: l[0], height: l[1], width: l[2], tokens: c[1], steps: self.steps, guided };
        let mut step = Executable::compile(graphs::ddim_step(&config, self.dtype, size).unwrap(), &weights, &device()).unwrap();

        let scheduler = self.model.read("scheduler/scheduler_config.json").unwrap();
        let plan = Schedule::from_json(&scheduler, "scheduler_config.json").unwrap().steps(self.steps).unwrap();
        let timesteps: Vec<f32> = plan.timesteps.iter().map(|&t| t as f32).collect();
        let timesteps = Tensor::from_f32([self.steps], &timesteps).unwrap();
        let once = [
            (graphs::context_keys_values(&config, self.dtype, size.unet_batch(), size.tokens).unwrap(), ("context", self.context)),
            (graphs::time_tables(&config, self.dtype, self.steps).unwrap(), ("timesteps", &timesteps)),
        ];
        for (graph, input) in once {
            for (name, tensor) in Executable::compile(graph, &weights, &device()).unwrap().call(&[input]).unwrap() {
                step.write(&name, &tensor).unwrap();
            }
        }
        step.write("coefficients", &Tensor::from_f32([self.steps, 4], &plan.coefficients.concat()).unwrap()).unwrap();
        if let Some(guidance) = self.guidance {
            step.write("guidance", &Tensor::from_f32([1], &[guidance]).unwrap()).unwrap();
        }
        let mut latents = self.latents.clone();
        for i in 0..self.steps {
            step.write("step", &Tensor::from_i32([1], &[i as i32]).unwrap()).unwrap();
            step.write("latents", &latents).unwrap();
            step.run().unwrap();
            latents = step.read("next").unwrap();
        }
        latents
    }
}

/// Rows of the first axis of both, one after the other.
pub(crate) fn stacked(first: &Tensor, second: &Tensor) -> Tensor {
    let (a, b) = (first.shape(), second.shape());
    let values = [first.to_f32_vec(), second.to_f32_vec()].concat();
    Tensor::from_f32([a[0] + b[0], a[1], a[2]], &values).unwrap()
}

#[test]
fn latents_after_30_guided_steps_are_those_of_diffusers() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::of(name));
        let context = stacked(&golden.get("ddim.context_uncond"), &golden.get("ddim.context"));
        let latents = golden.image("ddim.latents");
        let run = Run { model: &model, dtype: DType::F32, steps: 30, guidance: Some(7.5), context: &context, latents: &latents };
        golden.check("ddim.final", &run.finish());
    }
}

/// Swapping the halves and mirroring the scale (g to 1 − g) is the same formula: catches an order that is only consistently wrong.
#[test]
fn the_unconditional_half_comes_first() {
    let (model, golden) = (model("tiny-a"), Golden::of("tiny-a"));
    let (cond, uncond) = (golden.get("ddim.context"), golden.get("ddim.context_uncond"));
    let latents = golden.image("ddim.latents");
    let go = |context: &Tensor, guidance| {
        Run { model: &model, dtype: DType::F32, steps: 3, guidance: Some(guidance), context, latents: &latents }.finish()
    };
    let right = go(&stacked(&uncond, &cond), 3.0);
    assert!(relative(&go(&stacked(&cond, &uncond), -2.0), &right) < 1e-4);
    assert!(relative(&go(&stacked(&cond, &uncond), 3.0), &right) > 1e-2);
}

/// Guidance 1 is the conditional half, which can then run alone.
#[test]
fn guidance_one_needs_no_unconditional_half() {
    let (model, golden) = (model("tiny-c"), Golden::of("tiny-c"));
    let (cond, uncond) = (golden.get("ddim.context"), golden.get("ddim.context_uncond"));
    let latents = golden.image("ddim.latents");
    let both = stacked(&uncond, &cond);
    let go = |context, guidance| Run { model: &model, dtype: DType::F32, steps: 3, guidance, context, latents: &latents }.finish();
    assert!(relative(&go(&cond, None), &go(&both, Some(1.0))) < 1e-5);
}

#[test]
fn image_i_of_a_batch_is_image_i_alone() {
    let model = model("tiny-b");
    let width = model.unet_config().unwrap().cross_attention_dim;
    for dtype in DTYPES {
        let (latents, context) = (waves([3, 5, 7, 4]), waves([6, 77, width]));
        let go = |latents: &Tensor, context: &Tensor| {
            Run { model: &model, dtype, steps: 2, guidance: Some(7.5), context, latents }.finish().to_f32_vec()
        };
        let rows = |t: &Tensor, i: usize, n: usize| t.to_f32_vec()[i * n..(i + 1) * n].to_vec();
        let together = go(&latents, &context);
        for i in 0..3 {
            let alone = Tensor::from_f32([1, 5, 7, 4], &rows(&latents, i, 140)).unwrap();
            let halves = [rows(&context, i, 77 * width), rows(&context, 3 + i, 77 * width)].concat();
            let context = Tensor::from_f32([2, 77, width], &halves).unwrap();
            assert_eq!(go(&alone, &context), together[i * 140..(i + 1) * 140], "image {i} in {dtype}");
        }
    }
}

#[test]
fn conditioning_made_beforehand_gives_the_same_noise() {
    let (model, golden) = (model("tiny-a"), Golden::of("tiny-a"));
    let config = model.unet_config().unwrap();
    let weights = model.weights(Component::Unet).unwrap();
    let context = golden.get("unet.1.context");
    let graph = graphs::context_keys_values(&config, DType::F32, 1, 77).unwrap();
    let names: Vec<String> = graph.outputs().iter().map(|(n, _)| n.clone()).collect();
    let tables = graphs::time_tables(&config, DType::F32, 4).unwrap();
    let step =
        graphs::ddim_step(&config, DType::F32, StepSize { images: 1, height: 8, width: 8, tokens: 77, steps: 4, guided: false }).unwrap();
    let wanted: Vec<String> = step.inputs().map(|(n, _)| n.to_owned()).filter(|n| n.contains('.')).collect();
    let given: Vec<String> = names.iter().cloned().chain(tables.outputs().iter().map(|(n, _)| n.clone())).collect();
    assert!(wanted.iter().all(|n| given.contains(n)) && wanted.len() == given.len(), "{wanted:?}\n{given:?}");
    assert!(run(graph, &weights, &[("context", &context)]).iter().all(|t| t.shape()[1] == 77));
}
