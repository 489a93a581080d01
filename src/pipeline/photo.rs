//! Photographs: files and bytes to upright RGB pixels.

use crate::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::path::Path;

/// Most pixels of a photograph; larger ones are refused by their header, before any memory is spent on them.
pub const MAX_PIXELS: u64 = 100_000_000;

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 30;

/// What a photograph without a path is called in errors.
const UNNAMED: &str = "photograph";

/// Pixels `[height, width, 3]`, RGB, from 0 to 255, neither side empty.
///
/// Photographs and pictures are bytes; faces brought to a template are f32 and not rounded.
#[derive(Clone, PartialEq)]
pub struct Image<T = u8> {
    width: usize,
    height: usize,
    pixels: Vec<T>,
}

impl<T: Copy> Image<T> {
    /// An image from its pixels, row by row; fails unless there are `3 * width * height` values and at least one pixel.
    pub fn from_pixels(width: usize, height: usize, pixels: Vec<T>) -> Result<Self> {
        if width == 0 || height == 0 || width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(pixels.len()) {
            return Err(Error::input(format!("{} values are no RGB image of {width}x{height} pixels", pixels.len())));
        }
        Ok(Self { width, height, pixels })
    }

    /// An image whose pixel (x, y) is `colour(x, y)`. Sides of 0 count as 1.
    pub fn from_fn(width: usize, height: usize, colour: impl Fn(usize, usize) -> [T; 3]) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        let mut pixels = Vec::with_capacity(3 * width * height);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            pixels.extend_from_slice(&colour(x, y));
        }
        Self::assembled(width, height, pixels)
    }

    /// An image from pixels that are known to fit.
    pub(super) fn assembled(width: usize, height: usize, pixels: Vec<T>) -> Self {
        debug_assert_eq!(pixels.len(), 3 * width * height);
        Self { width, height, pixels }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// All values, `[height, width, 3]`.
    pub fn pixels(&self) -> &[T] {
        &self.pixels
    }

    /// Pixels `from..to` of one row, three values each.
    pub fn row(&self, y: usize, from: usize, to: usize) -> &[T] {
        &self.pixels[3 * (y * self.width + from)..3 * (y * self.width + to)]
    }

    /// The colour at column x, row y.
    pub fn at(&self, x: usize, y: usize) -> [T; 3] {
        let i = 3 * (y * self.width + x);
        [self.pixels[i], self.pixels[i + 1], self.pixels[i + 2]]
    }
}

impl Image {
    /// Reads a JPEG, PNG or WebP file, turned upright by its EXIF tag; transparent parts come over white, deeper pixels are
    /// rounded to bytes, grey ones become RGB.
    ///
    /// Fails with [`Error::File`] if the file cannot be read, is no such picture, is damaged, cut short or larger than [`MAX_PIXELS`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let size = std::fs::metadata(path).map_err(|e| Error::io(path, "read the photograph", e))?.len();
        if size > MAX_BYTES {
            return Err(Error::file(path, format!("{} MiB is too large for a photograph; save it as JPEG, PNG or WebP", size >> 20)));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the photograph", e))?;
        decode(&bytes, path)
    }

    /// The same from the bytes of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes, Path::new(UNNAMED))
    }
}

impl<T> std::fmt::Debug for Image<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}x{})", self.width, self.height)
    }
}

fn decode(bytes: &[u8], path: &Path) -> Result<Image> {
    let format = format_of(bytes).map_err(|what| Error::file(path, what))?;
    let damaged =
        |e: ImageError| Error::file(path, format!("the picture is damaged or of an unusual kind: {e}; save it anew as PNG or JPEG"));
    let mut decoder = ImageReader::with_format(Cursor::new(bytes), format).into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        let most = MAX_PIXELS / 1_000_000;
        return Err(Error::file(path, format!("{width}x{height} pixels are more than {most} megapixels; make the picture smaller")));
    }
    // Decoders give rows of a picture cut short as grey or black without a word.
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(Error::file(path, "the JPEG is cut short; copy or download it again"));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(16 * MAX_PIXELS); // four channels of two bytes, twice
    decoder.set_limits(limits).map_err(damaged)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Image::from_pixels(width, height, over_white(picture))
        .map_err(|_| Error::file(path, format!("the picture is empty: {width}x{height} pixels")))
}

/// The picture's format by its first bytes, whatever its name says, or what is wrong.
fn format_of(bytes: &[u8]) -> Result<ImageFormat, String> {
    const ACCEPTED: &str = "JPEG, PNG and WebP are accepted";
    if bytes.is_empty() {
        return Err("the file is empty".into());
    }
    let kind = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP)) => return Ok(format),
        Ok(other) => format!("this is {other:?}"),
        Err(_) if bytes.get(4..8) == Some(b"ftyp") => "this is HEIC, AVIF or a video".into(),
        Err(_) => "this is no picture that is known here".into(),
    };
    Err(format!("{kind}; {ACCEPTED}: save it as one of them"))
}

/// RGB bytes; pixels that let light through stand before white.
fn over_white(picture: DynamicImage) -> Vec<u8> {
    if !picture.color().has_alpha() {
        return picture.into_rgb8().into_raw();
    }
    let blend = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    picture.into_rgba8().pixels().flat_map(|p| [0, 1, 2].map(|c| blend(p[c], p[3]))).collect()
}

/// Whether a JPEG's scans run up to its end-of-image marker. Whatever follows that marker does not matter.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xD9;
    let mut at = 2; // behind the start-of-image marker
    while let Some(&[mark, kind]) = bytes.get(at..at + 2) {
        match (mark, kind) {
            (0xFF, END_OF_IMAGE) => return true,
            (0xFF, 0xFF) => at += 1, // fill byte
            // a stuffed byte of a scan, or a marker without a segment
            (0xFF, 0x00 | 0x01 | 0xD0..=0xD8) => at += 2,
            (0xFF, _) => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
            _ => at += 1, // inside a scan
        }
    }
    false
}
