//! Kernels of a device: compiled when first asked for, kept in memory and on disk.

use super::cache::{self, Cache};
use super::context::Context;
use super::nvrtc::{Code, Lazy, Source};
use super::{CudaFailure, CudaOptions, CudaStatus};
use crate::device::cpu::Cpu;
use crate::device::{Arch, KernelKey};
use crate::{Error, Result};
use cudarc::driver::sys::{self, CUfunction, CUmodule};
use rayon::prelude::*;
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// All kernels of one context.
pub(super) struct Kernels {
    nvrtc: Lazy,
    cache: Cache,
    assembly: AtomicBool,
    modules: Mutex<HashMap<ModuleKey, Arc<Module>>>,
}

/// A kernel file under its definitions: one module, however many of its entries are used.
type ModuleKey = (&'static str, Vec<(&'static str, String)>);

/// A loaded module.
struct Module {
    context: Arc<Context>,
    handle: CUmodule,
}

// SAFETY: the driver's handles may be used from any thread that has the context's turn.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// An entry of a loaded module.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) handle: CUfunction,
    _module: Arc<Module>,
}

// SAFETY: as for `Module`, which it holds alive.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// Dynamic shared memory that every kernel may use without asking, in bytes.
const SHARED_BY_RIGHT: u32 = 48 << 10;

impl Kernels {
    pub(super) fn new(options: &CudaOptions) -> Self {
        let (nvrtc, cache) = (Lazy::new(options.nvrtc.clone()), Cache::new(options.cache.clone()));
        Self { nvrtc, cache, assembly: AtomicBool::new(options.ptx), modules: Mutex::default() }
    }

    /// Fails if there is no compiler that makes what `arch` runs.
    pub(super) fn ready(&self, arch: Arch) -> Result<()> {
        self.nvrtc.get()?.target(arch, Code::Ptx).map(drop)
    }

    /// Compiles what is not there yet, on all cores, and loads it.
    pub(super) fn prepare<'a>(&self, context: &Arc<Context>, host: &Cpu, keys: impl Iterator<Item = &'a KernelKey>) -> Result<()> {
        let mut missing: HashMap<ModuleKey, &KernelKey> = keys.map(|key| (module_key(key), key)).collect();
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|key, _| !modules.contains_key(key));
        if missing.is_empty() {
            return Ok(());
        }
        loop {
            let code = if self.assembly.load(Ordering::Relaxed) { Code::Ptx } else { Code::Cubin };
            let compile = |(key, kernel): (&ModuleKey, &&KernelKey)| Ok((key.clone(), self.compile(context, kernel, code)?));
            let compiled: Vec<(ModuleKey, Vec<u8>)> = host.install(|| missing.par_iter().map(compile).collect::<Result<_>>())?;
            let mut refused = false;
            for (key, image) in compiled {
                match Module::load(context, &image, &key)? {
                    Ok(module) => drop(modules.insert(key, Arc::new(module))),
                    Err(status) if code == Code::Cubin => refused = self.retreat(context, status),
                    Err(status) => return Err(status.error(&context.name, &format!("load kernels/{}.cu", key.0))),
                }
                if refused {
                    break;
                }
            }
            if !refused {
                return Ok(());
            }
        }
    }

    /// An entry, compiled and loaded before by [`Kernels::prepare`], that may use `shared` bytes of dynamic shared memory.
    pub(super) fn function(&self, context: &Arc<Context>, key: &KernelKey, shared: u32) -> Result<Function> {
        let modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = modules.get(&module_key(key)).ok_or_else(|| Error::Graph(format!("kernel {key} was not prepared")))?;
        let entry = CString::new(key.entry).map_err(|_| Error::Graph(format!("the name of kernel {key} holds a zero byte")))?;
        let mut handle = std::ptr::null_mut();
        let mut turn = context.turn()?;
        // SAFETY: the module is loaded; the name is terminated.
        turn.call(&format!("find {key}"), || unsafe { sys::cuModuleGetFunction(&raw mut handle, module.handle, entry.as_ptr()) })?;
        if shared > SHARED_BY_RIGHT {
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let doing = format!("give {key} {shared} bytes of shared memory");
            let mut allowed = 0;
            // SAFETY: the function was found above; the number outlives the call.
            turn.call(&doing, || unsafe { sys::cuFuncGetAttribute(&raw mut allowed, most, handle) })?;
            // all launches of a function share this limit: the largest of them decides
            if shared as i32 > allowed {
                // SAFETY: as above.
                turn.call(&doing, || unsafe { sys::cuFuncSetAttribute(handle, most, shared as i32) })?;
            }
        }
        Ok(Function { handle, _module: module.clone() })
    }

    fn compile(&self, context: &Context, key: &KernelKey, code: Code) -> Result<Vec<u8>> {
        let nvrtc = self.nvrtc.get()?;
        let (code, arch) = nvrtc.target(context.arch, code)?;
        let source = Source::new(key);
        let name = cache::key(&source, nvrtc, arch, code);
        if let Some(known) = self.cache.get(&name) {
            return Ok(known);
        }
        let image = nvrtc.compile(&source, arch, code)?;
        self.cache.put(&name, &image);
        Ok(image)
    }

    /// From machine code, which the driver refused, to assembly: an older driver or an unusual device may still translate that.
    fn retreat(&self, context: &Context, status: CudaStatus) -> bool {
        log::info!("device {}: the driver takes no machine code ({status}); it gets assembly", context.name);
        self.assembly.store(true, Ordering::Relaxed);
        true
    }
}

fn module_key(key: &KernelKey) -> ModuleKey {
    (key.file.stem, key.defines.clone())
}

impl Module {
    /// The inner error is a refusal of machine code for this device.
    fn load(context: &Arc<Context>, image: &[u8], key: &ModuleKey) -> Result<Result<Self, CudaStatus>> {
        let mut handle = std::ptr::null_mut();
        let mut turn = context.turn()?;
        // SAFETY: the image is a whole cubin or a terminated text, as NVRTC made it and the cache's hash vouches for.
        match turn.status(|| unsafe { sys::cuModuleLoadData(&raw mut handle, image.as_ptr().cast()) }) {
            Ok(()) => Ok(Ok(Self { context: context.clone(), handle })),
            Err(status) if status.is_no_binary() => Ok(Err(status)),
            Err(status) if status.failure() == CudaFailure::OutOfMemory => Err(turn.out_of_memory(&format!("kernels/{}.cu", key.0), None)),
            Err(status) => Err(status.error(&context.name, &format!("load kernels/{}.cu", key.0))),
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded once, unloaded once; functions hold it alive.
        self.context.release(|| unsafe { sys::cuModuleUnload(self.handle) });
    }
}
