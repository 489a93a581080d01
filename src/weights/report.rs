//! Everything that does not fit between a checkpoint and a model, at once.

use std::collections::HashMap;
use std::fmt;

/// All tensors that do not fit a model.
#[derive(Debug, Default)]
pub struct WeightsReport {
    /// The file or folder.
    pub label: String,
    /// Names the model needs and the files lack.
    pub missing: Vec<Missing>,
    /// Names in the files that no graph asked for.
    pub unused: Vec<String>,
    /// Tensors of the wrong extents.
    pub misshapen: Vec<Misshapen>,
    /// What the checkpoint seems to be and what to use instead.
    pub advice: Vec<String>,
}

/// A tensor that is not there.
#[derive(Debug)]
pub struct Missing {
    /// Name the model has for it.
    pub name: String,
    /// The most similar unused name, if one is close.
    pub similar: Option<String>,
}

/// A tensor of the wrong extents.
#[derive(Debug)]
pub struct Misshapen {
    /// Name in the file; stacked ones are joined by `+`.
    pub name: String,
    /// Extents in the file.
    pub found: String,
    /// Extents that the model needs, in the file's order of axes.
    pub expected: Vec<usize>,
}

impl Missing {
    pub(crate) fn new(name: String) -> Self {
        Self { name, similar: None }
    }
}

impl WeightsReport {
    pub(crate) fn new(label: String) -> Self {
        Self { label, ..Self::default() }
    }

    /// True if all fits.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unused.is_empty() && self.misshapen.is_empty()
    }

    /// Adds hints: similar names, and what kind of checkpoint this seems to be.
    pub(crate) fn explain(&mut self, shapes: &HashMap<&str, &[usize]>) {
        self.missing.sort_by(|a, b| a.name.cmp(&b.name));
        self.missing.dedup_by(|a, b| a.name == b.name);
        for missing in self.missing.iter_mut().take(MAX_HINTS) {
            missing.similar = nearest(&missing.name, shapes.keys().copied());
        }
        self.advice = recognise(shapes);
    }
}

impl fmt::Display for WeightsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: tensors do not fit the model", self.label)?;
        for advice in &self.advice {
            write!(f, "\n  {advice}")?;
        }
        let counts = [("missing", self.missing.len()), ("of the wrong shape", self.misshapen.len()), ("unused", self.unused.len())];
        for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "\n  {count} {what}")?;
        }
        for Missing { name, similar } in &self.missing {
            write!(f, "\n  missing: {name}")?;
            if let Some(similar) = similar {
                write!(f, " (the file has `{similar}`)")?;
            }
        }
        for Misshapen { name, found, expected } in &self.misshapen {
            write!(f, "\n  wrong shape: {name} is {found}, expected {expected:?}")?;
        }
        for name in &self.unused {
            write!(f, "\n  unused: {name}")?;
        }
        Ok(())
    }
}

/// Missing names beyond this many get no hint: the checkpoint is another model altogether.
const MAX_HINTS: usize = 40;

/// The most similar of `names`, if no more than a quarter of it differs.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let limit = name.len() / 4;
    let near = names.filter(|n| n.len().abs_diff(name.len()) <= limit).map(|n| (edits(name.as_bytes(), n.as_bytes()), n));
    near.filter(|(d, _)| *d <= limit).min().map(|(_, n)| n.to_owned())
}

/// Levenshtein distance.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Sentences about checkpoints that are often mistaken for Stable Diffusion 2.1-base.
fn recognise(shapes: &HashMap<&str, &[usize]>) -> Vec<String> {
    let starts = |prefix: &str| shapes.keys().any(|n| n.starts_with(prefix));
    let extent = |name: &str, axis: usize| shapes.get(name).and_then(|s| s.get(axis)).copied();
    let mut found = Vec::new();
    if starts("controlnet_") {
        found.push("This is a ControlNet, not a UNet; give the unet folder of the base model.".to_owned());
    }
    if starts("model.diffusion_model.") || starts("cond_stage_model.") || starts("first_stage_model.") {
        found.push(
            "This is a single-file checkpoint; give the diffusers folder (model_index.json, unet, vae, text_encoder) instead.".to_owned(),
        );
    }
    if shapes.keys().any(|n| n.contains(".lora_") || n.contains("lora_down") || n.contains("lora.up")) {
        found.push("This is a LoRA, which only changes another model; give a whole model.".to_owned());
    }
    if starts("add_embedding.") {
        found.push("This is the UNet of SDXL; this engine runs Stable Diffusion 2.1-base.".to_owned());
    }
    if starts("double_blocks.") || starts("joint_transformer_blocks.") || starts("transformer_blocks.0.attn.add_") {
        found.push("This is a diffusion transformer (SD3 or FLUX); this engine runs Stable Diffusion 2.1-base.".to_owned());
    }
    match extent("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", 1) {
        Some(768) => found.push("Its cross-attention takes 768 channels: a UNet of Stable Diffusion 1.x; 2.1-base takes 1024.".to_owned()),
        Some(2048) => found.push("Its cross-attention takes 2048 channels: a UNet of SDXL; 2.1-base takes 1024.".to_owned()),
        _ => {}
    }
    match extent("conv_in.weight", 1) {
        Some(9) => found.push("It takes 9 input channels: an inpainting model; give the plain one.".to_owned()),
        Some(8) => found.push("It takes 8 input channels: an InstructPix2Pix model; give the plain one.".to_owned()),
        Some(5) => found.push("It takes 5 input channels: a depth-guided model; give the plain one.".to_owned()),
        _ => {}
    }
    match extent("text_model.embeddings.token_embedding.weight", 1) {
        Some(768) => {
            found.push("Its text width is 768: the CLIP encoder of Stable Diffusion 1.x; 2.1 uses OpenCLIP ViT-H with 1024.".to_owned())
        }
        Some(1280) => found.push("Its text width is 1280: the second text encoder of SDXL; 2.1 uses OpenCLIP ViT-H with 1024.".to_owned()),
        _ => {}
    }
    found
}
