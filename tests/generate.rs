//! Whole requests on tiny models, against diffusers and against themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dreamid_engine::device::Device;
use dreamid_engine::models::ModelFolder;
use dreamid_engine::pipeline::{About, Captured, Control, Generated, Identity, Pipeline, Progress, Request, Stage, pictures};
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Error, Tensor};
use std::path::PathBuf;

const TINY: [&str; 3] = ["tiny-a", "tiny-b", "tiny-c"];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn pipeline(name: &str, dtype: DType) -> Pipeline {
    Pipeline::new(ModelFolder::open(folder(name)).unwrap(), Device::cpu().unwrap(), dtype).unwrap()
}

fn expected(name: &str) -> Weights {
    Weights::open(folder(name).join("expected.safetensors")).unwrap()
}

/// Largest difference over largest value.
fn error(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.shape(), want.shape());
    let (got, want) = (got.to_f32_vec(), want.to_f32_vec());
    let scale = want.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
    got.iter().zip(&want).fold(0.0, |m: f32, (a, b)| m.max((a - b).abs())) / scale
}

fn go(_: Progress) -> Control {
    Control::Continue
}

fn person(width: usize) -> Identity {
    let values: Vec<f32> = (0..2 * width).map(|i| (i as f32 * 0.7).sin() * 0.5).collect();
    Identity::new(&Tensor::from_f32([2, width], &values).unwrap(), About::default()).unwrap()
}

/// A request that is quick and uses everything.
fn request() -> Request {
    Request {
        prompt: "oil painting style, S* face".into(),
        negative: "the".into(),
        identity: Some(person(32)),
        seed: 11,
        count: 3,
        steps: 3,
        size: Some([12, 16]),
        capture: true,
        ..Request::default()
    }
}

fn made(request: &Request) -> Generated {
    pipeline("tiny-a", DType::F32).generate(request, &mut go).unwrap()
}

#[test]
fn thirty_guided_steps_equal_diffusers() {
    for name in TINY {
        let want = expected(name);
        let tensor = |n: &str| want.tensor(n).unwrap();
        let mut pipeline = pipeline(name, DType::F32);
        let latents =
            pipeline.sample(&tensor("ddim.latents"), &tensor("ddim.context"), Some(&tensor("ddim.context_uncond")), 30, 7.5).unwrap();
        let off = error(&latents, &tensor("ddim.final"));
        assert!(off < 1e-4, "{name}: final latents differ by {off:.2e}");
    }
}

#[test]
fn a_request_is_its_parts() {
    // what generate computes in batches with precomputed tables equals text encoder and sampler called one by one
    let all = made(&request());
    let captured = all.captured.as_ref().unwrap();
    let get = |n: &str| captured.get(n).unwrap().clone();
    let mut pipeline = pipeline("tiny-a", DType::F32);
    let latents = pipeline.sample(&get("latents_initial"), &get("context"), Some(&get("context_uncond")), 3, 7.5).unwrap();
    assert_eq!(latents.to_f32_vec(), get("latents_final").to_f32_vec());
    let again = pictures(&get("image").nchw_to_nhwc().unwrap()).unwrap();
    assert_eq!(again.iter().map(|p| p.pixels()).collect::<Vec<_>>(), all.pictures.iter().map(|p| p.pixels()).collect::<Vec<_>>());
    assert_eq!((all.pictures[0].width(), all.pictures[0].height()), (12, 16));
    let shapes = |c: &Captured| c.tensors().iter().map(|(n, t)| format!("{n} {}", t.ty())).collect::<Vec<_>>();
    assert_eq!(
        shapes(captured),
        [
            "input_ids i32[3,77]",
            "positions i32[3,2]",
            "identity f32[3,2,32]",
            "context f32[3,77,32]",
            "context_uncond f32[3,77,32]",
            "latents_initial f32[3,4,8,6]",
            "latents_final f32[3,4,8,6]",
            "image f32[3,3,16,12]"
        ]
    );
    let words = get("input_ids").to_i32_vec();
    let slots = get("positions").to_i32_vec();
    let before = pipeline.tokenizer().tokens("oil painting style,").unwrap().len() as i32;
    assert_eq!(slots[..2], [before + 1, before + 2]);
    assert_eq!(words[slots[1] as usize + 1], pipeline.tokenizer().tokens("face").unwrap()[0].id);
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let all = made(&request());
    for batch in [1, 2] {
        let other = made(&Request { batch: Some(batch), ..request() });
        assert_eq!(bits(&other), bits(&all), "batches of {batch}");
    }
    for i in 0..3 {
        let alone = made(&Request { seed: 11 + i, count: 1, ..request() });
        assert_eq!(bits(&alone)[0], bits(&all)[i as usize], "picture {i}");
        assert_eq!(alone.parameters[0], all.parameters[i as usize]);
    }
    assert_ne!(bits(&all)[0], bits(&all)[1]);
}

/// Final latents of each picture, bit by bit.
fn bits(made: &Generated) -> Vec<Vec<u32>> {
    let latents = made.captured.as_ref().unwrap().get("latents_final").unwrap();
    let each = latents.shape().elements() / latents.shape()[0];
    latents.to_f32_vec().chunks_exact(each).map(|p| p.iter().map(|v| v.to_bits()).collect()).collect()
}

#[test]
fn a_pipeline_forgets_the_request_before() {
    let fresh = made(&request());
    let mut pipeline = pipeline("tiny-a", DType::F32);
    let others = [
        Request { prompt: "a cat".into(), identity: None, negative: String::new(), ..request() },
        Request { steps: 5, guidance: 1.0, negative: String::new(), ..request() },
        Request { size: Some([20, 8]), count: 2, guidance: 3.0, ..request() },
        Request { prompt: "S* and S*".into(), ..request() },
    ];
    for other in &others {
        let made = pipeline.generate(other, &mut go).unwrap();
        assert_ne!(bits(&made), bits(&fresh));
        assert_eq!(bits(&pipeline.generate(&request(), &mut go).unwrap()), bits(&fresh));
    }
}

#[test]
fn the_number_of_threads_does_not_show() {
    let with = |threads| {
        let device = Device::parse("cpu", Some(threads)).unwrap();
        let mut pipeline = Pipeline::new(ModelFolder::open(folder("tiny-b")).unwrap(), device, DType::F32).unwrap();
        bits(&pipeline.generate(&Request { identity: Some(person(20)), size: Some([24, 32]), ..request() }, &mut go).unwrap())
    };
    assert_eq!(with(1), with(3));
}

#[test]
fn identity_and_prompts_matter() {
    let base = bits(&made(&request()));
    let other = Identity::mix(&[
        (person(32), 2.0),
        (Identity::new(&Tensor::from_f32([2, 32], &[0.1; 64]).unwrap(), About::default()).unwrap(), -1.0),
    ])
    .unwrap();
    for changed in [
        Request { identity: Some(other), ..request() },
        Request { negative: String::new(), ..request() },
        Request { guidance: 2.0, ..request() },
        Request { prompt: "S* face, oil painting style".into(), ..request() },
    ] {
        assert_ne!(bits(&made(&changed)), base);
    }
    // the same words with no person asked for: the identity must not leak in
    let plain = Request { prompt: "a face".into(), ..request() };
    let without = made(&Request { identity: None, ..plain.clone() });
    let with = made(&plain);
    assert_eq!(bits(&with), bits(&without));
    assert!(with.warnings.iter().any(|w| w.contains("S*")), "{:?}", with.warnings);
    assert_eq!((with.parameters[0].identity.clone(), with.captured.unwrap().get("identity").is_some()), (None, false));
}

#[test]
fn without_guidance_the_negative_prompt_is_idle() {
    let request = Request { guidance: 1.0, ..request() };
    let made = made(&request);
    assert!(made.warnings.iter().any(|w| w.contains("no effect")), "{:?}", made.warnings);
    let captured = made.captured.unwrap();
    assert!(captured.get("context_uncond").is_none());
    let mut pipeline = pipeline("tiny-a", DType::F32);
    let get = |n: &str| captured.get(n).unwrap().clone();
    let alone = pipeline.sample(&get("latents_initial"), &get("context"), None, 3, 1.0).unwrap();
    assert_eq!(alone.to_f32_vec(), get("latents_final").to_f32_vec());
    // guidance by the formula with both halves gives the same up to rounding
    let both = pipeline.sample(&get("latents_initial"), &get("context"), Some(&get("context")), 3, 1.0).unwrap();
    assert!(error(&both, &alone) < 1e-5);
}

#[test]
fn given_latents_replace_the_seed() {
    let first = made(&request());
    let latents = first.captured.as_ref().unwrap().get("latents_initial").unwrap().clone();
    let second = made(&Request { latents: Some(latents), seed: 999, count: 1, size: None, ..request() });
    assert_eq!(bits(&first), bits(&second));
    assert_eq!(second.parameters[0].noise, "given");
}

#[test]
fn lower_precision_stays_close() {
    let request = Request { identity: Some(person(24)), ..request() };
    let latents =
        |dtype| pipeline("tiny-c", dtype).generate(&request, &mut go).unwrap().captured.unwrap().get("latents_final").unwrap().clone();
    let off = error(&latents(DType::Bf16), &latents(DType::F32));
    assert!(off < 0.15 && off > 0.0, "bf16 differs by {off}");
}

#[test]
fn progress_counts_everything_once() {
    let mut seen: Vec<(Stage, usize, usize)> = Vec::new();
    let mut on_progress = |p: Progress| {
        assert!(p.per_second.is_finite());
        seen.push((p.stage, p.done, p.total));
        Control::Continue
    };
    pipeline("tiny-a", DType::F32).generate(&Request { batch: Some(2), ..request() }, &mut on_progress).unwrap();
    let steps: Vec<_> = seen.iter().filter(|(s, ..)| *s == Stage::Denoise).map(|&(_, done, total)| (done, total)).collect();
    assert_eq!(steps, (0..=6).map(|i| (i, 6)).collect::<Vec<_>>(), "two batches of three steps");
    assert_eq!(seen.first().unwrap(), &(Stage::Text, 0, 1));
    assert_eq!(seen.last().unwrap(), &(Stage::Decode, 3, 3));
}

#[test]
fn stopping_is_an_error_at_once_and_the_pipeline_lives_on() {
    let mut pipeline = pipeline("tiny-a", DType::F32);
    let mut calls = 0;
    let mut stop = |p: Progress| {
        calls += 1;
        if p.stage == Stage::Denoise && p.done == 2 { Control::Stop } else { Control::Continue }
    };
    let error = pipeline.generate(&request(), &mut stop).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(calls, 4, "one for the text, three for steps 0 to 2");
    assert_eq!(bits(&pipeline.generate(&request(), &mut go).unwrap()), bits(&made(&request())));
}

#[test]
fn bad_requests_are_refused_before_any_work() {
    let mut pipeline = pipeline("tiny-a", DType::F32);
    let long = vec!["the"; 80].join(" ");
    for (bad, word) in [
        (Request { identity: None, ..request() }, "no identity|there is none"),
        (Request { identity: Some(person(31)), ..request() }, "another model"),
        (Request { size: Some([13, 16]), ..request() }, "nearest: 12 or 14"),
        (Request { steps: 0, ..request() }, "steps"),
        (Request { prompt: format!("{long} S*"), ..request() }, "leave out"),
    ] {
        let mut work = |_: Progress| -> Control { panic!("work was begun") };
        let error = pipeline.generate(&bad, &mut work).unwrap_err().to_string();
        assert!(word.split('|').any(|w| error.contains(w)), "{error}");
    }
    let long = pipeline.generate(&Request { prompt: format!("S* {long}"), ..request() }, &mut go).unwrap();
    assert!(long.warnings.iter().any(|w| w.contains("left out: \"the the the the the the the\"")), "{:?}", long.warnings);
}

#[test]
fn values_that_are_not_finite_are_errors_not_black_pictures() {
    let request = Request { guidance: 1e38, steps: 30, ..request() };
    let error = pipeline("tiny-a", DType::F32).generate(&request, &mut go).unwrap_err();
    assert!(matches!(&error, Error::NonFinite { at, .. } if at.contains("latents after step") || at == "image"), "{error}");
}

#[test]
fn pipelines_move_between_threads() {
    let mut pipeline = pipeline("tiny-c", DType::F32);
    let request = Request { prompt: "a cat".into(), steps: 1, size: Some([8, 8]), ..Request::default() };
    let made = std::thread::spawn(move || pipeline.generate(&request, &mut go).map(|g| g.pictures.len())).join().unwrap();
    assert_eq!(made.unwrap(), 1);
}
