//! The networks, as plain functions that add nodes to a graph under the names of the published checkpoints.

pub mod blazeface;
mod blocks;
mod check;
pub mod clip_text;
pub mod clip_vision;
mod compatible;
mod config;
mod face_blocks;
pub mod folder;
pub mod gradients;
pub mod graphs;
pub mod iresnet;
pub mod mobilefacenet;
pub mod mtcnn;
pub mod projector;
pub mod unet;
mod unet_config;
pub mod vae;
pub mod vit;

pub use clip_text::ClipTextConfig;
pub use clip_vision::ClipVisionConfig;
pub use config::PerLevel;
pub use face_blocks::PixelInput;
pub use folder::{Component, EmbeddedFiles, ModelFolder};
pub use projector::ProjectorConfig;
pub use unet_config::{DownBlock, UnetConfig, UpBlock};
pub use vae::VaeConfig;
pub use vit::VitConfig;
