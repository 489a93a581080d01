//! The graphs of a model by name, at a size.

use dreamid_engine::graph::Graph;
use dreamid_engine::models::graphs::{self, StepSize, UnetSize};
use dreamid_engine::models::{Component, ModelFolder};
use dreamid_engine::{DType, Error, Result};

/// Names that `inspect --graph` takes, in the order in which a picture is made.
pub(crate) const NAMES: [&str; 8] = ["identity", "text", "context", "time", "unet", "ddim-step", "vae-decode", "vae-encode"];

/// Sizes of what graphs work on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Pictures made together.
    pub(crate) images: usize,
    /// Height and width of the pictures; none: what the model was made for.
    pub(crate) picture: Option<[usize; 2]>,
    /// Sampling steps.
    pub(crate) steps: usize,
}

/// A graph and the components whose weights it takes.
pub(crate) struct Named {
    pub(crate) graph: Graph,
    pub(crate) components: Vec<Component>,
}

/// Height and width of the latents.
pub(crate) fn latent_size(model: &ModelFolder, picture: Option<[usize; 2]>) -> Result<[usize; 2]> {
    let Some(size) = picture else {
        let side = model.unet_config()?.sample_size;
        return Ok([side, side]);
    };
    let factor = model.vae_config()?.factor();
    if size.iter().any(|n| n % factor != 0 || *n == 0) {
        return Err(Error::input(format!("a picture of {}x{} pixels: both must be multiples of {factor}", size[1], size[0])));
    }
    Ok(size.map(|n| n / factor))
}

/// Builds a graph of the model; `None` if the model lacks a component that it needs.
pub(crate) fn build(model: &ModelFolder, name: &str, dtype: DType, sizes: Sizes) -> Result<Option<Named>> {
    use Component as C;
    let components: &[C] = match name {
        "identity" => &[C::FaceEncoder, C::Projector],
        "text" => &[C::TextEncoder],
        "context" | "time" | "unet" | "ddim-step" => &[C::Unet],
        "vae-decode" | "vae-encode" => &[C::Vae],
        _ => return Err(Error::input(format!("there is no graph `{name}`; graphs are {}", NAMES.join(", ")))),
    };
    if !components.iter().all(|c| model.has(*c)) {
        return Ok(None);
    }
    let images = sizes.images;
    let tokens = if model.has(C::TextEncoder) { model.text_config()?.max_position_embeddings } else { 77 };
    let [height, width] = latent_size(model, sizes.picture)?;
    let graph = match name {
        "identity" => graphs::identity(&model.face_config()?, &model.projector_config()?, dtype, 1)?,
        // a prompt and its negative, both with room for a person
        "text" => graphs::text(&model.text_config()?, dtype, 2, Some(words(model)?))?,
        "context" => graphs::context_keys_values(&model.unet_config()?, dtype, 2 * images, tokens)?,
        "time" => graphs::time_tables(&model.unet_config()?, dtype, sizes.steps)?,
        "unet" => graphs::unet(&model.unet_config()?, dtype, UnetSize { batch: 2 * images, height, width, tokens })?,
        "ddim-step" => {
            let size = StepSize { images, height, width, tokens, steps: sizes.steps, guided: true };
            graphs::ddim_step(&model.unet_config()?, dtype, size)?
        }
        "vae-decode" => graphs::vae_decode(&model.vae_config()?, dtype, images, height, width)?,
        _ => {
            let config = model.vae_config()?;
            graphs::vae_encode(&config, dtype, images, height * config.factor(), width * config.factor())?
        }
    };
    Ok(Some(Named { graph, components: components.to_vec() }))
}

/// Pseudo-words of an identity.
fn words(model: &ModelFolder) -> Result<usize> {
    if model.has(Component::Projector) { Ok(model.projector_config()?.words) } else { Ok(2) }
}
