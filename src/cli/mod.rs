//! Subcommands, one file each: arguments in, a call of the library, text out.

mod bench;
mod encode;
mod format;
mod generate;
mod graphs;
mod inspect;
mod progress;
mod run;
mod tune;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dreamid_engine::device::cpu::Isa;
use dreamid_engine::device::cuda::CudaOptions;
use dreamid_engine::device::{Choice, Device, DeviceOptions};
use dreamid_engine::models::ModelFolder;
use dreamid_engine::pipeline::{Image, Selection};
use dreamid_engine::{DType, Error, Result, embedded};
use std::io::Write;
use std::path::PathBuf;

/// One photograph of a face to countless pictures of that person.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more: -v what happens, -vv everything
    // after the subcommand's own
    #[arg(short, long, global = true, action = clap::ArgAction::Count, display_order = 1000)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Make pictures of a person by a prompt
    Generate(generate::GenerateArgs),
    /// Read the person in a photograph into a file of a few kilobytes
    Encode(encode::EncodeArgs),
    /// Show what a model or a file consists of: components, graphs, operations, memory
    Inspect(inspect::InspectArgs),
    /// Measure how long each stage takes, against what this machine can do
    Bench(bench::BenchArgs),
    /// Measure the kernels' tiles on an NVIDIA device and keep the fastest
    Tune(tune::TuneArgs),
    /// Run one network of a model on tensors of a file, to compare it with your own code
    Run(run::RunArgs),
}

impl Cli {
    /// Carries out the subcommand.
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Generate(args) => generate::run(&args),
            Command::Encode(args) => encode::run(&args),
            Command::Inspect(args) => inspect::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Tune(args) => tune::run(&args),
            Command::Run(args) => run::run(&args),
        }
    }

    /// Warnings unless more is asked for.
    pub(crate) fn log_level(&self) -> log::LevelFilter {
        match self.verbose {
            0 => log::LevelFilter::Warn,
            1 => log::LevelFilter::Info,
            _ => log::LevelFilter::Trace,
        }
    }
}

/// Which model.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// Model folder in the layout of diffusers, or "sd21-random" for full size with made-up weights [default: the embedded miniature]
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<String>,
}

impl ModelArgs {
    /// Opens the model.
    pub(crate) fn open(&self) -> Result<ModelFolder> {
        match self.model.as_deref() {
            None => embedded::model(),
            Some("sd21-random") => Ok(ModelFolder::sd21_random(0)),
            Some(path) => ModelFolder::open(path),
        }
    }
}

/// Where to compute, and in which precision.
#[derive(Args)]
pub(crate) struct DeviceArgs {
    /// cpu, cuda:N, or auto: the first NVIDIA device that can be used, else the processor
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
    /// Storage of weights and activations; f16 on NVIDIA devices only
    // each subcommand adds what auto means there
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    pub(crate) dtype: Precision,
    /// Threads of the processor [default: one for each core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<std::num::NonZeroUsize>,
    /// CUDA: library of NVRTC, the run-time compiler [default: where the system looks for libraries]
    #[arg(long, value_name = "FILE")]
    pub(crate) nvrtc: Option<PathBuf>,
    /// CUDA: folder for compiled kernels [default: dreamid-engine/kernels in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) kernel_cache: Option<PathBuf>,
    /// CUDA: measured tiles, as `tune` writes them [default: what `tune` kept for the device]
    #[arg(long, value_name = "FILE", conflicts_with = "no_tiles")]
    pub(crate) tiles: Option<PathBuf>,
    /// CUDA: take no measured tiles; results are the same
    #[arg(long)]
    pub(crate) no_tiles: bool,
}

/// Values of `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    Auto,
    F32,
    Bf16,
    F16,
}

impl Precision {
    /// The type; `auto` if it is left open.
    pub(crate) fn or(self, auto: DType) -> DType {
        match self {
            Self::Auto => auto,
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
            Self::F16 => DType::F16,
        }
    }
}

impl DeviceArgs {
    /// Opens the device. Which one `auto` is, and why nothing faster, is said on standard error.
    pub(crate) fn open(&self) -> Result<Device> {
        let options = self.options()?;
        if self.device != "auto" {
            return Device::open(&self.device, &options);
        }
        let Choice { device, passed_over } = Device::choose(&options)?;
        let model = if let Device::Cuda(cuda) = &device { format!(", {}", cuda.model()) } else { String::new() };
        let why: String = passed_over.iter().map(|error| format!("; passed over: {}", with_causes(error))).collect();
        eprintln!("device: {}{model}{why}", device.name());
        Ok(device)
    }

    /// How the device is opened.
    pub(crate) fn options(&self) -> Result<DeviceOptions> {
        let tiles = match &self.tiles {
            Some(file) if !file.is_file() => return Err(Error::file(file, "there is no such file of measured tiles; `tune` writes one")),
            Some(file) => Some(file.clone()),
            None => self.tiles_folder().filter(|_| !self.no_tiles),
        };
        let cuda = CudaOptions { nvrtc: self.nvrtc.clone(), cache: self.kernels_folder(), ptx: false, tiles };
        Ok(DeviceOptions { threads: self.threads.map(usize::from), cuda })
    }

    fn kernels_folder(&self) -> Option<PathBuf> {
        self.kernel_cache.clone().or_else(user_cache)
    }

    /// Where measured tiles are kept, beside the kernels that they were measured with.
    pub(crate) fn tiles_folder(&self) -> Option<PathBuf> {
        self.kernels_folder().map(|folder| folder.join("tiles"))
    }

    /// The precision asked for, if `device` computes in it; `auto` if none is.
    pub(crate) fn dtype_or(&self, device: &Device, auto: DType) -> Result<DType> {
        if self.dtype == Precision::F16 && matches!(device, Device::Cpu(_)) {
            let what = "the processor computes in f32 and bf16 (files in f16 are read as either); use --dtype f32 or bf16";
            return Err(Error::Device { device: "cpu".into(), what: what.into() });
        }
        Ok(self.dtype.or(auto))
    }

    /// The precision asked for; else bf16 where the device multiplies it natively, else f32.
    pub(crate) fn fast_dtype(&self, device: &Device) -> Result<DType> {
        self.dtype_or(device, fast_dtype(device))
    }
}

/// The help of `--dtype` with what `auto` means for a subcommand.
fn precision_help(arg: clap::Arg, auto: &str) -> clap::Arg {
    let help = arg.get_help().map_or(String::new(), |help| format!("{help}; "));
    arg.help(format!("{help}auto: {auto}"))
}

/// bf16 where the device multiplies it natively, else f32.
fn fast_dtype(device: &Device) -> DType {
    let native = match device {
        Device::Cpu(cpu) => cpu.isa() >= Isa::Avx512Bf16,
        Device::Cuda(_) => true,
        Device::Null => false,
    };
    if native { DType::Bf16 } else { DType::F32 }
}

/// Where programs of this user keep what they can make again.
fn user_cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("LOCALAPPDATA")).or_else(|| folder("HOME").map(|home| home.join(".cache")));
    cache.map(|c| c.join("dreamid-engine").join("kernels"))
}

/// Which face of which photograph.
#[derive(Args)]
pub(crate) struct FaceArgs {
    /// Photograph of the person: JPEG, PNG or WebP [default: the bundled one]
    #[arg(long, value_name = "PHOTO")]
    pub(crate) face: Option<PathBuf>,
    /// Of several faces take this one; 0 is the largest [default: 0, and small faces are looked for only if there is no large one]
    #[arg(long, value_name = "N", conflicts_with = "only_face")]
    pub(crate) face_index: Option<usize>,
    /// Refuse photographs with several faces
    #[arg(long)]
    pub(crate) only_face: bool,
}

impl FaceArgs {
    /// The photograph.
    pub(crate) fn photo(&self) -> Result<Image> {
        self.face.as_ref().map_or_else(embedded::face, Image::open)
    }

    /// Which of its faces.
    pub(crate) fn selection(&self) -> Selection {
        match self.face_index {
            _ if self.only_face => Selection::Only,
            Some(index) => Selection::Index(index),
            None => Selection::Largest,
        }
    }
}

/// Writes to standard output. A reader that has seen enough (`| head`) ends the program quietly.
pub(crate) fn show(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|e| Error::io("standard output", "write", e)),
    }
}

/// An error with the errors that caused it, each said once.
pub(crate) fn with_causes(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text += &format!("\n  because: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
