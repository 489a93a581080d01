//! The runtime compiler: CUDA C++ to machine code, without a toolkit on disk.

use crate::device::{Arch, HEADERS, KernelKey};
use crate::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::sync::OnceLock;

/// Oldest NVRTC: C++17 with every intrinsic that the kernels use.
const OLDEST: (i32, i32) = (12, 0);

type Program = *mut std::ffi::c_void;
type Status = c_int;
type Create = unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> Status;
type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> Status;

/// The loaded library. It is loaded by its own path or name here, not by cudarc, whose loader knows fixed names only and panics.
pub(crate) struct Nvrtc {
    version: (i32, i32),
    archs: Vec<u32>,
    create: Create,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    ptx: (Size, Get),
    cubin: (Size, Get),
    log: (Size, Get),
    message: unsafe extern "C" fn(Status) -> *const c_char,
    _library: Library,
}

/// What a kernel is compiled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Machine code of one compute capability.
    Cubin,
    /// Assembly that the driver translates, for devices newer than the compiler.
    Ptx,
}

impl Nvrtc {
    /// Loads the library at `path`, or by its usual names. Fails, saying what to install, if it is missing or too old.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self> {
        let library = match path {
            Some(path) => open(path.as_os_str()).map_err(|e| fail(format!("cannot load NVRTC from {}: {e}", path.display())))?,
            None => cudarc::get_lib_name_candidates("nvrtc").into_iter().find_map(|name| open(name.as_ref()).ok()).ok_or_else(missing)?,
        };
        let other = |e| fail(format!("what was loaded as NVRTC is not: {e}"));
        // first of all: an old one lacks other functions
        let (major, minor) = version(&library).map_err(other)?;
        if (major, minor) < OLDEST {
            return Err(fail(format!("NVRTC is of version {major}.{minor}; {}.{} or newer is needed", OLDEST.0, OLDEST.1)));
        }
        Self::of(library, (major, minor)).map_err(other)
    }

    fn of(library: Library, version: (i32, i32)) -> Result<Self, libloading::Error> {
        // SAFETY of every block: the types are those of nvrtc.h, which has not changed them since CUDA 11.2.
        let count: unsafe extern "C" fn(*mut c_int) -> Status = unsafe { *library.get(b"nvrtcGetNumSupportedArchs\0")? };
        let list: unsafe extern "C" fn(*mut c_int) -> Status = unsafe { *library.get(b"nvrtcGetSupportedArchs\0")? };
        let mut archs = 0;
        unsafe { count(&raw mut archs) };
        let mut known = vec![0; archs.max(0) as usize];
        unsafe { list(known.as_mut_ptr()) };
        Ok(Self {
            version,
            archs: known.into_iter().map(|a| a as u32).collect(),
            create: unsafe { *library.get(b"nvrtcCreateProgram\0")? },
            compile: unsafe { *library.get(b"nvrtcCompileProgram\0")? },
            destroy: unsafe { *library.get(b"nvrtcDestroyProgram\0")? },
            ptx: unsafe { (*library.get(b"nvrtcGetPTXSize\0")?, *library.get(b"nvrtcGetPTX\0")?) },
            cubin: unsafe { (*library.get(b"nvrtcGetCUBINSize\0")?, *library.get(b"nvrtcGetCUBIN\0")?) },
            log: unsafe { (*library.get(b"nvrtcGetProgramLogSize\0")?, *library.get(b"nvrtcGetProgramLog\0")?) },
            message: unsafe { *library.get(b"nvrtcGetErrorString\0")? },
            _library: library,
        })
    }

    /// Major and minor version.
    pub(crate) fn version(&self) -> (i32, i32) {
        self.version
    }

    /// What to compile for a device: machine code if the compiler knows it, else assembly of the newest older one that it knows.
    pub(crate) fn target(&self, arch: Arch, code: Code) -> Result<(Code, Arch)> {
        if self.archs.contains(&arch.0) {
            return Ok((code, arch));
        }
        let older = self.archs.iter().copied().filter(|&a| a < arch.0).max();
        let what = || fail(format!("NVRTC {}.{} compiles for none of what sm_{} runs; update it", self.version.0, self.version.1, arch.0));
        older.map(|a| (Code::Ptx, Arch(a))).ok_or_else(what)
    }

    /// Compiles one specialisation of a kernel file. An error holds the compiler's log.
    pub(crate) fn compile(&self, source: &Source, arch: Arch, code: Code) -> Result<Vec<u8>> {
        let program = self.program(source)?;
        let options = source.options(arch, code).into_iter().map(text).collect::<Result<Vec<_>>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: the program is alive, the options are terminated strings that outlive the call.
        let status = unsafe { (self.compile)(program.handle, pointers.len() as c_int, pointers.as_ptr()) };
        if status != 0 {
            let log = program.bytes(self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).trim_end_matches(['\0', '\n']).to_owned();
            return Err(fail(format!("cannot compile kernels/{}.cu ({}): {}\n{log}", source.stem, source.label, self.words(status))));
        }
        let mut bytes = program.bytes(if code == Code::Cubin { self.cubin } else { self.ptx })?;
        if code == Code::Ptx && bytes.last() != Some(&0) {
            bytes.push(0); // the driver takes assembly as a terminated string
        }
        Ok(bytes)
    }

    fn program(&self, source: &Source) -> Result<Compiling<'_>> {
        let (main, name) = (text(source.main.to_owned())?, text(format!("{}.cu", source.stem))?);
        let names = source.headers.iter().map(|(n, _)| text((*n).to_owned())).collect::<Result<Vec<_>>>()?;
        let texts = source.headers.iter().map(|(_, t)| text(t.clone())).collect::<Result<Vec<_>>>()?;
        let names: Vec<_> = names.iter().map(|n| n.as_ptr()).collect::<Vec<_>>();
        let pointers: Vec<_> = texts.iter().map(|t| t.as_ptr()).collect();
        let mut handle = std::ptr::null_mut();
        // SAFETY: all strings are terminated, outlive the call, and are copied by it.
        let status = unsafe {
            (self.create)(&raw mut handle, main.as_ptr(), name.as_ptr(), names.len() as c_int, pointers.as_ptr(), names.as_ptr())
        };
        if status == 0 { Ok(Compiling { nvrtc: self, handle }) } else { Err(fail(format!("NVRTC: {}", self.words(status)))) }
    }

    fn words(&self, status: Status) -> String {
        // SAFETY: NVRTC gives a static string for every number.
        unsafe { CStr::from_ptr((self.message)(status)) }.to_string_lossy().into_owned()
    }
}

/// A program of the compiler, destroyed when it goes.
struct Compiling<'a> {
    nvrtc: &'a Nvrtc,
    handle: Program,
}

impl Compiling<'_> {
    fn bytes(&self, (size, get): (Size, Get)) -> Result<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the program is alive; the pointer is to a local.
        let sized = unsafe { size(self.handle, &raw mut length) };
        let mut bytes = vec![0u8; length];
        // SAFETY: the buffer is as long as NVRTC asked for.
        let got = if sized == 0 { unsafe { get(self.handle, bytes.as_mut_ptr().cast()) } } else { sized };
        if got == 0 { Ok(bytes) } else { Err(fail(format!("NVRTC: {}", self.nvrtc.words(got)))) }
    }
}

impl Drop for Compiling<'_> {
    fn drop(&mut self) {
        // SAFETY: created in `program`, destroyed once.
        unsafe { (self.nvrtc.destroy)(&raw mut self.handle) };
    }
}

/// Everything that the result of compiling depends on, the target apart.
pub(crate) struct Source {
    pub(crate) stem: &'static str,
    /// The definitions, for messages.
    label: String,
    main: &'static str,
    headers: Vec<(&'static str, String)>,
    defines: Vec<String>,
}

impl Source {
    /// Of the file of `key` under its definitions.
    pub(crate) fn new(key: &KernelKey) -> Self {
        let mut headers: Vec<(&'static str, String)> = HEADERS.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        headers.push(("params.cuh", key.file.params_header()));
        let defines: Vec<String> = key.defines.iter().map(|(name, value)| format!("-D{name}={value}")).collect();
        Self { stem: key.file.stem, label: key.to_string(), main: key.file.text, headers, defines }
    }

    /// Options of the compiler, in their order.
    pub(crate) fn options(&self, arch: Arch, code: Code) -> Vec<String> {
        let target = match code {
            Code::Cubin => format!("--gpu-architecture=sm_{}", arch.0),
            Code::Ptx => format!("--gpu-architecture=compute_{}", arch.0),
        };
        let fixed = ["--std=c++17", "-default-device", "--generate-line-info"].map(str::to_owned);
        [target].into_iter().chain(fixed).chain(self.defines.iter().cloned()).collect()
    }

    /// The texts that are compiled: the file and all headers, with their names.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        [(self.stem, self.main)].into_iter().chain(self.headers.iter().map(|(name, text)| (*name, text.as_str())))
    }
}

fn open(name: &std::ffi::OsStr) -> Result<Library, libloading::Error> {
    // SAFETY: initialising NVRTC has no effect on the rest of the process.
    unsafe { Library::new(name) }
}

/// Major and minor version of NVRTC.
fn version(library: &Library) -> Result<(i32, i32), libloading::Error> {
    type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the type is that of nvrtc.h, the same in all versions; the pointers are to locals.
    unsafe { library.get::<Version>(b"nvrtcVersion\0")?(&raw mut major, &raw mut minor) };
    Ok((major, minor))
}

fn text(text: String) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Graph("a kernel's text or definition holds a zero byte".into()))
}

fn fail(what: String) -> Error {
    Error::Device { device: "cuda".into(), what }
}

fn missing() -> Error {
    let what = "NVRTC, the run-time compiler of CUDA 12, was not found. Install it (package `cuda-nvrtc` of the toolkit, or the Python package \
                `nvidia-cuda-nvrtc-cu12`) and give its library with --nvrtc, or use --device cpu";
    fail(what.into())
}

/// The compiler, loaded when the first kernel is needed.
pub(super) struct Lazy {
    path: Option<std::path::PathBuf>,
    loaded: OnceLock<Result<Nvrtc, String>>,
}

impl Lazy {
    pub(super) fn new(path: Option<std::path::PathBuf>) -> Self {
        Self { path, loaded: OnceLock::new() }
    }

    pub(super) fn get(&self) -> Result<&Nvrtc> {
        let loaded = self.loaded.get_or_init(|| {
            Nvrtc::load(self.path.as_deref()).map_err(|e| match e {
                Error::Device { what, .. } => what,
                other => other.to_string(),
            })
        });
        loaded.as_ref().map_err(|what| fail(what.clone()))
    }
}
