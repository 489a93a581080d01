//! From a prompt and an identity to pictures.

use super::denoise::{Denoiser, rows, stacked};
use super::networks::Networks;
use super::picture::{check_finite, pictures};
use super::progress::Counter;
use super::request::Sizes;
use super::{
    Captured, Control, Dialect, EncodedPrompt, FaceAnalyser, Identity, Image, Parameters, Progress, Request, Schedule, Stage, Steps,
    Tokenizer, encode_prompt,
};
use crate::device::Device;
use crate::models::{Component, ModelFolder};
use crate::{DType, Error, Result, Tensor};
use std::time::{Duration, Instant};

/// Name and version that files are marked with.
pub(super) const ENGINE: &str = concat!("dreamid-engine ", env!("CARGO_PKG_VERSION"));

/// A model ready to make pictures. Networks are loaded when first needed and kept; use one pipeline from one thread at a time.
pub struct Pipeline {
    pub(super) networks: Networks,
    /// Compiled with the first photograph.
    pub(super) faces: Option<FaceAnalyser>,
    tokenizer: Tokenizer,
    pub(super) schedule: Schedule,
    fingerprint: Option<String>,
}

/// Called after each step and stage; its answer may stop the work.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress) -> Control;

/// What a request gave.
#[derive(Debug)]
pub struct Generated {
    /// The pictures, in the order of their seeds.
    pub pictures: Vec<Image>,
    /// What each picture follows from.
    pub parameters: Vec<Parameters>,
    /// What the caller should know: words that did not fit, options without effect.
    pub warnings: Vec<String>,
    /// Where the time went.
    pub times: Times,
    /// Tensors in between, if asked for.
    pub captured: Option<Captured>,
}

/// Where the time of a request went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// Reading, converting and packing weights, planning memory: nothing the second time.
    pub load: Duration,
    /// Prompts to hidden states, keys and values.
    pub text: Duration,
    /// All steps of all pictures.
    pub denoise: Duration,
    /// Latents to pictures.
    pub decode: Duration,
}

impl Pipeline {
    /// A pipeline over a model, with storage in `dtype`. Reads configurations and tokenizer, not yet the weights.
    pub fn new(model: ModelFolder, device: Device, dtype: DType) -> Result<Self> {
        Self::with_dialect(model, device, dtype, Dialect::default())
    }

    /// The same with another reading of prompts.
    pub fn with_dialect(model: ModelFolder, device: Device, dtype: DType, dialect: Dialect) -> Result<Self> {
        let scheduler = model.read("scheduler/scheduler_config.json")?;
        let schedule = Schedule::from_json(&scheduler, "scheduler/scheduler_config.json")?;
        let networks = Networks::new(model, device, dtype)?;
        let tokenizer = Tokenizer::of_model(&networks.model, dialect)?.with_context(networks.text.max_position_embeddings);
        Ok(Self { networks, faces: None, tokenizer, schedule, fingerprint: None })
    }

    /// The model.
    pub fn model(&self) -> &ModelFolder {
        &self.networks.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Width and height of the pictures that the model was trained on.
    pub fn usual_size(&self) -> [usize; 2] {
        [self.networks.unet.sample_size * self.networks.vae.factor(); 2]
    }

    /// Hash of the weights that pictures follow from.
    pub fn fingerprint(&mut self) -> Result<&str> {
        let print = match self.fingerprint.take() {
            Some(known) => known,
            None => self.networks.model.weights_of(&[Component::TextEncoder, Component::Unet, Component::Vae])?.fingerprint(),
        };
        Ok(self.fingerprint.insert(print))
    }

    /// Makes pictures. Everything is checked before the first network runs; a stop or a failure leaves nothing behind.
    pub fn generate(&mut self, request: &Request, on_progress: OnProgress<'_>) -> Result<Generated> {
        let sizes = request.sizes(self.networks.unet.sample_size, self.networks.vae.factor(), self.networks.vae.latent_channels)?;
        let steps = self.schedule.steps(request.steps)?;
        let (prompts, warnings) = self.prompts(request)?;
        let noise = match &request.latents {
            Some(latents) => latents.cast(DType::F32),
            None => request.noise.draw(request.seed, [sizes.count, sizes.channels, sizes.latents[0], sizes.latents[1]])?,
        };
        let mut run = Run { networks: &mut self.networks, request, sizes, on_progress, times: Times::default() };
        run.networks.loading = Duration::ZERO;
        let text = run.text(&prompts)?;
        let latents = run.denoise(&text.context, &steps, &noise)?;
        let (pictures, image) = run.decode(&latents)?;
        let times = run.times;
        let captured = request.capture.then(|| Captured::collect(request, &text, &noise, &latents, image, sizes.count)).transpose()?;
        let parameters = (0..sizes.count).map(|i| self.parameters(request, sizes, i)).collect::<Result<_>>()?;
        Ok(Generated { pictures, parameters, warnings, times, captured })
    }

    /// The prompt, after the negative one if there is guidance; and what the caller should know of them.
    fn prompts(&self, request: &Request) -> Result<(Vec<EncodedPrompt>, Vec<String>)> {
        let words = request.identity.as_ref().map_or(1, Identity::words);
        if let Some(identity) = &request.identity {
            identity.check_width(self.networks.text.hidden_size)?;
        }
        let (placeholder, mut warnings) = (&request.placeholder, Vec::new());
        let mut prompts = Vec::new();
        let guided = request.guidance != 1.0;
        if guided {
            prompts.push(("negative prompt", encode_prompt(&self.tokenizer, &request.negative, placeholder, words)?));
        } else if !request.negative.is_empty() {
            warnings.push("the negative prompt has no effect at guidance 1".to_owned());
        }
        prompts.push(("prompt", encode_prompt(&self.tokenizer, &request.prompt, placeholder, words)?));
        let named = prompts.iter().any(|(_, p)| p.has_identity());
        match (named, &request.identity) {
            (true, None) => {
                return Err(Error::Prompt(format!("`{placeholder}` stands for a person, but there is none: give a face or an identity")));
            }
            (false, Some(_)) => warnings.push(format!("no prompt names `{placeholder}`: the face is not used")),
            _ => {}
        }
        let most = self.tokenizer.room();
        let cut = |(name, p): &(&str, EncodedPrompt)| {
            p.dropped.as_ref().map(|d| format!("the {name} is longer than {most} tokens; left out: \"{d}\""))
        };
        warnings.extend(prompts.iter().filter_map(cut));
        let prompts: Vec<EncodedPrompt> = prompts.into_iter().map(|(_, p)| p).collect();
        self.check_ids(&prompts)?;
        Ok((prompts, warnings))
    }

    fn check_ids(&self, prompts: &[EncodedPrompt]) -> Result<()> {
        let rows = self.networks.text.vocab_size;
        match prompts.iter().flat_map(|p| &p.ids).find(|&&id| id < 0 || id as usize >= rows) {
            None => Ok(()),
            Some(id) => {
                let what = format!("gives id {id}, but the text encoder knows {rows} words: these files do not belong to one model");
                Err(Error::config("tokenizer/vocab.json", what))
            }
        }
    }

    fn parameters(&mut self, request: &Request, sizes: Sizes, picture: usize) -> Result<Parameters> {
        let named = request
            .identity
            .as_ref()
            .filter(|_| request.prompt.contains(&request.placeholder) || request.negative.contains(&request.placeholder));
        let noise = if request.latents.is_some() { "given".to_owned() } else { format!("{:?}", request.noise).to_lowercase() };
        Ok(Parameters {
            prompt: request.prompt.clone(),
            negative: request.negative.clone(),
            seed: request.seed.wrapping_add(picture as u64),
            noise,
            steps: request.steps,
            guidance: request.guidance,
            width: sizes.latents[1] * sizes.factor,
            height: sizes.latents[0] * sizes.factor,
            sampler: "DDIM".into(),
            dtype: self.networks.dtype.to_string(),
            model: self.fingerprint()?.to_owned(),
            identity: named.map(Identity::hash),
            engine: ENGINE.into(),
        })
    }
}

/// One request under way.
struct Run<'a> {
    networks: &'a mut Networks,
    request: &'a Request,
    sizes: Sizes,
    on_progress: OnProgress<'a>,
    times: Times,
}

/// The prompts of a request as tensors, the unconditional row first if there is one.
pub(super) struct TextTensors {
    pub(super) ids: Tensor,
    /// Slots `[B,k]` and embeddings `[B,k,H]`.
    pub(super) words: Option<(Tensor, Tensor)>,
    pub(super) context: Tensor,
}

impl Run<'_> {
    fn text(&mut self, prompts: &[EncodedPrompt]) -> Result<TextTensors> {
        let counter = Counter::new(Stage::Text, 1);
        report(self.on_progress, &counter)?;
        let (start, loading) = (Instant::now(), self.networks.loading);
        let rows: Vec<i32> = prompts.iter().flat_map(|p| p.ids.iter().copied()).collect();
        let ids = Tensor::from_i32([prompts.len(), rows.len() / prompts.len()], &rows)?;
        let words = self.request.identity.as_ref().map(|identity| word_tensors(prompts, identity)).transpose()?.flatten();
        let context = self.networks.encode_text(&ids, words.as_ref().map(|(slots, embeds)| (slots, embeds)))?;
        check_finite("context", &context.to_f32_vec())?;
        let spent = self.since(start, loading);
        self.times.text += spent;
        Ok(TextTensors { ids, words, context })
    }

    /// All steps for all pictures, a batch at a time; latents `[count,h,w,4]`.
    fn denoise(&mut self, context: &Tensor, steps: &Steps, noise: &Tensor) -> Result<Tensor> {
        let (start, loading) = (Instant::now(), self.networks.loading);
        let noise = noise.nchw_to_nhwc()?;
        let (count, request) = (self.sizes.count, self.request);
        let images = request.batch.unwrap_or(self.sizes.default_batch()).clamp(1, count);
        let mut denoiser = Denoiser::new(self.networks, context, steps, request.guidance, images, self.sizes.latents)?;
        denoiser.load(denoiser.size())?;
        let mut counter = Counter::new(Stage::Denoise, count.div_ceil(images) * request.steps);
        report(self.on_progress, &counter)?;
        let mut done = Vec::new();
        for first in (0..count).step_by(images) {
            let batch = rows(&noise, first, images.min(count - first))?;
            done.push(denoiser.run(&batch, &mut || {
                counter.advance(1);
                report(self.on_progress, &counter)
            })?);
        }
        self.times.denoise = denoiser.time;
        let loading = self.networks.loading - loading;
        self.times.load += loading;
        self.times.text += start.elapsed().saturating_sub(loading + self.times.denoise);
        stacked(&done)
    }

    /// Pictures, and if they are to be kept the decoder's output `[count,H,W,3]`.
    fn decode(&mut self, latents: &Tensor) -> Result<(Vec<Image>, Option<Tensor>)> {
        let mut counter = Counter::new(Stage::Decode, self.sizes.count);
        report(self.on_progress, &counter)?;
        let (mut all, mut kept) = (Vec::new(), Vec::new());
        let batch = self.sizes.default_batch().clamp(1, self.sizes.count);
        for first in (0..self.sizes.count).step_by(batch) {
            let images = batch.min(self.sizes.count - first);
            let (start, loading) = (Instant::now(), self.networks.loading);
            let decoded = self.networks.decode(&rows(latents, first, images)?)?;
            all.extend(pictures(&decoded)?);
            if self.request.capture {
                kept.extend(decoded.to_f32_vec());
            }
            let spent = self.since(start, loading);
            self.times.decode += spent;
            counter.advance(images);
            report(self.on_progress, &counter)?;
        }
        let [h, w] = self.sizes.latents.map(|side| side * self.sizes.factor);
        let image = self.request.capture.then(|| Tensor::from_f32([self.sizes.count, h, w, 3], &kept)).transpose()?;
        Ok((all, image))
    }

    /// Time since `start` without what went into loading, which is booked as such.
    fn since(&mut self, start: Instant, loading_before: Duration) -> Duration {
        let loading = self.networks.loading - loading_before;
        self.times.load += loading;
        start.elapsed().saturating_sub(loading)
    }
}

fn report(on_progress: OnProgress<'_>, counter: &Counter) -> Result<()> {
    match on_progress(counter.progress()) {
        Control::Continue => Ok(()),
        Control::Stop => Err(Error::Cancelled),
    }
}

/// Slots `[B,n]` (−1 where a prompt has fewer) and embeddings `[B,n,H]` of all pseudo-words; none if no prompt has any.
fn word_tensors(prompts: &[EncodedPrompt], identity: &Identity) -> Result<Option<(Tensor, Tensor)>> {
    let most = prompts.iter().map(|p| p.slots.iter().map(Vec::len).sum::<usize>()).max().unwrap_or(0);
    if most == 0 {
        return Ok(None);
    }
    let (words, width) = (identity.embeds().to_f32_vec(), identity.width());
    let (mut slots, mut embeds) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let own: Vec<i32> = prompt.slots.iter().flatten().map(|&s| s as i32).collect();
        embeds.extend(words.iter().copied().cycle().take(own.len() * width));
        embeds.resize(embeds.len() + (most - own.len()) * width, 0.0);
        slots.extend(own.iter().copied().chain(std::iter::repeat(-1)).take(most));
    }
    Ok(Some((Tensor::from_i32([prompts.len(), most], &slots)?, Tensor::from_f32([prompts.len(), most, width], &embeds)?)))
}
