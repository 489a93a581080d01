//! From a photograph and a prompt to pictures.

mod face_error;
mod noise;
mod prompt;
mod sampler;
mod tokenizer;

pub use face_error::FaceError;
pub use noise::Noise;
pub use prompt::{EncodedPrompt, PLACEHOLDER, encode_prompt};
pub use sampler::{Schedule, Steps};
pub use tokenizer::{Dialect, Token, Tokenizer, TokenizerFiles};
