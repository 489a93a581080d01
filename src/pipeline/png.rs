//! PNG files that carry the parameters they were made with.

use super::Image;
use crate::files::write_atomic;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Keyword under which other tools look for parameters, as text.
const TEXT: &str = "parameters";
/// Keyword of the same parameters as JSON.
const JSON: &str = "dreamid-engine";

/// Everything that a picture follows from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// The prompt as given.
    pub prompt: String,
    /// The negative prompt; empty for none.
    pub negative: String,
    /// The seed that makes this very picture alone.
    pub seed: u64,
    /// Where its initial noise comes from.
    pub noise: String,
    /// Number of steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f32,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Name of the sampler.
    pub sampler: String,
    /// Storage type of weights and activations.
    pub dtype: String,
    /// Fingerprint of the model's weights.
    pub model: String,
    /// Hash of the identity, if there is one.
    pub identity: Option<String>,
    /// Name and version of the program.
    pub engine: String,
}

impl Parameters {
    /// The form that most tools read: prompt, negative prompt, one line of settings.
    pub fn as_text(&self) -> String {
        let line = |text: &str| text.replace(['\r', '\n'], " ");
        let mut text = format!("{}\n", line(&self.prompt));
        if !self.negative.is_empty() {
            text += &format!("Negative prompt: {}\n", line(&self.negative));
        }
        text += &format!("Steps: {}, Sampler: {}, CFG scale: {}, Seed: {}", self.steps, self.sampler, self.guidance, self.seed);
        text += &format!(", Size: {}x{}, Model hash: {}", self.width, self.height, short(&self.model));
        if let Some(identity) = &self.identity {
            text += &format!(", Identity hash: {}", short(identity));
        }
        text + &format!(", Version: {}", self.engine)
    }
}

/// The first ten digits of a hash, as tools print them.
fn short(hash: &str) -> &str {
    hash.get(..10).unwrap_or(hash)
}

/// Writes a picture, whole or not at all; with its parameters inside, if given.
pub fn write_png(path: impl AsRef<Path>, picture: &Image, parameters: Option<&Parameters>) -> Result<()> {
    let path = path.as_ref();
    let bytes = encode_png(picture, parameters).map_err(|e| Error::file(path, format!("cannot be encoded: {e}")))?;
    write_atomic(path, &bytes)
}

/// Reads the parameters that [`write_png`] put into a file; none if the file has none.
pub fn read_parameters(path: impl AsRef<Path>) -> Result<Option<Parameters>> {
    let path = path.as_ref();
    let file = std::fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let reader =
        png::Decoder::new(std::io::BufReader::new(file)).read_info().map_err(|e| Error::file(path, format!("is not a PNG file: {e}")))?;
    let chunk = reader.info().utf8_text.iter().find(|c| c.keyword == JSON);
    let Some(chunk) = chunk else { return Ok(None) };
    let text = chunk.get_text().map_err(|e| Error::file(path, format!("has a damaged text chunk: {e}")))?;
    let parameters = serde_json::from_str(&text).map_err(|e| Error::file(path, format!("has parameters that cannot be read: {e}")))?;
    Ok(Some(parameters))
}

fn encode_png(picture: &Image, parameters: Option<&Parameters>) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width() as u32, picture.height() as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(parameters) = parameters {
        let text = parameters.as_text();
        // tEXt is Latin-1 by its definition; everything else needs iTXt
        if text.chars().all(|c| (c as u32) < 256) {
            encoder.add_text_chunk(TEXT.into(), text)?;
        } else {
            encoder.add_itxt_chunk(TEXT.into(), text)?;
        }
        let json = serde_json::to_string(parameters).map_err(|e| png::EncodingError::IoError(std::io::Error::other(e)))?;
        encoder.add_itxt_chunk(JSON.into(), json)?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.pixels())?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Parameters {
        Parameters {
            prompt: "S* as a chef".into(),
            negative: "blurry".into(),
            seed: u64::MAX,
            noise: "philox".into(),
            steps: 30,
            guidance: 7.5,
            width: 3,
            height: 2,
            sampler: "DDIM".into(),
            dtype: "f32".into(),
            model: "0123456789abcdef".into(),
            identity: Some("fedcba9876543210".into()),
            engine: "dreamid-engine 0.1.0".into(),
        }
    }

    #[test]
    fn a_picture_comes_back_with_its_parameters() {
        let folder = tempfile::tempdir().unwrap();
        let picture = Image::from_pixels(3, 2, (0..18).map(|v| v * 14).collect()).unwrap();
        for prompt in ["S* as a chef", "S* à la plage", "S* 在海滩", ""] {
            let path = folder.path().join("x.png");
            let parameters = Parameters { prompt: prompt.into(), ..parameters() };
            write_png(&path, &picture, Some(&parameters)).unwrap();
            assert_eq!(read_parameters(&path).unwrap().as_ref(), Some(&parameters));
            assert_eq!(Image::open(&path).unwrap().pixels(), picture.pixels());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays");
        let bare = folder.path().join("bare.png");
        write_png(&bare, &picture, None).unwrap();
        assert_eq!(read_parameters(&bare).unwrap(), None);
    }

    #[test]
    fn text_form() {
        let text = parameters().as_text();
        let want = "S* as a chef\nNegative prompt: blurry\nSteps: 30, Sampler: DDIM, CFG scale: 7.5, Seed: 18446744073709551615, Size: 3x2, \
                    Model hash: 0123456789, Identity hash: fedcba9876, Version: dreamid-engine 0.1.0";
        assert_eq!(text, want);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        assert!(read_parameters(&path).unwrap_err().to_string().contains("x.png"));
        std::fs::write(&path, b"no picture").unwrap();
        assert!(read_parameters(&path).unwrap_err().to_string().contains("not a PNG"));
    }
}
