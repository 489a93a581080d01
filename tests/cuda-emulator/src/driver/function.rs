//! Kernels of loaded modules, and their attributes.

use super::module::Loaded;
use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::{exports, put, string};
use crate::Entry;
use std::ffi::{c_char, c_int};
use std::sync::{Arc, PoisonError};

/// A kernel.
pub(super) struct Function {
    pub(super) context: Handle,
    pub(super) module: Arc<Loaded>,
    pub(super) entry: Entry,
}

/// What a handle to a kernel names, and what was set for it.
pub(super) struct FunctionRecord {
    pub(super) of: Arc<Function>,
    /// The most dynamic shared memory that a launch may ask for.
    pub(super) max_dynamic_shared: u32,
    carveout: c_int,
}

impl Driver {
    fn function(&mut self, module: Handle, name: &str) -> Answer<Handle> {
        let loaded = self.modules.get(module)?.clone();
        self.sound(loaded.context)?;
        let known = |record: &FunctionRecord| Arc::ptr_eq(&record.of.module, &loaded) && record.of.entry.name == name;
        if let Some((handle, _)) = self.functions.iter().find(|(_, record)| known(record)) {
            return Ok(handle);
        }
        let code = loaded.code.read().unwrap_or_else(PoisonError::into_inner);
        let entry = code.as_ref().and_then(|code| code.entry(name)).cloned().ok_or(Status::NOT_FOUND)?;
        drop(code);
        let limit = self.device_of(loaded.context)?.model.max_shared_per_block;
        let max_dynamic_shared = limit.saturating_sub(entry.shared_bytes);
        let of = Arc::new(Function { context: loaded.context, module: loaded, entry });
        Ok(self.functions.insert(FunctionRecord { of, max_dynamic_shared, carveout: -1 }))
    }

    fn function_attribute(&mut self, function: Handle, which: c_int) -> Answer<c_int> {
        let record = self.functions.get(function)?;
        let (of, max_dynamic, carveout) = (record.of.clone(), record.max_dynamic_shared, record.carveout);
        let model = &self.device_of(of.context)?.model;
        let entry = &of.entry;
        let value = match which {
            0 => entry.max_threads.unwrap_or(model.max_threads_per_block).min(model.max_threads_per_block),
            1 => entry.shared_bytes,
            2 | 7 | 10..=15 => 0,
            3 => entry.local_bytes,
            4 => entry.registers,
            5 | 6 => model.arch,
            8 => max_dynamic,
            9 => return Ok(carveout),
            _ => return Err(Status::INVALID_VALUE),
        };
        Ok(value as c_int)
    }

    fn set_function_attribute(&mut self, function: Handle, which: c_int, value: c_int) -> Answer {
        let of = self.functions.get(function)?.of.clone();
        let limit = self.device_of(of.context)?.model.max_shared_per_block_optin.saturating_sub(of.entry.shared_bytes);
        let record = self.functions.get_mut(function)?;
        match which {
            8 => record.max_dynamic_shared = u32::try_from(value).ok().filter(|v| *v <= limit).ok_or(Status::INVALID_VALUE)?,
            9 if (-1..=100).contains(&value) => record.carveout = value,
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }
}

exports! {
    fn cuModuleGetFunction(out: *mut Handle, module: Handle, name: *const c_char) |d| {
        // SAFETY: the caller's pointers, by the contract of the C API; so in every function below.
        let name = unsafe { string(name) }?;
        let function = d.function(module, &name)?;
        unsafe { put(out, function) }
    }
    fn cuFuncGetAttribute(out: *mut c_int, which: c_int, function: Handle) |d| {
        let value = d.function_attribute(function, which)?;
        unsafe { put(out, value) }
    }
    fn cuFuncSetAttribute(function: Handle, which: c_int, value: c_int) |d| { d.set_function_attribute(function, which, value) }
    fn cuFuncSetCacheConfig(function: Handle, _config: c_int) |d| { d.functions.get(function).map(|_| ()) }
    fn cuFuncGetModule(out: *mut Handle, function: Handle) |d| {
        let module = d.functions.get(function)?.of.module.clone();
        let handle = d.modules.iter().find(|(_, m)| Arc::ptr_eq(m, &module)).map(|(handle, _)| handle);
        unsafe { put(out, handle.ok_or(Status::NOT_FOUND)?) }
    }
}
