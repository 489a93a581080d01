//! VAE against diffusers' AutoencoderKL.

use crate::golden::{Golden, PIPELINES, model, run};
use dreamid_engine::DType;
use dreamid_engine::models::{Component, graphs};

#[test]
fn moments_and_pictures_are_those_of_diffusers() {
    for name in PIPELINES {
        let (model, golden) = (model(name), Golden::of(name));
        let config = model.vae_config().unwrap();
        let weights = model.weights(Component::Vae).unwrap();
        let (image, latents) = (golden.image("vae.image"), golden.image("vae.latents"));
        let encode = graphs::vae_encode(&config, DType::F32, image.shape()[0], image.shape()[1], image.shape()[2]).unwrap();
        let decode = graphs::vae_decode(&config, DType::F32, latents.shape()[0], latents.shape()[1], latents.shape()[2]).unwrap();
        weights.check(&[&encode, &decode], &[]).unwrap();
        let moments = run(encode, &weights, &[("image", &image)]);
        golden.check("vae.mean", &moments[0]);
        golden.check("vae.logvar", &moments[1]);
        golden.check("vae.decoded", &run(decode, &weights, &[("latents", &latents)])[0]);
    }
}
