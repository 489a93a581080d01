//! Gradients through whole networks against torch's autograd: some element by element, and the length of that of every weight.

use crate::golden::{Golden, PIPELINES, TOLERANCE, fixture, model, relative, run};
use crate::towers::vit_config;
use dreamid_engine::graph::{Builder, Graph, Role, Value, grad};
use dreamid_engine::models::gradients::{self, BatchSize, DenoisingLoss};
use dreamid_engine::models::{Component, ModelFolder, ProjectorConfig, graphs, projector};
use dreamid_engine::ops::{Activation, Add, Mse, NormLoss, Scale};
use dreamid_engine::pipeline::Schedule;
use dreamid_engine::weights::{Weights, save};
use dreamid_engine::{DType, Tensor};

/// Smallest share of its network's longest gradient from which on the length of a weight's is compared relative to itself.
const NOTHING: f64 = 1e-5;

/// Differentiates with respect to `inputs` and all parameters, and compares: outputs of the graph are `loss`, the gradients named in `inputs`,
/// and one for each parameter.
fn check(
    golden: &Golden,
    mut graph: Graph,
    loss: Value,
    inputs: &[(&str, Value)],
    weights: &Weights,
    given: &[(&str, &Tensor)],
    prefix: &str,
) {
    let params: Vec<(Vec<String>, Value)> = graph.params().map(|(spec, v)| (spec.names.clone(), v)).collect();
    let wrt: Vec<Value> = inputs.iter().map(|(_, v)| *v).chain(params.iter().map(|(_, v)| *v)).collect();
    let gradients = grad(&mut graph, loss, &wrt).unwrap();
    let others = graph.outputs().len();
    graph.output("loss", loss).unwrap();
    for (i, gradient) in gradients.iter().enumerate() {
        graph.output(&format!("gradient {i}"), *gradient).unwrap();
    }
    let out = &run(graph, weights, given)[others..];
    golden.check(&format!("{prefix}loss"), &out[0]);
    for ((name, _), got) in inputs.iter().zip(&out[1..]) {
        golden.check(&format!("{prefix}grad_{name}"), got);
    }
    let facts = golden.facts();
    let length = |name: &str| facts["lengths"][name].as_f64();
    let longest = params.iter().flat_map(|(names, _)| names).filter_map(|n| length(n)).fold(0.0, f64::max);
    let mut worst = 0.0_f64;
    for ((names, _), got) in params.iter().zip(&out[1 + inputs.len()..]) {
        if let Some(want) = golden.find(&format!("grad.{}", names[0])).filter(|_| names.len() == 1) {
            let want = if want.shape().len() == 4 { want.nchw_to_nhwc().unwrap() } else { want };
            let want = Tensor::from_f32(got.shape(), &want.to_f32_vec()).unwrap();
            let error = relative(got, &want);
            assert!(error <= TOLERANCE, "{}: error {error:e} of the largest value", names[0]);
        }
        // stacked projections: the length of all of them
        let parts: Vec<f64> = names.iter().map(|n| length(n).unwrap_or_else(|| panic!("nothing is known of {n}"))).collect();
        let want = parts.iter().map(|l| l * l).sum::<f64>().sqrt();
        let got = got.to_f32_vec().iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let error = (got - want).abs() / want.max(NOTHING * longest);
        assert!(error <= f64::from(TOLERANCE), "{names:?}: length {got}, expected {want}");
        worst = worst.max(error);
    }
    println!("{prefix}: {} parameters, largest error of a length {worst:.1e}", params.len());
}

/// The stored denoising problem: inputs by name.
fn problem(model: &ModelFolder, golden: &Golden) -> Vec<(&'static str, Tensor)> {
    let schedule = Schedule::from_json(&model.read("scheduler/scheduler_config.json").unwrap(), "scheduler").unwrap();
    let timesteps = golden.float("grad.timesteps");
    let shares: Vec<[f32; 2]> = timesteps.to_f32_vec().iter().map(|t| schedule.shares(*t as usize).unwrap()).collect();
    vec![
        ("latents", golden.image("grad.latents")),
        ("noise", golden.image("grad.noise")),
        ("coefficients", Tensor::from_f32([shares.len(), 2], shares.as_flattened()).unwrap()),
        ("timesteps", timesteps),
        ("input_ids", golden.get("grad.input_ids")),
        ("positions", golden.get("grad.positions")),
        ("embeds", golden.get("grad.embeds")),
    ]
}

fn size(inputs: &[(&str, Tensor)]) -> BatchSize {
    let latents = inputs[0].1.shape();
    BatchSize { batch: latents[0], height: latents[1], width: latents[2], words: 2 }
}

fn refs<'a>(inputs: &'a [(&'static str, Tensor)]) -> Vec<(&'a str, &'a Tensor)> {
    inputs.iter().map(|(n, t)| (*n, t)).collect()
}

#[test]
fn denoising_gradients_are_those_of_torch() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::named(name, "gradients"));
        let inputs = problem(&model, &Golden::of(name));
        let (text, unet) = (model.text_config().unwrap(), model.unet_config().unwrap());
        let weights = model.weights_of(&[Component::TextEncoder, Component::Unet]).unwrap();
        let DenoisingLoss { graph, loss, embeds, context } = gradients::denoising_loss(&text, &unet, DType::F32, size(&inputs)).unwrap();
        check(&golden, graph, loss, &[("embeds", embeds), ("context", context)], &weights, &refs(&inputs), "");
    }
}

#[test]
fn frozen_networks_give_gradients_of_activations_only() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::named(name, "gradients"));
        let inputs = problem(&model, &Golden::of(name));
        let (text, unet) = (model.text_config().unwrap(), model.unet_config().unwrap());
        let graph = gradients::denoising_gradient(&text, &unet, DType::F32, size(&inputs)).unwrap();
        let weight = |v: &Option<Value>| v.is_some_and(|v| matches!(graph.info(v).role, Role::Param(_)));
        let of_weights =
            graph.nodes().iter().filter(|n| n.op.name().ends_with("_grad") && n.outputs.iter().any(|v| graph.ty(*v).shape.len() == 1));
        assert_eq!(of_weights.count(), 0, "a gradient of a bias or norm");
        let products = graph.nodes().iter().filter(|n| ["linear_grad", "conv2d_grad"].contains(&n.op.name()));
        assert!(products.clone().count() > 20);
        assert!(products.clone().all(|n| n.inputs.iter().any(weight)), "a gradient of a weight reads no weight");
        let weights = model.weights_of(&[Component::TextEncoder, Component::Unet]).unwrap();
        let out = run(graph, &weights, &refs(&inputs));
        for (name, got) in ["loss", "grad_embeds", "grad_context"].into_iter().zip(&out) {
            golden.check(name, got);
        }
    }
}

#[test]
fn in_bf16_gradients_lose_no_more_than_twice_of_what_torch_loses() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::named(name, "gradients"));
        let inputs = problem(&model, &Golden::of(name));
        let (text, unet) = (model.text_config().unwrap(), model.unet_config().unwrap());
        let graph = gradients::denoising_gradient(&text, &unet, DType::Bf16, size(&inputs)).unwrap();
        let out = run(graph, &model.weights_of(&[Component::TextEncoder, Component::Unet]).unwrap(), &refs(&inputs));
        for (output, got) in ["loss", "grad_embeds", "grad_context"].into_iter().zip(&out) {
            let (ours, theirs) = (relative(got, &golden.get(output)), golden.facts()["bf16"][output].as_f64().unwrap() as f32);
            println!("{name}/{output}: {ours:.1e}, torch {theirs:.1e}");
            assert!(ours <= 2.0 * theirs, "{name}/{output}: {ours:e} against {theirs:e}");
        }
    }
}

#[test]
fn decoder_gradients_are_those_of_torch() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::named(name, "gradients"));
        let latents = golden.image("vae.latents");
        let [b, h, w, _] = *latents.shape() else { panic!("latents are pictures") };
        let mut graph = graphs::vae_decode(&model.vae_config().unwrap(), DType::F32, b, h, w).unwrap();
        let (image, input) = (graph.outputs()[0].1, graph.inputs().next().unwrap().1);
        let target = graph.input("target", graph.ty(image));
        let loss = graph.node(Mse, &[Some(image), Some(target)], "loss").unwrap()[0];
        let given = [("latents", &latents), ("target", &golden.image("vae.target"))];
        check(&golden, graph, loss, &[("latents", input)], &model.weights(Component::Vae).unwrap(), &given, "vae.");
    }
}

#[test]
fn face_encoder_gradients_are_those_of_timm() {
    let (known, golden) = (Golden::of("vit-timm"), Golden::named("vit-timm", "gradients"));
    let mut graph = graphs::face_encoder(&vit_config(1e-6), DType::F32, 2).unwrap();
    let (taps, pixels) = (graph.outputs()[0].1, graph.inputs().next().unwrap().1);
    let target = graph.input("target", graph.ty(taps));
    let loss = graph.node(Mse, &[Some(taps), Some(target)], "loss").unwrap()[0];
    let weights = Weights::open(fixture("vit-timm").join("model.safetensors")).unwrap().under("face_encoder");
    let given = [("image", &known.image("pixel_values")), ("target", &golden.get("target"))];
    check(&golden, graph, loss, &[("pixels", pixels)], &weights, &given, "");
}

#[test]
fn projector_gradients_are_those_of_torch() {
    for name in PIPELINES {
        let golden = Golden::named(name, "gradients");
        let (features, target) = (golden.get("projector.features"), golden.get("projector.target"));
        let config = ProjectorConfig {
            words: target.shape()[1],
            input_size: features.shape()[1],
            hidden_size: 16,
            output_size: target.shape()[2],
            layer_norm_eps: 1e-5,
            negative_slope: 0.2,
        };
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, DType::F32);
        let x = b.input("features", DType::F32, features.shape());
        let want = b.input("target", DType::F32, target.shape());
        let words = projector::projector(&mut b.scope(Component::Projector), &config, x).unwrap();
        let error = b.op(Mse, &[Some(words), Some(want)]).unwrap();
        let length = b.op(NormLoss, &[Some(words)]).unwrap();
        let length = b.op(Scale::by(0.1, DType::F32), &[Some(length)]).unwrap();
        let loss = b.op(Add { act: Activation::None }, &[Some(error), Some(length)]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("projector.safetensors");
        let names: Vec<String> = graph.params().flat_map(|(spec, _)| spec.names.clone()).collect();
        let short = |name: &str| name.strip_prefix("projector.").unwrap().to_owned();
        let tensors: Vec<(String, Tensor)> =
            names.iter().map(|n| (short(n), golden.get(&format!("projector.weights.{}", short(n))))).collect();
        save(&path, &tensors.iter().map(|(n, t)| (n.as_str(), t)).collect::<Vec<_>>(), &[]).unwrap();
        let weights = Weights::open(&path).unwrap().under("projector");
        check(&golden, graph, loss, &[], &weights, &[("features", &features), ("target", &target)], "projector.");
    }
}
