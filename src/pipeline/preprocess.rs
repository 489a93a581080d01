//! Pictures as CLIP's image towers and plain ViTs take them.

use super::photo::Image;
use super::resize::{Filter, resize};
use crate::ops::Resample;
use crate::{DType, Result, Tensor};

/// Mean and standard deviation of CLIP's training pictures, per channel, of values 0 to 1.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_55, 0.261_302_6, 0.275_777_1];

/// `[1,size,size,3]` as CLIP's published preprocessing gives it: shorter side to `size` by bicubic, centre crop, mean and deviation.
pub fn clip_input(image: &Image, size: usize) -> Result<Tensor> {
    standardise(&shrink_and_crop(image, size), CLIP_MEAN, CLIP_STD)
}

/// The operation that makes the same of pictures of `[height, width]` on any device.
pub(crate) fn clip_resample(picture: [usize; 2], size: usize, dtype: DType) -> Resample {
    Resample::clip(picture, size, CLIP_MEAN, CLIP_STD, dtype)
}

/// The bytes of [`clip_input`] before they are standardised.
pub fn shrink_and_crop(image: &Image, size: usize) -> Image {
    let as_clip = clip_resample([image.height(), image.width()], size.max(1), DType::F32);
    let ([height, width], [top, left]) = (as_clip.size, as_clip.corner());
    let small = resize(image, width, height, Filter::Bicubic);
    Image::from_fn(size, size, |x, y| small.at(left + x, top + y))
}

/// `[1,height,width,3]` of `(value / 255 - mean) / std` from pixels 0 to 255.
pub fn standardise<T: Copy + Into<f32>>(image: &Image<T>, mean: [f32; 3], std: [f32; 3]) -> Result<Tensor> {
    let values: Vec<f32> = image.pixels().iter().enumerate().map(|(i, &v)| (v.into() / 255.0 - mean[i % 3]) / std[i % 3]).collect();
    Tensor::from_f32([1, image.height(), image.width(), 3], &values)
}
