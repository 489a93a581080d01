//! Level 7: each network against what diffusers, transformers and timm compute with the same weights (tests/fixtures/README.md).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod damage;
mod folder;
mod golden;
mod gradients;
mod miniature;
mod precision;
mod sampling;
mod text;
mod towers;
mod unet;
mod vae;
