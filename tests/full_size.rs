//! Stable Diffusion 2.1 at full size on the null device: built, checked, planned and counted without a single weight in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use dreamid_engine::DType;
use dreamid_engine::device::{Arch, Device};
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Graph, Plan, lower};
use dreamid_engine::models::gradients::{self, BatchSize};
use dreamid_engine::models::graphs::{self, StepSize, UnetSize};
use dreamid_engine::models::{ClipVisionConfig, Component, ModelFolder};
use dreamid_engine::ops::{AnyOp, LinearGrad};
use dreamid_engine::weights::Weights;
use std::collections::{BTreeMap, BTreeSet};

fn model() -> ModelFolder {
    ModelFolder::sd21_random(0)
}

fn compiled(graph: Graph, components: &[Component]) -> Executable {
    Executable::compile(graph, &model().weights_of(components).unwrap(), &Device::Null).unwrap()
}

/// 10⁹ multiply-adds of matrix products, convolutions and attention: what the literature counts.
fn gmac(graph: &Graph) -> f64 {
    gmac_of(graph, &["conv2d", "linear", "attention"])
}

fn gmac_of(graph: &Graph, ops: &[&str]) -> f64 {
    let counted = graph.nodes().iter().filter(|n| ops.contains(&n.op.name()));
    counted.map(|n| graph.cost(n).flops).sum::<u64>() as f64 / 2e9
}

#[track_caller]
fn near(got: f64, want: f64) {
    assert!((got - want).abs() < want * 2e-3, "{got} is not {want}");
}

fn unet(batch: usize, dtype: DType) -> Executable {
    let size = UnetSize { batch, height: 64, width: 64, tokens: 77 };
    compiled(graphs::unet(&model().unet_config().unwrap(), dtype, size).unwrap(), &[Component::Unet])
}

#[test]
fn unet_has_the_published_parameters_and_work() {
    let exe = unet(1, DType::Bf16);
    assert_eq!(exe.graph().parameter_count(), 865_910_724);
    near(gmac(exe.graph()), 402.1);
    near(gmac(unet(2, DType::Bf16).graph()), 2.0 * 402.1);
}

/// A whole step of the sampler: the UNet on both halves of guidance, guidance, and the update. It may be 360 launches.
#[test]
fn a_guided_step_is_lowered_to_few_launches() {
    let config = model().unet_config().unwrap();
    let size = StepSize { images: 1, height: 64, width: 64, tokens: 77, steps: 30, guided: true };
    for dtype in [DType::Bf16, DType::F16] {
        let graph = graphs::ddim_step(&config, dtype, size).unwrap();
        for (arch, known) in LAUNCHES {
            let lowered = lower(&graph, &Arch(arch).into()).unwrap();
            let launches = || lowered.iter().flat_map(|l| &l.launches);
            let scratch = lowered.iter().map(|l| l.scratch).max().unwrap();
            let mut by_entry = BTreeMap::new();
            launches().for_each(|l| *by_entry.entry(l.kernel.entry).or_insert(0) += 1);
            println!("{dtype} sm_{arch}: {} launches, {} MiB of scratch memory: {by_entry:?}", launches().count(), scratch >> 20);
            assert_eq!(launches().count(), known, "launches on sm_{arch}: {by_entry:?}");
            assert!(known <= 360, "{known} launches on sm_{arch}");
            assert!(scratch <= 64 << 20, "{scratch} bytes of scratch memory on sm_{arch}");
        }
    }
}

/// Kinds of device with their launches of a step: as many as there are, and they may only get fewer.
const LAUNCHES: [(u32, usize); 6] = [(80, 340), (86, 340), (89, 340), (90, 340), (100, 340), (120, 340)];

#[test]
fn unet_needs_little_more_memory_than_its_skip_connections() {
    // one guided step at 512x512: the twelve skips alone are 2 x 24.1 MB in bf16
    let (half, full) = (unet(2, DType::Bf16), unet(2, DType::F32));
    let (arena, sum) = (half.plan().arena_bytes(), half.plan().temporary_bytes());
    assert!(arena < 50 << 20, "{arena}");
    assert!(sum > 20 * arena, "{sum} against {arena}");
    assert!(full.plan().arena_bytes() <= 2 * arena + (1 << 20));
}

#[test]
fn no_arena_is_much_larger_than_what_is_alive_at_once() {
    let (unet_config, vae) = (model().unet_config().unwrap(), model().vae_config().unwrap());
    let size = StepSize { images: 1, height: 64, width: 64, tokens: 77, steps: 30, guided: true };
    let graphs = [
        graphs::ddim_step(&unet_config, DType::Bf16, size),
        graphs::vae_decode(&vae, DType::Bf16, 1, 64, 64),
        graphs::vae_encode(&vae, DType::Bf16, 1, 512, 512),
        graphs::text(&model().text_config().unwrap(), DType::Bf16, 2, Some(2)),
    ];
    for graph in graphs {
        let graph = graph.unwrap();
        let plan = Plan::new(&graph);
        let (arena, least) = (plan.arena_bytes(), plan.least_bytes());
        println!("arena {arena}, least {least}");
        assert!(arena <= least + least / 20, "{arena} against {least}");
    }
}

#[test]
fn text_encoder_has_the_published_parameters_and_work() {
    let config = model().text_config().unwrap();
    let exe = compiled(graphs::text(&config, DType::Bf16, 1, Some(2)).unwrap(), &[Component::TextEncoder]);
    assert_eq!(exe.graph().parameter_count(), 340_387_840);
    near(gmac(exe.graph()), 22.6);
}

#[test]
fn vae_has_the_published_parameters_and_work() {
    let config = model().vae_config().unwrap();
    let decode = compiled(graphs::vae_decode(&config, DType::Bf16, 1, 64, 64).unwrap(), &[Component::Vae]);
    let encode = compiled(graphs::vae_encode(&config, DType::Bf16, 1, 512, 512).unwrap(), &[Component::Vae]);
    let of = |graph: &Graph| graph.params().map(|(spec, v)| (spec.names.clone(), graph.ty(v).shape.elements())).collect::<BTreeSet<_>>();
    let both: BTreeSet<_> = of(decode.graph()).union(&of(encode.graph())).cloned().collect();
    assert_eq!(both.iter().map(|(_, n)| n).sum::<usize>(), 83_653_863);
    near(gmac(decode.graph()), 1257.0);
    near(gmac(encode.graph()), 558.0);
    // 256 channels at 512x512 in bf16 are 128 MiB; a residual block holds its input, its middle and its output
    assert!(decode.plan().arena_bytes() <= 3 * (128 << 20), "{}", decode.plan().arena_bytes());
}

#[test]
fn face_encoder_and_projector_have_the_known_work() {
    let (model, components) = (model(), [Component::FaceEncoder, Component::Projector]);
    let graph = graphs::identity(&model.face_config().unwrap(), &model.projector_config().unwrap(), DType::Bf16, 1).unwrap();
    let exe = compiled(graph, &components);
    near(gmac(exe.graph()), 17.6);
    // ViT-B/16 without a head, and two words of 3840 -> 1024 -> 1024
    assert_eq!(exe.graph().parameter_count(), 85_798_656 + 2 * (3841 * 1024 + 2 * 1024 + 1025 * 1024));
}

/// One training sample with all networks frozen: what reaches the pseudo-words.
fn denoising_gradient(batch: usize, dtype: DType) -> Executable {
    let (text, unet) = (model().text_config().unwrap(), model().unet_config().unwrap());
    let size = BatchSize { batch, height: 64, width: 64, words: 2 };
    compiled(gradients::denoising_gradient(&text, &unet, dtype, size).unwrap(), &[Component::TextEncoder, Component::Unet])
}

#[test]
fn a_training_sample_costs_gradients_of_activations_and_none_of_weights() {
    let exe = denoising_gradient(1, DType::Bf16);
    let graph = exe.graph();
    assert_eq!(graph.parameter_count(), 865_910_724 + 340_387_840);
    near(gmac(graph), 402.1 + 22.6);
    let [linear, conv, attention] = ["linear_grad", "conv2d_grad", "attention_grad"].map(|op| gmac_of(graph, &[op]));
    let again = graph.nodes().iter().filter(|n| matches!(n.op, AnyOp::LinearGrad(LinearGrad::Sum { .. })));
    let again = again.map(|n| graph.cost(n).flops).sum::<u64>() as f64 / 2e9;
    let nodes = graph.nodes().iter().filter(|n| !n.op.is_view()).count();
    let (arena, least) = (exe.plan().arena_bytes(), exe.plan().least_bytes());
    println!(
        "linear {linear:.1} (of it computed again {again:.1}), conv {conv:.1}, attention {attention:.1} GMAC; {nodes} operations; arena {arena}, least {least}"
    );
    // nothing is differentiated before the first cross-attention; attention has five products where the forward pass has two
    near(linear, 208.3);
    near(conv, 201.6);
    near(attention, 131.4);
    assert_eq!(nodes, 1310);
    assert!(arena <= least + least / 20, "{arena} against {least}");
    // the activations that gradients read: a third of a gigabyte for a sample
    assert!(arena < 345 << 20, "{arena}");
}

#[test]
fn the_step_does_not_repeat_what_prompt_and_schedule_decide() {
    let config = model().unet_config().unwrap();
    let size = StepSize { images: 1, height: 64, width: 64, tokens: 77, steps: 30, guided: true };
    let step = compiled(graphs::ddim_step(&config, DType::Bf16, size).unwrap(), &[Component::Unet]);
    let once = [graphs::context_keys_values(&config, DType::Bf16, 2, 77), graphs::time_tables(&config, DType::Bf16, 30)];
    let once: Vec<Graph> = once.into_iter().map(Result::unwrap).collect();
    assert_eq!(step.graph().parameter_count() + once.iter().map(Graph::parameter_count).sum::<usize>(), 865_910_724);
    assert!(gmac(step.graph()) < gmac(unet(2, DType::Bf16).graph()) - gmac(&once[0]) + 0.01);
}

#[test]
fn other_picture_sizes_are_planned_too() {
    let config = model().unet_config().unwrap();
    for (height, width) in [(96, 64), (64, 96), (33, 47)] {
        let size = UnetSize { batch: 2, height, width, tokens: 77 };
        let exe = compiled(graphs::unet(&config, DType::Bf16, size).unwrap(), &[Component::Unet]);
        assert_eq!(exe.graph().parameter_count(), 865_910_724);
    }
}

#[test]
fn clip_image_towers_have_the_published_parameters_and_work() {
    let (b32, l14, h14) = (ClipVisionConfig::default(), ClipVisionConfig::l14(), ClipVisionConfig::h14());
    for (config, parameters, work) in [(b32, 87_849_216, 4.4), (l14, 303_966_208, 81.0), (h14, 632_076_800, 167.0)] {
        let graph = graphs::image_features(&config, DType::Bf16, 1).unwrap();
        let exe = Executable::compile(graph, &Weights::random(0), &Device::Null).unwrap();
        assert_eq!(exe.graph().parameter_count(), parameters);
        // the survey gives two digits
        assert!((gmac(exe.graph()) / work - 1.0).abs() < 0.02, "{} is not {work}", gmac(exe.graph()));
    }
}

/// Pictures as they are made, resized and standardised on the device before CLIP's tower looks at them.
#[test]
fn whole_pictures_cost_little_more_than_what_the_tower_sees() {
    let h14 = ClipVisionConfig::h14();
    let tower = graphs::image_features(&h14, DType::Bf16, 4).unwrap();
    let whole = graphs::picture_features(&h14, DType::Bf16, 4, [512, 512]).unwrap();
    let exe = Executable::compile(whole, &Weights::random(0), &Device::Null).unwrap();
    assert_eq!(exe.graph().parameter_count(), 632_076_800);
    near(gmac(exe.graph()), gmac(&tower));
    assert_eq!(exe.graph().nodes().iter().filter(|n| n.op.name() == "resample").count(), 1);
    for arch in LAUNCHES.map(|(arch, _)| Arch(arch)) {
        let launches = |graph: &Graph| lower(graph, &arch.into()).unwrap().iter().map(|l| l.launches.len()).sum::<usize>();
        // the columns, then the rows; what the tower stores its pixels as is written by the second
        let (more, tower) = (launches(exe.graph()), launches(&tower));
        assert_eq!(more + 1, tower + 2, "{more} launches against {tower} on sm_{}", arch.0);
    }
}
