//! The face networks, compiled once and shared by threads.

use super::photo::Image;
use super::recent::Recent;
use crate::device::Device;
use crate::exec::Executable;
use crate::graph::Graph;
use crate::models::PixelInput;
use crate::models::blazeface::{self, BlazeFaceConfig};
use crate::models::mobilefacenet::{self, MobileFaceNetConfig};
use crate::models::mtcnn::{self, MtcnnConfig, Stage};
use crate::ops::Cost;
use crate::weights::Weights;
use crate::{EmbeddedNetwork, Error, Result, Tensor};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Bytes of the P-Nets that are kept for photographs of the same size. Those of two megapixels take 98 MiB.
const MOST_KEPT: usize = 128 << 20;

/// A compiled network that takes one picture.
pub(super) struct Network {
    executable: Mutex<Executable>,
    input: PixelInput,
}

impl Network {
    fn new(graph: Graph, weights: &Weights, input: PixelInput, device: &Device) -> Result<Self> {
        Ok(Self { executable: Mutex::new(Executable::compile(graph, weights, device)?), input })
    }

    /// Runs one picture of the network's size; one caller at a time.
    pub(super) fn run<T: Copy + Into<f32>>(&self, image: &Image<T>) -> Result<Outputs> {
        let pixels = Tensor::from_f32([1, image.height(), image.width(), 3], &self.input.normalise(image.pixels()))?;
        // a panic elsewhere leaves nothing half-done that the next run would not write anew
        let mut executable = self.executable.lock().unwrap_or_else(PoisonError::into_inner);
        executable.call(&[("image", &pixels)]).map(Outputs)
    }

    /// Operations and bytes of all runs so far.
    fn work(&self) -> Cost {
        let executable = self.executable.lock().unwrap_or_else(PoisonError::into_inner);
        let (once, runs) = (executable.graph().total_cost(), executable.runs());
        Cost { flops: once.flops * runs, bytes: once.bytes * runs }
    }

    /// Bytes of its inputs, outputs and temporaries.
    fn bytes(&self) -> usize {
        let executable = self.executable.lock().unwrap_or_else(PoisonError::into_inner);
        let (graph, plan) = (executable.graph(), executable.plan());
        plan.arena_bytes() + plan.buffers().map(|value| graph.ty(value).bytes()).sum::<usize>()
    }

    /// Side of the pictures that it takes.
    pub(super) fn size(&self) -> usize {
        self.input.size
    }
}

/// Named results of one run.
pub(super) struct Outputs(Vec<(String, Tensor)>);

impl Outputs {
    /// An output.
    pub(super) fn tensor(&self, name: &str) -> Result<&Tensor> {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map(|(_, tensor)| tensor).ok_or_else(|| Error::Graph(format!("a face network has no output `{name}`")))
    }

    /// Values of an output, row-major.
    pub(super) fn values(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.tensor(name)?.to_f32_vec())
    }

    /// Values of the outputs `name.0`, `name.1`, ... one after the other.
    pub(super) fn joined(&self, name: &str, count: usize) -> Result<Vec<f32>> {
        let parts: Vec<_> = (0..count).map(|i| self.values(&format!("{name}.{i}"))).collect::<Result<_>>()?;
        Ok(parts.concat())
    }
}

/// All networks of the face chain on one device.
pub(super) struct FaceNetworks {
    device: Device,
    pub(super) blazeface: Network,
    pub(super) blazeface_config: BlazeFaceConfig,
    pub(super) onet: Network,
    pub(super) mobilefacenet: Network,
    pnet_weights: Weights,
    pnet_input: PixelInput,
    pnets: Recent<Network>,
    rnet: OnceLock<Network>,
}

impl FaceNetworks {
    /// Compiles the embedded networks; `detector` is one of the two BlazeFaces.
    pub(super) fn embedded(detector: EmbeddedNetwork, device: &Device) -> Result<Self> {
        let weights = detector.weights()?;
        let blazeface_config = BlazeFaceConfig::of(&weights)?;
        let blazeface = Network::new(blazeface::graph(&blazeface_config, 1)?, &weights, blazeface_config.input, device)?;
        let weights = EmbeddedNetwork::MobileFaceNet.weights()?;
        let config = MobileFaceNetConfig::of(&weights)?;
        let mobilefacenet = Network::new(mobilefacenet::graph(&config, 1)?, &weights, config.input, device)?;
        let pnet_weights = EmbeddedNetwork::PNet.weights()?;
        let pnet_input = MtcnnConfig::of(&pnet_weights, Stage::PNet)?.input;
        let onet = mtcnn_network(Stage::ONet, EmbeddedNetwork::ONet, device)?;
        Ok(Self {
            device: device.clone(),
            blazeface,
            blazeface_config,
            onet,
            mobilefacenet,
            pnet_weights,
            pnet_input,
            pnets: Recent::new(MOST_KEPT),
            rnet: OnceLock::new(),
        })
    }

    /// Operations and bytes of all runs so far, P-Net's left out.
    pub(super) fn work(&self) -> Cost {
        [&self.blazeface, &self.onet, &self.mobilefacenet].into_iter().chain(self.rnet.get()).map(Network::work).sum()
    }

    /// P-Net for pictures of this size. Sizes follow from the photograph's, and the next one often has the same.
    pub(super) fn pnet(&self, height: usize, width: usize) -> Result<Arc<Network>> {
        self.pnets.get([height, width], || {
            let graph = mtcnn::graph(Stage::PNet, 1, height, width)?;
            let network = Network::new(graph, &self.pnet_weights, self.pnet_input, &self.device)?;
            let bytes = network.bytes();
            Ok((network, bytes))
        })
    }

    /// R-Net, compiled on first use.
    pub(super) fn rnet(&self) -> Result<&Network> {
        if let Some(network) = self.rnet.get() {
            return Ok(network);
        }
        let network = mtcnn_network(Stage::RNet, EmbeddedNetwork::RNet, &self.device)?;
        Ok(self.rnet.get_or_init(|| network))
    }
}

fn mtcnn_network(stage: Stage, file: EmbeddedNetwork, device: &Device) -> Result<Network> {
    let weights = file.weights()?;
    let input = MtcnnConfig::of(&weights, stage)?.input;
    Network::new(mtcnn::graph(stage, 1, input.size, input.size)?, &weights, input, device)
}
