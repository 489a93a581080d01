//! The full-size graphs that kernels must serve, and types as lowering takes them.

use super::training::{self, Trained};
use dreamid_engine::DType;
use dreamid_engine::device::{Arch, ProductTiles, Target, Tiles};
use dreamid_engine::graph::{Graph, lower};
use dreamid_engine::models::gradients::{self, BatchSize};
use dreamid_engine::models::graphs::{self, StepSize, UnetSize};
use dreamid_engine::models::{ClipVisionConfig, ModelFolder};
use dreamid_engine::ops::Case;
use std::sync::Arc;

/// Kinds of devices that kernels are made for.
pub(crate) const ARCHS: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// Bytes of shared memory that a block can have, static and dynamic together: CUDA C++ Programming Guide, technical specifications.
pub(crate) fn most_shared(arch: u32) -> u32 {
    let kib = match arch {
        80 => 163,
        86 | 89 | 120 => 99,
        _ => 227,
    };
    kib << 10
}

/// Targets that between them take every tile of every product.
pub(crate) fn tuned(graph: &Graph, arch: Arch) -> Vec<Target> {
    let products: Vec<ProductTiles> = lower(graph, &arch.into()).unwrap().into_iter().filter_map(|lowered| lowered.product).collect();
    let most = products.iter().map(|p| p.choices.len()).max().unwrap_or(0);
    let tiles = |i: usize| Tiles(products.iter().filter_map(|p| Some((p.name.clone(), *p.choices.get(i)?))).collect());
    (0..most).map(|i| Target { arch, tiles: Arc::new(tiles(i)) }).collect()
}

/// Types of the inputs and outputs of a case.
pub(crate) fn types(case: &Case) -> (Vec<Option<dreamid_engine::Ty>>, Vec<dreamid_engine::Ty>) {
    let ins: Vec<_> = case.inputs.iter().map(|i| i.map(|i| i.ty)).collect();
    let outs = case.op.infer(&ins).unwrap();
    (ins, outs)
}

/// Everything that a picture of 512x512 is made with, judged by, and trained on, at full size.
pub(crate) fn full_size(dtype: DType) -> Vec<(&'static str, Graph)> {
    [inference(dtype), judgement(dtype), training(dtype)].into_iter().flatten().collect()
}

/// What a picture is made with.
pub(crate) fn inference(dtype: DType) -> Vec<(&'static str, Graph)> {
    let model = ModelFolder::sd21_random(0);
    let (unet, vae, text) = (model.unet_config().unwrap(), model.vae_config().unwrap(), model.text_config().unwrap());
    let step = StepSize { images: 1, height: 64, width: 64, tokens: 77, steps: 30, guided: true };
    let whole = UnetSize { batch: 2, height: 64, width: 64, tokens: 77 };
    vec![
        ("text", graphs::text(&text, dtype, 2, Some(2)).unwrap()),
        ("keys and values", graphs::context_keys_values(&unet, dtype, 2, 77).unwrap()),
        ("time tables", graphs::time_tables(&unet, dtype, 30).unwrap()),
        ("step", graphs::ddim_step(&unet, dtype, step).unwrap()),
        ("unet", graphs::unet(&unet, dtype, whole).unwrap()),
        ("vae decode", graphs::vae_decode(&vae, dtype, 1, 64, 64).unwrap()),
        ("vae encode", graphs::vae_encode(&vae, dtype, 1, 512, 512).unwrap()),
        ("identity", graphs::identity(&model.face_config().unwrap(), &model.projector_config().unwrap(), dtype, 1).unwrap()),
    ]
}

/// CLIP's towers, which compare pictures with prompts.
fn judgement(dtype: DType) -> Vec<(&'static str, Graph)> {
    let tower = |config: ClipVisionConfig| graphs::image_features(&config, dtype, 4).unwrap();
    let text = ModelFolder::sd21_random(0).text_config().unwrap();
    vec![
        ("clip b32", tower(ClipVisionConfig::default())),
        ("clip l14", tower(ClipVisionConfig::l14())),
        ("clip h14", tower(ClipVisionConfig::h14())),
        ("clip pictures", graphs::picture_features(&ClipVisionConfig::h14(), dtype, 4, [512, 512]).unwrap()),
        ("clip text", graphs::text_projection(&text, dtype, 4).unwrap()),
    ]
}

/// The paper's batch of 64 on eight devices; one sample as the command line has it; a single sample with every weight trained.
fn training(dtype: DType) -> Vec<(&'static str, Graph)> {
    let model = ModelFolder::sd21_random(0);
    let (text, unet) = (model.text_config().unwrap(), model.unet_config().unwrap());
    let sample = BatchSize { batch: 1, height: 64, width: 64, words: 2 };
    vec![
        ("denoising gradient", gradients::denoising_gradient(&text, &unet, dtype, sample).unwrap()),
        ("projector training", training::step(&model, dtype, 8, Trained::Projector)),
        ("fine-tuning", training::step(&model, dtype, 1, Trained::Everything)),
    ]
}
