//! Device memory: allocation, release, what is free and who owns an address.

use super::calls::Wait;
use super::state::{Driver, Owned};
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::Work;
use super::{exports, put, put_if_wanted, report};
use crate::{Fault, FaultKind};
use std::ffi::{c_int, c_void};

impl Driver {
    /// Allocates in the memory of a context's device. When it is full, pending releases are run first, as the driver's pools do.
    pub(super) fn alloc(&mut self, context: Handle, bytes: u64, pool: Option<Handle>) -> Answer<u64> {
        let ordinal = self.contexts.get(context)?.device;
        let mut made = self.devices[ordinal].memory.alloc(bytes);
        if matches!(&made, Err(fault) if fault.kind == FaultKind::OutOfMemory) && self.pending(|work| matches!(work, Work::Free { .. })) {
            self.drain_device(ordinal)?;
            made = self.devices[ordinal].memory.alloc(bytes);
        }
        let address = made.map_err(|fault| self.refused(&fault))?;
        self.devices[ordinal].owned.insert(address, Owned { context, bytes, pool });
        if let Some(pool) = pool {
            let pool = self.pools.get_mut(pool)?;
            pool.used += bytes;
            pool.used_high = pool.used_high.max(pool.used);
        }
        Ok(address)
    }

    /// The device on which an allocation starts at that address. Devices share one address space, so the address alone says it.
    pub(super) fn home(&self, address: u64) -> Option<usize> {
        self.devices.iter().position(|device| device.owned.contains_key(&address))
    }

    /// Tells a fault that leaves the context sound.
    pub(super) fn refused(&self, fault: &Fault) -> Status {
        report::fault(&fault.to_string());
        Status::from(fault.kind)
    }

    /// Checks, when it is enqueued, that a range lies in one allocation of a device.
    pub(super) fn in_bounds(&self, context: Handle, address: u64, bytes: u64) -> Answer {
        let device = &self.devices[self.contexts.get(context)?.device];
        let end = device.memory.allocation(address).map(|(start, size)| start + size);
        if bytes == 0 || end.is_some_and(|end| bytes <= end - address) {
            return Ok(());
        }
        let why = format!("{bytes} bytes at device address {address:#x} do not lie in one allocation{}", beyond(end, address));
        self.refuse(Status::INVALID_VALUE, &why)
    }

    /// `cuMemFree`: waits for the whole device, unless the memory is stream-ordered, for which waiting is the caller's business.
    fn free_now(&mut self, address: u64) -> Answer {
        let context = self.context()?;
        self.forbid_unsafe_call("cuMemFree")?;
        if address == 0 {
            return Ok(());
        }
        let home = self.home(address).ok_or(Status::INVALID_VALUE)?;
        if self.devices[home].owned.get(&address).is_some_and(|owned| owned.pool.is_none()) {
            self.calls.wait("cuMemFree", Wait::Always);
            self.drain_device(home)?;
        }
        self.perform(context, &Work::Free { address })
    }
}

fn beyond(end: Option<u64>, address: u64) -> String {
    end.map_or_else(String::new, |end| format!(" (it ends after {})", end - address))
}

exports! {
    fn cuMemAlloc_v2(out: *mut u64, bytes: usize) |d| {
        let context = d.context()?;
        d.may_wait("cuMemAlloc")?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let address = d.alloc(context, bytes as u64, None)?;
        // SAFETY: the caller's pointer, by the contract of the C API; so in every function below.
        unsafe { put(out, address) }
    }
    fn cuMemFree_v2(address: u64) |d| { d.free_now(address) }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) |d| {
        let context = d.context()?;
        let memory = &d.device_of(context)?.memory;
        unsafe {
            put(free, (memory.capacity() - memory.used()) as usize)?;
            put(total, memory.capacity() as usize)
        }
    }
    fn cuMemGetAddressRange_v2(start: *mut u64, bytes: *mut usize, address: u64) |d| {
        let context = d.context()?;
        let (found, size) = d.device_of(context)?.memory.allocation(address).ok_or(Status::NOT_FOUND)?;
        unsafe {
            put_if_wanted(start, found);
            put_if_wanted(bytes, size as usize);
        }
        Ok(())
    }
    fn cuPointerGetAttribute(out: *mut c_void, which: c_int, address: u64) |d| {
        let context = d.context()?;
        let device = d.contexts.get(context)?.device;
        let found = d.devices[device].memory.allocation(address);
        let owner = found.and_then(|(start, _)| d.devices[device].owned.get(&start)).map(|owned| owned.context);
        if found.is_none() && !d.is_pinned(address as usize, 1) {
            return Err(Status::INVALID_VALUE);
        }
        let (start, size) = found.unwrap_or((address, 0));
        unsafe {
            match which {
                1 => put(out.cast(), owner.unwrap_or(context)),
                2 => put(out.cast(), if found.is_some() { 2u32 } else { 1u32 }),
                3 if found.is_some() => put(out.cast(), address),
                4 if found.is_none() => put(out.cast(), address),
                8 => put(out.cast(), 0u8),
                9 => put(out.cast(), device as c_int),
                11 => put(out.cast(), start),
                12 => put(out.cast(), size),
                _ => Err(Status::INVALID_VALUE),
            }
        }
    }
}
