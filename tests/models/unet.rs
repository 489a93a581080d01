//! UNet against diffusers' UNet2DConditionModel, at even and odd sizes, with the prompt and the time inside or made beforehand.

use crate::golden::{Golden, PIPELINES, fixture, model, run};
use dreamid_engine::graph::{Graph, Value};
use dreamid_engine::models::graphs::{self, UnetSize};
use dreamid_engine::models::{Component, UnetConfig};
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Tensor};

fn size_of(latents: &Tensor, context: &Tensor) -> UnetSize {
    let (l, c) = (latents.shape(), context.shape());
    UnetSize { batch: l[0], height: l[1], width: l[2], tokens: c[1] }
}

#[test]
fn predicted_noise_is_that_of_diffusers() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::of(name));
        let config = model.unet_config().unwrap();
        let weights = model.weights(Component::Unet).unwrap();
        for case in ["unet.0", "unet.1", "unet.2"] {
            let (latents, context) = (golden.image(&format!("{case}.latents")), golden.get(&format!("{case}.context")));
            let graph = graphs::unet(&config, DType::F32, size_of(&latents, &context)).unwrap();
            weights.check(&[&graph], &[]).unwrap();
            let timesteps = golden.float(&format!("{case}.timesteps"));
            let eps = run(graph, &weights, &[("latents", &latents), ("timesteps", &timesteps), ("context", &context)]);
            golden.check(&format!("{case}.eps"), &eps[0]);
        }
    }
}

#[test]
fn inner_activations_are_those_of_diffusers() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::of(name));
        let (latents, context) = (golden.image("unet.0.latents"), golden.get("unet.0.context"));
        let mut graph = graphs::unet(&model.unet_config().unwrap(), DType::F32, size_of(&latents, &context)).unwrap();
        let places =
            [("conv_in", "unet.conv_in"), ("down_0", "unet.down_blocks.0"), ("mid", "unet.mid_block"), ("up_0", "unet.up_blocks.0")];
        for (tap, scope) in places {
            let value = last_value(&graph, scope);
            graph.output(tap, value).unwrap();
        }
        let weights = model.weights(Component::Unet).unwrap();
        let timesteps = golden.float("unet.0.timesteps");
        let out = run(graph, &weights, &[("latents", &latents), ("timesteps", &timesteps), ("context", &context)]);
        for ((tap, _), got) in places.iter().zip(&out[1..]) {
            golden.check(&format!("unet.0.{tap}"), got);
        }
    }
}

/// What the last node at `scope` or below it makes.
fn last_value(graph: &Graph, scope: &str) -> Value {
    let inside = |s: &str| s.strip_prefix(scope).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    graph.nodes().iter().rfind(|n| inside(&n.scope)).unwrap().outputs[0]
}

#[test]
fn unusual_options_are_those_of_diffusers() {
    let folder = "unet-options";
    let text = std::fs::read_to_string(fixture(folder).join("config.json")).unwrap();
    let config = UnetConfig::from_json("unet-options/config.json", &text).unwrap();
    let weights = Weights::open(fixture(folder).join("diffusion_pytorch_model.safetensors")).unwrap().under("unet");
    let golden = Golden::of(folder);
    for case in ["even", "odd"] {
        let (latents, context) = (golden.image(&format!("{case}.latents")), golden.get(&format!("{case}.context")));
        let graph = graphs::unet(&config, DType::F32, size_of(&latents, &context)).unwrap();
        weights.check(&[&graph], &[]).unwrap();
        let timesteps = golden.float(&format!("{case}.timesteps"));
        let eps = run(graph, &weights, &[("latents", &latents), ("timesteps", &timesteps), ("context", &context)]);
        golden.check(&format!("{case}.eps"), &eps[0]);
    }
}
