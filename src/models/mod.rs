//! The networks, as plain functions that add nodes to a graph under the names of the published checkpoints.

mod blocks;
mod check;
pub mod clip_text;
pub mod clip_vision;
mod compatible;
mod config;
pub mod folder;
pub mod graphs;
pub mod projector;
pub mod unet;
mod unet_config;
pub mod vae;
pub mod vit;

pub use clip_text::ClipTextConfig;
pub use clip_vision::ClipVisionConfig;
pub use config::PerLevel;
pub use folder::{Component, EmbeddedFiles, ModelFolder};
pub use projector::ProjectorConfig;
pub use unet_config::{DownBlock, UnetConfig, UpBlock};
pub use vae::VaeConfig;
pub use vit::VitConfig;
