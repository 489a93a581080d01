//! `run`: one graph on named tensors, so that anyone can check the engine against their own code.

mod ddim;
mod gradient;
mod inputs;
mod networks;

use super::{DeviceArgs, ModelArgs, precision_help, show};
use clap::{Args, ValueEnum};
use dreamid_engine::device::Device;
use dreamid_engine::models::ModelFolder;
use dreamid_engine::pipeline::{Dialect, Tokenizer};
use dreamid_engine::weights::save;
use dreamid_engine::{DType, Error, Result, Tensor};
use inputs::Inputs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Arguments of `run`.
///
/// Pictures and latents are [B,C,H,W] in f32; integers may be i32 or i64. Inputs and outputs are safetensors files.
#[derive(Args)]
#[command(mut_arg("dtype", |arg| precision_help(arg, "f32")))]
pub(crate) struct RunArgs {
    /// What to run
    #[arg(value_enum)]
    graph: Name,
    #[command(flatten)]
    model: ModelArgs,
    /// Tensors to run it on, as a safetensors file
    #[arg(long, value_name = "FILE", required_unless_present = "prompts")]
    inputs: Option<PathBuf>,
    /// Where to write the results, as a safetensors file
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
    /// tokenize: a JSON array of strings
    #[arg(long, value_name = "FILE", conflicts_with = "inputs")]
    prompts: Option<PathBuf>,
    /// ddim: number of steps [default: 30]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// ddim: guidance; 1 leaves the unconditional half out [default: 7.5]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    guidance: Option<f32>,
    /// Stop at the first value that is not finite, naming the place in the model
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// input_ids [B,77], optionally positions [B,k] and embeds [B,k,H] -> hidden [B,77,H]
    Text,
    /// latents [B,4,h,w], timesteps [B], context [B,T,C] -> eps [B,4,h,w]
    Unet,
    /// image [B,3,H,W] from -1 to 1 -> mean, logvar [B,4,h,w]
    VaeEncode,
    /// latents [B,4,h,w] as the sampler leaves them -> image [B,3,H,W], not clamped
    VaeDecode,
    /// latents [B,4,h,w], context and context_uncond [B,T,C] -> final [B,4,h,w]
    Ddim,
    /// latents and noise [B,4,h,w], timesteps [B], input_ids [B,77], positions [B,k], embeds [B,k,H] -> loss, grad_embeds, grad_context
    DenoisingGradient,
    /// --prompts FILE -> input_ids [N,77]
    Tokenize,
    /// image [B,3,S,S], aligned and normalised -> taps, embeds [B,k,H]
    Identity,
}

/// Results by name.
type Outputs = Vec<(String, Tensor)>;

/// Carries out `run`.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    if args.graph != Name::Ddim && (args.steps.is_some() || args.guidance.is_some()) {
        return Err(Error::input("--steps and --guidance are for ddim"));
    }
    let model = args.model.open()?;
    let start = Instant::now();
    let outputs = match (args.graph, &args.prompts, &args.inputs) {
        (Name::Tokenize, Some(prompts), _) => tokenize(&model, prompts)?,
        (Name::Tokenize, None, _) => return Err(Error::input("tokenize takes --prompts FILE, a JSON array of strings")),
        (_, Some(_), _) => return Err(Error::input("--prompts is for tokenize; give --inputs FILE")),
        (_, None, Some(inputs)) => network(args, &model, inputs)?,
        (_, None, None) => return Err(Error::input("--inputs FILE is missing")),
    };
    let refs: Vec<(&str, &Tensor)> = outputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    save(&args.outputs, &refs, &[("made_by", concat!("dreamid-engine ", env!("CARGO_PKG_VERSION")))])?;
    let names: Vec<String> = outputs.iter().map(|(n, t)| format!("{n} {}", t.ty())).collect();
    show(&format!("{} in {:.2} s: {}\n", args.outputs.display(), start.elapsed().as_secs_f64(), names.join(", ")))
}

/// What a network runs with.
struct Setting<'a> {
    model: &'a ModelFolder,
    device: Device,
    dtype: DType,
    watch: bool,
}

fn network(args: &RunArgs, model: &ModelFolder, file: &Path) -> Result<Outputs> {
    let device = args.device.open()?;
    let setting = Setting { model, dtype: args.device.dtype_or(&device, DType::F32)?, device, watch: args.watch };
    let name = args.graph.to_possible_value().map_or(String::new(), |v| format!("`run {}` takes {}", v.get_name(), takes(args.graph)));
    let mut inputs = Inputs::open(file, name)?;
    match args.graph {
        Name::Text => networks::text(&setting, &mut inputs),
        Name::Unet => networks::unet(&setting, &mut inputs),
        Name::VaeEncode => networks::vae_encode(&setting, &mut inputs),
        Name::VaeDecode => networks::vae_decode(&setting, &mut inputs),
        Name::Identity => networks::identity(&setting, &mut inputs),
        Name::Ddim => ddim::ddim(&setting, &mut inputs, args.steps.unwrap_or(30), args.guidance.unwrap_or(7.5)),
        Name::DenoisingGradient => gradient::denoising_gradient(&setting, &mut inputs),
        Name::Tokenize => Err(Error::input("tokenize takes --prompts")),
    }
}

/// The inputs of a graph in words, for errors.
fn takes(name: Name) -> &'static str {
    match name {
        Name::Text => "input_ids [B,77], and optionally positions [B,k] with embeds [B,k,H]",
        Name::Unet => "latents [B,4,h,w], timesteps [B], context [B,T,C]",
        Name::VaeEncode => "image [B,3,H,W] from -1 to 1",
        Name::VaeDecode => "latents [B,4,h,w]",
        Name::Ddim => "latents [B,4,h,w], context [B,T,C] and, unless --guidance is 1, context_uncond [B,T,C]",
        Name::Identity => "image [B,3,S,S], aligned and normalised",
        Name::DenoisingGradient => {
            "latents (clean, scaled) and noise [B,4,h,w], timesteps [B], input_ids [B,77], positions [B,k], embeds [B,k,H]"
        }
        Name::Tokenize => "--prompts",
    }
}

fn tokenize(model: &ModelFolder, prompts: &Path) -> Result<Outputs> {
    let text = std::fs::read(prompts).map_err(|e| Error::io(prompts, "read", e))?;
    let prompts: Vec<String> =
        serde_json::from_slice(&text).map_err(|e| Error::file(prompts, format!("is not a JSON array of strings: {e}")))?;
    let tokenizer = Tokenizer::of_model(model, Dialect::default())?;
    let mut ids = Vec::new();
    for prompt in &prompts {
        ids.extend(tokenizer.ids(prompt)?);
    }
    Ok(vec![("input_ids".to_owned(), Tensor::from_i32([prompts.len(), tokenizer.context()], &ids)?)])
}
