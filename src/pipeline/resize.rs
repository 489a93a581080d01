//! Resizing as Pillow does it: a filter as wide as the reduction (so that it averages when it shrinks), two passes, horizontal
//! first, each rounded to the pixel's type.
//!
//! For bytes the weights are fixed-point numbers of 22 bits, as in Pillow, so the results are the same bits.

use super::photo::Image;

/// A resampling filter of Pillow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle: `Image.BILINEAR`.
    Bilinear,
    /// Cubic with a = -0.5: `Image.BICUBIC`.
    Bicubic,
    /// Three lobes of a windowed sinc: `Image.LANCZOS`.
    Lanczos,
}

/// A square part of a picture, which may reach beyond it: top left pixel (x, y), and `side` pixels each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Square {
    /// Leftmost column.
    pub x: i64,
    /// Topmost row.
    pub y: i64,
    /// Pixels in each direction; at least 1.
    pub side: usize,
}

/// `image` at `width` x `height` pixels (at least 1 each): `Image.resize` of Pillow.
pub fn resize<T: Sample>(image: &Image<T>, width: usize, height: usize, filter: Filter) -> Image<T> {
    let (columns, rows) = (taps(image.width(), width.max(1), filter), taps(image.height(), height.max(1), filter));
    resample(image, (0, &columns), (0, &rows))
}

/// The square's part of `image` at `size` x `size` pixels, bilinear, black where it reaches beyond the picture.
///
/// The square itself is never stored: it may be much larger than the picture.
pub fn view(image: &Image, square: Square, size: usize) -> Image {
    let taps = taps(square.side.max(1), size.max(1), Filter::Bilinear);
    resample(image, (square.x, &taps), (square.y, &taps))
}

/// A pixel type with its rounding.
pub trait Sample: Copy + Default {
    /// Weight of a pixel.
    type Weight: Copy;
    /// Sum of weighted pixels.
    type Sum: Copy;
    /// What a sum starts from.
    const START: Self::Sum;
    /// A weight in this type's precision.
    fn weight(weight: f64) -> Self::Weight;
    /// `sum + self * weight`
    fn add(self, weight: Self::Weight, sum: Self::Sum) -> Self::Sum;
    /// A sum as a pixel.
    fn finish(sum: Self::Sum) -> Self;
}

/// Bits behind the point of a byte's weight: 32, less 8 of the byte and 2 for overshoot.
const PRECISION: u32 = 22;

impl Sample for u8 {
    type Weight = i32;
    type Sum = i32;
    const START: i32 = 1 << (PRECISION - 1);

    fn weight(weight: f64) -> i32 {
        let scaled = weight * f64::from(1 << PRECISION);
        (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
    }

    fn add(self, weight: i32, sum: i32) -> i32 {
        sum + i32::from(self) * weight
    }

    fn finish(sum: i32) -> u8 {
        (sum >> PRECISION).clamp(0, 255) as u8
    }
}

impl Sample for f32 {
    type Weight = f64;
    type Sum = f64;
    const START: f64 = 0.0;

    fn weight(weight: f64) -> f64 {
        weight
    }

    fn add(self, weight: f64, sum: f64) -> f64 {
        sum + f64::from(self) * weight
    }

    fn finish(sum: f64) -> f32 {
        sum as f32
    }
}

/// The input pixels of one output pixel: `weights[i]` is of pixel `first + i`.
pub(crate) struct Taps {
    pub(crate) first: usize,
    pub(crate) weights: Vec<f64>,
}

/// The weights of each of `output` pixels of an axis that has `input` of them.
pub(crate) fn taps(input: usize, output: usize, filter: Filter) -> Vec<Taps> {
    if input == output {
        return (0..output).map(|first| Taps { first, weights: vec![1.0] }).collect();
    }
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let one = |o: usize| {
        let centre = (o as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5) as usize).min(input);
        let weights: Vec<f64> = (first..end).map(|i| filter.at((i as f64 - centre + 0.5) / stretch)).collect();
        let total: f64 = weights.iter().sum();
        Taps { first, weights: weights.into_iter().map(|w| if total == 0.0 { w } else { w / total }).collect() }
    };
    (0..output).map(one).collect()
}

impl Filter {
    /// Reach of the filter in output pixels when it enlarges.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let d = x.abs();
        match self {
            Self::Bilinear => (1.0 - d).max(0.0),
            Self::Bicubic if d < 1.0 => ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0,
            Self::Bicubic if d < 2.0 => (((d - 5.0) * d + 8.0) * d - 4.0) * A,
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

/// Both passes. `x` and `y` are the image's column and row that the taps count from; what they ask for beyond the image is black.
fn resample<T: Sample>(image: &Image<T>, (x, columns): (i64, &[Taps]), (y, rows): (i64, &[Taps])) -> Image<T> {
    let columns: Vec<_> = columns.iter().map(|t| clip::<T>(t, x, image.width())).collect();
    let rows: Vec<_> = rows.iter().map(|t| clip::<T>(t, y, image.height())).collect();
    let first = rows.iter().filter(|r| !r.1.is_empty()).map(|r| r.0).min().unwrap_or(0);
    let end = rows.iter().map(|r| r.0 + r.1.len()).max().unwrap_or(0).max(first);
    let width = columns.len();
    let mut narrow = vec![T::default(); 3 * width * (end - first)];
    for (y, out) in (first..end).zip(narrow.chunks_exact_mut(3 * width)) {
        let row = image.row(y, 0, image.width());
        for ((x, weights), out) in columns.iter().zip(out.chunks_exact_mut(3)) {
            let mut sum = [T::START; 3];
            for (pixel, &w) in row[3 * x..][..3 * weights.len()].chunks_exact(3).zip(weights) {
                sum = [pixel[0].add(w, sum[0]), pixel[1].add(w, sum[1]), pixel[2].add(w, sum[2])];
            }
            out.copy_from_slice(&sum.map(T::finish));
        }
    }
    let mut pixels = vec![T::default(); 3 * width * rows.len()];
    let mut sums = vec![T::START; 3 * width];
    for ((y, weights), out) in rows.iter().zip(pixels.chunks_exact_mut(3 * width)) {
        sums.fill(T::START);
        for (i, &w) in weights.iter().enumerate() {
            let row = &narrow[3 * width * (y + i - first)..][..3 * width];
            sums.iter_mut().zip(row).for_each(|(sum, pixel)| *sum = pixel.add(w, *sum));
        }
        out.iter_mut().zip(&sums).for_each(|(pixel, &sum)| *pixel = T::finish(sum));
    }
    Image::assembled(width, rows.len(), pixels)
}

/// The part of the taps that lies in an image of `length` pixels, when they count from pixel `start`: first pixel and weights.
fn clip<T: Sample>(taps: &Taps, start: i64, length: usize) -> (usize, Vec<T::Weight>) {
    let from = start.saturating_add(taps.first as i64);
    let skip = from.min(0).unsigned_abs() as usize;
    let first = from.max(0) as usize;
    let count = taps.weights.len().saturating_sub(skip).min(length.saturating_sub(first));
    if count == 0 {
        return (0, Vec::new());
    }
    (first, taps.weights[skip..skip + count].iter().map(|&w| T::weight(w)).collect())
}
