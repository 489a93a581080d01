//! NVIDIA devices: probed at run time, driven through the CUDA driver, with kernels compiled by NVRTC. Nothing is linked.

mod cache;
mod context;
mod event;
mod facts;
mod kernels;
mod memory;
mod nvrtc;
mod rates;
mod status;
mod tape;
mod tuned;

pub use context::{count, has_driver};
pub use facts::Facts;
pub(crate) use memory::DeviceMemory;
pub use nvrtc::Code;
pub use status::{CudaFailure, CudaStatus};
pub(crate) use tape::Tape;
pub use tuned::{Tuned, TunedProduct, tiles_file};

use super::cpu::Cpu;
use super::{Arch, KernelKey, Launch, Target, Tiles};
use crate::{Error, Result};
use context::Context;
use kernels::Kernels;
use memory::Staging;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tape::ReadyLaunch;

/// How a CUDA device is used.
#[derive(Clone, Debug, Default)]
pub struct CudaOptions {
    /// The library of NVRTC; none: by its usual names, where the system looks for libraries.
    pub nvrtc: Option<PathBuf>,
    /// Folder that keeps compiled kernels; none: they are compiled in every process.
    pub cache: Option<PathBuf>,
    /// Give the driver assembly instead of machine code, always.
    pub ptx: bool,
    /// Measured tiles: a file, or a folder that holds one for each device ([`tiles_file`]); none: tiles by the count of cycles.
    pub tiles: Option<PathBuf>,
}

/// An NVIDIA device. Executables and parameters on it hold its context; several devices and several of one can be open.
pub struct Cuda {
    context: Arc<Context>,
    target: Target,
    kernels: Arc<Kernels>,
    /// Converts what is uploaded.
    host: Arc<Cpu>,
    staging: Arc<Mutex<Option<Staging>>>,
}

impl Cuda {
    /// Opens device `ordinal`. Fails, with the reason, if there is no driver, no such device, or either is too old. `threads` convert
    /// weights on their way to the device; none: one for each core.
    pub fn open(ordinal: u32, options: &CudaOptions, threads: Option<usize>) -> Result<Self> {
        let context = Arc::new(Context::open(ordinal)?);
        let target = Target::from(context.arch);
        let (kernels, host) = (Arc::new(Kernels::new(options)), Arc::new(Cpu::new(threads)?));
        let plain = Self { context, target, kernels, host, staging: Arc::default() };
        let Some(path) = &options.tiles else { return Ok(plain) };
        let file = if path.is_dir() { tiles_file(path, plain.model()) } else { path.clone() };
        let tuned = Tuned::load(&file, &plain);
        Ok(tuned.map(|tuned| plain.with_tiles(tuned.tiles())).unwrap_or(plain))
    }

    /// The same device, context and kernels with other tiles. Graphs that are compiled on it share their parameters with this one's.
    #[must_use]
    pub fn with_tiles(&self, tiles: Tiles) -> Self {
        let target = Target { arch: self.target.arch, tiles: Arc::new(tiles) };
        let (context, kernels) = (self.context.clone(), self.kernels.clone());
        Self { context, target, kernels, host: self.host.clone(), staging: self.staging.clone() }
    }

    /// Fails, with the reason, if kernels cannot be compiled for the device: NVRTC is missing, or too old for it.
    pub fn ready(&self) -> Result<()> {
        self.kernels.ready(self.arch())
    }

    /// `cuda:N`.
    pub fn name(&self) -> &str {
        &self.context.name
    }

    /// The device's name as the driver gives it, such as `NVIDIA A100-SXM4-80GB`.
    pub fn model(&self) -> &str {
        &self.context.model
    }

    /// True if the driver is an emulated one (`tests/cuda-emulator`), whose clock says nothing of any device.
    pub fn is_emulated(&self) -> bool {
        self.model().ends_with("(emulated)")
    }

    /// What the driver says of the device.
    pub fn facts(&self) -> &Facts {
        &self.context.facts
    }

    /// Compute capability.
    pub fn arch(&self) -> Arch {
        self.context.arch
    }

    /// What graphs are lowered for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Bytes of memory that are free now, and bytes in all.
    pub fn memory(&self) -> Result<(u64, u64)> {
        Ok(self.context.turn()?.memory())
    }

    /// Waits for everything that was asked for. Faults of kernels show here, or at the next read.
    pub fn synchronize(&self) -> Result<()> {
        self.context.turn()?.synchronize("wait for the device")
    }

    pub(crate) fn host(&self) -> &Cpu {
        &self.host
    }

    /// Tells contexts apart for as long as anything holds them.
    pub(crate) fn id(&self) -> usize {
        Arc::as_ptr(&self.context) as usize
    }

    pub(crate) fn allocate(&self, bytes: usize, what: &str) -> Result<DeviceMemory> {
        DeviceMemory::new(&self.context, bytes, what)
    }

    /// Copies `bytes` to new memory of the device, through page-locked memory.
    pub(crate) fn upload(&self, bytes: &[u8], what: &str) -> Result<DeviceMemory> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *staging {
            Some(staging) => staging.upload(bytes, what),
            none => none.insert(Staging::new(&self.context)?).upload(bytes, what),
        }
    }

    /// Compiles and loads the kernels of some launches.
    pub fn load_kernels<'a>(&self, launches: impl Iterator<Item = &'a Launch>) -> Result<()> {
        self.kernels.prepare(&self.context, &self.host, launches.map(|launch| &launch.kernel))
    }

    /// Compiles and loads the kernels of `launches`, given with the bytes of their parameters and a label for errors.
    pub(crate) fn tape(&self, launches: Vec<(Launch, Vec<u8>, String)>) -> Result<Tape> {
        self.load_kernels(launches.iter().map(|(launch, ..)| launch))?;
        let ready = |(launch, params, label): (Launch, Vec<u8>, String)| {
            let function = self.kernels.function(&self.context, &launch.kernel, launch.shared)?;
            let Launch { grid, block, shared, .. } = launch;
            Ok(ReadyLaunch { function, label, grid, block, shared, params })
        };
        let ready = launches.into_iter().map(ready).collect::<Result<Vec<_>>>()?;
        Ok(Tape::new(self.context.clone(), ready))
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cuda({}, {}, sm_{})", self.name(), self.model(), self.arch().0)
    }
}

/// NVRTC without a device: what a kernel compiles to, for tests and tools.
pub struct Compiler(nvrtc::Nvrtc);

impl Compiler {
    /// Loads NVRTC from `path`, or by its usual names.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        nvrtc::Nvrtc::load(path).map(Self)
    }

    /// Major and minor version of NVRTC.
    pub fn version(&self) -> (i32, i32) {
        self.0.version()
    }

    /// True if it makes machine code for `arch`.
    pub fn knows(&self, arch: Arch) -> bool {
        self.0.target(arch, Code::Cubin).is_ok_and(|target| target == (Code::Cubin, arch))
    }

    /// Compiles the file of `kernel` under its definitions. An error holds the compiler's log. Assembly ends with a zero byte.
    pub fn compile(&self, kernel: &KernelKey, arch: Arch, code: Code) -> Result<Vec<u8>> {
        self.0.compile(&nvrtc::Source::new(kernel), arch, code)
    }
}

/// The number in `cuda:N`; `cuda` is the first.
pub(super) fn ordinal(name: &str) -> Result<u32> {
    let number = name.strip_prefix("cuda").and_then(|rest| if rest.is_empty() { Some("0") } else { rest.strip_prefix(':') });
    let bad = || Error::input(format!("there is no device `{name}`; use cuda:0 for the first NVIDIA device"));
    number.and_then(|n| n.parse().ok()).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_numbered() {
        assert_eq!((ordinal("cuda").unwrap(), ordinal("cuda:0").unwrap(), ordinal("cuda:12").unwrap()), (0, 0, 12));
        for bad in ["cuda:", "cuda:x", "cuda1", "cuda:-1", "gpu"] {
            assert!(ordinal(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
    }
}
