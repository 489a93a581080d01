//! Photograph to identity to pictures, on a tiny model with a face encoder of random weights; library and command line.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dreamid_engine::device::Device;
use dreamid_engine::models::ModelFolder;
use dreamid_engine::pipeline::{FaceError, Identity, Image, Noise, Pipeline, Selection, read_parameters};
use dreamid_engine::weights::{Weights, save};
use dreamid_engine::{DType, Error, Tensor};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn photo(name: &str) -> PathBuf {
    [root().join("assets/photos"), root().join("tests/fixtures/photos")].map(|f| f.join(name)).into_iter().find(|p| p.exists()).unwrap()
}

/// tiny-a with a face encoder and a projector.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(&root().join("tests/fixtures/tiny-a"), folder.path());
    let config = r#"{"architecture":"vit","image_size":32,"patch_size":16,"hidden_size":16,"num_hidden_layers":4,"num_attention_heads":2,
        "intermediate_size":32,"hidden_act":"gelu","layer_norm_eps":1e-6,"tap_layers":[1,2,3,4],"tap_source":"cls","final_source":"head",
        "embedding_size":8,"mean":[0.5,0.5,0.5],"std":[0.5,0.5,0.5],"alignment":"arcface-112","licence":"made up for a test"}"#;
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("cls_token".into(), vec![1, 1, 16]),
        ("pos_embed".into(), vec![1, 5, 16]),
        ("patch_embed.proj.weight".into(), vec![16, 3, 16, 16]),
    ];
    shapes.extend([("patch_embed.proj.bias".into(), vec![16]), ("head.weight".into(), vec![8, 16]), ("head.bias".into(), vec![8])]);
    for i in 0..4 {
        let parts = [("attn.qkv", 48, 16), ("attn.proj", 16, 16), ("mlp.fc1", 32, 16), ("mlp.fc2", 16, 32)];
        for (part, out, inp) in parts {
            shapes.extend([(format!("blocks.{i}.{part}.weight"), vec![out, inp]), (format!("blocks.{i}.{part}.bias"), vec![out])]);
        }
        for norm in ["norm1", "norm2"] {
            shapes.extend([(format!("blocks.{i}.{norm}.weight"), vec![16]), (format!("blocks.{i}.{norm}.bias"), vec![16])]);
        }
    }
    shapes.extend([("norm.weight".into(), vec![16]), ("norm.bias".into(), vec![16])]);
    write(&folder.path().join("face_encoder"), config, &shapes);
    let config = r#"{"architecture":"m2-projector","words":2,"input_size":72,"hidden_size":24,"output_size":32}"#;
    let mut shapes = Vec::new();
    for i in 0..2 {
        shapes.extend([(format!("words.{i}.fc1.weight"), vec![24, 72]), (format!("words.{i}.fc1.bias"), vec![24])]);
        shapes.extend([(format!("words.{i}.norm.weight"), vec![24]), (format!("words.{i}.norm.bias"), vec![24])]);
        shapes.extend([(format!("words.{i}.fc2.weight"), vec![32, 24]), (format!("words.{i}.fc2.bias"), vec![32])]);
    }
    write(&folder.path().join("projector"), config, &shapes);
    folder
}

fn write(folder: &Path, config: &str, shapes: &[(String, Vec<usize>)]) {
    std::fs::create_dir(folder).unwrap();
    let random = |i: usize, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let noise = Noise::Philox.draw(i as u64, [1, count]).unwrap();
        let fan_in = if shape.len() > 1 { count / shape[0] } else { 4 };
        let values: Vec<f32> = noise.to_f32_vec().iter().map(|v| v / (fan_in as f32).sqrt()).collect();
        Tensor::from_f32(dreamid_engine::Shape::new(shape), &values).unwrap()
    };
    let tensors: Vec<(&str, Tensor)> = shapes.iter().enumerate().map(|(i, (name, shape))| (name.as_str(), random(i, shape))).collect();
    let tensors: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (*n, t)).collect();
    save(folder.join("model.safetensors"), &tensors, &[("config", config)]).unwrap();
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn pipeline(model: &Path) -> Pipeline {
    Pipeline::new(ModelFolder::open(model).unwrap(), Device::cpu().unwrap(), DType::F32).unwrap()
}

/// The program, on the processor unless another device is named.
fn engine(args: &[&str]) -> Output {
    let usual: &[&str] = if args.contains(&"--device") { &[] } else { &["--device", "cpu"] };
    Command::new(env!("CARGO_BIN_EXE_dreamid-engine")).args(args).args(usual).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn photographs_become_people() {
    let folder = model();
    let mut pipeline = pipeline(folder.path());
    let mut of = |name: &str| pipeline.encode(&Image::open(photo(name)).unwrap(), Selection::Largest);
    let astronaut = of("astronaut.png").unwrap();
    assert_eq!((astronaut.identity.words(), astronaut.identity.width()), (2, 32));
    assert_eq!(astronaut.identity.about().alignment, "arcface-112");
    assert_eq!(astronaut.identity.about().licence.as_deref(), Some("made up for a test"));
    assert!(astronaut.face.bbox[0] < 224.0 && astronaut.face.bbox[2] > 224.0, "{:?}", astronaut.face.bbox);
    assert_eq!(of("astronaut.png").unwrap().identity, astronaut.identity, "the same photograph is the same person");
    assert_ne!(of("grace_hopper.jpg").unwrap().identity.hash(), astronaut.identity.hash());
    let none = of("coffee.png").unwrap_err();
    assert!(matches!(none, Error::Face(FaceError::None { .. })), "{none}");
    let missing = pipeline.encode(&Image::open(photo("astronaut.png")).unwrap(), Selection::Index(3)).unwrap_err();
    assert!(matches!(missing, Error::Face(FaceError::NoSuchIndex { index: 3, .. })), "{missing}");
}

#[test]
fn a_model_without_a_face_encoder_says_so() {
    let error = pipeline(&root().join("tests/fixtures/tiny-a"))
        .encode(&Image::open(photo("astronaut.png")).unwrap(), Selection::Largest)
        .unwrap_err();
    assert!(error.to_string().contains("face_encoder"), "{error}");
}

#[test]
fn a_saved_person_gives_the_same_pictures_as_the_photograph() {
    let folder = model();
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name).display().to_string();
    let (model, face) = (folder.path().display().to_string(), photo("astronaut.png").display().to_string());
    let encoded = engine(&["encode", "--model", &model, "--face", &face, "--out", &path("me.safetensors")]);
    assert!(encoded.status.success(), "{}", text(&encoded.stderr));
    assert!(text(&encoded.stdout).contains("box") && text(&encoded.stdout).contains(" ms"), "{}", text(&encoded.stdout));
    let hash = Identity::load(path("me.safetensors")).unwrap().hash();
    let common = ["generate", "--model", &model, "--prompt", "S* face", "--steps", "2", "--size", "16x12", "--seed", "5", "--out"];
    let from_file = engine(&[&common[..], &[&path("file.png"), "--identity", &path("me.safetensors")]].concat());
    assert!(from_file.status.success(), "{}", text(&from_file.stderr));
    let tensors = path("tensors.safetensors");
    let from_face = engine(&[&common[..], &[&path("face.png"), "--face", &face, "--count", "2", "--save-tensors", &tensors]].concat());
    assert!(from_face.status.success(), "{}", text(&from_face.stderr));
    let (a, b) = (Image::open(path("file.png")).unwrap(), Image::open(path("face-1.png")).unwrap());
    assert_eq!((a.width(), a.height(), a.pixels()), (16, 12, b.pixels()));
    assert!(Path::new(&path("face-sheet.png")).exists() && Path::new(&path("face-2.png")).exists());
    let parameters = read_parameters(path("face-2.png")).unwrap().unwrap();
    assert_eq!((parameters.seed, parameters.identity, parameters.width), (6, Some(hash), 16));
    let saved = Weights::open(&tensors).unwrap();
    for name in ["input_ids", "identity", "context", "context_uncond", "latents_initial", "latents_final", "image"] {
        assert!(saved.names().contains(&name), "{:?}", saved.names());
    }
    let (person, again) = (path("me.safetensors"), path("again.png"));
    let replayed = engine(&[&common[..9], &["--latents", &tensors, "--identity", &person, "--out", &again]].concat());
    assert!(replayed.status.success(), "{}", text(&replayed.stderr));
    for i in [1, 2] {
        let [old, new] = ["face", "again"].map(|n| Image::open(path(&format!("{n}-{i}.png"))).unwrap());
        assert_eq!(old.pixels(), new.pixels());
    }
}

#[test]
fn command_line_errors_say_what_to_do_and_write_nothing() {
    let tiny = root().join("tests/fixtures/tiny-a").display().to_string();
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("x.png").display().to_string();
    let base = ["generate", "--model", &tiny, "--out", &target];
    for (args, word) in [
        (&["--prompt", "a cat", "--size", "9x16"][..], "nearest: 8 or 10"),
        (&["--prompt", "a cat", "--steps", "0"], "steps asked for"),
        (&["--prompt", "a cat", "--guidance", "-2"], "guidance -2"),
        (&["--prompt", "S* face", "--face", &tiny], "photograph"),
        (&["--prompt", "S* face", "--identity", "nowhere.safetensors"], "nowhere.safetensors"),
        (&["--prompt", "a cat", "--device", "cuda:0"], "--device cpu"),
        (&["--prompt", "a cat", "--dtype", "f16"], "bf16"),
        (&["--prompt", "a cat", "--latents", "nowhere.safetensors"], "nowhere.safetensors"),
    ] {
        let output = engine(&[&base[..], args].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output.stderr).contains(word), "{args:?}: {}", text(&output.stderr));
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "{args:?} left something behind");
    }
    let jpeg = engine(&["generate", "--out", "x.jpg"]);
    assert!(text(&jpeg.stderr).contains(".png"), "{}", text(&jpeg.stderr));
    for both in [["--face", "a.png", "--identity", "b"], ["--latents", "a", "--seed", "7"], ["--latents", "a", "--count", "2"]] {
        let usage = engine(&[&["generate"][..], &both].concat());
        assert!(usage.status.code() == Some(2) && text(&usage.stderr).contains("cannot be used with"), "{}", text(&usage.stderr));
    }
}

#[test]
fn a_prompt_without_a_person_needs_no_face() {
    let tiny = root().join("tests/fixtures/tiny-a").display().to_string();
    let out = tempfile::tempdir().unwrap();
    let made = engine(&[
        "generate",
        "--model",
        &tiny,
        "--prompt",
        "a cat",
        "--steps",
        "1",
        "--size",
        "8x8",
        "--out",
        &format!("{}/", out.path().display()),
    ]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let parameters = read_parameters(out.path().join("dreamid.png")).unwrap().unwrap();
    assert_eq!((parameters.identity, parameters.seed, parameters.steps), (None, 42, 1));
    assert!(text(&made.stdout).contains("seed: 42") && text(&made.stdout).contains("wrote "), "{}", text(&made.stdout));
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_after_the_step_and_leaves_nothing() {
    use std::io::{BufRead, BufReader, Read};
    let tiny = root().join("tests/fixtures/tiny-a").display().to_string();
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("x.png").display().to_string();
    let args =
        ["generate", "--model", &tiny, "--prompt", "a cat", "--steps", "999", "--size", "64x64", "--out", &target, "--device", "cpu"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_dreamid-engine")).args(args).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("steps") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "ended before the first step");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("nothing was written"), "{rest}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}
