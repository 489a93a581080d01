//! bf16 storage loses no more than twice what torch loses in bf16 with the same weights.

use crate::golden::{Golden, PIPELINES, fixture, model, relative, run};
use crate::sampling::{Run, stacked};
use dreamid_engine::models::Component;
use dreamid_engine::models::graphs::{self, UnetSize};
use dreamid_engine::{DType, Tensor};

/// What torch loses, from tests/make_fixtures/bf16_loss.py.
struct Torch(serde_json::Value);

impl Torch {
    fn read() -> Self {
        Self(serde_json::from_slice(&std::fs::read(fixture("bf16.json")).unwrap()).unwrap())
    }

    fn check(&self, golden: &Golden, folder: &str, name: &str, got: &Tensor) {
        let theirs = self.0[folder][name].as_f64().unwrap() as f32;
        let want = golden.get(name);
        let want = if want.shape().len() == 4 { want.nchw_to_nhwc().unwrap() } else { want };
        let ours = relative(got, &want);
        println!("{folder}/{name}: {ours:.1e}, torch {theirs:.1e}");
        assert!(ours <= 2.0 * theirs, "{folder}/{name} loses {ours:e} in bf16, torch {theirs:e}");
        // a test that ran in f32 by mistake would lose next to nothing
        assert!(ours > 1e-5, "{folder}/{name} did not run in bf16: it loses {ours:e}");
    }
}

#[test]
fn bf16_loses_no_more_than_twice_what_torch_loses() {
    let torch = Torch::read();
    for folder in PIPELINES {
        let (model, golden) = (model(folder), Golden::of(folder));
        let check = |name: &str, got: &Tensor| torch.check(&golden, folder, name, got);

        let graph = graphs::text(&model.text_config().unwrap(), DType::Bf16, 2, None).unwrap();
        let weights = model.weights(Component::TextEncoder).unwrap();
        check("text.hidden", &run(graph, &weights, &[("input_ids", &golden.get("text.input_ids"))])[0]);

        let (config, weights) = (model.unet_config().unwrap(), model.weights(Component::Unet).unwrap());
        for case in ["unet.0", "unet.1", "unet.2"] {
            let (latents, context) = (golden.image(&format!("{case}.latents")), golden.get(&format!("{case}.context")));
            let timesteps = golden.float(&format!("{case}.timesteps"));
            let (l, c) = (latents.shape(), context.shape());
            let graph = graphs::unet(&config, DType::Bf16, UnetSize { batch: l[0], height: l[1], width: l[2], tokens: c[1] }).unwrap();
            let eps = run(graph, &weights, &[("latents", &latents), ("timesteps", &timesteps), ("context", &context)]);
            check(&format!("{case}.eps"), &eps[0]);
        }

        let both = stacked(&golden.get("ddim.context_uncond"), &golden.get("ddim.context"));
        let latents = golden.image("ddim.latents");
        let sampled = Run { model: &model, dtype: DType::Bf16, steps: 30, guidance: Some(7.5), context: &both, latents: &latents };
        check("ddim.final", &sampled.finish());

        let (config, weights) = (model.vae_config().unwrap(), model.weights(Component::Vae).unwrap());
        let (image, latents) = (golden.image("vae.image"), golden.image("vae.latents"));
        let graph = graphs::vae_encode(&config, DType::Bf16, image.shape()[0], image.shape()[1], image.shape()[2]).unwrap();
        check("vae.mean", &run(graph, &weights, &[("image", &image)])[0]);
        let graph = graphs::vae_decode(&config, DType::Bf16, latents.shape()[0], latents.shape()[1], latents.shape()[2]).unwrap();
        check("vae.decoded", &run(graph, &weights, &[("latents", &latents)])[0]);
    }
}
