//! Opening model folders: what is accepted, and what is refused with which advice.

use crate::golden::{PIPELINES, fixture, model};
use dreamid_engine::models::{Component, ModelFolder};
use std::fs;
use std::path::Path;

#[test]
fn components_and_configurations_are_found() {
    for name in PIPELINES {
        let model = model(name);
        assert_eq!(model.components(), [Component::TextEncoder, Component::Unet, Component::Vae]);
        assert_eq!(model.text_config().unwrap().hidden_size, model.unet_config().unwrap().cross_attention_dim);
        assert!(model.read("tokenizer/merges.txt").unwrap().starts_with(b"#version"));
        assert!(model.face_config().unwrap_err().to_string().contains("no face_encoder"));
    }
    assert_eq!(model("tiny-b").vae_config().unwrap().scaling_factor, 0.182_15);
}

/// A copy of a fixture that a test may spoil.
fn copy(name: &str) -> tempfile::TempDir {
    fn tree(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                tree(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    tree(&fixture(name), dir.path());
    dir
}

fn edit(dir: &Path, file: &str, from: &str, to: &str) {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn refusal(dir: &Path) -> String {
    ModelFolder::open(dir).unwrap_err().to_string()
}

#[test]
fn wrong_models_are_named() {
    for (file, from, to, words) in [
        ("scheduler/scheduler_config.json", "\"epsilon\"", "\"v_prediction\"", ["768", "2.1-base"]),
        ("model_index.json", "StableDiffusionPipeline", "StableDiffusionXLPipeline", ["StableDiffusionXLPipeline", "2.x"]),
        ("model_index.json", "\"vae\"", "\"transformer\"", ["`transformer`", "another family"]),
        (
            "unet/config.json",
            "\"cross_attention_dim\": 32",
            "\"cross_attention_dim\": 48",
            ["cross_attention_dim is 48", "hidden_size is 32"],
        ),
        ("unet/config.json", "\"DownBlock2D\"", "\"KDownBlock2D\"", ["unet/config.json", "KDownBlock2D"]),
        ("vae/config.json", "\"latent_channels\": 4", "\"latent_channels\": 16", ["latent_channels is 16", "out_channels is 4"]),
        ("text_encoder/config.json", "\"gelu\"", "\"gelu_new\"", ["text_encoder/config.json", "gelu_new"]),
        ("text_encoder/config.json", "{", "", ["text_encoder/config.json", "not valid JSON"]),
    ] {
        let dir = copy("tiny-a");
        edit(dir.path(), file, from, to);
        let text = refusal(dir.path());
        assert!(words.iter().all(|w| text.contains(w)), "{file}: {text}");
    }
}

#[test]
fn other_layouts_are_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path()).contains("model_index.json"));
    assert!(refusal(&dir.path().join("absent")).contains("does not exist"));
    let one_file = dir.path().join("v2-1_512-ema-pruned.ckpt");
    fs::write(&one_file, b"x").unwrap();
    assert!(refusal(&one_file).contains("save_pretrained"));
    assert!(refusal(dir.path()).contains("v2-1_512-ema-pruned.ckpt"));
}

#[test]
fn weights_may_be_16_bit_files_or_shards_but_no_pickles() {
    let dir = copy("tiny-b");
    let unet = dir.path().join("unet");
    let [whole, half] = ["", ".fp16"].map(|v| unet.join(format!("diffusion_pytorch_model{v}.safetensors")));
    fs::rename(&whole, &half).unwrap();
    let names = |model: ModelFolder| model.weights(Component::Unet).unwrap().names().len();
    let count = names(ModelFolder::open(dir.path()).unwrap());
    assert!(count > 100);

    fs::rename(&half, unet.join("shard-1.safetensors")).unwrap();
    fs::write(unet.join("diffusion_pytorch_model.safetensors.index.json"), r#"{"weight_map": {"conv_in.weight": "shard-1.safetensors"}}"#)
        .unwrap();
    assert_eq!(names(ModelFolder::open(dir.path()).unwrap()), count);

    fs::remove_file(unet.join("diffusion_pytorch_model.safetensors.index.json")).unwrap();
    fs::rename(unet.join("shard-1.safetensors"), unet.join("diffusion_pytorch_model.bin")).unwrap();
    let error = ModelFolder::open(dir.path()).unwrap().weights(Component::Unet).unwrap_err().to_string();
    assert!(error.contains("pickle"), "{error}");
}

#[test]
fn a_model_inside_the_program_is_the_same_as_its_folder() {
    const FILES: &[(&str, &[u8])] = &[
        ("model_index.json", include_bytes!("../fixtures/tiny-c/model_index.json")),
        ("vae/config.json", include_bytes!("../fixtures/tiny-c/vae/config.json")),
        ("vae/diffusion_pytorch_model.safetensors", include_bytes!("../fixtures/tiny-c/vae/diffusion_pytorch_model.safetensors")),
    ];
    let embedded = ModelFolder::embedded("tiny", FILES).unwrap();
    assert_eq!(embedded.components(), [Component::Vae]);
    assert_eq!(embedded.vae_config().unwrap(), model("tiny-c").vae_config().unwrap());
    let names = |m: &ModelFolder| m.weights(Component::Vae).unwrap().names().iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&embedded), names(&model("tiny-c")));
    assert!(embedded.weights(Component::Unet).unwrap_err().to_string().contains("unet"));
}

#[test]
fn one_report_names_everything_that_does_not_fit() {
    for name in PIPELINES {
        model(name).check_all_weights().unwrap();
    }
    let dir = copy("tiny-a");
    // a VAE with another layer, a text encoder with one layer fewer
    edit(dir.path(), "vae/config.json", "\"layers_per_block\": 1", "\"layers_per_block\": 2");
    edit(dir.path(), "text_encoder/config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2");
    edit(dir.path(), "unet/config.json", "\"block_out_channels\": [\n    16,", "\"block_out_channels\": [\n    8,");
    let report = ModelFolder::open(dir.path()).unwrap().check_all_weights().unwrap_err().to_string();
    for words in [
        "missing: vae: encoder.down_blocks.0.resnets.1.conv1.weight",
        "unused: text_encoder: text_model.encoder.layers.2.mlp.fc1.weight",
        "unet: conv_in.weight",
    ] {
        assert!(report.contains(words), "{words} is not in\n{report}");
    }
}

#[test]
fn components_may_come_from_elsewhere() {
    let model = model("tiny-a").replace(Component::Vae, fixture("tiny-b/vae")).unwrap();
    assert_eq!(model.vae_config().unwrap().block_out_channels, [6, 12, 18]);
    let error = model.replace(Component::TextEncoder, fixture("tiny-b/text_encoder")).unwrap_err().to_string();
    assert!(error.contains("hidden_size is 20") && error.contains("cross_attention_dim is 32"), "{error}");
}
