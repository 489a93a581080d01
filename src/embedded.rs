//! The miniature that is part of the program: what runs when no model and no photograph are given.

use crate::models::ModelFolder;
use crate::pipeline::Image;
use crate::{Error, Result};

/// Name of the embedded model in messages and records.
pub const NAME: &str = "miniature";

/// Every file of `assets/miniature` that a model folder has, by its path there.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/miniature.rs"));

/// Name of the bundled photograph.
const FACE: &str = "photos/face.png";

/// The embedded model.
pub fn model() -> Result<ModelFolder> {
    file("model_index.json")?;
    ModelFolder::embedded(NAME, FILES)
}

/// The bundled photograph: a drawn person that the model has never seen.
pub fn face() -> Result<Image> {
    Image::decode(file(FACE)?)
}

fn file(name: &str) -> Result<&'static [u8]> {
    let found = FILES.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes);
    found.ok_or_else(|| {
        Error::file(
            name,
            "is not part of this build: it was made without the folder assets/miniature; give a model (--model) and a photograph (--face)",
        )
    })
}
