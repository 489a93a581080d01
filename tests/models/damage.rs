//! Configurations with wrong values: an error or a graph, never a panic.

use crate::golden::fixture;
use dreamid_engine::models::graphs::{self, UnetSize};
use dreamid_engine::models::{ClipTextConfig, ClipVisionConfig, ProjectorConfig, UnetConfig, VaeConfig, VitConfig};
use dreamid_engine::{DType, Error};
use serde_json::{Value, json};

/// Builds everything that a configuration describes.
type Build = fn(&str) -> Result<(), Error>;

fn text(json: &str) -> Result<(), Error> {
    let config = ClipTextConfig::from_json("config.json", json)?;
    graphs::text(&config, DType::F32, 1, Some(2))?;
    graphs::text_projection(&config, DType::F32, 1).map(drop)
}

fn unet(json: &str) -> Result<(), Error> {
    let config = UnetConfig::from_json("config.json", json)?;
    graphs::time_tables(&config, DType::F32, 2)?;
    graphs::context_keys_values(&config, DType::F32, 1, 3)?;
    graphs::unet(&config, DType::F32, UnetSize { batch: 1, height: 9, width: 7, tokens: 3 }).map(drop)
}

fn vae(json: &str) -> Result<(), Error> {
    let config = VaeConfig::from_json("config.json", json)?;
    graphs::vae_decode(&config, DType::F32, 1, 1, 2)?;
    graphs::vae_encode(&config, DType::F32, 1, 4, 6).map(drop)
}

fn vit(json: &str) -> Result<(), Error> {
    graphs::face_encoder(&VitConfig::from_json("config.json", json)?, DType::F32, 1).map(drop)
}

fn clip(json: &str) -> Result<(), Error> {
    graphs::image_features(&ClipVisionConfig::from_json("config.json", json)?, DType::F32, 1).map(drop)
}

fn projector(json: &str) -> Result<(), Error> {
    graphs::projector(&ProjectorConfig::from_json("config.json", json)?, DType::F32, 1).map(drop)
}

/// Configurations that are good as they are.
fn sound() -> Vec<(Value, Build)> {
    let file = |name: &str| serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap();
    let face = json!({"architecture": "vit", "image_size": 112, "patch_size": 16, "num_channels": 3, "hidden_size": 192, "num_hidden_layers": 12,
        "num_attention_heads": 3, "intermediate_size": 768, "hidden_act": "gelu", "layer_norm_eps": 1e-6, "qkv_bias": true, "class_token": true,
        "tap_layers": [3, 6, 9, 12], "tap_source": "cls", "final_source": "head", "embedding_size": 128, "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5], "alignment": "dreamid-112", "alignment_points": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], "licence": "MIT"});
    let words = json!({"architecture": "m2-projector", "words": 2, "input_size": 9, "hidden_size": 8, "output_size": 7, "layer_norm_eps": 1e-5, "negative_slope": 0.2});
    vec![
        (file("tiny-a/text_encoder/config.json"), text),
        (file("tiny-a/unet/config.json"), unet),
        (file("unet-options/config.json"), unet),
        (file("tiny-a/vae/config.json"), vae),
        (file("clip-vision-h/config.json"), clip),
        (face, vit),
        (words, projector),
    ]
}

fn wrong_values() -> Vec<Value> {
    let far = u64::MAX;
    vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(65536),
        json!(65537),
        json!(far),
        json!(0.5),
        json!(-1e30),
        json!(1e300),
        json!("x"),
        json!([]),
        json!([0]),
        json!([1, 2]),
        json!([far, far]),
        json!(["DownBlock2D", "DownBlock2D"]),
        json!({}),
    ]
}

#[test]
fn sound_configurations_build() {
    for (config, build) in sound() {
        build(&config.to_string()).unwrap();
    }
}

#[test]
fn wrong_values_give_errors_or_graphs_but_no_panic() {
    let (mut refused, mut built) = (0, 0);
    for (config, build) in sound() {
        let keys: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
        for key in &keys {
            for value in wrong_values() {
                let mut damaged = config.clone();
                damaged[key] = value;
                if build(&damaged.to_string()).is_err() { refused += 1 } else { built += 1 }
            }
        }
    }
    println!("{refused} refused, {built} built");
    assert!(refused > 500 && built > 100);
}

#[test]
fn cut_files_are_refused() {
    for (config, build) in sound() {
        let text = config.to_string();
        for end in (0..text.len()).step_by(7) {
            assert!(build(&text[..end]).is_err());
        }
    }
}
