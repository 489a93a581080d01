//! From a photograph and a prompt to pictures.

mod align;
mod contact_sheet;
mod destination;
mod face_error;
mod identity;
mod noise;
mod photo;
mod picture;
mod png;
mod prompt;
mod resize;
mod sampler;
mod similarity;
mod tokenizer;

pub use align::{align, reduce, warp};
pub use contact_sheet::contact_sheet;
pub use destination::Destination;
pub use face_error::FaceError;
pub use identity::{About, Identity};
pub use noise::Noise;
pub use photo::{Image, MAX_PIXELS};
pub use picture::pictures;
pub use png::{Parameters, read_parameters, write_png};
pub use prompt::{EncodedPrompt, PLACEHOLDER, encode_prompt};
pub use resize::{Filter, Sample, Square, resize, view};
pub use sampler::{Schedule, Steps};
pub use similarity::{Point, Similarity, Template};
pub use tokenizer::{Dialect, Token, Tokenizer, TokenizerFiles};
