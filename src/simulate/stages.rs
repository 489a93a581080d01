//! What is simulated: everything that makes a picture of 512x512 from a face and a prompt.

use crate::graph::Graph;
use crate::models::ModelFolder;
use crate::models::graphs::{self, StepSize};
use crate::{DType, Result};

/// Steps of the sampler.
const STEPS: usize = 30;
/// Tokens of a prompt.
const TOKENS: usize = 77;
/// Height and width of the latents.
const SIDE: usize = 64;

/// One graph.
#[derive(Debug)]
pub struct Stage {
    /// Short name, as `bench` has it.
    pub name: &'static str,
    /// How often a picture runs it.
    pub runs: usize,
    /// The graph, in bf16.
    pub graph: Graph,
    /// What one run should take at most.
    pub goal: Goal,
}

/// Milliseconds that a run should take at most; none where nothing is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Goal {
    /// On an A100.
    pub a100: Option<f64>,
    /// On an H100.
    pub h100: Option<f64>,
    /// What others have published, for comparison.
    pub published: &'static str,
}

/// Every stage of Stable Diffusion 2.1-base with a face encoder, in the order in which a picture is made. Weights are not read.
pub fn stages() -> Result<Vec<Stage>> {
    let model = ModelFolder::sd21_random(0);
    let unet = model.unet_config()?;
    let dtype = DType::Bf16;
    let size = StepSize { images: 1, height: SIDE, width: SIDE, tokens: TOKENS, steps: STEPS, guided: true };
    let once = |name, graph| Stage { name, runs: 1, graph, goal: Goal::default() };
    Ok(vec![
        Stage {
            goal: Goal { a100: Some(1.0), h100: None, published: "DreamIdentity's paper: 40 ms on an A100" },
            ..once("encode", graphs::identity(&model.face_config()?, &model.projector_config()?, dtype, 1)?)
        },
        once("text", graphs::text(&model.text_config()?, dtype, 2, Some(model.projector_config()?.words))?),
        once("context", graphs::context_keys_values(&unet, dtype, 2, TOKENS)?),
        once("time", graphs::time_tables(&unet, dtype, STEPS)?),
        Stage {
            runs: STEPS,
            goal: Goal {
                a100: Some(8.5),
                h100: Some(5.5),
                published: "best whole UNet steps of the like-sized SD 1.5: 16.2 ms on an A100, 9.6 ms on an H100",
            },
            ..once("unet", graphs::ddim_step(&unet, dtype, size)?)
        },
        once("vae-decode", graphs::vae_decode(&model.vae_config()?, dtype, 1, SIDE, SIDE)?),
    ])
}
