//! Level 8: resizing, preprocessing, similarity transforms and warps against Pillow, torchvision, scipy and Umeyama's method by SVD.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use dreamid_engine::Tensor;
use dreamid_engine::pipeline::{
    Filter, Image, Similarity, Square, Template, align, clip_input, reduce, resize, shrink_and_crop, standardise, view, warp,
};
use dreamid_engine::weights::Weights;
use proptest::prelude::*;

fn path(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn astronaut() -> Image {
    Image::open(path("assets/photos/astronaut.png")).unwrap()
}

fn fixture() -> Weights {
    Weights::open(path("tests/fixtures/images.safetensors")).unwrap()
}

fn piece(image: &Image, [left, top, right, bottom]: [usize; 4]) -> Image {
    Image::from_fn(right - left, bottom - top, |x, y| image.at(left + x, top + y))
}

/// The picture that the fixture's `source` or `oblong` names.
fn source(key: &str) -> Image {
    let facts: serde_json::Value = serde_json::from_str(fixture().metadata("facts").unwrap()).unwrap();
    piece(&astronaut(), serde_json::from_value(facts[key].clone()).unwrap())
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.to_i32_vec().into_iter().map(|v| u8::try_from(v).unwrap()).collect()
}

/// Largest difference of an image's values from a fixture's.
fn difference(ours: &[f32], theirs: &Tensor) -> f32 {
    let theirs = theirs.to_f32_vec();
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn resizes_bit_for_bit_as_pillow() {
    let (fixture, source) = (fixture(), source("source"));
    let mut compared = 0;
    for (filter, name) in [(Filter::Bilinear, "bilinear"), (Filter::Bicubic, "bicubic"), (Filter::Lanczos, "lanczos")] {
        for tensor_name in fixture.names().into_iter().filter(|n| n.starts_with(name)) {
            let want = fixture.tensor(tensor_name).unwrap();
            let (height, width) = (want.shape()[0], want.shape()[1]);
            let got = resize(&source, width, height, filter);
            assert_eq!((got.width(), got.height()), (width, height));
            assert!(got.pixels() == bytes(&want), "{tensor_name} differs");
            compared += 1;
        }
    }
    assert_eq!(compared, 15);
}

#[test]
fn f32_resize_is_the_byte_resize_before_rounding() {
    let source = source("source");
    let wide = Image::from_pixels(source.width(), source.height(), source.pixels().iter().map(|&v| f32::from(v)).collect()).unwrap();
    for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
        let (bytes, floats) = (resize(&source, 33, 41, filter), resize(&wide, 33, 41, filter));
        for (b, f) in bytes.pixels().iter().zip(floats.pixels()) {
            // two roundings to bytes, one after each pass
            assert!((f32::from(*b) - f.clamp(0.0, 255.0)).abs() < 1.3, "{filter:?}: {b} against {f}");
        }
    }
}

#[test]
fn a_view_is_the_resize_of_the_padded_square() {
    let image = source("source");
    for square in [Square { x: -7, y: 5, side: 90 }, Square { x: 40, y: -30, side: 33 }, Square { x: 0, y: 0, side: 16 }] {
        let inside = |v: i64, length: usize| usize::try_from(v).ok().filter(|&v| v < length);
        let padded = Image::from_fn(square.side, square.side, |x, y| {
            let (x, y) = (inside(square.x + x as i64, image.width()), inside(square.y + y as i64, image.height()));
            x.zip(y).map_or([0; 3], |(x, y)| image.at(x, y))
        });
        assert!(view(&image, square, 24) == resize(&padded, 24, 24, Filter::Bilinear), "{square:?}");
    }
    let beyond = view(&image, Square { x: 5000, y: -9000, side: 64 }, 8);
    assert!(beyond.pixels().iter().all(|&v| v == 0));
}

#[test]
fn preprocesses_as_clip_and_vit_do() {
    let (fixture, oblong) = (fixture(), source("oblong"));
    for size in [32, 45] {
        let want = fixture.tensor(&format!("clip.{size}.bytes")).unwrap();
        assert!(shrink_and_crop(&oblong, size).pixels() == bytes(&want), "clip.{size}.bytes");
        let got = clip_input(&oblong, size).unwrap().nhwc_to_nchw().unwrap();
        assert!(difference(&got.to_f32_vec(), &fixture.tensor(&format!("clip.{size}")).unwrap()) < 1e-5);
    }
    let square = resize(&oblong, 48, 48, Filter::Bilinear);
    let got = standardise(&square, [0.5; 3], [0.5; 3]).unwrap().nhwc_to_nchw().unwrap();
    assert!(difference(&got.to_f32_vec(), &fixture.tensor("vit.48").unwrap()) < 1e-6);
}

#[test]
fn fits_and_warps_as_umeyama_and_scipy() {
    let (fixture, image) = (fixture(), astronaut());
    let points: Vec<[f64; 2]> =
        fixture.tensor("points").unwrap().to_f32_vec().chunks(2).map(|p| [f64::from(p[0]), f64::from(p[1])]).collect();
    let backwards: Vec<[f64; 2]> = points.iter().rev().copied().collect();
    let turn = Similarity::fit(&[[0.0, 0.0], [1.0, 0.0]], &[[210.0, -130.0], [210.35, -129.2]]).unwrap();
    let fitted = |p: &[[f64; 2]], size| Similarity::fit(p, &Template::arcface().points(size)).unwrap();
    // warp.2 stands in a larger template than its picture
    for (i, transform) in [fitted(&points, 56), turn, fitted(&backwards, 112)].iter().enumerate() {
        let want = fixture.tensor(&format!("warp.{i}.matrix")).unwrap();
        let got: Vec<f32> = transform.matrix().concat().into_iter().map(|v| v as f32).collect();
        assert!(difference(&got, &want) < 2e-4, "warp.{i}.matrix {got:?}");
        let want = fixture.tensor(&format!("warp.{i}")).unwrap();
        let off = difference(warp(&image, transform, want.shape()[0]).pixels(), &want);
        assert!(off < 0.01, "warp.{i}: {off} grey levels");
    }
}

#[test]
fn averages_before_it_shrinks_a_large_face() {
    let (fixture, image) = (fixture(), astronaut());
    let small = reduce(&image, 5);
    assert_eq!((small.width(), small.height()), (103, 103));
    let corner = Image::from_fn(6, 6, |x, y| small.at(97 + x, 97 + y));
    assert!(difference(corner.pixels(), &fixture.tensor("reduced.corner").unwrap()) < 1e-4);
    let points = fixture.tensor("points").unwrap().to_f32_vec();
    let points = [0, 1, 2, 3, 4].map(|i| [f64::from(points[2 * i]), f64::from(points[2 * i + 1])]);
    let got = align(&image, &points, &Template::arcface(), 24).unwrap();
    let off = difference(got.pixels(), &fixture.tensor("aligned.24").unwrap());
    assert!(off < 0.01, "{off} grey levels");
}

#[test]
fn templates_are_known_by_id_or_given_by_points() {
    assert_eq!(Template::from_config("x", "arcface-112", None).unwrap(), Template::arcface());
    assert_eq!(Template::from_config("x", "dreamid-112", None).unwrap().points(224)[0], [86.0, 105.0]);
    // InsightFace: 128 pixels are the 112-pixel points moved right by 8
    let wide = Template::from_config("x", "arcface-128", None).unwrap().points(256);
    assert!((wide[0][0] - 2.0 * (38.2946 + 8.0)).abs() < 1e-9 && (wide[0][1] - 2.0 * 51.6963).abs() < 1e-9, "{wide:?}");
    let own = [[1.0, 2.0], [5.0, 2.0], [3.0, 4.0], [2.0, 6.0], [4.0, 6.0]];
    assert_eq!(Template::from_config("x", "mine", Some(&own)).unwrap().points(112), own);
    let unknown = Template::from_config("encoder.safetensors", "ffhq", None).unwrap_err().to_string();
    assert!(unknown.contains("encoder.safetensors") && unknown.contains("`ffhq`") && unknown.contains("alignment_points"), "{unknown}");
    assert!(Template::from_config("x", "mine", Some(&own[..4])).is_err());
    assert!(Template::from_config("x", "mine", Some(&[[1.0, 1.0]; 5])).is_err());
}

#[test]
fn landmarks_without_extent_are_refused() {
    assert!(Similarity::fit(&[[3.0, 4.0]; 5], &Template::arcface().points(112)).is_err());
    assert!(Similarity::fit(&[[3.0, f64::NAN], [1.0, 2.0]], &[[0.0, 0.0], [1.0, 1.0]]).is_err());
    assert!(Similarity::fit(&[[3.0, 4.0], [1.0, 2.0]], &[[0.0, 0.0]]).is_err());
}

proptest! {
    #[test]
    fn a_similarity_is_found_again_from_four_points(
        a in -3.0..3.0_f64, b in -3.0..3.0_f64, tx in -500.0..500.0_f64, ty in -500.0..500.0_f64,
        points in prop::array::uniform4(prop::array::uniform2(-400.0..400.0_f64)),
    ) {
        prop_assume!(a.hypot(b) > 0.05 && points.iter().any(|p| (p[0] - points[0][0]).hypot(p[1] - points[0][1]) > 1.0));
        let moved = points.map(|[x, y]| [a * x - b * y + tx, b * x + a * y + ty]);
        let found = Similarity::fit(&points, &moved).unwrap();
        prop_assert!((found.scale() - a.hypot(b)).abs() < 1e-6);
        for (p, q) in points.iter().zip(moved) {
            let (forth, back) = (found.apply(*p), found.inverse().apply(q));
            prop_assert!((forth[0] - q[0]).hypot(forth[1] - q[1]) < 1e-6);
            prop_assert!((back[0] - p[0]).hypot(back[1] - p[1]) < 1e-4);
        }
    }

    #[test]
    fn any_size_and_window_is_resized_without_a_fault(
        w in 1..40_usize, h in 1..40_usize, width in 1..50_usize, height in 1..50_usize,
        x in -100..100_i64, y in -100..100_i64, side in 1..200_usize,
    ) {
        let image = Image::from_fn(w, h, |x, y| [(x * 7) as u8, (y * 5) as u8, 200]);
        for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos] {
            let got = resize(&image, width, height, filter);
            prop_assert_eq!((got.width(), got.height()), (width, height));
            prop_assert!(got.pixels().chunks(3).all(|p| p[2].abs_diff(200) <= 1), "a flat channel stays flat");
        }
        prop_assert_eq!(view(&image, Square { x, y, side }, width).width(), width);
    }
}
