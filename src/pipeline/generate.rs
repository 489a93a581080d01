//! From a prompt and an identity to pictures.

use super::denoise::{Denoiser, rows, stacked};
use super::networks::Networks;
use super::picture::pictures;
use super::precision::Network;
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

/// Called with each picture as soon as it is made: its number, counted from 0, and what it follows from. An error ends the work.
pub type OnPicture<'a> = &'a mut dyn FnMut(usize, &Image, &Parameters) -> Result<()>;

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
        self.generate_each(request, on_progress, &mut |_, _, _| Ok(()))
    }

    /// [`Pipeline::generate`], with each picture handed out as soon as it is made: whatever happens to later ones, it is there.
    pub fn generate_each(&mut self, request: &Request, on_progress: OnProgress<'_>, on_picture: OnPicture<'_>) -> Result<Generated> {
        let sizes = request.sizes(self.networks.unet.sample_size, self.networks.vae.factor(), self.networks.vae.latent_channels)?;
        let steps = self.schedule.steps(request.steps)?;
        let (prompts, warnings) = self.prompts(request)?;
        let noise = match &request.latents {
            Some(latents) => latents.cast(DType::F32),
            None => request.noise.draw(request.seed, [sizes.count, sizes.channels, sizes.latents[0], sizes.latents[1]])?,
        };
        let model = self.fingerprint()?.to_owned();
        let mut run = Run { networks: &mut self.networks, request, sizes, on_progress, times: Times::default() };
        run.networks.loading = Duration::ZERO;
        let text = run.text(&prompts)?;
        let (mut pictures, mut described) = (Vec::new(), Vec::new());
        let (latents, image) = run.pictures(&text.context, &steps, &noise, &mut |picture, dtype| {
            let parameters = parameters(request, sizes, pictures.len(), dtype, &model);
            on_picture(pictures.len(), &picture, &parameters)?;
            pictures.push(picture);
            described.push(parameters);
            Ok(())
        })?;
        let times = run.times;
        let captured = request.capture.then(|| Captured::collect(request, &text, &noise, &latents, image, sizes.count)).transpose()?;
        Ok(Generated { pictures, parameters: described, warnings, times, captured })
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
}

/// What a picture follows from, made in `dtype` by the weights with the fingerprint `model`.
fn parameters(request: &Request, sizes: Sizes, picture: usize, dtype: String, model: &str) -> Parameters {
    let named = request
        .identity
        .as_ref()
        .filter(|_| request.prompt.contains(&request.placeholder) || request.negative.contains(&request.placeholder));
    let noise = if request.latents.is_some() { "given".to_owned() } else { format!("{:?}", request.noise).to_lowercase() };
    Parameters {
        prompt: request.prompt.clone(),
        negative: request.negative.clone(),
        seed: request.seed.wrapping_add(picture as u64),
        noise,
        steps: request.steps,
        guidance: request.guidance,
        width: sizes.latents[1] * sizes.factor,
        height: sizes.latents[0] * sizes.factor,
        sampler: "DDIM".into(),
        dtype,
        model: model.to_owned(),
        identity: named.map(Identity::hash),
        engine: ENGINE.into(),
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

/// What all batches of a request have in common.
struct Sampler<'a> {
    context: &'a Tensor,
    steps: &'a Steps,
    /// Pictures of a full batch.
    images: usize,
    /// Made with the first batch.
    denoiser: Option<Denoiser>,
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
        let encode = |networks: &mut Networks| networks.encode_text(&ids, words.as_ref().map(|(slots, embeds)| (slots, embeds)));
        let context = self.networks.in_range(Network::Text, encode)?;
        let spent = self.since(start, loading);
        self.times.text += spent;
        Ok(TextTensors { ids, words, context })
    }

    /// Makes all pictures from `noise [count,4,h,w]`, a batch at a time, and hands out each with the precision that it was made in. Gives the
    /// latents `[count,h,w,4]` and, if they are to be kept, the decoder's output `[count,H,W,3]`.
    fn pictures(
        &mut self,
        context: &Tensor,
        steps: &Steps,
        noise: &Tensor,
        on_picture: &mut dyn FnMut(Image, String) -> Result<()>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (noise, count) = (noise.nchw_to_nhwc()?, self.sizes.count);
        let images = self.request.batch.unwrap_or(self.sizes.default_batch()).clamp(1, count);
        let mut sampler = Sampler { context, steps, images, denoiser: None };
        let mut counters = [Counter::new(Stage::Denoise, count.div_ceil(images) * self.request.steps), Counter::new(Stage::Decode, count)];
        let (mut all, mut kept) = (Vec::new(), Vec::new());
        for first in (0..count).step_by(images) {
            let latents = self.denoise(&mut sampler, &rows(&noise, first, images.min(count - first))?, &mut counters[0])?;
            self.decode(&latents, &mut counters[1], &mut kept, on_picture)?;
            all.push(latents);
        }
        let [h, w] = self.sizes.latents.map(|side| side * self.sizes.factor);
        let image = self.request.capture.then(|| Tensor::from_f32([count, h, w, 3], &kept)).transpose()?;
        Ok((stacked(&all)?, image))
    }

    /// All steps for one batch of `noise [n,h,w,4]`.
    fn denoise(&mut self, sampler: &mut Sampler<'_>, noise: &Tensor, counter: &mut Counter) -> Result<Tensor> {
        let (start, loading, before) = (Instant::now(), self.networks.loading, self.times.denoise);
        let Self { networks, request, sizes, on_progress, times } = self;
        let done = counter.done();
        let latents = networks.in_range(Network::Unet, |networks| {
            // a denoiser that failed is not used again
            let mut denoiser = match sampler.denoiser.take() {
                Some(ready) => ready,
                None => Denoiser::new(networks, sampler.context, sampler.steps, request.guidance, sampler.images, sizes.latents)?,
            };
            counter.resume(done);
            if done == 0 {
                report(on_progress, counter)?;
            }
            let so_far = denoiser.time;
            let latents = denoiser.run(networks, noise, &mut || {
                counter.advance(1);
                report(on_progress, counter)
            })?;
            times.denoise += denoiser.time - so_far;
            sampler.denoiser = Some(denoiser);
            Ok(latents)
        })?;
        counter.pause();
        let spent = self.since(start, loading);
        self.times.text += spent.saturating_sub(self.times.denoise - before);
        Ok(latents)
    }

    /// Pictures of `latents [n,h,w,4]`. What the decoder gives is added to `kept` if it is to be kept.
    fn decode(
        &mut self,
        latents: &Tensor,
        counter: &mut Counter,
        kept: &mut Vec<f32>,
        on_picture: &mut dyn FnMut(Image, String) -> Result<()>,
    ) -> Result<()> {
        counter.resume(counter.done());
        if counter.done() == 0 {
            report(self.on_progress, counter)?;
        }
        let count = latents.shape()[0];
        let most = self.sizes.default_batch().clamp(1, count);
        for first in (0..count).step_by(most) {
            let batch = rows(latents, first, most.min(count - first))?;
            let (start, loading) = (Instant::now(), self.networks.loading);
            let decoded = self.networks.in_range(Network::Vae, |networks| networks.decode(&batch))?;
            let pictures = pictures(&decoded)?;
            let spent = self.since(start, loading);
            self.times.decode += spent;
            counter.advance(pictures.len());
            pictures.into_iter().try_for_each(|picture| on_picture(picture, self.networks.precisions.to_string()))?;
            if self.request.capture {
                kept.extend(decoded.to_f32_vec());
            }
            report(self.on_progress, counter)?;
        }
        counter.pause();
        Ok(())
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
