//! Where graphs run.

mod choice;
pub mod cpu;
pub mod cuda;
mod launch;
pub(crate) mod params;
mod target;

pub use choice::Choice;
pub(crate) use launch::kernel_file;
pub use launch::{Arch, HEADERS, KernelFile, KernelKey, Launch, Lowered, kernel_type};
pub(crate) use params::kernel_params;
pub use params::{FieldKind, FieldValue, Params, ParamsLayout, Slot};
pub use target::{ProductTiles, Target, Tiles};

use crate::{Error, Result};
use cpu::Cpu;
use cuda::{Cuda, CudaOptions};
use std::sync::Arc;

/// A device that graphs are compiled for. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Device {
    /// The processor.
    Cpu(Arc<Cpu>),
    /// An NVIDIA device.
    Cuda(Arc<Cuda>),
    /// Plans and counts, computes nothing: for graphs that are too large for the machine at hand.
    Null,
}

/// How a device is opened.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Threads of the CPU; none: one for each core.
    pub threads: Option<usize>,
    /// For CUDA devices.
    pub cuda: CudaOptions,
}

impl Device {
    /// The processor with one thread for each core and the best instruction set found.
    pub fn cpu() -> Result<Self> {
        Ok(Self::Cpu(Arc::new(Cpu::new(None)?)))
    }

    /// [`Device::open`] with a number of threads and nothing else to say.
    pub fn parse(name: &str, threads: Option<usize>) -> Result<Self> {
        Self::open(name, &DeviceOptions { threads, ..DeviceOptions::default() })
    }

    /// A device by name: `auto`, `cpu`, `cuda:N` or `null`. `auto` is what [`Device::choose`] comes to: results differ between devices by
    /// rounding, so whoever needs the same bits everywhere names one.
    pub fn open(name: &str, options: &DeviceOptions) -> Result<Self> {
        match name {
            "auto" => Ok(Self::choose(options)?.device),
            "cpu" => Ok(Self::Cpu(Arc::new(Cpu::new(options.threads)?))),
            "null" => Ok(Self::Null),
            _ if name.starts_with("cuda") => Ok(Self::Cuda(Arc::new(Cuda::open(cuda::ordinal(name)?, &options.cuda, options.threads)?))),
            _ => Err(Error::input(format!("there is no device `{name}`; use auto, cpu, cuda:N or null"))),
        }
    }

    /// `cpu`, `cuda:N` or `null`, as [`Device::open`] takes it.
    pub fn name(&self) -> &str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Cuda(cuda) => cuda.name(),
            Self::Null => "null",
        }
    }
}
