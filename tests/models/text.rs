//! Text encoder against transformers' CLIPTextModel, pseudo-words included.

use crate::golden::{Golden, PIPELINES, model, relative, run, waves};
use dreamid_engine::models::{ClipTextConfig, Component, graphs};
use dreamid_engine::weights::{Weights, save};
use dreamid_engine::{DType, Tensor};

#[test]
fn hidden_states_are_those_of_transformers() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::of(name));
        let config = model.text_config().unwrap();
        let graph = graphs::text(&config, DType::F32, 2, None).unwrap();
        let weights = model.weights(Component::TextEncoder).unwrap();
        weights.check(&[&graph], &[]).unwrap();
        let hidden = run(graph, &weights, &[("input_ids", &golden.get("text.input_ids"))]);
        golden.check("text.hidden", &hidden[0]);
    }
}

#[test]
fn pseudo_words_stand_where_tokens_stood() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::of(name));
        let config = model.text_config().unwrap();
        let graph = graphs::text(&config, DType::F32, 2, Some(2)).unwrap();
        let weights = model.weights(Component::TextEncoder).unwrap();
        let (ids, positions, embeds) = (golden.get("text.input_ids"), golden.get("text.positions"), golden.get("text.embeds"));
        let inputs = [("input_ids", &ids), ("positions", &positions), ("embeds", &embeds)];
        golden.check("text.hidden_injected", &run(graph.clone(), &weights, &inputs)[0]);

        // unused slots change nothing
        let none = Tensor::from_i32([2, 2], &[-1; 4]).unwrap();
        let hidden = run(graph, &weights, &[("input_ids", &ids), ("positions", &none), ("embeds", &embeds)]);
        golden.check("text.hidden", &hidden[0]);
    }
}

#[test]
fn text_features_are_a_product_with_the_projection() {
    let config = ClipTextConfig { hidden_size: 6, projection_dim: 5, ..ClipTextConfig::default() };
    let (pooled, projection) = (waves([2, 6]), waves([5, 6]));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    save(&path, &[("text_projection.weight", &projection)], &[]).unwrap();
    let weights = Weights::open(&path).unwrap().under("text_encoder");
    let out = run(graphs::text_projection(&config, DType::F32, 2).unwrap(), &weights, &[("pooled", &pooled)]);
    let (x, w) = (pooled.to_f32_vec(), projection.to_f32_vec());
    let want: Vec<f32> = x.chunks(6).flat_map(|x| w.chunks(6).map(|w| x.iter().zip(w).map(|(a, b)| a * b).sum())).collect();
    assert!(relative(&out[0], &Tensor::from_f32([2, 5], &want).unwrap()) < 1e-5);
}
