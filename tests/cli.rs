//! The program itself: `run` against what public Python libraries compute on the same weights, `inspect`, and bad arguments.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dreamid_engine::Tensor;
use dreamid_engine::weights::{Weights, save};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PHOTO: &str = "assets/photos/astronaut.png";
const MODELS: [&str; 3] = ["tiny-a", "tiny-b", "tiny-c"];

fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dreamid-engine")).args(args).args(["-v"]).output().unwrap()
}

/// The program on the processor, whatever else the machine has.
fn engine(args: &[&str]) -> Output {
    program(&[args, &["--device", "cpu"]].concat())
}

fn folder(model: &str) -> String {
    format!("{}/tests/fixtures/{model}", env!("CARGO_MANIFEST_DIR"))
}

fn expected(model: &str) -> Weights {
    Weights::open(format!("{}/expected.safetensors", folder(model))).unwrap()
}

/// A folder for one test, with files written to it.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, tensors: &[(&str, &Tensor)]) -> String {
        let path = self.path("in.safetensors");
        save(&path, tensors, &[]).unwrap();
        path.display().to_string()
    }

    /// Runs a graph on tensors and gives the results.
    fn run(&self, graph: &str, model: &str, tensors: &[(&str, &Tensor)], extra: &[&str]) -> Weights {
        let (inputs, outputs) = (self.write(tensors), self.path("out.safetensors").display().to_string());
        let folder = folder(model);
        let mut args = vec!["run", graph, "--model", &folder, "--inputs", &inputs, "--outputs", &outputs];
        args.extend(extra);
        let output = engine(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Weights::open(outputs).unwrap()
    }
}

#[track_caller]
fn assert_close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let (got, want) = (got.to_f32_vec(), want.to_f32_vec());
    let scale = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let error = got.iter().zip(&want).fold(0.0f32, |m, (a, b)| if (a - b).is_finite() { m.max((a - b).abs()) } else { f32::INFINITY });
    assert!(error <= tolerance * scale, "{what}: {error} of {scale}");
}

#[test]
fn text_equals_transformers() {
    for model in MODELS {
        let (scratch, known) = (Scratch::new(), expected(model));
        let get = |name: &str| known.tensor(name).unwrap();
        let plain = scratch.run("text", model, &[("input_ids", &get("text.input_ids"))], &[]);
        assert_close(model, &plain.tensor("hidden").unwrap(), &get("text.hidden"), 1e-4);
        let inputs = [("input_ids", get("text.input_ids")), ("positions", get("text.positions")), ("embeds", get("text.embeds"))];
        let refs: Vec<_> = inputs.iter().map(|(n, t)| (*n, t)).collect();
        let injected = scratch.run("text", model, &refs, &[]);
        assert_close(model, &injected.tensor("hidden").unwrap(), &get("text.hidden_injected"), 1e-4);
    }
}

#[test]
fn denoising_gradient_equals_torch() {
    for model in MODELS {
        let (scratch, known) = (Scratch::new(), expected(model));
        let gradients = Weights::open(format!("{}/gradients.safetensors", folder(model))).unwrap();
        let names = ["latents", "noise", "timesteps", "input_ids", "positions", "embeds"];
        let inputs = names.map(|name| (name, known.tensor(&format!("grad.{name}")).unwrap()));
        let refs: Vec<_> = inputs.iter().map(|(n, t)| (*n, t)).collect();
        let out = scratch.run("denoising-gradient", model, &refs, &[]);
        assert_close(model, &out.tensor("loss").unwrap(), &known.tensor("grad.loss").unwrap(), 1e-4);
        assert_close(model, &out.tensor("grad_embeds").unwrap(), &known.tensor("grad.grad_embeds").unwrap(), 1e-4);
        assert_close(model, &out.tensor("grad_context").unwrap(), &gradients.tensor("grad_context").unwrap(), 1e-4);
    }
}

#[test]
fn unet_equals_diffusers_at_odd_sizes_too() {
    for model in MODELS {
        let (scratch, known) = (Scratch::new(), expected(model));
        for n in 0..3 {
            let get = |name: &str| known.tensor(&format!("unet.{n}.{name}")).unwrap();
            let (latents, timesteps, context) = (get("latents"), get("timesteps"), get("context"));
            let out = scratch.run("unet", model, &[("latents", &latents), ("timesteps", &timesteps), ("context", &context)], &[]);
            assert_close(&format!("{model} {n}"), &out.tensor("eps").unwrap(), &get("eps"), 1e-4);
        }
    }
}

#[test]
fn vae_equals_diffusers() {
    for model in MODELS {
        let (scratch, known) = (Scratch::new(), expected(model));
        let get = |name: &str| known.tensor(&format!("vae.{name}")).unwrap();
        let encoded = scratch.run("vae-encode", model, &[("image", &get("image"))], &[]);
        for name in ["mean", "logvar"] {
            assert_close(model, &encoded.tensor(name).unwrap(), &get(name), 1e-4);
        }
        let decoded = scratch.run("vae-decode", model, &[("latents", &get("latents"))], &[]);
        assert_close(model, &decoded.tensor("image").unwrap(), &get("decoded"), 1e-4);
    }
}

#[test]
fn thirty_ddim_steps_equal_diffusers() {
    for model in MODELS {
        let (scratch, known) = (Scratch::new(), expected(model));
        let get = |name: &str| known.tensor(&format!("ddim.{name}")).unwrap();
        let (latents, context, unconditional) = (get("latents"), get("context"), get("context_uncond"));
        let inputs = [("latents", &latents), ("context", &context), ("context_uncond", &unconditional)];
        let out = scratch.run("ddim", model, &inputs, &["--steps", "30", "--guidance", "7.5"]);
        assert_close(model, &out.tensor("final").unwrap(), &get("final"), 1e-4);
    }
}

#[test]
fn tokenize_equals_transformers() {
    let scratch = Scratch::new();
    let prompts = scratch.path("prompts.json");
    std::fs::write(&prompts, r#"["", "a photo of a person"]"#).unwrap();
    let (outputs, folder) = (scratch.path("ids.safetensors").display().to_string(), folder("tiny-a"));
    let output = engine(&["run", "tokenize", "--model", &folder, "--prompts", &prompts.display().to_string(), "--outputs", &outputs]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ids = Weights::open(outputs).unwrap().tensor("input_ids").unwrap();
    assert_eq!(*ids.shape(), [2, 77]);
    let ids = ids.to_i32_vec();
    // tiny-a: 814 words, the last two are start and end; padding is 0
    assert_eq!((&ids[..2], ids[2..77].iter().sum::<i32>()), (&[812, 813][..], 0));
    assert_eq!(ids[77], 812);
}

/// Fails with `code`, says all of `parts`, and does not panic.
#[track_caller]
fn refused(args: &[&str], code: i32, parts: &[&str]) {
    let output = program(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn bad_inputs_name_what_is_expected() {
    let (scratch, model) = (Scratch::new(), folder("tiny-a"));
    let outputs = scratch.path("out.safetensors").display().to_string();
    let zeros = |shape: &[usize]| Tensor::from_f32(dreamid_engine::Shape::new(shape), &vec![0.0; shape.iter().product()]).unwrap();
    let attempt = |graph: &str, tensors: &[(&str, &Tensor)], parts: &[&str]| {
        let inputs = scratch.write(tensors);
        refused(&["run", graph, "--device", "cpu", "--model", &model, "--inputs", &inputs, "--outputs", &outputs], 1, parts);
        assert!(!Path::new(&outputs).exists());
    };
    let latents = zeros(&[1, 4, 8, 8]);
    attempt("unet", &[("latents", &latents)], &["`timesteps` is missing", "context [B,T,C]", "in.safetensors"]);
    attempt("vae-decode", &[("latents", &latents), ("noise", &latents)], &["`noise` is not an input", "takes latents"]);
    attempt("vae-decode", &[("latents", &zeros(&[1, 8, 8, 4]))], &["expected 4 channels"]);
    attempt("vae-encode", &[("image", &zeros(&[1, 3, 9, 16]))], &["multiples of"]);
    attempt("text", &[("input_ids", &zeros(&[1, 77]))], &["expected integers"]);
    attempt("text", &[("input_ids", &Tensor::from_i32([1, 77], &[5000; 77]).unwrap())], &["holds 5000"]);
    attempt("identity", &[("image", &zeros(&[1, 3, 8, 8]))], &["face_encoder"]);
}

#[test]
fn bad_arguments_are_told_apart_from_failures() {
    let model = folder("tiny-a");
    refused(&["run", "walk", "--outputs", "x"], 2, &["possible values", "vae-decode"]);
    refused(&["fly"], 2, &["unrecognized subcommand"]);
    refused(&["inspect", "--dump", "text"], 2, &["--graph"]);
    refused(&["inspect", "--model", "no/such/folder"], 1, &["no/such/folder", "model_index.json"]);
    refused(&["inspect", "--model", &model, "--graph", "walk"], 1, &["ddim-step"]);
    refused(&["bench", "--model", &model, "--device", "cpu", "--dtype", "f16"], 1, &["the processor computes in f32 and bf16"]);
    refused(&["inspect", "--model", &model, "--graph", "vae-decode", "--size", "101x100"], 1, &["multiples of"]);
    refused(&["run", "text", "--model", &model, "--outputs", "x"], 2, &["--inputs"]);
    refused(&["run", "text", "--model", &model, "--inputs", "none.safetensors", "--outputs", "x"], 1, &["none.safetensors"]);
    refused(&["run", "text", "--inputs", "x", "--outputs", "x", "--steps", "3"], 1, &["--steps", "for ddim"]);
}

#[test]
fn a_model_with_a_tensor_too_few_and_one_too_many_is_refused_in_one_report() {
    let scratch = Scratch::new();
    copy_all(Path::new(&folder("tiny-a")), &scratch.path("model"));
    let file = scratch.path("model/unet/diffusion_pytorch_model.safetensors");
    let weights = Weights::from_bytes("unet", std::fs::read(&file).unwrap()).unwrap();
    let tensors: Vec<(&str, Tensor)> = weights.names().into_iter().map(|n| (n, weights.tensor(n).unwrap())).collect();
    let changed: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (if *n == "conv_in.bias" { "conv_in.bias_" } else { n }, t)).collect();
    save(&file, &changed, &[]).unwrap();
    let known = expected("tiny-a");
    let get = |name: &str| known.tensor(&format!("unet.0.{name}")).unwrap();
    let inputs = scratch.write(&[("latents", &get("latents")), ("timesteps", &get("timesteps")), ("context", &get("context"))]);
    let (model, outputs) = (scratch.path("model").display().to_string(), scratch.path("o").display().to_string());
    let parts = ["missing: conv_in.bias (the file has `conv_in.bias_`)", "unused: conv_in.bias_"];
    refused(&["run", "unet", "--device", "cpu", "--model", &model, "--inputs", &inputs, "--outputs", &outputs], 1, &parts);
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy_all(&path, &target) } else { std::fs::copy(&path, &target).map(|_| ()).unwrap() }
    }
}

fn shown(args: &[&str]) -> String {
    let output = program(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn inspect_counts_the_published_model() {
    let text = shown(&["inspect", "--model", "sd21-random", "--dtype", "bf16"]);
    for part in ["865,910,724", "340,387,840", "83,653,863", "made up", "attention_head_dim: Each([5, 10, 20, 20])"] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
}

#[test]
fn inspect_shows_graphs_and_files() {
    let model = folder("tiny-b");
    let text = shown(&["inspect", "--model", &model]);
    assert!(text.contains("F16") && text.contains("vae-encode"), "{text}");
    let nodes = shown(&["inspect", "--model", &model, "--graph", "unet", "--dump", "text"]);
    assert!(nodes.contains("`unet.conv_in.weight` f32[12,3,3,4]"), "{nodes}");
    assert!(nodes.lines().last().unwrap().starts_with("arena "), "{nodes}");
    let dot = shown(&["inspect", "--model", &model, "--graph", "text", "--dump", "dot"]);
    assert!(dot.starts_with("digraph {") && dot.trim_end().ends_with('}') && dot.contains("label=\"hidden\""));
    let file = shown(&["inspect", &format!("{model}/unet/diffusion_pytorch_model.safetensors")]);
    assert!(file.contains("conv_in.weight") && file.contains("[12, 4, 3, 3]"), "{file}");
}

#[test]
fn bench_writes_the_figures_of_every_stage() {
    let (scratch, model) = (Scratch::new(), folder("tiny-a"));
    let json = scratch.path("bench.json").display().to_string();
    let on_cpu = ["bench", "--device", "cpu", "--model", &model, "--size", "16x16"];
    let text = shown(&[&on_cpu[..], &["--repeat", "2", "--json", &json, "--profile", "--face", PHOTO]].concat());
    assert!(text.contains("vae-decode") && text.contains("GFLOP/s"), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let stages = report["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(names, ["detect", "text", "unet", "vae-decode", "vae-encode"], "tiny-a has no face encoder");
    for stage in stages {
        for key in ["median_ms", "p95_ms", "gflop", "bytes", "load_ms", "first_run_ms", "share_of_arithmetic", "share_of_bandwidth"] {
            assert!(stage[key].as_f64().is_some_and(|x| x > 0.0), "{key} in {stage}");
        }
        assert!(stage["median_ms"].as_f64() <= stage["p95_ms"].as_f64());
        assert!(cfg!(not(target_os = "linux")) || stage["peak_rss_mib"].as_f64().is_some_and(|x| x > 1.0));
    }
    let whole = shown(&[&on_cpu[..], &["--repeat", "1", "--stages", "generate", "--steps", "2", "--json", &json]].concat());
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let picture = &report["stages"][0];
    assert!(whole.contains("generate") && picture["stage"] == "generate" && report.get("cuda").is_none(), "{report}");
    let parts = |name: &str| stages.iter().find(|s| s["stage"] == name).unwrap()["gflop"].as_f64().unwrap();
    let least = parts("text") + 2.0 * parts("unet") + parts("vae-decode");
    assert!(picture["gflop"].as_f64().is_some_and(|all| all > least && all < 1.5 * least), "{picture} against {least}");
    refused(&["bench", "--device", "cpu", "--model", &model, "--stages", "encode"], 1, &["no encode"]);
    refused(&["bench", "--model", &model, "--device", "null"], 1, &["--device cpu"]);
    refused(&["bench", "--model", &model, "--stages", "dream"], 2, &["vae-encode"]);
}

#[test]
fn bench_simulates_devices_that_are_not_there() {
    let scratch = Scratch::new();
    let json = scratch.path("simulated.json").display().to_string();
    for (device, target) in [("a100", 8.5), ("h100", 5.5)] {
        let text = shown(&["bench", "--simulate", device, "--json", &json]);
        assert_eq!(text.matches("simulated bound, not a measurement").count(), 2, "{text}");
        assert!(text.contains("attention_tensor") && text.contains("a picture in all"), "{text}");
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!((&report["kind"], &report["device"]), (&"simulated bound, not a measurement".into(), &device.into()));
        let stages = report["stages"].as_array().unwrap();
        let unet = stages.iter().find(|s| s["stage"] == "unet").unwrap();
        assert_eq!((&unet["target_ms"], &unet["runs"]), (&target.into(), &30.into()));
        // no kernel is faster than the tensor cores' published rate for what the graph must multiply
        assert!(unet["bound_ms"].as_f64().unwrap() > unet["flops"].as_f64().unwrap() / if device == "a100" { 312e9 } else { 989.4e9 });
        for stage in stages {
            let target = stage["target_ms"].as_f64().unwrap_or(f64::INFINITY);
            assert!(stage["bound_ms"].as_f64().unwrap() <= target, "{} misses its target on {device}", stage["stage"]);
        }
        let kernels = unet["kernels"].as_array().unwrap();
        let sum: f64 = kernels.iter().map(|k| k["bound_us"].as_f64().unwrap()).sum();
        assert!((sum / 1e3 / unet["bound_ms"].as_f64().unwrap() - 1.0).abs() < 1e-6);
        let all: f64 = stages.iter().map(|s| s["bound_ms"].as_f64().unwrap() * s["runs"].as_f64().unwrap()).sum();
        assert!((all / report["picture_ms"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    }
    refused(&["bench", "--simulate", "abacus"], 2, &["a100"]);
    for ignored in
        [["--stages", "unet"], ["--device", "cuda:7"], ["--dtype", "f16"], ["--steps", "5"], ["--threads", "2"], ["--tiles", "x"]]
    {
        refused(&[&["bench", "--simulate", "a100"][..], &ignored].concat(), 2, &["cannot be used with", ignored[0]]);
    }
}

/// What `auto` is differs between subcommands, and so does the device that `tune` takes unasked.
#[test]
fn every_subcommand_says_what_auto_is() {
    for (command, parts) in [
        ("generate", &["auto: the first NVIDIA device that can be used, else the processor", "auto: bf16 for a UNet of more than 100"][..]),
        ("encode", &["auto: the first NVIDIA device", "auto: f32"]),
        ("run", &["auto: the first NVIDIA device", "auto: f32"]),
        ("bench", &["auto: the first NVIDIA device", "auto: bf16 where the device multiplies it natively, else f32"]),
        ("tune", &["[default: cuda]", "auto: bf16"]),
        ("inspect", &["auto: f32"]),
    ] {
        let help = shown(&[command, "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(help.contains(part), "`{part}` is not in the help of {command}: {help}");
        }
    }
    assert!(!shown(&["inspect", "--help"]).contains("--device"), "nothing runs there");
}
