//! Face ViT, projector and CLIP's image towers against timm, transformers and plain loops.

use crate::golden::{Golden, fixture, relative, run, waves};
use dreamid_engine::models::vit::{FinalSource, TapSource};
use dreamid_engine::models::{ClipVisionConfig, ProjectorConfig, VitConfig, graphs};
use dreamid_engine::pipeline::{Image, clip_input};
use dreamid_engine::weights::{Weights, save};
use dreamid_engine::{DType, Tensor};

fn weights(folder: &str, scope: &str) -> Weights {
    Weights::open(fixture(folder).join("model.safetensors")).unwrap().under(scope)
}

fn config_text(folder: &str) -> String {
    std::fs::read_to_string(fixture(folder).join("config.json")).unwrap()
}

#[test]
fn clip_image_features_are_those_of_transformers() {
    for folder in ["clip-vision-openai", "clip-vision-h"] {
        let (golden, weights) = (Golden::of(folder), weights(folder, "image_encoder"));
        let config = ClipVisionConfig::from_json(folder, &config_text(folder)).unwrap();
        let graph = graphs::image_features(&config, DType::F32, 2).unwrap();
        weights.check(&[&graph], &[]).unwrap();
        golden.check("image_embeds", &run(graph, &weights, &[("image", &golden.image("pixel_values"))])[0]);
    }
}

/// From pictures of any size, as from what the published preprocessing makes of them.
#[test]
fn clip_features_of_whole_pictures() {
    let (config, weights) = (config_text("clip-vision-openai"), weights("clip-vision-openai", "image_encoder"));
    let config = ClipVisionConfig::from_json("clip-vision-openai", &config).unwrap();
    for (height, width) in [(70, 50), (45, 110)] {
        let picture = Image::from_fn(width, height, |x, y| [(x * 37 + y * 5) as u8, (y * y) as u8, (x + 3 * y) as u8]);
        let pixels: Vec<f32> = picture.pixels().iter().map(|&v| f32::from(v)).collect();
        let graph = graphs::picture_features(&config, DType::F32, 1, [height, width]).unwrap();
        let whole = run(graph, &weights, &[("pictures", &Tensor::from_f32([1, height, width, 3], &pixels).unwrap())]);
        let graph = graphs::image_features(&config, DType::F32, 1).unwrap();
        let apart = run(graph, &weights, &[("image", &clip_input(&picture, config.image_size).unwrap())]);
        assert!(relative(&whole[0], &apart[0]) < 1e-5);
    }
}

/// The fixture's shape, tapped after every block.
pub(crate) fn vit_config(layer_norm_eps: f32) -> VitConfig {
    VitConfig {
        image_size: 32,
        patch_size: 8,
        hidden_size: 36,
        num_hidden_layers: 4,
        num_attention_heads: 3,
        intermediate_size: 90,
        layer_norm_eps,
        tap_layers: vec![1, 2, 3, 4],
        ..VitConfig::default()
    }
}

/// Taps after every block, then the normed class token.
fn expected_taps(golden: &Golden) -> Tensor {
    let (taps, last) = (golden.get("taps").to_f32_vec(), golden.get("last_hidden_state").to_f32_vec());
    let row = |b: usize| [&taps[b * 4 * 36..][..4 * 36], &last[b * 17 * 36..][..36]].concat();
    Tensor::from_f32([2, 5, 36], &[row(0), row(1)].concat()).unwrap()
}

#[test]
fn face_features_are_those_of_timm_and_transformers() {
    for (folder, eps) in [("vit-timm", 1e-6), ("vit-hf", 1e-12)] {
        let (golden, weights) = (Golden::of(folder), weights(folder, "face_encoder"));
        let graph = graphs::face_encoder(&vit_config(eps), DType::F32, 2).unwrap();
        weights.check(&[&graph], &[]).unwrap();
        let taps = run(graph, &weights, &[("image", &golden.image("pixel_values"))]);
        let error = relative(&taps[0], &expected_taps(&golden));
        println!("{folder}: {error:.1e}");
        assert!(error < 1e-4, "{folder}: {error:e}");
    }
}

#[test]
fn transformers_own_config_is_read() {
    let config = VitConfig::from_json("config.json", &config_text("vit-hf"));
    // four blocks cannot be tapped at the paper's depths, and that is what is said
    assert!(config.unwrap_err().to_string().contains("tap_layers"));
    let text = config_text("vit-hf").replacen('{', r#"{"tap_layers": [1, 2, 3, 4],"#, 1);
    assert_eq!(VitConfig::from_json("config.json", &text).unwrap(), vit_config(1e-12));
}

#[test]
fn taps_may_be_means_over_the_patches() {
    let golden = Golden::of("vit-timm");
    let config = VitConfig { tap_source: TapSource::Mean, tap_layers: vec![1], final_source: FinalSource::ClsNorm, ..vit_config(1e-6) };
    let graph = graphs::face_encoder(&config, DType::F32, 2).unwrap();
    let taps = run(graph, &weights("vit-timm", "face_encoder"), &[("image", &golden.image("pixel_values"))]);
    let mean = |name: &str| {
        let tokens = golden.get(name).to_f32_vec();
        (0..2)
            .map(|b| (0..36).map(|c| (1..17).map(|s| tokens[(b * 17 + s) * 36 + c]).sum::<f32>() / 16.0).collect())
            .collect::<Vec<Vec<f32>>>()
    };
    let (first, last) = (mean("tokens_0"), mean("last_hidden_state"));
    let want: Vec<f32> = (0..2).flat_map(|b| [first[b].clone(), last[b].clone()].concat()).collect();
    assert!(relative(&taps[0], &Tensor::from_f32([2, 2, 36], &want).unwrap()) < 1e-4);
}

#[test]
fn words_are_two_layer_perceptrons_of_all_features() {
    let projector =
        ProjectorConfig { words: 3, input_size: 5 * 36, hidden_size: 14, output_size: 10, layer_norm_eps: 1e-5, negative_slope: 0.2 };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("projector.safetensors");
    let tensors = projector_tensors(&projector);
    let refs: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (n.as_str(), t)).collect();
    save(&path, &refs, &[]).unwrap();
    let golden = Golden::of("vit-timm");
    let weights = weights("vit-timm", "face_encoder").and(Weights::open(&path).unwrap().under("projector"));
    let graph = graphs::identity(&vit_config(1e-6), &projector, DType::F32, 2).unwrap();
    weights.check(&[&graph], &[]).unwrap();
    let out = run(graph, &weights, &[("image", &golden.image("pixel_values"))]);
    assert!(relative(&out[0], &expected_taps(&golden)) < 1e-4);
    assert!(relative(&out[1], &words(&projector, &tensors, &out[0])) < 1e-5);
}

fn projector_tensors(config: &ProjectorConfig) -> Vec<(String, Tensor)> {
    let (i, h, o) = (config.input_size, config.hidden_size, config.output_size);
    let shapes: [(&str, &[usize]); 6] = [
        ("fc1.weight", &[h, i]),
        ("fc1.bias", &[h]),
        ("norm.weight", &[h]),
        ("norm.bias", &[h]),
        ("fc2.weight", &[o, h]),
        ("fc2.bias", &[o]),
    ];
    let one = |word: usize, (name, shape): (&str, &[usize])| {
        let values = waves([1 + word + shape.iter().product::<usize>()]).to_f32_vec();
        let shape: dreamid_engine::Shape = if let &[a, b] = shape { [a, b].into() } else { [shape[0]].into() };
        (format!("words.{word}.{name}"), Tensor::from_f32(shape, &values[1 + word..]).unwrap())
    };
    (0..config.words).flat_map(|w| shapes.map(|s| one(w, s))).collect()
}

/// The projector in plain loops.
fn words(config: &ProjectorConfig, tensors: &[(String, Tensor)], features: &Tensor) -> Tensor {
    let get = |w: usize, name: &str| tensors.iter().find(|(n, _)| *n == format!("words.{w}.{name}")).unwrap().1.to_f32_vec();
    let affine = |x: &[f64], w: &[f32], b: &[f32]| -> Vec<f64> {
        w.chunks(x.len()).zip(b).map(|(row, b)| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>() + f64::from(*b)).collect()
    };
    let mut out = Vec::new();
    for row in features.to_f32_vec().chunks(config.input_size) {
        let x: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        for w in 0..config.words {
            let h = affine(&x, &get(w, "fc1.weight"), &get(w, "fc1.bias"));
            let mean = h.iter().sum::<f64>() / h.len() as f64;
            let var = h.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / h.len() as f64;
            let (scale, shift) = (get(w, "norm.weight"), get(w, "norm.bias"));
            let h: Vec<f64> =
                h.iter().enumerate().map(|(i, v)| (v - mean) / (var + 1e-5).sqrt() * f64::from(scale[i]) + f64::from(shift[i])).collect();
            let h: Vec<f64> = h.into_iter().map(|v| if v > 0.0 { v } else { 0.2 * v }).collect();
            out.extend(affine(&h, &get(w, "fc2.weight"), &get(w, "fc2.bias")).into_iter().map(|v| v as f32));
        }
    }
    Tensor::from_f32([features.shape()[0], config.words, config.output_size], &out).unwrap()
}
