//! Widths at which the components of a model meet.

use super::{ClipTextConfig, ProjectorConfig, UnetConfig, VaeConfig, VitConfig};
use crate::{Error, Result};

/// Configurations of the components that a model has.
pub(crate) struct Configs {
    pub(crate) model: String,
    pub(crate) text: Option<ClipTextConfig>,
    pub(crate) unet: Option<UnetConfig>,
    pub(crate) vae: Option<VaeConfig>,
    pub(crate) face: Option<VitConfig>,
    pub(crate) projector: Option<ProjectorConfig>,
}

/// Fails, naming both sides, where two components do not fit.
pub(crate) fn check(all: &Configs) -> Result<()> {
    let text = all.text.as_ref().map(|c| ("text_encoder hidden_size", c.hidden_size));
    let context = all.unet.as_ref().map(|c| ("unet cross_attention_dim", c.cross_attention_dim));
    let predicted = all.unet.as_ref().map(|c| ("unet out_channels", c.out_channels));
    let latents = all.vae.as_ref().map(|c| ("vae latent_channels", c.latent_channels));
    let features = all.face.as_ref().map(|c| ("face_encoder features (taps and final vector)", c.feature_size()));
    let taken = all.projector.as_ref().map(|c| ("projector input_size", c.input_size));
    let word = all.projector.as_ref().map(|c| ("projector output_size", c.output_size));
    for (a, b) in [(text, context), (predicted, latents), (features, taken), (word, text)] {
        if let (Some((a, m)), Some((b, n))) = (a, b)
            && m != n
        {
            return Err(Error::config(&all.model, format!("{a} is {m} but {b} is {n}: these components do not belong to one model")));
        }
    }
    Ok(())
}
