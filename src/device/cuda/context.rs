//! One device of the driver: its context, its stream, and everything that is asked of them in turn.

use super::facts::Facts;
use super::status::{CudaFailure, CudaStatus};
use crate::device::Arch;
use crate::{Error, Result};
use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute, CUresult, CUstream};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Oldest driver, as the driver spells versions: 12.0, the first that runs what NVRTC 12 makes.
const OLDEST_DRIVER: i32 = 12_000;
/// Tensor cores with bf16 and asynchronous copies.
const OLDEST_ARCH: u32 = 80;

/// A retained primary context with one stream. All calls to the driver pass through [`Context::turn`].
pub(crate) struct Context {
    /// `cuda:N`.
    pub(super) name: String,
    pub(super) model: String,
    pub(super) arch: Arch,
    pub(super) facts: Facts,
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
    /// Whose turn it is, and what made the context unusable.
    state: Mutex<Option<CudaStatus>>,
}

// SAFETY: the driver's handles may be used from any thread; `turn` makes the context current to the thread that has the turn.
unsafe impl Send for Context {}
// SAFETY: as above; the driver is thread-safe, and launches are put in order by `turn`.
unsafe impl Sync for Context {}

/// The right to call the driver: the context is current to this thread and no other thread uses its stream.
pub(super) struct Turn<'a> {
    context: &'a Context,
    state: MutexGuard<'a, Option<CudaStatus>>,
}

impl Context {
    /// Opens device `ordinal`. Fails with the reason if there is no driver, if it is too old, or if there is no such device.
    pub(super) fn open(ordinal: u32) -> Result<Self> {
        let name = format!("cuda:{ordinal}");
        let driver = find_driver(&name)?;
        let fail = |status: CudaStatus| status.error(&name, "open the device");
        let mut device = 0;
        // SAFETY: the driver is initialised; the pointer is to a local.
        check(unsafe { sys::cuDeviceGet(&raw mut device, ordinal as i32) }).map_err(fail)?;
        let arch = arch_of(device).map_err(fail)?;
        if arch.0 < OLDEST_ARCH {
            let what = format!("has compute capability {}.{}; the kernels need 8.0 or newer. Use --device cpu", arch.0 / 10, arch.0 % 10);
            return Err(Error::Device { device: name, what });
        }
        let model = model_of(device).map_err(fail)?;
        let facts = Facts::of(driver, |which| attribute(device, which)).map_err(fail)?;
        let (mut context, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: `device` is a device; it is released in `drop`, or below if there is no stream.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) }).map_err(fail)?;
        // SAFETY: the context was retained above. The stream does not wait for the default stream, which is not used.
        let made = check(unsafe { sys::cuCtxSetCurrent(context) }).and_then(|()| {
            let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
            // SAFETY: a context is current.
            check(unsafe { sys::cuStreamCreate(&raw mut stream, flags) })
        });
        if let Err(status) = made {
            // SAFETY: retained above. The status of the release would hide the one that matters.
            let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(device) };
            return Err(fail(status));
        }
        Ok(Self { name, model, arch, facts, device, context, stream, state: Mutex::new(None) })
    }

    /// Waits for the turn and makes the context current. Fails if an earlier fault has made it unusable.
    pub(super) fn turn(&self) -> Result<Turn<'_>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = *state {
            let what = format!("was lost by an earlier fault ({status}), with everything on it; open the device again to go on");
            return Err(Error::Device { device: self.name.clone(), what });
        }
        let mut turn = Turn { context: self, state };
        // SAFETY: the context is retained for as long as `self` lives.
        turn.call("make the context current", || unsafe { sys::cuCtxSetCurrent(self.context) })?;
        Ok(turn)
    }

    /// Lets go of something after its last use, whatever state the context is in.
    pub(super) fn release(&self, free: impl FnOnce() -> CUresult) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the context is retained for as long as `self` lives.
        let current = check(unsafe { sys::cuCtxSetCurrent(self.context) });
        // in a lost context everything is freed already, and the driver says so
        if let Err(status) = current.and_then(|()| check(free())) {
            if state.is_none() {
                log::warn!("device {}: cannot free: {status}", self.name);
            }
            if status.is_sticky() {
                *state = Some(status);
            }
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let lost = self.state.get_mut().is_ok_and(|state| state.is_some());
        let stream = self.stream;
        // SAFETY: nothing uses the stream any more: executables and memory hold the context alive.
        self.release(|| unsafe { sys::cuStreamDestroy_v2(stream) });
        // A lost primary context stays lost for the whole process until it is reset.
        // SAFETY: the device is one, and what is reset is of no use to anybody.
        let reset = lost.then(|| unsafe { sys::cuDevicePrimaryCtxReset_v2(self.device) });
        // SAFETY: retained in `open`.
        let released = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
        log::debug!("device {}: closed ({released:?}, reset {reset:?})", self.name);
    }
}

impl Turn<'_> {
    /// Calls the driver; `doing` completes "cannot …".
    pub(super) fn call(&mut self, doing: &str, call: impl FnOnce() -> CUresult) -> Result<()> {
        self.status(call).map_err(|status| match status.failure() {
            CudaFailure::OutOfMemory => self.out_of_memory(&format!("to {doing}"), None),
            _ => status.error(&self.context.name, doing),
        })
    }

    /// The error of what lacks memory; `what` completes "… needs".
    pub(super) fn out_of_memory(&mut self, what: &str, asked: Option<u64>) -> Error {
        let (free, total) = self.memory();
        Error::OutOfMemory { device: self.context.name.clone(), what: what.to_owned(), asked, free, total }
    }

    /// The same with the bare status.
    pub(super) fn status(&mut self, call: impl FnOnce() -> CUresult) -> Result<(), CudaStatus> {
        check(call()).inspect_err(|status| {
            if status.is_sticky() {
                *self.state = Some(*status);
            }
        })
    }

    /// The compute stream.
    pub(super) fn stream(&self) -> CUstream {
        self.context.stream
    }

    /// Waits until everything asked for is done.
    pub(super) fn synchronize(&mut self, doing: &str) -> Result<()> {
        let stream = self.stream();
        // SAFETY: the stream lives as long as the context.
        self.call(doing, || unsafe { sys::cuStreamSynchronize(stream) })
    }

    /// Bytes free and in all, as the driver counts them now; zeros if it does not say.
    pub(super) fn memory(&mut self) -> (u64, u64) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: a context is current; the pointers are to locals.
        match self.status(|| unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) }) {
            Ok(()) => (free as u64, total as u64),
            Err(_) => (0, 0),
        }
    }
}

fn check(result: CUresult) -> Result<(), CudaStatus> {
    CudaStatus::of(result).map_or(Ok(()), Err)
}

/// True if a driver is installed, of whatever version and state.
pub fn has_driver() -> bool {
    // SAFETY: this only tries to load the driver's library by its usual names and lets go of it again.
    unsafe { sys::is_culib_present() }
}

/// Number of CUDA devices, or why there is none. Never panics.
pub fn count() -> Result<u32> {
    find_driver("cuda")?;
    let mut count = 0;
    // SAFETY: the driver is initialised; the pointer is to a local.
    check(unsafe { sys::cuDeviceGetCount(&raw mut count) }).map_err(|status| status.error("cuda", "count the devices"))?;
    Ok(count.max(0) as u32)
}

/// Loads and initialises the driver. It must come before every other call: cudarc panics where the library is missing, and where an
/// old one lacks a function. Gives its version.
fn find_driver(device: &str) -> Result<i32> {
    let fail = |what: String| Err(Error::Device { device: device.to_owned(), what });
    if !has_driver() {
        return fail("no NVIDIA driver is installed here (its library libcuda was not found). Use --device cpu".into());
    }
    let mut version = 0;
    // SAFETY: this call needs no initialisation; the pointer is to a local.
    check(unsafe { sys::cuDriverGetVersion(&raw mut version) }).map_err(|status| status.error(device, "ask the driver's version"))?;
    if version < OLDEST_DRIVER {
        let has = format!("{}.{}", version / 1000, version % 1000 / 10);
        return fail(format!("the driver is for CUDA {has}; CUDA 12.0 (driver 525) or newer is needed. Update it, or use --device cpu"));
    }
    // SAFETY: the flag must be 0.
    check(unsafe { sys::cuInit(0) }).map_err(|status| status.error(device, "start the driver"))?;
    Ok(version)
}

fn arch_of(device: CUdevice) -> Result<Arch, CudaStatus> {
    use CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    Ok(Arch(attribute(device, MAJOR)? * 10 + attribute(device, MINOR)?))
}

fn attribute(device: CUdevice, which: CUdevice_attribute) -> Result<u32, CudaStatus> {
    let mut value = 0;
    // SAFETY: `device` is a device; the pointer is to a local.
    check(unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) }).map(|()| value.max(0) as u32)
}

fn model_of(device: CUdevice) -> Result<String, CudaStatus> {
    let mut name = [0u8; 128];
    // SAFETY: the buffer is as long as it is said to be.
    check(unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device) })?;
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}
