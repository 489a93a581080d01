//! The networks of one model, compiled when first needed and kept for the next request.

use super::picture::check_finite;
use super::precision::{Network, Precisions};
use crate::device::Device;
use crate::exec::Executable;
use crate::graph::Graph;
use crate::models::graphs::{self, StepSize};
use crate::models::{ClipTextConfig, Component, ModelFolder, UnetConfig, VaeConfig};
use crate::{DType, Error, Result, Tensor};
use std::time::{Duration, Instant};

/// Values by their place in the UNet.
pub(super) type Places = Vec<(String, Tensor)>;

/// Executables of one model on one device. Each kind is kept in the shape last asked for.
pub(super) struct Networks {
    pub(super) model: ModelFolder,
    pub(super) text: ClipTextConfig,
    pub(super) unet: UnetConfig,
    pub(super) vae: VaeConfig,
    pub(super) device: Device,
    pub(super) precisions: Precisions,
    /// Time spent on compiling since it was last taken: loading, converting, packing.
    pub(super) loading: Duration,
    encode_text: Kept<(usize, Option<usize>)>,
    keys_values: Kept<usize>,
    time_tables: Option<(Vec<usize>, Places)>,
    step: Kept<StepSize>,
    decode: Kept<[usize; 3]>,
    identity: Kept<()>,
}

impl Networks {
    pub(super) fn new(model: ModelFolder, device: Device, dtype: DType) -> Result<Self> {
        let (text, unet, vae) = (model.text_config()?, model.unet_config()?, model.vae_config()?);
        let known: &[Network] = if vae.force_upcast { &[Network::Vae] } else { &[] };
        Ok(Self {
            precisions: Precisions::new(dtype, known),
            text,
            unet,
            vae,
            model,
            device,
            loading: Duration::ZERO,
            encode_text: Kept::default(),
            keys_values: Kept::default(),
            time_tables: None,
            step: Kept::default(),
            decode: Kept::default(),
            identity: Kept::default(),
        })
    }

    /// Runs a network; where it leaves the range of f16, once more in f32, in which it stays.
    pub(super) fn in_range<T>(&mut self, network: Network, mut run: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        match run(self) {
            Err(Error::NonFinite { at, .. }) if self.precisions.raise(network) => {
                log::warn!("`{at}` leaves the range of f16: {network} computes in f32 from here on");
                self.forget(network);
                run(self)
            }
            other => other,
        }
    }

    /// Lets go of what was compiled for another type.
    fn forget(&mut self, network: Network) {
        match network {
            Network::Text => self.encode_text = Kept::default(),
            Network::Vae => self.decode = Kept::default(),
            Network::Identity => self.identity = Kept::default(),
            Network::Unet => {
                self.keys_values = Kept::default();
                self.time_tables = None;
                self.step = Kept::default();
            }
        }
    }

    /// `ids [B,T]`, with pseudo-words `(slots [B,k], embeds [B,k,H])`, to hidden states `[B,T,H]`.
    pub(super) fn encode_text(&mut self, ids: &Tensor, words: Option<(&Tensor, &Tensor)>) -> Result<Tensor> {
        let key = (ids.shape()[0], words.map(|(slots, _)| slots.shape()[1]));
        let (config, dtype) = (&self.text, self.precisions.of(Network::Text));
        let compile = compiler(&self.model, &self.device, &mut self.loading, &[Component::TextEncoder]);
        let text = self.encode_text.get(key, |&(batch, words)| compile(graphs::text(config, dtype, batch, words)?))?;
        text.write("input_ids", ids)?;
        if let Some((slots, embeds)) = words {
            text.write("positions", slots)?;
            text.write("embeds", embeds)?;
        }
        text.run()?;
        finite("context", text.read("hidden")?)
    }

    /// Keys and values of every cross-attention for `context [B,T,C]`.
    pub(super) fn keys_values(&mut self, context: &Tensor) -> Result<Places> {
        let (batch, tokens) = (context.shape()[0], context.shape()[1]);
        let (config, dtype) = (&self.unet, self.precisions.of(Network::Unet));
        let compile = compiler(&self.model, &self.device, &mut self.loading, &[Component::Unet]);
        let network = self.keys_values.get(batch, |&batch| compile(graphs::context_keys_values(config, dtype, batch, tokens)?))?;
        network.call(&[("context", context)])
    }

    /// Bias of every residual block at each of `timesteps`.
    pub(super) fn time_tables(&mut self, timesteps: &[usize]) -> Result<&Places> {
        if self.time_tables.as_ref().is_none_or(|(known, _)| known != timesteps) {
            let graph = graphs::time_tables(&self.unet, self.precisions.of(Network::Unet), timesteps.len())?;
            let mut network = compiler(&self.model, &self.device, &mut self.loading, &[Component::Unet])(graph)?;
            let t: Vec<f32> = timesteps.iter().map(|&t| t as f32).collect();
            let tables = network.call(&[("timesteps", &Tensor::from_f32([t.len()], &t)?)])?;
            self.time_tables = Some((timesteps.to_vec(), tables));
        }
        self.time_tables.as_ref().map(|(_, tables)| tables).ok_or_else(lost)
    }

    /// The step of the sampler, with nothing written to it yet.
    pub(super) fn step(&mut self, size: StepSize) -> Result<&mut Executable> {
        let (config, dtype) = (&self.unet, self.precisions.of(Network::Unet));
        let compile = compiler(&self.model, &self.device, &mut self.loading, &[Component::Unet]);
        self.step.get(size, |&size| compile(graphs::ddim_step(config, dtype, size)?))
    }

    /// `latents [B,h,w,4]` as the sampler leaves them to pictures `[B,H,W,3]`, not clamped.
    pub(super) fn decode(&mut self, latents: &Tensor) -> Result<Tensor> {
        let shape = latents.shape();
        let (config, dtype) = (&self.vae, self.precisions.of(Network::Vae));
        let compile = compiler(&self.model, &self.device, &mut self.loading, &[Component::Vae]);
        let key = [shape[0], shape[1], shape[2]];
        let network = self.decode.get(key, |&[b, h, w]| compile(graphs::vae_decode(config, dtype, b, h, w)?))?;
        network.write("latents", latents)?;
        network.run()?;
        finite("image", network.read("image")?)
    }

    /// An aligned, normalised face `[1,S,S,3]` to word embeddings `[1,k,H]`.
    pub(super) fn identity(&mut self, face: &Tensor) -> Result<Tensor> {
        let (encoder, projector) = (self.model.face_config()?, self.model.projector_config()?);
        let dtype = self.precisions.of(Network::Identity);
        let compile = compiler(&self.model, &self.device, &mut self.loading, &[Component::FaceEncoder, Component::Projector]);
        let network = self.identity.get((), |()| compile(graphs::identity(&encoder, &projector, dtype, 1)?))?;
        network.write("image", face)?;
        network.run()?;
        finite("embeds", network.read("embeds")?)
    }
}

fn finite(name: &str, values: Tensor) -> Result<Tensor> {
    check_finite(name, &values.to_f32_vec())?;
    Ok(values)
}

/// Compiles graphs over some components, counting the time.
fn compiler<'a>(
    model: &'a ModelFolder,
    device: &'a Device,
    loading: &'a mut Duration,
    components: &'a [Component],
) -> impl FnOnce(Graph) -> Result<Executable> + 'a {
    move |graph| {
        let start = Instant::now();
        let executable = Executable::compile(graph, &model.weights_of(components)?, device);
        *loading += start.elapsed();
        executable
    }
}

/// An executable and the configuration that it was compiled for.
struct Kept<K>(Option<(K, Executable)>);

impl<K> Default for Kept<K> {
    fn default() -> Self {
        Self(None)
    }
}

impl<K: PartialEq> Kept<K> {
    /// The executable for `key`, compiled unless it is there already. The old one goes last: both share their parameters.
    fn get(&mut self, key: K, compile: impl FnOnce(&K) -> Result<Executable>) -> Result<&mut Executable> {
        if self.0.as_ref().is_none_or(|(known, _)| *known != key) {
            let executable = compile(&key)?;
            self.0 = Some((key, executable));
        }
        self.0.as_mut().map(|(_, executable)| executable).ok_or_else(lost)
    }
}

fn lost() -> Error {
    Error::Graph("an executable that was just made is gone".into())
}
