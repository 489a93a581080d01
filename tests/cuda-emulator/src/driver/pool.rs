//! Stream-ordered memory: allocated at once, since its address is needed at once, but released when the stream comes to it.

use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::Work;
use super::{exports, put, report};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

/// A memory pool.
pub(super) struct Pool {
    device: usize,
    /// Bytes in use, and the most that there were.
    pub(super) used: u64,
    pub(super) used_high: u64,
    /// The attributes that only steer how a driver reuses memory: kept, and without effect.
    steering: BTreeMap<c_int, u64>,
}

/// `CUmemPoolProps` of CUDA 12: 88 bytes, of which the kind of allocation and the device count here.
#[repr(C)]
struct PoolProps {
    allocation: c_int,
    handles: c_int,
    location: c_int,
    device: c_int,
    rest: [u64; 9],
}

impl Pool {
    pub(super) fn new(device: usize) -> Self {
        Self { device, used: 0, used_high: 0, steering: BTreeMap::from([(1, 1), (2, 1), (3, 1), (4, 0)]) }
    }

    fn attribute(&self, which: c_int) -> Answer<u64> {
        match which {
            5 | 7 => Ok(self.used),
            6 | 8 => Ok(self.used_high),
            _ => self.steering.get(&which).copied().ok_or(Status::INVALID_VALUE),
        }
    }
}

impl Driver {
    fn alloc_async(&mut self, bytes: usize, pool: Option<Handle>, stream: Handle) -> Answer<u64> {
        let stream = self.stream(stream)?;
        if !self.config.memory_pools {
            return Err(Status::NOT_SUPPORTED);
        }
        self.forbid_in_capture(stream, "stream-ordered allocation")?;
        let context = self.streams.get(stream)?.context;
        let pool = match pool {
            Some(pool) => pool,
            None => self.device_of(context)?.current_pool,
        };
        self.pools.get(pool)?;
        if bytes == 0 { Ok(0) } else { self.alloc(context, bytes as u64, Some(pool)) }
    }

    fn free_async(&mut self, address: u64, stream: Handle) -> Answer {
        let stream = self.stream(stream)?;
        self.forbid_in_capture(stream, "stream-ordered release")?;
        if address == 0 {
            return Ok(());
        }
        if self.home(address).is_none() {
            return self.refuse(Status::INVALID_VALUE, &format!("cuMemFreeAsync: nothing was allocated at {address:#x}, or it was freed"));
        }
        self.enqueue(stream, Work::Free { address }).map(|_| ())
    }
}

exports! {
    fn cuMemAllocAsync(out: *mut u64, bytes: usize, stream: Handle) |d| {
        let address = d.alloc_async(bytes, None, stream)?;
        // SAFETY: the caller's pointer, by the contract of the C API; so in every function below.
        unsafe { put(out, address) }
    }
    fn cuMemAllocFromPoolAsync(out: *mut u64, bytes: usize, pool: Handle, stream: Handle) |d| {
        let address = d.alloc_async(bytes, Some(pool), stream)?;
        unsafe { put(out, address) }
    }
    fn cuMemFreeAsync(address: u64, stream: Handle) |d| { d.free_async(address, stream) }
    fn cuDeviceGetDefaultMemPool(out: *mut Handle, device: c_int) |d| {
        let pool = d.device(device)?.default_pool;
        unsafe { put(out, pool) }
    }
    fn cuDeviceGetMemPool(out: *mut Handle, device: c_int) |d| {
        let pool = d.device(device)?.current_pool;
        unsafe { put(out, pool) }
    }
    fn cuDeviceSetMemPool(device: c_int, pool: Handle) |d| {
        d.pools.get(pool)?;
        d.device(device)?.current_pool = pool;
        Ok(())
    }
    fn cuMemPoolCreate(out: *mut Handle, props: *const PoolProps) |d| {
        let props = unsafe { props.as_ref() }.ok_or(Status::INVALID_VALUE)?;
        // CU_MEM_ALLOCATION_TYPE_PINNED on CU_MEM_LOCATION_TYPE_DEVICE is the only kind that CUDA 12 documents for devices.
        if props.allocation != 1 || props.location != 1 {
            return Err(Status::INVALID_VALUE);
        }
        d.device(props.device)?;
        let pool = d.pools.insert(Pool::new(props.device as usize));
        unsafe { put(out, pool) }
    }
    fn cuMemPoolDestroy(pool: Handle) |d| {
        let found = d.pools.get(pool)?;
        if found.used > 0 {
            report::line(&format!("a pool with {} bytes in use was destroyed; they stay allocated", found.used));
        }
        let device = &mut d.devices[found.device];
        if device.default_pool == pool {
            return Err(Status::INVALID_VALUE);
        }
        if device.current_pool == pool {
            device.current_pool = device.default_pool;
        }
        d.pools.remove(pool).map(|_| ())
    }
    fn cuMemPoolTrimTo(pool: Handle, _keep: usize) |d| { d.pools.get(pool).map(|_| ()) }
    fn cuMemPoolSetAccess(pool: Handle, _access: *const c_void, _count: usize) |d| { d.pools.get(pool).map(|_| ()) }
    fn cuMemPoolGetAttribute(pool: Handle, which: c_int, value: *mut c_void) |d| {
        let found = d.pools.get(pool)?.attribute(which)?;
        // The first three attributes are ints, the others 64-bit.
        unsafe { if which <= 3 { put(value.cast(), found as c_int) } else { put(value.cast(), found) } }
    }
    fn cuMemPoolSetAttribute(pool: Handle, which: c_int, value: *const c_void) |d| {
        if value.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let given = unsafe { if which <= 3 { value.cast::<c_int>().read() as u64 } else { value.cast::<u64>().read() } };
        let pool = d.pools.get_mut(pool)?;
        match which {
            1..=4 => { pool.steering.insert(which, given); }
            6 | 8 if given == 0 => pool.used_high = pool.used,
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    }
}
