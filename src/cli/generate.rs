//! `generate`: pictures of a person by a prompt.

use super::progress::Display;
use super::{DeviceArgs, FaceArgs, ModelArgs, precision_help, show};
use clap::{Args, ValueEnum};
use dreamid_engine::device::Device;
use dreamid_engine::graph::Graph;
use dreamid_engine::models::graphs::{self, UnetSize};
use dreamid_engine::models::{Component, ModelFolder};
use dreamid_engine::pipeline::{Destination, Generated, Identity, Noise, PLACEHOLDER, Pipeline, Request, prepare_file, write_png};
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Result, Tensor};
use std::path::{Path, PathBuf};

/// Parameters of a UNet from which speed counts for more than the last digits.
const LARGE: usize = 100_000_000;

/// Arguments of `generate`.
#[derive(Args)]
#[command(mut_arg("dtype", |arg| precision_help(arg, "bf16 for a UNet of more than 100 million parameters where the device multiplies it natively, else f32")))]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    face: FaceArgs,
    /// A person encoded before (`encode`), or any textual inversion for this model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["face", "face_index", "only_face"])]
    identity: Option<PathBuf>,
    /// What to show; S* stands for the person
    #[arg(long, value_name = "TEXT", default_value = "S* as a chef, looking at the camera")]
    prompt: String,
    /// What not to show
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    negative: String,
    /// How many pictures
    #[arg(long, value_name = "N", default_value = "1")]
    count: std::num::NonZeroUsize,
    /// Seed of the first picture; picture i is what seed + i gives alone
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Steps of the sampler (DDIM)
    #[arg(long, value_name = "N", default_value_t = 30)]
    steps: usize,
    /// How strongly to follow the prompt; 1: no guidance, half the time
    #[arg(long, value_name = "X", default_value_t = 7.5, allow_negative_numbers = true)]
    guidance: f32,
    /// Size in pixels [default: what the model was trained on]
    #[arg(long, value_name = "WxH", value_parser = super::inspect::parse_size)]
    size: Option<[usize; 2]>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Initial noise `latents` [B,4,h,w] from a safetensors file (or `latents_initial` of --save-tensors), instead of a seed; as many pictures
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "count", "noise"])]
    latents: Option<PathBuf>,
    /// Write ids, identity, context, latents and pictures as tensors
    #[arg(long, value_name = "FILE")]
    save_tensors: Option<PathBuf>,
    /// Where noise comes from: our own counter-based generator, or PyTorch's on a CPU
    #[arg(long, value_enum, default_value_t = NoiseArg::Philox)]
    noise: NoiseArg,
    /// The word that stands for the person
    #[arg(long, value_name = "WORD", default_value = PLACEHOLDER)]
    placeholder: String,
    /// Pictures made together [default: by memory]; changes no picture
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// File (PATH.png), beginning of several (PATH-1.png, ..., PATH-sheet.png), or folder
    #[arg(long, value_name = "PATH", default_value = "dreamid.png")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum NoiseArg {
    Philox,
    Torch,
}

/// Carries out `generate`.
pub(crate) fn run(args: &GenerateArgs) -> Result<()> {
    let destination = Destination::new(&args.out)?;
    destination.prepare()?;
    args.save_tensors.as_ref().map_or(Ok(()), prepare_file)?;
    let latents = args.latents.as_deref().map(read_latents).transpose()?;
    let known = args.identity.as_deref().map(Identity::load).transpose()?;
    let device = args.device.open()?;
    let model = args.model.open()?;
    let dtype = args.device.dtype_or(&device, auto_dtype(&model, &device)?)?;
    let mut pipeline = Pipeline::new(model, device, dtype)?;
    let identity = match known {
        Some(identity) => Some(identity),
        None => read_face(args, &mut pipeline)?,
    };
    let request = args.request(identity, latents);
    let mut display = Display::new();
    let count = request.latents.as_ref().map_or(request.count, |latents| latents.shape().first().copied().unwrap_or(0));
    let (paths, mut written) = (destination.pictures(count), Vec::new());
    // each picture is written as soon as it is made: what fails later does not take it away
    let made = pipeline.generate_each(&request, &mut |p| display.show(p), &mut |i, picture, parameters| {
        write_png(&paths[i], picture, Some(parameters))?;
        written.push(paths[i].clone());
        Ok(())
    });
    display.finish();
    let made = made.inspect_err(|_| match written.as_slice() {
        [] => eprintln!("nothing was written"),
        some => eprintln!("written before that: {}", names(some)),
    })?;
    for warning in &made.warnings {
        eprintln!("warning: {warning}");
    }
    written.extend(destination.write_sheet(&made.pictures, &made.parameters)?);
    if let (Some(path), Some(captured)) = (&args.save_tensors, &made.captured) {
        captured.save(path)?;
        written.push(path.clone());
    }
    show(&report(&request, &made, &written))
}

impl GenerateArgs {
    fn request(&self, identity: Option<Identity>, latents: Option<Tensor>) -> Request {
        Request {
            prompt: self.prompt.clone(),
            negative: self.negative.clone(),
            placeholder: self.placeholder.clone(),
            identity,
            seed: self.seed,
            noise: match self.noise {
                NoiseArg::Philox => Noise::Philox,
                NoiseArg::Torch => Noise::Torch,
            },
            count: self.count.get(),
            steps: self.steps,
            guidance: self.guidance,
            size: self.size.map(|[height, width]| [width, height]),
            latents,
            batch: self.batch,
            capture: self.save_tensors.is_some(),
        }
    }
}

/// Tensor `latents`, or the initial latents of an earlier request's `--save-tensors`.
fn read_latents(path: &Path) -> Result<Tensor> {
    let file = Weights::open(path)?;
    let saved = file.names().contains(&"latents_initial") && !file.names().contains(&"latents");
    file.tensor(if saved { "latents_initial" } else { "latents" })
}

/// The person in the photograph. None if there is none and no prompt asks for a person; the bundled photograph if a prompt does.
fn read_face(args: &GenerateArgs, pipeline: &mut Pipeline) -> Result<Option<Identity>> {
    let asked = args.prompt.contains(&args.placeholder) || args.negative.contains(&args.placeholder);
    if args.face.face.is_none() && !asked {
        return Ok(None);
    }
    let encoded = pipeline.encode(&args.face.photo()?, args.face.selection())?;
    show(&super::encode::describe(&args.face, &encoded))?;
    Ok(Some(encoded.identity))
}

/// f32, but bf16 for a large model on a device that multiplies it natively.
fn auto_dtype(model: &ModelFolder, device: &Device) -> Result<DType> {
    let size = UnetSize { batch: 1, height: 8, width: 8, tokens: 1 };
    let parameters = |g: &Graph| g.params().map(|(_, v)| g.ty(v).shape.elements()).sum::<usize>();
    let large = model.has(Component::Unet) && parameters(&graphs::unet(&model.unet_config()?, DType::F32, size)?) > LARGE;
    Ok(if large { super::fast_dtype(device) } else { DType::F32 })
}

fn report(request: &Request, made: &Generated, written: &[PathBuf]) -> String {
    let times = &made.times;
    let steps = request.steps * made.pictures.len();
    let rate = steps as f64 / times.denoise.as_secs_f64().max(1e-9);
    let seed = match (&request.latents, made.parameters.as_slice()) {
        (Some(_), _) => "seed: none, noise was given".to_owned(),
        (None, [first, .., last]) => format!("seeds: {} to {}", first.seed, last.seed),
        (None, _) => format!("seed: {}", request.seed),
    };
    format!(
        "{seed}\ntime: {:.2} s loading, {:.0} ms prompt, {:.2} s for {steps} steps of a picture ({rate:.1} a second), {:.0} ms decoding\nwrote {}\n",
        times.load.as_secs_f64(),
        times.text.as_secs_f64() * 1e3,
        times.denoise.as_secs_f64(),
        times.decode.as_secs_f64() * 1e3,
        names(written)
    )
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A path for messages.
pub(super) fn shown(path: Option<&Path>) -> String {
    path.map_or_else(|| "the bundled photograph".to_owned(), |p| p.display().to_string())
}
