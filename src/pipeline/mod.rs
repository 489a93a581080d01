//! From a photograph and a prompt to pictures.

mod align;
mod face_error;
mod photo;
mod resize;
mod similarity;

pub use align::{align, reduce, warp};
pub use face_error::FaceError;
pub use photo::{Image, MAX_PIXELS};
pub use resize::{Filter, Sample, Square, resize, view};
pub use similarity::{Point, Similarity, Template};
