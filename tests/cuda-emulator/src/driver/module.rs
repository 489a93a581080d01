//! Modules: PTX text. Machine code for a real device is refused.

use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::{exports, put, put_if_wanted, report, string};
use crate::Module;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{Arc, PoisonError, RwLock};

/// A module that a context loaded; `code` is empty once it is unloaded, and work that still comes to it is an error.
pub(super) struct Loaded {
    pub(super) context: Handle,
    pub(super) code: RwLock<Option<Module>>,
}

/// Images that are not PTX, by their first bytes: ELF (cubin), fat binaries and their wrapper.
const MACHINE_CODE: [[u8; 4]; 3] = [*b"\x7fELF", 0xba55_ed50_u32.to_le_bytes(), 0x4662_43b1_u32.to_le_bytes()];

/// The PTX version that a driver of a CUDA version still takes ("PTX ISA", release notes), both times ten.
const PTX_OF_CUDA: [(i32, u32); 13] = [
    (13000, 90),
    (12090, 88),
    (12080, 87),
    (12070, 86),
    (12050, 85),
    (12040, 84),
    (12030, 83),
    (12020, 82),
    (12010, 81),
    (12000, 80),
    (11080, 78),
    (11040, 74),
    (11000, 70),
];

impl Driver {
    /// Loads PTX; an error comes with the words of the log.
    fn load(&mut self, context: Handle, ptx: &str) -> Result<Handle, (Status, String)> {
        let newest = PTX_OF_CUDA.iter().find(|row| row.0 <= self.config.driver_version).map_or(0, |row| row.1);
        if let Some(version) = ptx_version(ptx).filter(|version| *version > newest) {
            let text = format!("PTX is of version {}.{}, the driver takes {}.{}", version / 10, version % 10, newest / 10, newest % 10);
            return Err((Status::UNSUPPORTED_PTX_VERSION, text));
        }
        let device = self.device_of(context).map_err(|status| (status, String::new()))?;
        let mut module = Module::parse(ptx).map_err(|fault| (Status::INVALID_PTX, fault.to_string()))?;
        if module.target() > device.model.arch {
            let text = format!("PTX is for sm_{}, the device is sm_{}", module.target(), device.model.arch);
            return Err((Status::INVALID_PTX, text));
        }
        module.load(&device.memory).map_err(|fault| (Status::from(fault.kind), fault.to_string()))?;
        Ok(self.modules.insert(Arc::new(Loaded { context, code: RwLock::new(Some(module)) })))
    }

    /// # Safety
    /// `image` is null, machine code, or a C string.
    unsafe fn load_image(&mut self, image: *const c_void) -> Result<Handle, (Status, String)> {
        let context = self.context().map_err(|status| (status, String::new()))?;
        self.may_wait("cuModuleLoadData").map_err(|status| (status, String::new()))?;
        if image.is_null() {
            return Err((Status::INVALID_VALUE, "no image".to_owned()));
        }
        // SAFETY: PTX has more than three characters before its end, and machine code has a header.
        let bytes = unsafe { CStr::from_ptr(image.cast()) }.to_bytes();
        if MACHINE_CODE.iter().any(|magic| bytes.starts_with(magic)) {
            let text =
                "the image is machine code (cubin or fat binary); the emulator runs PTX text only: compile for a virtual architecture";
            return Err((Status::NO_BINARY_FOR_GPU, text.to_owned()));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| (Status::INVALID_IMAGE, "the image is not text".to_owned()))?;
        self.load(context, text)
    }

    /// Frees a module and what belongs to it.
    pub(super) fn unload(&mut self, module: Handle, device: usize) -> Answer {
        let loaded = self.modules.remove(module)?;
        self.functions.retain(|record| !Arc::ptr_eq(&record.of.module, &loaded));
        let code = loaded.code.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut code) = code {
            code.unload(&self.devices[device].memory).map_err(|fault| self.refused(&fault))?;
        }
        Ok(())
    }

    fn unload_current(&mut self, module: Handle) -> Answer {
        self.may_wait("cuModuleUnload")?;
        let context = self.modules.get(module)?.context;
        let device = self.contexts.get(context)?.device;
        self.unload(module, device)?;
        self.sound(context)
    }
}

/// `.version 8.7` as 87.
fn ptx_version(ptx: &str) -> Option<u32> {
    let line = ptx.lines().find_map(|line| line.trim_start().strip_prefix(".version"))?;
    let (major, minor) = line.trim().split_once('.')?;
    Some(major.parse::<u32>().ok()? * 10 + minor.trim().parse::<u32>().ok()?)
}

fn told((status, text): (Status, String)) -> Status {
    if !text.is_empty() {
        report::fault(&text);
    }
    status
}

/// Writes `text` to the error log of `cuModuleLoadDataEx`, if the options name one.
///
/// # Safety
/// The arrays have `count` elements, and buffer and size are as the API says.
unsafe fn log(text: &str, count: c_uint, options: *const c_int, values: *const *mut c_void) {
    const ERROR_LOG_BUFFER: c_int = 5;
    const ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;
    let value = |wanted: c_int| {
        // SAFETY: `n` is below the length of both arrays.
        (0..count as usize).find(|n| unsafe { *options.add(*n) } == wanted).map(|n| unsafe { *values.add(n) })
    };
    if let (Some(buffer), Some(size)) = (value(ERROR_LOG_BUFFER), value(ERROR_LOG_BUFFER_SIZE_BYTES))
        && !buffer.is_null()
        && size as usize > 0
    {
        let kept = text.len().min(size as usize - 1);
        // SAFETY: the buffer has as many bytes as the other option says.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), kept);
            buffer.cast::<u8>().add(kept).write(0);
        }
    }
}

exports! {
    fn cuModuleLoadData(out: *mut Handle, image: *const c_void) |d| {
        // SAFETY: the caller's pointers, by the contract of the C API; so in every function below.
        let module = unsafe { d.load_image(image) }.map_err(told)?;
        unsafe { put(out, module) }
    }
    fn cuModuleLoadDataEx(
        out: *mut Handle, image: *const c_void, count: c_uint, options: *const c_int, values: *const *mut c_void,
    ) |d| {
        let loaded = unsafe { d.load_image(image) };
        if let Err((_, text)) = &loaded {
            unsafe { log(text, count, options, values) };
        }
        unsafe { put(out, loaded.map_err(told)?) }
    }
    fn cuModuleLoad(out: *mut Handle, file: *const c_char) |d| {
        let context = d.context()?;
        d.may_wait("cuModuleLoad")?;
        let file = unsafe { string(file) }?;
        let ptx = std::fs::read(&file).map_err(|_| Status::FILE_NOT_FOUND)?;
        let ptx = String::from_utf8(ptx).map_err(|_| told((Status::NO_BINARY_FOR_GPU, format!("{file} is not PTX text"))))?;
        let module = d.load(context, &ptx).map_err(told)?;
        unsafe { put(out, module) }
    }
    fn cuModuleUnload(module: Handle) |d| { d.unload_current(module) }
    fn cuModuleGetGlobal_v2(address: *mut u64, bytes: *mut usize, module: Handle, name: *const c_char) |d| {
        let name = unsafe { string(name) }?;
        let loaded = d.modules.get(module)?.clone();
        d.sound(loaded.context)?;
        let code = loaded.code.read().unwrap_or_else(PoisonError::into_inner);
        let found = code.as_ref().and_then(|code| code.variables().iter().find(|v| v.name == name)).ok_or(Status::NOT_FOUND)?;
        unsafe {
            put_if_wanted(address, found.address);
            put_if_wanted(bytes, found.size as usize);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_ptx() {
        assert_eq!(ptx_version("//\n// text\n\n.version 8.7\n.target sm_80"), Some(87));
        assert_eq!(ptx_version(".version   7.0 "), Some(70));
        assert_eq!(ptx_version("nothing"), None);
    }
}
