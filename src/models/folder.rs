//! A model on disk or inside the program: the folder layout of diffusers, plus the face encoder and the projector.
//!
//! ```text
//! model_index.json            scheduler/scheduler_config.json   tokenizer/vocab.json, merges.txt, ...
//! text_encoder/config.json    text_encoder/model.safetensors
//! unet/config.json            unet/diffusion_pytorch_model.safetensors        (or .fp16.safetensors, or shards with an index)
//! vae/config.json             vae/diffusion_pytorch_model.safetensors
//! face_encoder/model.safetensors, projector/model.safetensors                 (config in the metadata, or in a config.json)
//! ```

use super::config::ConfigFile;
use super::{ClipTextConfig, ClipVisionConfig, ProjectorConfig, UnetConfig, VaeConfig, VitConfig, compatible};
use crate::weights::Weights;
use crate::{Error, Result};
use serde_json::{Value as Json, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// One network of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// Prompt to hidden states.
    TextEncoder,
    /// Latents to the noise in them.
    Unet,
    /// Pictures to latents and back.
    Vae,
    /// Aligned face to features.
    FaceEncoder,
    /// Features to pseudo-words.
    Projector,
    /// CLIP's image tower, for measuring.
    ImageEncoder,
}

impl Component {
    /// All of them, in the order in which a picture is made.
    pub const ALL: [Self; 6] = [Self::TextEncoder, Self::Unet, Self::Vae, Self::FaceEncoder, Self::Projector, Self::ImageEncoder];

    /// Name of its folder, which is also the scope of its parameters.
    pub fn folder(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::Unet => "unet",
            Self::Vae => "vae",
            Self::FaceEncoder => "face_encoder",
            Self::Projector => "projector",
            Self::ImageEncoder => "image_encoder",
        }
    }

    /// Names that its weights may have, without the extension.
    fn stems(self) -> &'static [&'static str] {
        match self {
            Self::Unet | Self::Vae => &["diffusion_pytorch_model", "model"],
            _ => &["model", "diffusion_pytorch_model"],
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// Files of a model: path inside the folder, contents.
pub type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// A model whose configurations have been read and fit each other. Weights are opened when they are asked for, and then shared.
#[derive(Debug)]
pub struct ModelFolder {
    source: Source,
    /// Components taken from elsewhere.
    replaced: BTreeMap<Component, PathBuf>,
    opened: Mutex<BTreeMap<Component, Weights>>,
}

#[derive(Clone, Debug)]
enum Source {
    Folder(PathBuf),
    Embedded { name: &'static str, files: EmbeddedFiles },
    Random { seed: u64 },
}

impl ModelFolder {
    /// Opens a folder. Fails, saying what to do instead, for one-file checkpoints, pickles, models that are not
    /// Stable Diffusion 1.x or 2.x, v-prediction, and components that do not fit each other.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        refuse_other_layouts(path)?;
        Self::checked(Source::Folder(path.to_path_buf()))
    }

    /// A model that is part of the program.
    pub fn embedded(name: &'static str, files: EmbeddedFiles) -> Result<Self> {
        Self::checked(Source::Embedded { name, files })
    }

    /// Full-size Stable Diffusion 2.1 with a ViT-B/16 face encoder, all weights made up in memory: for benchmarks. It has no tokenizer.
    pub fn sd21_random(seed: u64) -> Self {
        Self { source: Source::Random { seed }, replaced: BTreeMap::new(), opened: Mutex::default() }
    }

    /// Takes a component from another folder: `path` holds what `model/COMPONENT/` would.
    pub fn replace(mut self, component: Component, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Err(Error::file(path, format!("is not a folder; give the one that holds the {component}'s files")));
        }
        self.replaced.insert(component, path.to_path_buf());
        self.opened.get_mut().unwrap_or_else(PoisonError::into_inner).remove(&component);
        self.check_configs()?;
        Ok(self)
    }

    /// Name for messages and records.
    pub fn name(&self) -> String {
        match &self.source {
            Source::Folder(path) => path.display().to_string(),
            Source::Embedded { name, .. } => (*name).to_owned(),
            Source::Random { seed } => format!("sd21-random (seed {seed})"),
        }
    }

    /// Whether the model has a component.
    pub fn has(&self, component: Component) -> bool {
        let there = |name: &str| self.exists(&format!("{component}/{name}"));
        match &self.source {
            Source::Random { .. } => component != Component::ImageEncoder,
            _ => {
                self.replaced.contains_key(&component)
                    || there("config.json")
                    || component.stems().iter().any(|stem| there(&format!("{stem}.safetensors")))
            }
        }
    }

    /// The components that the model has.
    pub fn components(&self) -> Vec<Component> {
        Component::ALL.into_iter().filter(|c| self.has(*c)).collect()
    }

    /// Whether there is a file of this name in the folder.
    pub fn exists(&self, name: &str) -> bool {
        match &self.source {
            Source::Folder(_) => self.path(name).is_some_and(|p| p.is_file()),
            Source::Embedded { files, .. } => files.iter().any(|(n, _)| *n == name),
            Source::Random { .. } => false,
        }
    }

    /// Contents of a file in the folder, such as `tokenizer/vocab.json`.
    pub fn read(&self, name: &str) -> Result<Cow<'static, [u8]>> {
        if let Some(path) = self.path(name) {
            return std::fs::read(&path).map(Cow::Owned).map_err(|e| Error::io(&path, "read", e));
        }
        let embedded = match &self.source {
            Source::Embedded { files, .. } => files.iter().find(|(n, _)| *n == name).map(|(_, bytes)| Cow::Borrowed(*bytes)),
            _ => None,
        };
        embedded.ok_or_else(|| Error::file(name, format!("is not part of the model {}", self.name())))
    }

    /// Contents of a text file in the folder.
    pub fn read_text(&self, name: &str) -> Result<String> {
        let bytes = self.read(name)?.into_owned();
        String::from_utf8(bytes).map_err(|_| Error::file(self.label(name), "is not UTF-8 text"))
    }

    /// Weights of a component, under its name as scope. Clones share what is loaded, so executables of one model share their parameters.
    pub fn weights(&self, component: Component) -> Result<Weights> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(weights) = opened.get(&component) {
            return Ok(weights.clone());
        }
        let weights = self.open_weights(component)?.under(component.folder());
        opened.insert(component, weights.clone());
        Ok(weights)
    }

    /// Weights of several components together, for a graph that spans them.
    pub fn weights_of(&self, components: &[Component]) -> Result<Weights> {
        let [first, rest @ ..] = components else { return Err(Error::input("no component asked for")) };
        rest.iter().try_fold(self.weights(*first)?, |all, c| Ok(all.and(self.weights(*c)?)))
    }

    /// Configuration of the text encoder.
    pub fn text_config(&self) -> Result<ClipTextConfig> {
        self.config(Component::TextEncoder, ClipTextConfig::from_json, ClipTextConfig::sd21)
    }

    /// Configuration of the UNet.
    pub fn unet_config(&self) -> Result<UnetConfig> {
        self.config(Component::Unet, UnetConfig::from_json, UnetConfig::sd21)
    }

    /// Configuration of the VAE.
    pub fn vae_config(&self) -> Result<VaeConfig> {
        self.config(Component::Vae, VaeConfig::from_json, VaeConfig::sd21)
    }

    /// Configuration of the face encoder.
    pub fn face_config(&self) -> Result<VitConfig> {
        self.config(Component::FaceEncoder, VitConfig::from_json, VitConfig::default)
    }

    /// Configuration of the projector.
    pub fn projector_config(&self) -> Result<ProjectorConfig> {
        self.config(Component::Projector, ProjectorConfig::from_json, ProjectorConfig::sd21)
    }

    /// Configuration of CLIP's image tower.
    pub fn image_config(&self) -> Result<ClipVisionConfig> {
        self.config(Component::ImageEncoder, ClipVisionConfig::from_json, ClipVisionConfig::h14)
    }

    fn checked(source: Source) -> Result<Self> {
        let model = Self { source, replaced: BTreeMap::new(), opened: Mutex::default() };
        let index = model.read_text("model_index.json")?;
        check_index(&model.label("model_index.json"), &index)?;
        if model.exists("scheduler/scheduler_config.json") {
            let text = model.read_text("scheduler/scheduler_config.json")?;
            check_prediction(&model.label("scheduler/scheduler_config.json"), &text)?;
        }
        model.check_configs()?;
        Ok(model)
    }

    /// Reads every configuration there is and compares the widths at which components meet.
    fn check_configs(&self) -> Result<()> {
        fn read<T>(model: &ModelFolder, component: Component, get: fn(&ModelFolder) -> Result<T>) -> Result<Option<T>> {
            if model.has(component) { get(model).map(Some) } else { Ok(None) }
        }
        compatible::check(&compatible::Configs {
            model: self.name(),
            text: read(self, Component::TextEncoder, Self::text_config)?,
            unet: read(self, Component::Unet, Self::unet_config)?,
            vae: read(self, Component::Vae, Self::vae_config)?,
            face: read(self, Component::FaceEncoder, Self::face_config)?,
            projector: read(self, Component::Projector, Self::projector_config)?,
        })
    }

    fn config<T>(&self, component: Component, parse: fn(&str, &str) -> Result<T>, made_up: fn() -> T) -> Result<T> {
        let file = format!("{component}/config.json");
        if matches!(self.source, Source::Random { .. }) && !self.replaced.contains_key(&component) {
            return Ok(made_up());
        }
        if self.exists(&file) {
            return parse(&self.label(&file), &self.read_text(&file)?);
        }
        if !self.has(component) {
            return Err(Error::file(self.label(&file), format!("is missing: the model has no {component}")));
        }
        let weights = self.weights(component)?;
        let text = weights
            .metadata("config")
            .ok_or_else(|| Error::file(self.label(&file), "is missing, and the weights hold no `config` either"))?;
        parse(&format!("in the metadata of {}", weights.label()), text)
    }

    fn open_weights(&self, component: Component) -> Result<Weights> {
        if let Some(dir) = self.replaced.get(&component) {
            return Weights::open_dir(dir, component.stems());
        }
        match &self.source {
            Source::Folder(root) => Weights::open_dir(root.join(component.folder()), component.stems()),
            Source::Random { seed } => Ok(Weights::random(*seed)),
            Source::Embedded { .. } => {
                let names = component.stems().iter().map(|stem| format!("{component}/{stem}.safetensors"));
                let name = names.into_iter().find(|n| self.exists(n));
                let name = name.ok_or_else(|| Error::file(self.label(component.folder()), format!("the model has no {component}")))?;
                Weights::from_bytes(self.label(&name), self.read(&name)?)
            }
        }
    }

    /// Where a file is on disk; none inside the program.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let (first, rest) = name.split_once('/').unwrap_or((name, ""));
        if let Some((_, dir)) = self.replaced.iter().find(|(c, _)| c.folder() == first) {
            return Some(dir.join(rest));
        }
        match &self.source {
            Source::Folder(root) => Some(root.join(name)),
            _ => None,
        }
    }

    /// A file's name for errors.
    fn label(&self, name: &str) -> String {
        self.path(name).map_or_else(|| format!("{}:{name}", self.name()), |p| p.display().to_string())
    }
}

/// Says what to do with what is not a diffusers folder.
fn refuse_other_layouts(path: &Path) -> Result<()> {
    let convert =
        "convert it to the diffusers folder layout (diffusers: StableDiffusionPipeline.from_single_file(...).save_pretrained(...))";
    if path.is_file() {
        return Err(Error::file(path, format!("is one file; a model here is a folder. If it is a Stable Diffusion checkpoint, {convert}")));
    }
    if !path.is_dir() {
        return Err(Error::file(path, "does not exist; give the folder that holds model_index.json"));
    }
    if path.join("model_index.json").is_file() {
        return Ok(());
    }
    let mut names: Vec<String> = std::fs::read_dir(path)
        .map_err(|e| Error::io(path, "list", e))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|n| [".safetensors", ".ckpt", ".bin", ".pt"].iter().any(|e| n.ends_with(e)))
        .collect();
    names.sort();
    match names.first() {
        Some(name) => Err(Error::file(path.join(name), format!("is not in a diffusers folder (no model_index.json beside it); {convert}"))),
        None => Err(Error::file(path, "holds no model_index.json; give a model folder in the layout of diffusers")),
    }
}

/// Refuses other families of models by name.
fn check_index(file: &str, text: &str) -> Result<()> {
    let index = ConfigFile::parse(file, text)?;
    let class = index.get("_class_name").and_then(Json::as_str).unwrap_or_default();
    let other_family = ["XL", "Diffusion3", "Upscale", "Cascade"].iter().any(|word| class.contains(word));
    if other_family || !(class.starts_with("StableDiffusion") || class.starts_with("DreamIdentity")) {
        return Err(
            index.error(format!("_class_name is \"{class}\"; this engine runs StableDiffusionPipeline models of the 1.x and 2.x families"))
        );
    }
    for part in ["text_encoder_2", "transformer", "prior"] {
        index
            .ensure(index.get(part).is_none(), || format!("`{part}` belongs to another family of models; use Stable Diffusion 2.1-base"))?;
    }
    Ok(())
}

/// Refuses what would give noise for pictures.
fn check_prediction(file: &str, text: &str) -> Result<()> {
    let scheduler = ConfigFile::parse(file, text)?;
    match scheduler.get("prediction_type").and_then(Json::as_str) {
        Some("v_prediction") => Err(scheduler.error(
            "prediction_type is v_prediction, as in the 768-pixel models (Stable Diffusion 2.1 without -base); use a model that predicts the noise, such as 2.1-base",
        )),
        _ => scheduler.only(&[("prediction_type", json!("epsilon"))]),
    }
}
