//! From a photograph and a prompt to pictures.

mod align;
mod face_error;
mod noise;
mod photo;
mod prompt;
mod resize;
mod sampler;
mod similarity;
mod tokenizer;

pub use align::{align, reduce, warp};
pub use face_error::FaceError;
pub use noise::Noise;
pub use photo::{Image, MAX_PIXELS};
pub use prompt::{EncodedPrompt, PLACEHOLDER, encode_prompt};
pub use resize::{Filter, Sample, Square, resize, view};
pub use sampler::{Schedule, Steps};
pub use similarity::{Point, Similarity, Template};
pub use tokenizer::{Dialect, Token, Tokenizer, TokenizerFiles};
