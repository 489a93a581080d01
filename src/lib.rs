//! One photograph of a face to countless pictures of that person.
//!
//! The engine implements DreamIdentity (Chen et al. 2023) on Stable Diffusion 2.1: an encoder turns an aligned face into two
//! pseudo-word embeddings, which take the place of `S*` in any prompt. No weight of the text-to-image model changes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr))]

pub mod device;
mod dtype;
pub mod embedded;
mod embedded_networks;
mod error;
pub mod exec;
mod files;
pub mod graph;
pub mod models;
pub mod ops;
pub mod pipeline;
mod shape;
pub mod simulate;
mod tensor;
pub mod weights;

pub use dtype::DType;
pub use embedded_networks::EmbeddedNetwork;
pub use error::{Error, Result};
pub use shape::{MAX_RANK, Shape, Ty};
pub use tensor::Tensor;
