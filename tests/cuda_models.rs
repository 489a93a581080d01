//! Level 5: whole tiny models and whole requests on the emulated device, started as a user starts them: the program with `--device cuda`,
//! against what public Python libraries compute on the same weights, and against the processor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::networks::{MODELS, NETWORKS, error, expected, folder, given, on_cpu, run, same_picture};
use common::{emulated, tools};
use dreamid_engine::Tensor;
use dreamid_engine::pipeline::read_parameters;
use dreamid_engine::weights::{Weights, save};
use std::path::Path;
use std::process::Command;

/// The program on the emulated device, with the arguments that every command takes.
fn on_cuda(command: &[&str], dtype: &str) -> Command {
    let mut program = emulated::command(Path::new(env!("CARGO_BIN_EXE_dreamid-engine")), &[]);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-cache");
    program.args(command).args(["--device", "cuda", "--dtype", dtype]);
    program.arg("--nvrtc").arg(tools::nvrtc()).arg("--kernel-cache").arg(cache);
    program
}

#[test]
fn every_network_in_f32_equals_its_public_implementation() {
    for model in MODELS {
        for network in NETWORKS {
            let off = network.error(on_cuda, model, "f32");
            println!("{model} {} on {}: {off:.1e}", network.graph, network.case);
            assert!(off < 1e-4, "{model}: {} differs by {off:.2e} on {}", network.graph, network.case);
        }
    }
}

/// In 16 bits both devices differ from f32 by rounding, each in its own way: the one may be off by no more than twice the other.
#[test]
fn every_network_in_16_bits_is_as_good_as_on_the_processor() {
    for network in NETWORKS {
        let cpu = network.error(on_cpu, "tiny-b", "bf16");
        let (bf16, f16) = (network.error(on_cuda, "tiny-b", "bf16"), network.error(on_cuda, "tiny-b", "f16"));
        println!("{}: bf16 on the processor {cpu:.1e}, on the device {bf16:.1e}, f16 {f16:.1e}", network.graph);
        assert!(bf16 < 2.0 * cpu, "{}: bf16 is off by {bf16:.2e}, the processor's by {cpu:.2e}", network.graph);
        assert!(f16 < cpu, "{}: f16 is off by {f16:.2e}, the processor's bf16 by {cpu:.2e}", network.graph);
    }
}

#[test]
fn thirty_replayed_steps_equal_diffusers() {
    let want = expected("tiny-a");
    let given = given(&want, "ddim", &["latents", "context", "context_uncond"]);
    let got = run(on_cuda, "ddim", "tiny-a", "f32", &given, &["--steps", "30", "--guidance", "7.5"]);
    let off = error(&got.tensor("final").unwrap(), &want.tensor("ddim.final").unwrap());
    assert!(off < 1e-4, "final latents differ by {off:.2e}");
}

/// Back through UNet and text encoder to the prompt's encoding and to the words.
#[test]
fn the_denoising_gradients_equal_torch() {
    for model in MODELS {
        let given = given(&expected(model), "grad", &["latents", "noise", "timesteps", "input_ids", "positions", "embeds"]);
        let got = run(on_cuda, "denoising-gradient", model, "f32", &given, &[]);
        let want = Weights::open(folder(model).join("gradients.safetensors")).unwrap();
        for name in ["loss", "grad_embeds", "grad_context"] {
            let off = error(&got.tensor(name).unwrap(), &want.tensor(name).unwrap());
            println!("{model} {name}: {off:.1e}");
            assert!(off < 1e-4, "{model}: {name} differs by {off:.2e}");
        }
    }
}

#[test]
fn a_network_that_overflows_is_watched() {
    let want = expected("tiny-a");
    let shape = want.tensor("vae.latents").unwrap().shape();
    let latents = Tensor::from_f32(shape, &vec![f32::INFINITY; shape.elements()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("in.safetensors");
    save(&inputs, &[("latents", &latents)], &[]).unwrap();
    let mut command = on_cuda(&["run", "vae-decode", "--watch"], "f32");
    command.arg("--model").arg(folder("tiny-a")).arg("--inputs").arg(&inputs).arg("--outputs").arg(dir.path().join("out.safetensors"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("not finite") && text.contains("vae"), "{text}");
}

/// A decoder whose residual stream leaves the range of f16, though all its weights are in it.
fn wide_decoder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for part in ["", "text_encoder", "tokenizer", "scheduler", "unet", "vae"] {
        std::fs::create_dir_all(dir.path().join(part)).unwrap();
        for file in std::fs::read_dir(folder("tiny-a").join(part)).unwrap().map(|f| f.unwrap().path()).filter(|f| f.is_file()) {
            std::fs::copy(&file, dir.path().join(part).join(file.file_name().unwrap())).unwrap();
        }
    }
    let file = dir.path().join("vae/diffusion_pytorch_model.safetensors");
    let weights = Weights::from_bytes("vae", std::fs::read(&file).unwrap()).unwrap();
    let factor = |name: &str| if name.starts_with("decoder.conv_in.") { 5e4 } else { 1.0 };
    let scaled = |name: &str| {
        let tensor = weights.tensor(name).unwrap();
        let values: Vec<f32> = tensor.to_f32_vec().iter().map(|v| v * factor(name)).collect();
        assert!(values.iter().all(|v| v.abs() < 65504.0), "{name} does not fit into f16");
        (name.to_owned(), Tensor::from_f32(tensor.shape(), &values).unwrap())
    };
    let tensors: Vec<(String, Tensor)> = weights.names().into_iter().map(scaled).collect();
    save(&file, &tensors.iter().map(|(n, t)| (n.as_str(), t)).collect::<Vec<_>>(), &[]).unwrap();
    dir
}

#[test]
fn what_leaves_the_range_of_f16_is_computed_in_f32() {
    let model = wide_decoder();
    let dir = tempfile::tempdir().unwrap();
    let generate = |dtype: &str| {
        let mut command = on_cuda(&["generate", "--steps", "2", "--prompt", "oil painting style", "--size", "16x16"], dtype);
        let path = dir.path().join(format!("{dtype}.png"));
        let output = command.arg("--model").arg(model.path()).arg("--out").arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        (image::open(&path).unwrap().to_rgb8().into_raw(), read_parameters(&path).unwrap().unwrap().dtype, text)
    };
    let (f32, f16) = (generate("f32"), generate("f16"));
    assert_eq!((f32.1.as_str(), f16.1.as_str()), ("f32", "f16, vae in f32"));
    assert!(f16.2.contains("leaves the range of f16") && !f32.2.contains("range"), "{}", f16.2);
    let off = f32.0.iter().zip(&f16.0).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(off <= 8, "a byte of the picture differs by {off}");
    // said in the configuration: no attempt in f16
    let config = model.path().join("vae/config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen('{', "{ \"force_upcast\": true,", 1)).unwrap();
    let known = generate("f16");
    assert_eq!((known.1.as_str(), &known.0), ("f16, vae in f32", &f16.0));
    assert!(!known.2.contains("leaves the range"), "{}", known.2);
}

/// The decoder alone in f16: the place in the model where it happens first.
#[test]
fn the_watch_names_what_overflows_in_f16() {
    let (model, dir) = (wide_decoder(), tempfile::tempdir().unwrap());
    let inputs = dir.path().join("in.safetensors");
    save(&inputs, &[("latents", &expected("tiny-a").tensor("vae.latents").unwrap())], &[]).unwrap();
    let mut command = on_cuda(&["run", "vae-decode", "--watch"], "f16");
    command.arg("--model").arg(model.path()).arg("--inputs").arg(&inputs).arg("--outputs").arg(dir.path().join("out.safetensors"));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("vae.decoder.conv_in (conv2d)") && text.contains("not finite"), "{text}");
}

/// A whole request: prompt, steps, picture.
#[test]
fn a_whole_request_gives_the_picture_of_the_processor() {
    let folder = folder("tiny-a");
    same_picture(on_cuda, &["--prompt", "oil painting style", "--size", "16x16", "--model", folder.to_str().unwrap()]);
}

/// The main job with trained weights: photograph, face, identity, prompt, steps, picture.
#[cfg(has_miniature)]
#[test]
fn the_miniature_gives_the_picture_of_the_processor() {
    same_picture(on_cuda, &["--prompt", "S* as a wizard, looking at the camera"]);
}
