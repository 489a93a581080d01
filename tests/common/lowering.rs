//! The full-size graphs that kernels must serve, and types as lowering takes them.

use dreamid_engine::DType;
use dreamid_engine::graph::Graph;
use dreamid_engine::models::ModelFolder;
use dreamid_engine::models::graphs::{self, StepSize, UnetSize};
use dreamid_engine::ops::Case;

/// Types of the inputs and outputs of a case.
pub(crate) fn types(case: &Case) -> (Vec<Option<dreamid_engine::Ty>>, Vec<dreamid_engine::Ty>) {
    let ins: Vec<_> = case.inputs.iter().map(|i| i.map(|i| i.ty)).collect();
    let outs = case.op.infer(&ins).unwrap();
    (ins, outs)
}

/// Everything that a picture of 512x512 is made with, at full size.
pub(crate) fn full_size(dtype: DType) -> Vec<(&'static str, Graph)> {
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
