//! Level 5: the networks that look at pictures, whole and tiny or as they are embedded, on the emulated device: against what public Python
//! libraries compute on the same weights, or where nothing public has the same shape, against the processor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::fill::{Random, tensor};
use common::networks::error;
use common::small;
use dreamid_engine::device::Device;
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::Graph;
use dreamid_engine::models::blazeface::{self, BlazeFaceConfig};
use dreamid_engine::models::iresnet::{self, IresnetConfig};
use dreamid_engine::models::mobilefacenet::{self, MobileFaceNetConfig};
use dreamid_engine::models::mtcnn::{self, Stage};
use dreamid_engine::models::{ClipVisionConfig, ProjectorConfig, VitConfig, graphs};
use dreamid_engine::ops::Fill;
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, EmbeddedNetwork, Tensor, Ty};
use std::path::{Path, PathBuf};

on_the_emulated_driver! {
    face_features_and_words_are_those_of_transformers_and_the_processor [] => face_and_words;
    clip_image_features_are_those_of_transformers [] => clip;
    whole_pictures_are_resized_and_judged_as_on_the_processor [] => pictures;
    the_recogniser_is_that_of_arcface_torch [] => recogniser;
    embedded_networks_are_those_of_the_processor [] => embedded;
}

fn fixture(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

fn weights(folder: &str, scope: &str) -> Weights {
    Weights::open(fixture(folder).join("model.safetensors")).unwrap().under(scope)
}

fn config(folder: &str) -> String {
    std::fs::read_to_string(fixture(folder).join("config.json")).unwrap()
}

fn expected(folder: &str, name: &str) -> Tensor {
    Weights::open(fixture(folder).join("expected.safetensors")).unwrap().tensor(name).unwrap()
}

fn pixels(folder: &str) -> Tensor {
    expected(folder, "pixel_values").nchw_to_nhwc().unwrap()
}

fn on(device: &Device, graph: Graph, weights: &Weights, input: &Tensor) -> Vec<Tensor> {
    let name = graph.inputs().next().unwrap().0.to_owned();
    let mut executable = Executable::compile(graph, weights, device).unwrap();
    executable.call(&[(&name, input)]).unwrap().into_iter().map(|(_, output)| output).collect()
}

#[track_caller]
fn near(what: &str, got: &Tensor, want: &Tensor, most: f32) {
    let off = error(got, want);
    println!("{what}: {off:.1e}");
    assert!(off <= most, "{what}: {off:e} of the largest value");
}

/// Face ViT with taps, then the projector: the graph behind `run identity`.
fn face_and_words() {
    let text = config("vit-hf").replacen('{', r#"{"tap_layers": [1, 2, 3, 4],"#, 1);
    let vit = VitConfig::from_json("vit-hf", &text).unwrap();
    let projector =
        ProjectorConfig { words: 2, input_size: 5 * 36, hidden_size: 20, output_size: 12, layer_norm_eps: 1e-5, negative_slope: 0.2 };
    let all = || weights("vit-hf", "face_encoder").and(Weights::random(3).under("projector"));
    let (cuda, cpu, image) = (small::open().unwrap(), Device::cpu().unwrap(), pixels("vit-hf"));
    let run = |device: &Device, dtype| on(device, graphs::identity(&vit, &projector, dtype, 2).unwrap(), &all(), &image);
    let (got, want) = (run(&cuda, DType::F32), run(&cpu, DType::F32));
    near("words", &got[1], &want[1], 1e-4);
    // taps after every block, then the normed class token
    let (taps, last) = (expected("vit-hf", "taps").to_f32_vec(), expected("vit-hf", "last_hidden_state").to_f32_vec());
    let row = |b: usize| [&taps[b * 4 * 36..][..4 * 36], &last[b * 17 * 36..][..36]].concat();
    near("face features", &got[0], &Tensor::from_f32([2, 5, 36], &[row(0), row(1)].concat()).unwrap(), 1e-4);
    // in 16 bits the device may be off by twice what the processor is off by
    let (bf16, f16, rounded) = (run(&cuda, DType::Bf16), run(&cuda, DType::F16), run(&cpu, DType::Bf16));
    for (i, what) in ["face features", "words"].into_iter().enumerate() {
        let off = error(&rounded[i], &want[i]);
        near(&format!("{what} in bf16, {off:.1e} on the processor"), &bf16[i], &want[i], 2.0 * off);
        near(&format!("{what} in f16"), &f16[i], &want[i], off);
    }
}

fn clip() {
    let cuda = small::open().unwrap();
    for folder in ["clip-vision-openai", "clip-vision-h"] {
        let config = ClipVisionConfig::from_json(folder, &config(folder)).unwrap();
        let graph = graphs::image_features(&config, DType::F32, 2).unwrap();
        let got = on(&cuda, graph, &weights(folder, "image_encoder"), &pixels(folder));
        near(folder, &got[0], &expected(folder, "image_embeds"), 1e-4);
    }
}

fn pictures() {
    let folder = "clip-vision-openai";
    let config = ClipVisionConfig::from_json(folder, &config(folder)).unwrap();
    let picture = tensor(Ty::new(DType::F32, [1, 45, 70, 3]), Fill::Index(256), &mut Random::named("picture"));
    let run = |device: &Device| {
        let graph = graphs::picture_features(&config, DType::F32, 1, [45, 70]).unwrap();
        on(device, graph, &weights(folder, "image_encoder"), &picture)
    };
    near("features of a whole picture", &run(&small::open().unwrap())[0], &run(&Device::cpu().unwrap())[0], 1e-5);
}

fn recogniser() {
    let weights = weights("iresnet", "");
    let graph = iresnet::graph(&IresnetConfig::of(&weights).unwrap(), 2).unwrap();
    let names: Vec<String> = graph.outputs().iter().map(|(name, _)| name.clone()).collect();
    let got = on(&small::open().unwrap(), graph, &weights, &pixels("iresnet"));
    let embedding = names.iter().position(|name| name == "embedding").unwrap();
    near("embedding of a face", &got[embedding], &expected("iresnet", "embedding"), 1e-4);
}

/// Detectors and the recogniser that the library carries, with their own weights.
fn embedded() {
    let (cuda, cpu) = (small::open().unwrap(), Device::cpu().unwrap());
    for network in EmbeddedNetwork::ALL {
        let weights = network.weights().unwrap();
        let graph = || match network {
            EmbeddedNetwork::BlazeFaceFront | EmbeddedNetwork::BlazeFaceBack => {
                blazeface::graph(&BlazeFaceConfig::of(&weights).unwrap(), 1)
            }
            EmbeddedNetwork::PNet => mtcnn::graph(Stage::PNet, 1, 30, 41),
            EmbeddedNetwork::RNet => mtcnn::graph(Stage::RNet, 2, 24, 24),
            EmbeddedNetwork::ONet => mtcnn::graph(Stage::ONet, 2, 48, 48),
            EmbeddedNetwork::MobileFaceNet => mobilefacenet::graph(&MobileFaceNetConfig::of(&weights).unwrap(), 1),
        };
        let graph = || graph().unwrap();
        let shape = graph().ty(graph().inputs().next().unwrap().1);
        let image = tensor(shape, Fill::Uniform(-1.0, 1.0), &mut Random::named(network.file_name()));
        let (got, want) = (on(&cuda, graph(), &weights, &image), on(&cpu, graph(), &weights, &image));
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            near(&format!("{} output {i}", network.file_name()), got, want, 1e-4);
        }
    }
}
