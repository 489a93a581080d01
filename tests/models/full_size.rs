//! Full-size Stable Diffusion 2.1: published parameter counts and operation counts, from the graphs alone (level 9).

use dreamid_engine::DType;
use dreamid_engine::graph::Graph;
use dreamid_engine::models::graphs::{self, StepSize, UnetSize};
use dreamid_engine::models::{ClipTextConfig, ClipVisionConfig, ProjectorConfig, UnetConfig, VaeConfig, VitConfig};

/// Distinct parameters of some graphs, in elements.
fn parameters(graphs: &[&Graph]) -> usize {
    let all = graphs.iter().flat_map(|g| g.params().map(|(spec, v)| (spec.names.clone(), g.ty(v).shape.elements())));
    all.collect::<std::collections::BTreeMap<_, _>>().values().sum()
}

/// Multiply-adds of matrix products, convolutions and attention, in thousands of millions.
fn gmac(graph: &Graph) -> f64 {
    let counted = graph.nodes().iter().filter(|n| ["linear", "conv2d", "attention"].contains(&n.op.name()));
    counted.map(|n| graph.cost(n).flops).sum::<u64>() as f64 / 2e9
}

fn near(got: f64, want: f64) {
    assert!((got / want - 1.0).abs() < 2e-3, "{got} instead of {want}");
}

#[test]
fn unet() {
    let config = UnetConfig::sd21();
    let graph = graphs::unet(&config, DType::Bf16, UnetSize { batch: 1, height: 64, width: 64, tokens: 77 }).unwrap();
    assert_eq!(parameters(&[&graph]), 865_910_724);
    near(gmac(&graph), 402.1);
}

/// The step graph and what is made once beforehand use each parameter exactly as the plain graph does.
#[test]
fn step() {
    let config = UnetConfig::sd21();
    let size = StepSize { images: 1, height: 64, width: 64, tokens: 77, steps: 30, guided: true };
    let step = graphs::ddim_step(&config, DType::Bf16, size).unwrap();
    let (context, time) =
        (graphs::context_keys_values(&config, DType::Bf16, 2, 77).unwrap(), graphs::time_tables(&config, DType::Bf16, 30).unwrap());
    assert_eq!(parameters(&[&step, &context, &time]), 865_910_724);
    assert_eq!((context.outputs().len(), time.outputs().len()), (16, 22));
    let plain = graphs::unet(&config, DType::Bf16, UnetSize { batch: 2, height: 64, width: 64, tokens: 77 }).unwrap();
    near(gmac(&step) + gmac(&context) + gmac(&time), gmac(&plain) + 28.0 / 30.0 * gmac(&time));
}

#[test]
fn text_encoder() {
    let graph = graphs::text(&ClipTextConfig::sd21(), DType::Bf16, 1, Some(2)).unwrap();
    assert_eq!(parameters(&[&graph]), 340_387_840);
    near(gmac(&graph), 22.56);
}

#[test]
fn vae() {
    let config = VaeConfig::sd21();
    let decode = graphs::vae_decode(&config, DType::Bf16, 1, 64, 64).unwrap();
    let encode = graphs::vae_encode(&config, DType::Bf16, 1, 512, 512).unwrap();
    assert_eq!(parameters(&[&encode, &decode]), 83_653_863);
    near(gmac(&decode), 1257.0);
    near(gmac(&encode), 558.0);
}

#[test]
fn face_encoder_and_projector() {
    let graph = graphs::identity(&VitConfig::default(), &ProjectorConfig::sd21(), DType::Bf16, 1).unwrap();
    // ViT-B/16 without head: 85,798,656; two words of 3840 -> 1024 -> 1024 with a layer norm
    let word = 3840 * 1024 + 1024 + 2 * 1024 + 1024 * 1024 + 1024;
    assert_eq!(parameters(&[&graph]), 85_798_656 + 2 * word);
    near(gmac(&graph), 17.56 + 0.01);
}

#[test]
fn clip_image_towers() {
    for (config, count, work) in [
        (ClipVisionConfig::default(), 87_849_216, 4.4),
        (ClipVisionConfig::l14(), 303_966_208, 81.0),
        (ClipVisionConfig::h14(), 632_076_800, 167.0),
    ] {
        let graph = graphs::image_features(&config, DType::Bf16, 1).unwrap();
        assert_eq!(parameters(&[&graph]), count);
        assert!((gmac(&graph) / work - 1.0).abs() < 0.02, "{} instead of {work}", gmac(&graph));
    }
}
