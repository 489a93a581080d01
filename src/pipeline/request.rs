//! What to make.

use super::{Identity, Noise, PLACEHOLDER};
use crate::{Error, Result, Tensor};

/// Largest width or height in pixels.
const MAX_SIDE: usize = 4096;

/// Pictures to make.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to show. The placeholder stands for the person.
    pub prompt: String,
    /// What not to show; the placeholder means the same person here. Without effect at guidance 1.
    pub negative: String,
    /// The word of the prompt that stands for the person.
    pub placeholder: String,
    /// The person, needed if a prompt names the placeholder.
    pub identity: Option<Identity>,
    /// Seed of the first picture; picture `i` is what `seed + i` gives alone.
    pub seed: u64,
    /// Where initial noise comes from.
    pub noise: Noise,
    /// Number of pictures.
    pub count: usize,
    /// Steps of DDIM.
    pub steps: usize,
    /// Classifier-free guidance; 1 leaves it out and takes half the time.
    pub guidance: f32,
    /// Width and height in pixels; none for what the model was trained on.
    pub size: Option<[usize; 2]>,
    /// Initial noise `[count, 4, h, w]` instead of a seed.
    pub latents: Option<Tensor>,
    /// Pictures made together; none for as many as fit into the memory of one 512x512 picture. Does not change any picture.
    pub batch: Option<usize>,
    /// Keep the tensors in between: see [`super::Captured`].
    pub capture: bool,
}

impl Default for Request {
    /// One picture by 30 steps at guidance 7.5, as in the paper.
    fn default() -> Self {
        Self {
            prompt: String::new(),
            negative: String::new(),
            placeholder: PLACEHOLDER.to_owned(),
            identity: None,
            seed: 0,
            noise: Noise::default(),
            count: 1,
            steps: 30,
            guidance: 7.5,
            size: None,
            latents: None,
            batch: None,
            capture: false,
        }
    }
}

/// Sizes of a request that fit the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Height and width of the latents.
    pub(super) latents: [usize; 2],
    /// Pixels along one side of a latent.
    pub(super) factor: usize,
    pub(super) channels: usize,
    pub(super) count: usize,
}

impl Request {
    /// Checks counts and sizes. `usual` is the side of the latents that the model was trained on.
    pub(super) fn sizes(&self, usual: usize, factor: usize, channels: usize) -> Result<Sizes> {
        if !(self.guidance.is_finite() && self.guidance >= 0.0) {
            return Err(Error::input(format!("guidance {} makes no sense; 7.5 is usual, 1 is none", self.guidance)));
        }
        let sizes = match &self.latents {
            None => {
                let [width, height] = self.size.unwrap_or([usual * factor; 2]);
                Sizes { latents: [side("height", height, factor)?, side("width", width, factor)?], factor, channels, count: self.count }
            }
            Some(latents) => self.sizes_of(latents, factor, channels)?,
        };
        if sizes.count == 0 {
            return Err(Error::input("0 pictures asked for; ask for at least 1"));
        }
        Ok(sizes)
    }

    fn sizes_of(&self, latents: &Tensor, factor: usize, channels: usize) -> Result<Sizes> {
        let &[count, c, h, w] = &*latents.shape() else {
            return Err(Error::input(format!("latents are [B,{channels},h,w], got {}", latents.ty())));
        };
        if c != channels || h == 0 || w == 0 || !latents.ty().dtype.is_float() {
            return Err(Error::input(format!("latents are [B,{channels},h,w] floats, got {}", latents.ty())));
        }
        if let Some([width, height]) = self.size.filter(|&s| s != [w * factor, h * factor]) {
            let what = format!("latents of {h}x{w} make {}x{} pictures, not {width}x{height}: leave the size out", w * factor, h * factor);
            return Err(Error::input(what));
        }
        if self.count != 1 && self.count != count {
            return Err(Error::input(format!("{} pictures asked for, but there are latents for {count}: leave the count out", self.count)));
        }
        super::picture::check_finite("latents", &latents.to_f32_vec())?;
        Ok(Sizes { latents: [h, w], factor, channels, count })
    }
}

impl Sizes {
    /// Pictures to make together when the caller does not say: as many as take the memory of one of 512x512.
    pub(super) fn default_batch(&self) -> usize {
        (64 * 64 / (self.latents[0] * self.latents[1])).max(1)
    }
}

/// Latents along a side of so many pixels.
fn side(name: &str, pixels: usize, factor: usize) -> Result<usize> {
    if pixels > 0 && pixels.is_multiple_of(factor) && pixels <= MAX_SIDE {
        return Ok(pixels / factor);
    }
    let most = MAX_SIDE / factor * factor;
    let below = (pixels / factor * factor).clamp(factor, most);
    let above = (below + factor).min(most);
    let near = if below >= pixels || above == below { below.to_string() } else { format!("{below} or {above}") };
    Err(Error::input(format!("{name} {pixels} is not a multiple of {factor} up to {most}; nearest: {near}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_fit_name_the_nearest_that_do() {
        let sizes = |w, h| Request { size: Some([w, h]), ..Request::default() }.sizes(64, 8, 4);
        assert_eq!(sizes(512, 768).unwrap().latents, [96, 64]);
        assert_eq!(Request::default().sizes(64, 8, 4).unwrap().latents, [64, 64]);
        for (w, h, text) in [
            (500, 512, "width 500 is not a multiple of 8 up to 4096; nearest: 496 or 504"),
            (512, 3, "height 3 is not a multiple of 8 up to 4096; nearest: 8"),
            (0, 512, "width 0 is not a multiple of 8 up to 4096; nearest: 8"),
            (9999, 512, "nearest: 4096"),
        ] {
            let error = sizes(w, h).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn latents_decide_count_and_size() {
        let latents = Tensor::from_f32([3, 4, 5, 6], &[0.5; 360]).unwrap();
        let request = Request { latents: Some(latents), ..Request::default() };
        let sizes = request.sizes(64, 8, 4).unwrap();
        assert_eq!((sizes.count, sizes.latents), (3, [5, 6]));
        assert!(Request { size: Some([48, 40]), ..request.clone() }.sizes(64, 8, 4).is_ok());
        for bad in [Request { count: 2, ..request.clone() }, Request { size: Some([40, 48]), ..request.clone() }] {
            assert!(bad.sizes(64, 8, 4).unwrap_err().to_string().contains("leave the"));
        }
        assert!(request.sizes(64, 8, 9).is_err());
        let nan = Tensor::from_f32([1, 4, 1, 1], &[0.0, f32::NAN, 0.0, 0.0]).unwrap();
        assert!(matches!(Request { latents: Some(nan), ..Request::default() }.sizes(64, 8, 4), Err(Error::NonFinite { .. })));
    }

    #[test]
    fn counts_and_guidance() {
        assert!(Request { count: 0, ..Request::default() }.sizes(64, 8, 4).is_err());
        for guidance in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(Request { guidance, ..Request::default() }.sizes(64, 8, 4).is_err());
        }
        let small = Request { size: Some([128, 128]), ..Request::default() }.sizes(64, 8, 4).unwrap();
        assert_eq!(small.default_batch(), 16);
    }
}
