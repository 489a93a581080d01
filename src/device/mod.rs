//! Where graphs run.

pub mod cpu;
mod launch;
pub(crate) mod params;

#[allow(unused_imports)] // until the first kernel is written
pub(crate) use launch::kernel_file;
pub use launch::{Arch, HEADERS, KernelFile, KernelKey, Launch, Lowered, kernel_type};
#[allow(unused_imports)] // until the first kernel is written
pub(crate) use params::kernel_params;
pub use params::{FieldKind, FieldValue, Params, ParamsLayout, Slot};

use crate::{Error, Result};
use cpu::Cpu;
use std::sync::Arc;

/// A device that graphs are compiled for. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Device {
    /// The processor.
    Cpu(Arc<Cpu>),
    /// Plans and counts, computes nothing: for graphs that are too large for the machine at hand.
    Null,
}

impl Device {
    /// The processor with one thread for each core and the best instruction set found.
    pub fn cpu() -> Result<Self> {
        Ok(Self::Cpu(Arc::new(Cpu::new(None)?)))
    }

    /// A device by name: `auto`, `cpu`, `cuda:N` or `null`. `threads` is for the CPU; none: one for each core.
    pub fn parse(name: &str, threads: Option<usize>) -> Result<Self> {
        match name {
            "auto" | "cpu" => Ok(Self::Cpu(Arc::new(Cpu::new(threads)?))),
            "null" => Ok(Self::Null),
            _ if name == "cuda" || name.starts_with("cuda:") => Err(no_cuda(name)),
            _ => Err(Error::input(format!("there is no device `{name}`; use auto, cpu or null"))),
        }
    }

    /// `cpu` or `null`, as [`Device::parse`] takes it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Null => "null",
        }
    }
}

/// CUDA is not lowered to yet; says so, and whether a driver would be there.
fn no_cuda(device: &str) -> Error {
    // SAFETY: this only tries to load the driver's library by its usual names and lets go of it again. It is asked before anything
    // else of cudarc is called, because every other call panics where the library is missing.
    let driver = unsafe { cudarc::driver::sys::is_culib_present() };
    let found = if driver { "an NVIDIA driver is installed here" } else { "no NVIDIA driver is installed here" };
    let what = format!("this version computes on the processor only; the CUDA path comes with a later one ({found}). Use --device cpu");
    Error::Device { device: device.to_owned(), what }
}
