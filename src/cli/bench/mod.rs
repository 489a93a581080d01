//! `bench`: how long each stage takes, and how near that is to what this machine can do.

mod ceilings;
mod device;
mod generate;
mod memory;
mod on_device;
mod peak;
mod simulate;
mod stage;

use super::format::table;
use super::graphs::{self, Sizes};
use super::{DeviceArgs, ModelArgs, precision_help, show};
use ceilings::Ceilings;
use clap::{Args, ValueEnum};
use device::DeviceReport;
use dreamid_engine::device::cuda::Cuda;
use dreamid_engine::device::{Device, Launch};
use dreamid_engine::graph::lower;
use dreamid_engine::models::ModelFolder;
use dreamid_engine::pipeline::Image;
use dreamid_engine::{DType, Error, Result, embedded};
use serde::Serialize;
use stage::Measured;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

/// What says how to measure, and so has no meaning for a bound.
const MEASURING: [&str; 14] = [
    "model",
    "stages",
    "face",
    "size",
    "steps",
    "repeat",
    "profile",
    "device",
    "dtype",
    "threads",
    "nvrtc",
    "kernel_cache",
    "tiles",
    "no_tiles",
];

/// Arguments of `bench`.
#[derive(Args)]
#[command(mut_arg("dtype", |arg| precision_help(arg, "bf16 where the device multiplies it natively, else f32")))]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Stages to measure [default: all that the model has; a whole picture only on CUDA devices]
    #[arg(long, value_enum, value_delimiter = ',')]
    stages: Vec<Stage>,
    /// Photograph for the stage detect [default: the bundled one]
    #[arg(long, value_name = "PHOTO")]
    face: Option<PathBuf>,
    /// Size of the pictures [default: what the model was made for]
    #[arg(long, value_name = "WxH", value_parser = super::inspect::parse_size)]
    size: Option<[usize; 2]>,
    /// Sampling steps of the stage generate
    #[arg(long, value_name = "N", default_value = "30")]
    steps: std::num::NonZeroUsize,
    /// Runs of each stage after the first [default: as many as fit in three seconds, 5 to 50]
    #[arg(long, value_name = "N")]
    repeat: Option<std::num::NonZeroUsize>,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also show the time of each operation
    #[arg(long)]
    profile: bool,
    /// Measure nothing: bounds of the CUDA kernels on a device, for full-size Stable Diffusion 2.1-base at 512x512
    #[arg(long, value_enum, value_name = "DEVICE", conflicts_with_all = MEASURING)]
    simulate: Option<simulate::Simulated>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Parts of making a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// The largest face of a photograph found and aligned
    Detect,
    /// One aligned face to word embeddings
    Encode,
    /// Two prompts to hidden states
    Text,
    /// One guided denoising step of one picture
    Unet,
    /// Latents to one picture
    VaeDecode,
    /// One picture to latents
    VaeEncode,
    /// Prompt, all steps, and decoding of one picture
    Generate,
}

impl Stage {
    const ALL: [Self; 7] = [Self::Detect, Self::Encode, Self::Text, Self::Unet, Self::VaeDecode, Self::VaeEncode, Self::Generate];

    fn name(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Encode => "encode",
            Self::Text => "text",
            Self::Unet => "unet",
            Self::VaeDecode => "vae-decode",
            Self::VaeEncode => "vae-encode",
            Self::Generate => "generate",
        }
    }

    /// Names of its graphs among [`super::graphs::NAMES`].
    fn graphs(self) -> &'static [&'static str] {
        match self {
            Self::Detect => &[],
            Self::Encode => &["identity"],
            Self::Text => &["text"],
            Self::Unet => &["ddim-step"],
            Self::VaeDecode => &["vae-decode"],
            Self::VaeEncode => &["vae-encode"],
            Self::Generate => &["text", "context", "time", "ddim-step", "vae-decode"],
        }
    }
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report {
    engine: &'static str,
    model: String,
    device: String,
    instruction_set: String,
    threads: usize,
    dtype: String,
    ceilings: Ceilings,
    stages: Vec<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cuda: Option<DeviceReport>,
    /// Of the whole process.
    peak_rss_mib: Option<f64>,
}

/// Carries out `bench`.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if let Some(device) = args.simulate {
        return simulate::run(device, args.json.as_deref());
    }
    let model = args.model.open()?;
    let start = Instant::now();
    let device = args.device.open()?;
    let opened = start.elapsed();
    let dtype = args.device.fast_dtype(&device)?;
    let (isa, threads) = match &device {
        Device::Cpu(cpu) => (format!("{:?}", cpu.isa()), cpu.threads()),
        Device::Cuda(cuda) => (format!("sm_{}", cuda.arch().0), 1),
        Device::Null => return Err(Error::input("bench measures devices that compute, not null; use --device cpu or cuda:N")),
    };
    let asked = asked_stages(args, &device);
    show(&format!("{} in {dtype} on {threads} thread(s), {isa}\n\n", model.name()))?;
    let sizes = Sizes { images: 1, picture: args.size, steps: args.steps.get() };
    let cuda = match &device {
        Device::Cuda(cuda) => Some(DeviceReport::measure(&args.device, cuda, opened, &launches(&asked, &model, dtype, sizes, cuda)?)?),
        _ => None,
    };
    cuda.as_ref().map_or(Ok(()), |report| show(&report.text()))?;
    let before = ceilings::measure(&device, dtype)?;
    let (repeat, profile) = (args.repeat.map(usize::from), args.profile);
    let runs = stage::Runs { device: &device, dtype, repeat, profile, size: args.size, steps: args.steps.get() };
    let mut stages = measure_all(args, &asked, &model, &runs)?;
    // other programs may have held the machine down in one of the two
    let ceilings = before.or_better(ceilings::measure(&device, dtype)?);
    stages.iter_mut().for_each(|stage| stage.against(&ceilings));
    show(&format!("ceilings measured here: {ceilings}\n\n{}", overview(&stages)))?;
    let on_device: Vec<_> = stages.iter().filter_map(|s| Some((s.stage.as_str(), s.arena_mib, s.on_device.as_ref()?))).collect();
    if !on_device.is_empty() {
        show(&format!("\n{}", on_device::overview(&on_device)))?;
    }
    let report = Report {
        engine: concat!("dreamid-engine ", env!("CARGO_PKG_VERSION")),
        model: model.name(),
        device: device.name().to_owned(),
        instruction_set: isa,
        threads,
        dtype: dtype.to_string(),
        ceilings,
        peak_rss_mib: stages.iter().filter_map(|s| s.peak_rss_mib).reduce(f64::max),
        stages,
        cuda,
    };
    args.json.as_ref().map_or(Ok(()), |path| {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::input(e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|e| Error::io(path, "write", e))
    })
}

/// The stages asked for; by default all, but no whole picture on the processor, where it takes minutes.
fn asked_stages(args: &BenchArgs, device: &Device) -> Vec<Stage> {
    let on_cuda = matches!(device, Device::Cuda(_));
    let usual = Stage::ALL.into_iter().filter(|&stage| on_cuda || stage != Stage::Generate);
    if args.stages.is_empty() { usual.collect() } else { args.stages.clone() }
}

/// Everything that the stages launch on a CUDA device.
fn launches(asked: &[Stage], model: &ModelFolder, dtype: DType, sizes: Sizes, cuda: &Cuda) -> Result<Vec<Launch>> {
    let names: BTreeSet<&str> = asked.iter().flat_map(|stage| stage.graphs()).copied().collect();
    let mut all = Vec::new();
    for name in names {
        let Some(named) = graphs::build(model, name, dtype, sizes)? else { continue };
        all.extend(lower(&named.graph, cuda.target())?.into_iter().flat_map(|node| node.launches));
    }
    Ok(all)
}

fn measure_all(args: &BenchArgs, asked: &[Stage], model: &ModelFolder, runs: &stage::Runs<'_>) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for &stage in asked {
        let found = match stage {
            Stage::Detect => {
                measured.extend(photo(args)?.map(|photo| stage::detect(&photo, runs)).transpose()?);
                continue;
            }
            Stage::Generate => generate::measure(model, runs)?.map(|figures| (figures, String::new())),
            _ => stage::network(model, stage.name(), stage.graphs()[0], runs)?,
        };
        match found {
            Some((figures, profile)) => {
                measured.push(figures);
                show(&profile)?;
            }
            None if args.stages.is_empty() => {}
            None => return Err(Error::input(format!("the model {} has no {}: it lacks a component", model.name(), stage.name()))),
        }
    }
    Ok(measured)
}

/// The photograph asked for, else the bundled one; none if there is none and nobody asked for the stage.
fn photo(args: &BenchArgs) -> Result<Option<Image>> {
    match (&args.face, embedded::face()) {
        (Some(path), _) => Image::open(path).map(Some),
        (None, Ok(face)) => Ok(Some(face)),
        (None, Err(_)) if args.stages.is_empty() => Ok(None),
        (None, Err(error)) => Err(error),
    }
}

fn overview(stages: &[Measured]) -> String {
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let row = |m: &Measured| {
        vec![
            m.stage.clone(),
            format!("{:.2}", m.median_ms),
            format!("{:.2}", m.p95_ms),
            m.runs.to_string(),
            format!("{:.2}", m.gflop),
            format!("{:.1}", m.bytes as f64 / 1e6),
            percent(m.share_of_arithmetic),
            percent(m.share_of_bandwidth),
            format!("{:.0}", m.load_ms),
            format!("{:.1}", m.first_run_ms),
            m.peak_rss_mib.map_or("-".to_owned(), |mib| format!("{mib:.0}")),
        ]
    };
    let header = ["stage", "median ms", "p95 ms", "runs", "GFLOP", "MB", "of GEMM", "of memory", "load ms", "first ms", "peak MiB"];
    let rows: Vec<Vec<String>> = stages.iter().map(row).collect();
    table(&header, &rows)
        + "\nof GEMM, of memory: the stage's operations and compulsory bytes per second against the ceilings\n\
           load, first: cold start, from nothing to the end of the first run (weights in the file cache or made up)\n"
}
