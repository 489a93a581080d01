//! Devices, versions, and the names of statuses.

use super::attributes::attribute;
use super::status::Status;
use super::{exports, put, report};
use std::ffi::{c_char, c_int, c_uint};

exports! {
    [early] fn cuInit(flags: c_uint) |d| {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        if let Some(why) = &d.misconfigured {
            report::fault(why);
            return Err(Status::INVALID_VALUE);
        }
        if d.devices.is_empty() {
            return Err(Status::NO_DEVICE);
        }
        d.initialised = true;
        Ok(())
    }
    [early] fn cuDriverGetVersion(out: *mut c_int) |d| {
        // SAFETY: the caller's pointer, by the contract of the C API; so in every function below.
        unsafe { put(out, d.config.driver_version) }
    }
    [early] fn cuGetErrorName(status: Status, out: *mut *const c_char) |_d| {
        let name = status.name();
        unsafe { put(out, name.map_or(std::ptr::null(), |name| name.as_ptr())) }?;
        name.map(|_| ()).ok_or(Status::INVALID_VALUE)
    }
    [early] fn cuGetErrorString(status: Status, out: *mut *const c_char) |_d| {
        let text = status.text();
        unsafe { put(out, text.map_or(std::ptr::null(), |text| text.as_ptr())) }?;
        text.map(|_| ()).ok_or(Status::INVALID_VALUE)
    }
    fn cuDeviceGet(out: *mut c_int, ordinal: c_int) |d| {
        d.device(ordinal)?;
        unsafe { put(out, ordinal) }
    }
    fn cuDeviceGetCount(out: *mut c_int) |d| {
        unsafe { put(out, d.devices.len() as c_int) }
    }
    fn cuDeviceGetName(out: *mut c_char, size: c_int, device: c_int) |d| {
        // nobody shall take what is measured here for figures of the device itself
        let name = format!("{} (emulated)", d.device(device)?.model.name);
        if out.is_null() || size < 1 {
            return Err(Status::INVALID_VALUE);
        }
        let kept = name.len().min(size as usize - 1);
        unsafe {
            std::ptr::copy_nonoverlapping(name.as_ptr(), out.cast(), kept);
            out.add(kept).write(0);
        }
        Ok(())
    }
    fn cuDeviceGetUuid(out: *mut [u8; 16], device: c_int) |d| {
        d.device(device)?;
        unsafe { put(out, uuid(device)) }
    }
    fn cuDeviceGetUuid_v2(out: *mut [u8; 16], device: c_int) |d| {
        d.device(device)?;
        unsafe { put(out, uuid(device)) }
    }
    fn cuDeviceTotalMem_v2(out: *mut usize, device: c_int) |d| {
        let bytes = d.device(device)?.model.memory_bytes;
        unsafe { put(out, bytes as usize) }
    }
    fn cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, device: c_int) |d| {
        let arch = d.device(device)?.model.arch as c_int;
        unsafe {
            put(major, arch / 10)?;
            put(minor, arch % 10)
        }
    }
    fn cuDeviceGetAttribute(out: *mut c_int, which: c_int, device: c_int) |d| {
        let pools = d.config.memory_pools;
        let value = attribute(&d.device(device)?.model, which, device, pools)?;
        unsafe { put(out, value) }
    }
    fn cuDeviceGetByPCIBusId(out: *mut c_int, text: *const c_char) |d| {
        let text = unsafe { super::string(text) }?;
        let found = (0..d.devices.len() as c_int).find(|n| text.eq_ignore_ascii_case(&bus_id(*n)));
        unsafe { put(out, found.ok_or(Status::INVALID_DEVICE)?) }
    }
    fn cuDeviceGetPCIBusId(out: *mut c_char, size: c_int, device: c_int) |d| {
        d.device(device)?;
        let id = bus_id(device);
        if out.is_null() || (size as usize) <= id.len() {
            return Err(Status::INVALID_VALUE);
        }
        unsafe {
            std::ptr::copy_nonoverlapping(id.as_ptr(), out.cast(), id.len());
            out.add(id.len()).write(0);
        }
        Ok(())
    }
    fn cuDeviceCanAccessPeer(out: *mut c_int, device: c_int, peer: c_int) |d| {
        d.device(device)?;
        d.device(peer)?;
        unsafe { put(out, 0) }
    }
    fn cuProfilerStart() |d| { d.context().map(|_| ()) }
    fn cuProfilerStop() |d| { d.context().map(|_| ()) }
}

/// Recognisable, and different for each device.
fn uuid(device: c_int) -> [u8; 16] {
    let mut id = *b"cuda-emulator\0\0\0";
    id[15] = device as u8;
    id
}

fn bus_id(device: c_int) -> String {
    format!("0000:{:02x}:00.0", device + 1)
}
