//! From a photograph and a prompt to pictures.

mod face_error;

pub use face_error::FaceError;
