//! Level 8: photographs from files: formats, orientation, transparency, depth, and everything that can be wrong with a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use dreamid_engine::Error;
use dreamid_engine::pipeline::{Image, MAX_PIXELS};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ExtendedColorType, ImageBuffer, ImageEncoder, ImageFormat, Luma, LumaA, Rgb, Rgba};
use proptest::prelude::*;
use std::io::Cursor;

const W: usize = 48;
const H: usize = 32;

/// Four coloured quarters: no orientation but the right one gives it back.
fn quarters(x: usize, y: usize) -> [u8; 3] {
    match (x < W / 2, y < H / 2) {
        (true, true) => [220, 30, 30],
        (false, true) => [30, 200, 40],
        (true, false) => [40, 50, 210],
        (false, false) => [230, 220, 60],
    }
}

/// The picture as a camera stores it under an EXIF orientation: (width, height, pixels).
///
/// By the standard, the tag says where the 0th row and the 0th column are to be seen.
fn stored(orientation: u8) -> (usize, usize, Vec<u8>) {
    let (w, h) = if orientation < 5 { (W, H) } else { (H, W) };
    let seen = |r: usize, c: usize| match orientation {
        1 => (c, r),                 // top, left
        2 => (W - 1 - c, r),         // top, right
        3 => (W - 1 - c, H - 1 - r), // bottom, right
        4 => (c, H - 1 - r),         // bottom, left
        5 => (r, c),                 // left, top
        6 => (W - 1 - r, c),         // right, top
        7 => (W - 1 - r, H - 1 - c), // right, bottom
        _ => (r, H - 1 - c),         // left, bottom
    };
    let pixels = (0..h).flat_map(|r| (0..w).map(move |c| (r, c))).flat_map(|(r, c)| {
        let (x, y) = seen(r, c);
        quarters(x, y)
    });
    (w, h, pixels.collect())
}

/// An EXIF block with nothing but the orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"II*\0\x08\0\0\0\x01\0".to_vec();
    block.extend([0x12, 0x01, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0]);
    block
}

fn encoded(format: ImageFormat, orientation: Option<u8>) -> Vec<u8> {
    let (w, h, pixels) = stored(orientation.unwrap_or(1));
    let mut bytes = Vec::new();
    write_with(format, &mut bytes, orientation, &pixels, w as u32, h as u32);
    bytes
}

fn write_with(format: ImageFormat, out: &mut Vec<u8>, orientation: Option<u8>, pixels: &[u8], w: u32, h: u32) {
    fn finish<E: ImageEncoder>(mut encoder: E, orientation: Option<u8>, pixels: &[u8], w: u32, h: u32) {
        if let Some(orientation) = orientation {
            encoder.set_exif_metadata(exif(orientation)).unwrap();
        }
        encoder.write_image(pixels, w, h, ExtendedColorType::Rgb8).unwrap();
    }
    match format {
        ImageFormat::Jpeg => finish(JpegEncoder::new_with_quality(out, 95), orientation, pixels, w, h),
        ImageFormat::Png => finish(PngEncoder::new(out), orientation, pixels, w, h),
        _ => finish(WebPEncoder::new_lossless(out), orientation, pixels, w, h),
    }
}

fn message(result: dreamid_engine::Result<Image>) -> String {
    match result {
        Err(e @ Error::File { .. }) => e.to_string(),
        Err(other) => panic!("another kind of error: {other:?}"),
        Ok(image) => panic!("was accepted as {image:?}"),
    }
}

#[test]
fn turns_every_orientation_upright() {
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
        for orientation in [None].into_iter().chain((1..=8).map(Some)) {
            let image = Image::decode(&encoded(format, orientation)).unwrap();
            assert_eq!((image.width(), image.height()), (W, H), "{format:?} {orientation:?}");
            for (x, y) in [(8, 5), (40, 5), (8, 26), (40, 26)] {
                let (got, want) = (image.at(x, y), quarters(x, y));
                let close = got.iter().zip(want).all(|(a, b)| a.abs_diff(b) < 12);
                assert!(close, "{format:?} {orientation:?} at ({x}, {y}): {got:?}, not {want:?}");
            }
        }
    }
}

#[test]
fn a_nonsensical_orientation_changes_nothing() {
    for tag in [0, 9, 255] {
        let mut bytes = Vec::new();
        let (w, h, pixels) = stored(1);
        write_with(ImageFormat::Png, &mut bytes, Some(tag), &pixels, w as u32, h as u32);
        assert_eq!(Image::decode(&bytes).unwrap().pixels(), pixels);
    }
}

#[test]
fn accepts_grey_deep_and_transparent_pictures() {
    let png = |image: DynamicImage| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        Image::decode(bytes.get_ref()).unwrap().at(0, 0)
    };
    assert_eq!(png(DynamicImage::ImageLuma8(ImageBuffer::from_pixel(2, 2, Luma([77])))), [77; 3]);
    assert_eq!(png(DynamicImage::ImageLuma16(ImageBuffer::from_pixel(2, 2, Luma([77 * 257])))), [77; 3]);
    assert_eq!(png(DynamicImage::ImageRgb16(ImageBuffer::from_pixel(2, 2, Rgb([0, 65535, 30 * 257])))), [0, 255, 30]);
    assert_eq!(png(DynamicImage::ImageRgba8(ImageBuffer::from_pixel(2, 2, Rgba([10, 200, 30, 0])))), [255; 3], "over white");
    assert_eq!(png(DynamicImage::ImageRgba8(ImageBuffer::from_pixel(2, 2, Rgba([0, 100, 255, 128])))), [127, 177, 255]);
    assert_eq!(png(DynamicImage::ImageRgba16(ImageBuffer::from_pixel(2, 2, Rgba([0, 65535, 0, 65535])))), [0, 255, 0]);
    assert_eq!(png(DynamicImage::ImageLumaA8(ImageBuffer::from_pixel(2, 2, LumaA([50, 255])))), [50; 3]);
}

#[test]
fn the_contents_count_not_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photo.png");
    std::fs::write(&path, encoded(ImageFormat::Jpeg, None)).unwrap();
    assert_eq!(Image::open(&path).unwrap().width(), W);
}

#[test]
fn says_what_is_wrong_with_a_file_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let absent = message(Image::open(folder.path().join("absent.jpg")));
    assert!(absent.contains("absent.jpg") && absent.contains("cannot read the photograph"), "{absent}");
    assert!(message(Image::open(folder.path())).contains("cannot read"));
    assert!(message(Image::decode(b"")).contains("empty"));
    assert!(message(Image::decode(b"hello, this is text")).contains("JPEG, PNG and WebP"));
    assert!(message(Image::decode(b"GIF89a\x01\0\x01\0\0\0\0;")).contains("Gif"));
    let heic = message(Image::decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"));
    assert!(heic.contains("HEIC") && heic.contains("save it"), "{heic}");
}

#[test]
fn refuses_pictures_that_are_cut_short() {
    for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
        let (w, h) = (64, 48);
        let pixels: Vec<u8> = (0..3 * w * h).map(|i| ((i * i) >> 7) as u8).collect();
        let mut bytes = Vec::new();
        write_with(format, &mut bytes, None, &pixels, w as u32, h as u32);
        assert!(Image::decode(&bytes).is_ok());
        // the last bytes of a PNG are an end mark and checksums: without them the picture is still whole
        let whole_from = if format == ImageFormat::Jpeg { bytes.len() } else { bytes.len() - 24 };
        for length in 1..whole_from {
            assert!(!message(Image::decode(&bytes[..length])).is_empty(), "{format:?} cut to {length} of {}", bytes.len());
        }
    }
}

#[test]
fn a_jpeg_may_be_followed_by_anything() {
    let mut bytes = encoded(ImageFormat::Jpeg, None);
    bytes.extend([0xFF, 0xDA, 1, 2, 3]);
    assert!(Image::decode(&bytes).is_ok());
}

#[test]
fn refuses_huge_pictures_by_their_header() {
    let start = std::time::Instant::now();
    let mut png = encoded(ImageFormat::Png, None);
    png[16..24].copy_from_slice(&[0, 0, 0xC3, 0x50, 0, 0, 0xC3, 0x50]); // 50000 x 50000
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut jpeg = encoded(ImageFormat::Jpeg, None);
    let sof = jpeg.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    jpeg[sof + 5..sof + 9].copy_from_slice(&[0xFF; 4]); // 65535 x 65535
    let mut webp = encoded(ImageFormat::WebP, None);
    let size = webp.windows(4).position(|w| w == b"VP8L").unwrap() + 9;
    webp[size..size + 4].copy_from_slice(&0x0FFF_BFFE_u32.to_le_bytes()); // 16383 x 16383, each less 1 in 14 bits
    for (bytes, size) in [(png, "50000x50000"), (jpeg, "65535x65535"), (webp, "16383x16383")] {
        let what = message(Image::decode(&bytes));
        assert!(what.contains(size) && what.contains("100 megapixels"), "{what}");
    }
    assert!(start.elapsed().as_secs() < 5, "the header alone must decide");
    assert_eq!(MAX_PIXELS, 100_000_000);
}

/// The checksum of a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc: u32, &b| (0..8).fold(crc ^ u32::from(b), step))
}

#[test]
fn impossible_images_are_refused() {
    assert!(Image::from_pixels(0, 4, Vec::<u8>::new()).is_err());
    assert!(Image::from_pixels(2, 2, vec![0_u8; 11]).is_err());
    assert!(Image::from_pixels(usize::MAX, 2, vec![0_u8; 6]).is_err());
}

/// Decodes; any outcome but a picture or a file error fails the test.
fn survives(bytes: &[u8]) {
    match Image::decode(bytes) {
        Ok(image) => assert_eq!(image.pixels().len(), 3 * image.width() * image.height()),
        Err(Error::File { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_never_panic(head in 0..4_usize, tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let heads: [&[u8]; 4] = [b"", &[0xFF, 0xD8, 0xFF], b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8L"];
        survives(&[heads[head], &tail].concat());
    }

    #[test]
    fn damaged_files_never_panic(kind in 0..3_usize, flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..20)) {
        let mut bytes = encoded([ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP][kind], Some(6));
        for (place, bit) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
        }
        survives(&bytes);
    }
}
