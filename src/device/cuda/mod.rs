//! NVIDIA devices: probed at run time, driven through the CUDA driver, with kernels compiled by NVRTC. Nothing is linked.

mod cache;
mod context;
mod kernels;
mod memory;
mod nvrtc;
mod status;
mod tape;

pub use context::count;
pub(crate) use memory::DeviceMemory;
pub use nvrtc::Code;
pub use status::{CudaFailure, CudaStatus};
pub(crate) use tape::Tape;

use super::cpu::Cpu;
use super::{Arch, KernelKey, Launch, Target};
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
}

/// An NVIDIA device. Executables and parameters on it hold its context; several devices and several of one can be open.
pub struct Cuda {
    context: Arc<Context>,
    target: Target,
    kernels: Kernels,
    /// Converts what is uploaded.
    host: Cpu,
    staging: Mutex<Option<Staging>>,
}

impl Cuda {
    /// Opens device `ordinal`. Fails, with the reason, if there is no driver, no such device, or either is too old. `threads` convert
    /// weights on their way to the device; none: one for each core.
    pub fn open(ordinal: u32, options: &CudaOptions, threads: Option<usize>) -> Result<Self> {
        let context = Arc::new(Context::open(ordinal)?);
        let target = Target::from(context.arch);
        Ok(Self { context, target, kernels: Kernels::new(options), host: Cpu::new(threads)?, staging: Mutex::default() })
    }

    /// `cuda:N`.
    pub fn name(&self) -> &str {
        &self.context.name
    }

    /// The device's name as the driver gives it, such as `NVIDIA A100-SXM4-80GB`.
    pub fn model(&self) -> &str {
        &self.context.model
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

    /// Compiles and loads the kernels of `launches`, given with the bytes of their parameters and a label for errors.
    pub(crate) fn tape(&self, launches: Vec<(Launch, Vec<u8>, String)>) -> Result<Tape> {
        self.kernels.prepare(&self.context, &self.host, launches.iter().map(|(launch, ..)| &launch.kernel))?;
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
