//! Faces brought to a template: the crop that recognisers and encoders see.

use super::photo::Image;
use super::similarity::{Point, Similarity, Template};
use crate::Result;

/// The face with these five landmarks, brought to the template in a square of `size` pixels; zero beyond the photograph.
///
/// A face at least twice as large as the result is first reduced by the whole factor, by averaging, so that it does not alias.
/// Values are not rounded. Fails if the landmarks fall on one point.
pub fn align(image: &Image, points: &[Point; 5], template: &Template, size: usize) -> Result<Image<f32>> {
    let target = template.points(size);
    let transform = Similarity::fit(points, &target)?;
    let factor = ((1.0 / transform.scale()) as usize).min(image.width().max(image.height()));
    if factor < 2 {
        return Ok(warp(image, &transform, size));
    }
    let reduced_points = points.map(|p| p.map(|v| (v + 0.5) / factor as f64 - 0.5));
    Ok(warp(&reduce(image, factor), &Similarity::fit(&reduced_points, &target)?, size))
}

/// The square of `size` pixels whose pixel p is the bilinear mean of the four neighbours of `transform`'s inverse of p, zero outside.
pub fn warp<T: Copy + Into<f32>>(image: &Image<T>, transform: &Similarity, size: usize) -> Image<f32> {
    let back = transform.inverse();
    let at = |x: i64, y: i64| match (usize::try_from(x), usize::try_from(y)) {
        (Ok(x), Ok(y)) if x < image.width() && y < image.height() => image.at(x, y).map(Into::into),
        _ => [0.0_f32; 3],
    };
    Image::from_fn(size, size, |x, y| {
        let [sx, sy] = back.apply([x as f64, y as f64]);
        let (x0, y0) = (sx.floor(), sy.floor());
        let (fx, fy) = ((sx - x0) as f32, (sy - y0) as f32);
        // far outside, where the next column or row would overflow, everything is zero anyway
        let (x0, y0) = (x0.clamp(-4e9, 4e9) as i64, y0.clamp(-4e9, 4e9) as i64);
        let [tl, tr, bl, br] = [at(x0, y0), at(x0 + 1, y0), at(x0, y0 + 1), at(x0 + 1, y0 + 1)];
        [0, 1, 2].map(|c| {
            let (top, bottom) = (tl[c] * (1.0 - fx) + tr[c] * fx, bl[c] * (1.0 - fx) + br[c] * fx);
            top * (1.0 - fy) + bottom * fy
        })
    })
}

/// Means of blocks of `factor` x `factor` pixels; incomplete blocks at the right and bottom average what they have.
pub fn reduce(image: &Image, factor: usize) -> Image<f32> {
    let factor = factor.max(1);
    let width = image.width().div_ceil(factor);
    Image::from_fn(width, image.height().div_ceil(factor), |x, y| {
        let (right, bottom) = (image.width().min((x + 1) * factor), image.height().min((y + 1) * factor));
        let mut sums = [0_u64; 3];
        for row in y * factor..bottom {
            for pixel in image.row(row, x * factor, right).chunks_exact(3) {
                sums.iter_mut().zip(pixel).for_each(|(sum, &v)| *sum += u64::from(v));
            }
        }
        let count = ((right - x * factor) * (bottom - y * factor)) as f32;
        sums.map(|sum| sum as f32 / count)
    })
}
