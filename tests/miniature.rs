//! The main job on the embedded default: what a newcomer gets who types one command.
//!
//! Only builds that hold the miniature have these tests; `build.rs` says so.
#![cfg(has_miniature)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dreamid_engine::device::Device;
use dreamid_engine::pipeline::{Control, FaceAnalyser, Identity, Image, Pipeline, Request, Search, Selection, read_parameters};
use dreamid_engine::{DType, embedded};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Bundled photographs of people that no network was shown in training.
const UNSEEN: [&str; 6] = ["face", "unseen_4706", "unseen_4715", "unseen_4718", "unseen_4734", "unseen_4746"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/miniature")
}

fn pipeline() -> Pipeline {
    Pipeline::new(embedded::model().unwrap(), Device::cpu().unwrap(), DType::F32).unwrap()
}

fn photo(name: &str) -> Image {
    Image::open(folder().join(format!("photos/{name}.png"))).unwrap()
}

#[test]
fn one_command_makes_a_picture() {
    let out = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let run =
        Command::new(env!("CARGO_BIN_EXE_dreamid-engine")).args(["generate", "--out"]).arg(out.path().join("x.png")).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let picture = Image::open(out.path().join("x.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (128, 128));
    let parameters = read_parameters(out.path().join("x.png")).unwrap().unwrap();
    assert!(parameters.prompt.contains("S*") && parameters.identity.is_some());
    // a picture and not a flat colour or noise: neighbours agree, distant pixels do not
    let grey: Vec<f64> = picture.pixels().chunks_exact(3).map(|p| f64::from(p[0]) + f64::from(p[1]) + f64::from(p[2])).collect();
    let mean = grey.iter().sum::<f64>() / grey.len() as f64;
    let spread = grey.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / grey.len() as f64;
    let step = grey.windows(2).map(|w| (w[1] - w[0]).powi(2)).sum::<f64>() / grey.len() as f64;
    assert!(spread > 400.0 && step < 0.5 * spread, "spread {spread}, step {step}");
}

#[test]
fn every_bundled_person_is_found_and_is_somebody_else() {
    let mut pipeline = pipeline();
    let people: Vec<Identity> = UNSEEN.iter().map(|name| pipeline.encode(&photo(name), Selection::Only).unwrap().identity).collect();
    for (i, a) in people.iter().enumerate() {
        assert_eq!(a.words(), 2);
        assert!(people[..i].iter().all(|b| b.hash() != a.hash()));
    }
    assert_eq!(pipeline.encode(&embedded::face().unwrap(), Selection::Only).unwrap().identity, people[0]);
}

/// MobileFaceNet, which has never seen this world, takes most plain pictures of unseen people for that person, among the six.
///
/// Among a hundred people it is measured by `assets/make/miniature/evaluate.py` (see the README).
#[test]
fn plain_pictures_are_that_person() {
    let (mut pipeline, faces) = (pipeline(), FaceAnalyser::new(&Device::cpu().unwrap()).unwrap());
    let vector = |image: &Image| faces.detect(image, Search::Portrait).unwrap().first().map(|face| faces.recognise(image, face).unwrap());
    let photos: Vec<Vec<f32>> = UNSEEN.iter().map(|name| vector(&photo(name)).unwrap()).collect();
    let mean: Vec<f32> = (0..photos[0].len()).map(|i| photos.iter().map(|p| p[i]).sum::<f32>() / photos.len() as f32).collect();
    let centred = |v: &[f32]| v.iter().zip(&mean).map(|(v, m)| v - m).collect::<Vec<f32>>();
    let likeness = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let (mut found, mut right) = (0, 0);
    for (own, name) in UNSEEN.iter().enumerate() {
        let identity = pipeline.encode(&photo(name), Selection::Only).unwrap().identity;
        let request = Request { prompt: "S* face, looking at the camera".into(), identity: Some(identity), count: 2, ..Request::default() };
        let made = pipeline.generate(&request, &mut |_| Control::Continue).unwrap();
        for made in made.pictures.iter().filter_map(vector) {
            let made = centred(&made);
            let ranked = photos.iter().map(|p| likeness(&made, &centred(p))).enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
            found += 1;
            right += usize::from(ranked.is_some_and(|(first, _)| first == own));
        }
    }
    assert!(found >= 10, "a face is found in {found} of 12 pictures");
    assert!(right >= 8, "the right one of six people is the likest in {right} of 12 pictures; by chance it would be 2");
}

#[test]
fn words_of_the_captions_are_single_tokens() {
    let pipeline = pipeline();
    for word in [
        "face",
        "looking",
        "camera",
        "oil",
        "painting",
        "style",
        "watercolor",
        "pencil",
        "fauvism",
        "wizard",
        "chef",
        "nurse",
        "police",
        "hat",
    ] {
        assert_eq!(pipeline.tokenizer().tokens(word).unwrap().len(), 1, "{word}");
    }
    assert_eq!((pipeline.usual_size(), pipeline.tokenizer().pad()), ([128, 128], 0));
}

#[test]
fn files_are_the_ones_recorded_and_small() {
    let sums = std::fs::read_to_string(folder().join("SHA256SUMS")).unwrap();
    let mut total = 0;
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = std::fs::read(folder().join(name)).unwrap();
        let found: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(sum, found, "{name}");
        // reports and pictures beside the model are not part of it
        total += if name.contains('/') { bytes.len() } else { 0 };
    }
    assert!(total > 1_000_000 && total <= 32_000_000, "{total} bytes");
}
