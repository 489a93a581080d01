//! The trained miniature, from a face to a picture, against diffusers, transformers and timm on the same weights.

use crate::golden::{Golden, TOLERANCE, fixture, relative, run};
use crate::sampling::Run;
use dreamid_engine::models::{Component, ModelFolder, graphs};
use dreamid_engine::{DType, Tensor, embedded};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

/// The miniature and what Python makes of it.
fn miniature() -> (ModelFolder, Golden) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/miniature");
    let golden = Golden::open(fixture("miniature.safetensors"));
    for (name, want) in golden.facts()["sha256"].as_object().unwrap() {
        let got: String = Sha256::digest(std::fs::read(folder.join(name)).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(got, want.as_str().unwrap(), "{name} has changed: run tests/make_fixtures/miniature.py again");
    }
    (embedded::model().unwrap(), golden)
}

#[test]
fn every_weight_is_used() {
    let (model, _) = miniature();
    model.check_all_weights().unwrap();
}

#[test]
fn each_network_computes_what_python_computes() {
    let (model, golden) = miniature();
    let dtype = DType::F32;

    let (encoder, projector) = (model.face_config().unwrap(), model.projector_config().unwrap());
    let weights = model.weights_of(&[Component::FaceEncoder, Component::Projector]).unwrap();
    let out = run(graphs::identity(&encoder, &projector, dtype, 1).unwrap(), &weights, &[("image", &golden.image("face.image"))]);
    golden.check("face.taps", &out[0].clone().reshape(golden.get("face.taps").shape()).unwrap());
    golden.check("face.embeds", &out[1]);

    let hidden = encoded(&model, &golden, &golden.get("face.embeds"));
    golden.check("text.hidden", &hidden);

    let latents = sampled(&model, &golden, &golden.get("text.hidden"));
    golden.check("ddim.final", &latents);

    let (config, weights) = (model.vae_config().unwrap(), model.weights(Component::Vae).unwrap());
    let image = golden.image("vae.image");
    let encode = graphs::vae_encode(&config, dtype, 1, image.shape()[1], image.shape()[2]).unwrap();
    let moments = run(encode, &weights, &[("image", &image)]);
    golden.check("vae.mean", &moments[0]);
    golden.check("vae.logvar", &moments[1]);
    golden.check("vae.decoded", &decoded(&model, &golden.image("ddim.final")));
}

/// From the face to the picture without going back to Python's values on the way.
#[test]
fn the_whole_chain_makes_the_same_picture() {
    let (model, golden) = miniature();
    let weights = model.weights_of(&[Component::FaceEncoder, Component::Projector]).unwrap();
    let graph = graphs::identity(&model.face_config().unwrap(), &model.projector_config().unwrap(), DType::F32, 1).unwrap();
    let embeds = run(graph, &weights, &[("image", &golden.image("face.image"))]).remove(1);
    let hidden = encoded(&model, &golden, &embeds);
    let picture = decoded(&model, &sampled(&model, &golden, &hidden));
    let error = relative(&picture, &golden.image("vae.decoded"));
    println!("picture: {error:.1e}");
    assert!(error <= TOLERANCE, "{error:e}");
}

/// Hidden states of the empty prompt and of the one with the person.
fn encoded(model: &ModelFolder, golden: &Golden, embeds: &Tensor) -> Tensor {
    let (ids, positions) = (golden.get("text.input_ids"), golden.get("text.positions"));
    let (words, width) = (embeds.shape()[1], embeds.shape()[2]);
    let graph = graphs::text(&model.text_config().unwrap(), DType::F32, 2, Some(words)).unwrap();
    let positions = [vec![-1; words], positions.to_i32_vec()].concat();
    let embeds = [vec![0.0; words * width], embeds.to_f32_vec()].concat();
    let inputs = [
        ("input_ids", &ids),
        ("positions", &Tensor::from_i32([2, words], &positions).unwrap()),
        ("embeds", &Tensor::from_f32([2, words, width], &embeds).unwrap()),
    ];
    run(graph, &model.weights(Component::TextEncoder).unwrap(), &inputs).remove(0)
}

fn sampled(model: &ModelFolder, golden: &Golden, hidden: &Tensor) -> Tensor {
    let latents = golden.image("ddim.latents");
    Run { model, dtype: DType::F32, steps: 30, guidance: Some(7.5), context: hidden, latents: &latents }.finish()
}

fn decoded(model: &ModelFolder, latents: &Tensor) -> Tensor {
    let graph = graphs::vae_decode(&model.vae_config().unwrap(), DType::F32, 1, latents.shape()[1], latents.shape()[2]).unwrap();
    run(graph, &model.weights(Component::Vae).unwrap(), &[("latents", latents)]).remove(0)
}
