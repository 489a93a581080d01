//! Subcommands, one file each: arguments in, a call of the library, text out.

mod format;
mod graphs;
mod inspect;
mod run;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dreamid_engine::device::Device;
use dreamid_engine::device::cpu::Isa;
use dreamid_engine::models::ModelFolder;
use dreamid_engine::{DType, Error, Result, embedded};
use std::io::Write;

/// One photograph of a face to countless pictures of that person.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more: -v what happens, -vv everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    /// Show what a model or a file consists of: components, graphs, operations, memory
    Inspect(inspect::InspectArgs),
    /// Run one network of a model on tensors of a file, to compare it with your own code
    Run(run::RunArgs),
}

impl Cli {
    /// Carries out the subcommand.
    pub(crate) fn run(self) -> Result<()> {
        match self.command {
            Command::Inspect(args) => inspect::run(&args),
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
    /// auto, cpu, cuda:N
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// Storage of weights and activations; auto: see the subcommand
    #[arg(long, value_enum, default_value_t = Precision::Auto)]
    pub(crate) dtype: Precision,
    /// Threads of the CPU [default: one for each core]
    #[arg(long)]
    pub(crate) threads: Option<std::num::NonZeroUsize>,
}

/// Values of `--dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    Auto,
    F32,
    Bf16,
    F16,
}

impl DeviceArgs {
    /// Opens the device.
    pub(crate) fn open(&self) -> Result<Device> {
        Device::parse(&self.device, self.threads.map(usize::from))
    }

    /// The precision asked for; `auto` if none is.
    pub(crate) fn dtype_or(&self, auto: DType) -> Result<DType> {
        match self.dtype {
            Precision::Auto => Ok(auto),
            Precision::F32 => Ok(DType::F32),
            Precision::Bf16 => Ok(DType::Bf16),
            Precision::F16 => {
                let what = "the processor computes in f32 and bf16 (files in f16 are read as either); use --dtype f32 or bf16";
                Err(Error::Device { device: "cpu".into(), what: what.into() })
            }
        }
    }

    /// The precision asked for; else bf16 where the processor multiplies it natively, else f32.
    #[allow(dead_code)] // for the subcommands that make pictures
    pub(crate) fn fast_dtype(&self, device: &Device) -> Result<DType> {
        let native = matches!(device, Device::Cpu(cpu) if cpu.isa() >= Isa::Avx512Bf16);
        self.dtype_or(if native { DType::Bf16 } else { DType::F32 })
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
