//! Checkpoints: safetensors files, the names in them, and one report of everything that does not fit.

/// All tensors that do not fit a model.
#[derive(Debug, Default)]
pub struct WeightsReport {}

impl std::fmt::Display for WeightsReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("weights do not fit")
    }
}
