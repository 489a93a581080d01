//! Contexts: primary ones, counted by their users, and those that a program makes for itself.

use super::calls::Wait;
use super::state::{Driver, with_stack};
use super::status::{Answer, Status};
use super::stream::Stream;
use super::table::Handle;
use super::{exports, put, put_if_wanted, report};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{c_int, c_uint, c_void};
use std::thread::ThreadId;

/// One context.
pub(super) struct Context {
    pub(super) device: usize,
    primary: bool,
    flags: c_uint,
    cache_config: c_int,
    limits: BTreeMap<c_int, usize>,
    /// The status that every call gives once a fault has happened.
    pub(super) poison: Option<Status>,
    /// The stream at handles 0 and 1.
    pub(super) legacy: Handle,
    /// The streams at handle 2.
    pub(super) per_thread: HashMap<ThreadId, Handle>,
}

impl Driver {
    fn new_context(&mut self, device: usize, primary: bool, flags: c_uint) -> Handle {
        // CUDA's own defaults (cuCtxGetLimit): stack, printf buffer, device heap, L2 fetch granularity.
        let limits = BTreeMap::from([(0, 1024), (1, 1 << 20), (2, 8 << 20), (5, 64)]);
        let per_thread = HashMap::new();
        let context = Context { device, primary, flags, cache_config: 0, limits, poison: None, legacy: 0, per_thread };
        let handle = self.contexts.insert(context);
        let legacy = self.streams.insert(Stream::legacy(handle));
        if let Ok(context) = self.contexts.get_mut(handle) {
            context.legacy = legacy;
        }
        handle
    }

    /// Ends a context: its pending work runs, then all that it owns goes.
    fn end_context(&mut self, handle: Handle) -> Answer {
        self.calls.wait("cuCtxDestroy", Wait::Always);
        let ran = self.synchronise(handle);
        self.tally.write();
        let ordinal = self.contexts.remove(handle)?.device;
        self.ended.insert(handle);
        self.streams.retain(|stream| stream.context != handle);
        self.events.retain(|event| event.context != handle);
        self.functions.retain(|function| function.of.context != handle);
        self.execs.retain(|exec| exec.context != handle);
        self.captures.retain(|capture| capture.context != handle);
        self.pinned.retain(|_, pinned| pinned.context != handle);
        let modules: Vec<Handle> = self.modules.iter().filter(|(_, m)| m.context == handle).map(|(h, _)| h).collect();
        for module in modules {
            self.unload(module, ordinal)?;
        }
        let device = self.devices.get_mut(ordinal).ok_or(Status::INVALID_DEVICE)?;
        let owned: Vec<u64> = device.owned.iter().filter(|(_, owned)| owned.context == handle).map(|(address, _)| *address).collect();
        for address in owned {
            device.owned.remove(&address);
            if let Err(fault) = device.memory.free(address) {
                report::fault(&fault.to_string());
            }
        }
        // What failed in the context went with it; only its user may still want to know.
        if let Err(status) = ran {
            report::line(&format!("a context ended after status {}", status.0));
        }
        Ok(())
    }

    fn retain_primary(&mut self, ordinal: c_int) -> Answer<Handle> {
        if let Some(status) = self.lost {
            return Err(status);
        }
        let primary = self.device(ordinal)?.primary;
        let context = primary.unwrap_or_else(|| self.new_context(ordinal as usize, true, 0));
        let device = self.device(ordinal)?;
        device.primary = Some(context);
        device.primary_users += 1;
        Ok(context)
    }

    fn release_primary(&mut self, ordinal: c_int) -> Answer {
        let device = self.device(ordinal)?;
        device.primary_users = device.primary_users.checked_sub(1).ok_or(Status::INVALID_CONTEXT)?;
        if device.primary_users > 0 { Ok(()) } else { self.reset_primary(ordinal) }
    }

    /// Ends the primary context whoever uses it. They still have to release it; until then the next to retain it gets a new one.
    fn reset_primary(&mut self, ordinal: c_int) -> Answer {
        let primary = self.device(ordinal)?.primary.take();
        primary.map_or(Ok(()), |context| self.end_context(context))
    }

    fn make_current(&mut self, device: c_int, flags: c_uint) -> Answer<Handle> {
        if let Some(status) = self.lost {
            return Err(status);
        }
        self.device(device)?;
        let context = self.new_context(device as usize, false, flags);
        with_stack(|stack| stack.push(context));
        Ok(context)
    }
}

exports! {
    fn cuDevicePrimaryCtxRetain(out: *mut Handle, device: c_int) |d| {
        let context = d.retain_primary(device)?;
        // SAFETY: the caller's pointer, by the contract of the C API; so in every function below.
        unsafe { put(out, context) }
    }
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) |d| { d.release_primary(device) }
    fn cuDevicePrimaryCtxRelease(device: c_int) |d| { d.release_primary(device) }
    fn cuDevicePrimaryCtxReset_v2(device: c_int) |d| { d.reset_primary(device) }
    fn cuDevicePrimaryCtxReset(device: c_int) |d| { d.reset_primary(device) }
    fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) |d| {
        let primary = d.device(device)?.primary;
        let found = primary.map(|context| d.contexts.get(context)).transpose()?;
        unsafe {
            put_if_wanted(flags, found.map_or(0, |context| context.flags));
            put_if_wanted(active, c_int::from(found.is_some()));
        }
        Ok(())
    }
    fn cuDevicePrimaryCtxSetFlags_v2(device: c_int, flags: c_uint) |d| {
        let primary = d.device(device)?.primary;
        if let Some(context) = primary {
            d.contexts.get_mut(context)?.flags = flags;
        }
        Ok(())
    }
    fn cuCtxCreate_v2(out: *mut Handle, flags: c_uint, device: c_int) |d| {
        let context = d.make_current(device, flags)?;
        unsafe { put(out, context) }
    }
    fn cuCtxCreate_v3(out: *mut Handle, _affinity: *mut c_void, _count: c_int, flags: c_uint, device: c_int) |d| {
        let context = d.make_current(device, flags)?;
        unsafe { put(out, context) }
    }
    fn cuCtxCreate_v4(out: *mut Handle, parameters: *mut c_void, flags: c_uint, device: c_int) |d| {
        if !parameters.is_null() {
            return d.refuse(Status::NOT_SUPPORTED, "cuCtxCreate_v4: affinity and graphics parameters are not emulated");
        }
        let context = d.make_current(device, flags)?;
        unsafe { put(out, context) }
    }
    fn cuCtxDestroy_v2(context: Handle) |d| {
        if d.contexts.get(context)?.primary {
            return Err(Status::INVALID_CONTEXT);
        }
        with_stack(|stack| stack.pop_if(|top| *top == context));
        d.end_context(context)
    }
    fn cuCtxPushCurrent_v2(context: Handle) |d| {
        d.contexts.get(context)?;
        with_stack(|stack| stack.push(context));
        Ok(())
    }
    fn cuCtxPopCurrent_v2(out: *mut Handle) |d| {
        let top = d.current_context().ok_or(Status::INVALID_CONTEXT)?;
        with_stack(|stack| stack.pop());
        unsafe { put_if_wanted(out, top) };
        Ok(())
    }
    fn cuCtxSetCurrent(context: Handle) |d| {
        if context != 0 {
            d.exists(context)?;
        }
        with_stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }
    fn cuCtxGetCurrent(out: *mut Handle) |d| {
        unsafe { put(out, d.current_context().unwrap_or(0)) }
    }
    fn cuCtxGetDevice(out: *mut c_int) |d| {
        let context = d.current_context().ok_or(Status::INVALID_CONTEXT)?;
        unsafe { put(out, d.contexts.get(context)?.device as c_int) }
    }
    fn cuCtxGetFlags(out: *mut c_uint) |d| {
        let context = d.context()?;
        unsafe { put(out, d.contexts.get(context)?.flags) }
    }
    fn cuCtxSetFlags(flags: c_uint) |d| {
        let context = d.context()?;
        d.contexts.get_mut(context)?.flags = flags;
        Ok(())
    }
    fn cuCtxGetId(context: Handle, out: *mut u64) |d| {
        let context = if context == 0 { d.context()? } else { context };
        d.contexts.get(context)?;
        unsafe { put(out, context as u64) }
    }
    fn cuCtxGetApiVersion(_context: Handle, out: *mut c_uint) |d| {
        unsafe { put(out, d.config.driver_version as c_uint) }
    }
    fn cuCtxSynchronize() |d| {
        let context = d.context()?;
        d.calls.wait("cuCtxSynchronize", Wait::Always);
        d.forbid_while_capturing(context, "cuCtxSynchronize")?;
        let done = d.synchronise(context);
        d.tally.write();
        done
    }
    fn cuCtxGetLimit(out: *mut usize, limit: c_int) |d| {
        let context = d.context()?;
        let value = d.contexts.get(context)?.limits.get(&limit).copied().ok_or(Status::UNSUPPORTED_LIMIT)?;
        unsafe { put(out, value) }
    }
    fn cuCtxSetLimit(limit: c_int, value: usize) |d| {
        let context = d.context()?;
        *d.contexts.get_mut(context)?.limits.get_mut(&limit).ok_or(Status::UNSUPPORTED_LIMIT)? = value;
        Ok(())
    }
    fn cuCtxGetCacheConfig(out: *mut c_int) |d| {
        let context = d.context()?;
        unsafe { put(out, d.contexts.get(context)?.cache_config) }
    }
    fn cuCtxSetCacheConfig(config: c_int) |d| {
        let context = d.context()?;
        d.contexts.get_mut(context)?.cache_config = config;
        Ok(())
    }
    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) |d| {
        d.context()?;
        // The range of both emulated devices.
        unsafe {
            put_if_wanted(least, 0);
            put_if_wanted(greatest, -5);
        }
        Ok(())
    }
}
