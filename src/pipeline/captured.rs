//! Tensors between a request and its pictures, for comparisons with other programs.

use super::denoise::{repeated, rows};
use super::generate::TextTensors;
use super::{Request, Stage};
use crate::{DType, Error, Result, Tensor};
use std::path::Path;

/// Named tensors, the pictures along the first axis of each: f32 in NCHW order, ids and positions i32.
///
/// `input_ids [B,77]`; `positions [B,n]` and `identity [B,n,H]`, the pseudo-words of the prompt and where they stand; `context` and with
/// guidance `context_uncond [B,77,H]`; `latents_initial` and `latents_final [B,4,h,w]`; `image [B,3,H,W]` as the decoder gives it, not clamped.
#[derive(Debug)]
pub struct Captured(Vec<(&'static str, Tensor)>);

impl Captured {
    /// All tensors by name.
    pub fn tensors(&self) -> &[(&'static str, Tensor)] {
        &self.0
    }

    /// One tensor.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, t)| t)
    }

    /// Writes them to a safetensors file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let tensors: Vec<(&str, &Tensor)> = self.0.iter().map(|(n, t)| (*n, t)).collect();
        crate::weights::save(path, &tensors, &[])
    }

    pub(super) fn collect(
        request: &Request,
        text: &TextTensors,
        noise: &Tensor,
        latents: &Tensor,
        image: Option<Tensor>,
        count: usize,
    ) -> Result<Self> {
        let guided = request.guidance != 1.0;
        let prompt = usize::from(guided);
        let mut all = vec![("input_ids", repeated(&rows(&text.ids, prompt, 1)?, count)?.cast(DType::I32))];
        if let Some((slots, embeds)) = &text.words {
            let used = rows(slots, prompt, 1)?.to_i32_vec().into_iter().filter(|&s| s >= 0).count();
            if used > 0 {
                all.push(("positions", repeated(&first_columns(&rows(slots, prompt, 1)?, used)?, count)?.cast(DType::I32)));
                all.push(("identity", repeated(&first_columns(&rows(embeds, prompt, 1)?, used)?, count)?));
            }
        }
        all.push(("context", repeated(&rows(&text.context, prompt, 1)?, count)?));
        if guided {
            all.push(("context_uncond", repeated(&rows(&text.context, 0, 1)?, count)?));
        }
        all.push(("latents_initial", noise.clone()));
        all.push(("latents_final", latents.nhwc_to_nchw()?));
        let image = image.ok_or_else(|| Error::Graph(format!("{:?} kept no picture", Stage::Decode)))?;
        all.push(("image", image.nhwc_to_nchw()?));
        Ok(Self(all))
    }
}

/// The first `n` of the second axis of a tensor whose first axis is 1.
fn first_columns(tensor: &Tensor, n: usize) -> Result<Tensor> {
    let mut extents = tensor.shape().to_vec();
    let each: usize = extents[2..].iter().product();
    extents[1] = n;
    Tensor::from_f32(crate::Shape::new(&extents), &tensor.to_f32_vec()[..n * each])
}
