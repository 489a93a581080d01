//! Text encoder against transformers' CLIPTextModel, pseudo-words included.

use crate::golden::{Golden, PIPELINES, model, run};
use dreamid_engine::models::{Component, graphs};
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
