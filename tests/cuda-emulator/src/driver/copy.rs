//! Copies and fills.
//!
//! Pageable host memory is read before an upload returns and written before a download returns, as the API says; pinned memory is touched when
//! the work runs. For an upload from pageable memory a driver may make the host wait until its staging buffers have room: here it never does,
//! but the call is noted as one that may.

use super::calls::Wait;
use super::exports;
use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::Work;
use std::ffi::{c_uchar, c_uint, c_ushort, c_void};

impl Driver {
    /// Work that must be done before the call returns: refused during captures, run at once.
    fn now(&mut self, name: &str, stream: Handle, work: Work, bytes: usize) -> Answer {
        self.calls.copy(name, Wait::Always, bytes);
        self.forbid_unsafe_call(name)?;
        let ticket = self.enqueue(stream, work)?;
        self.run_until(stream, ticket)
    }

    fn upload(&mut self, to: u64, from: *const c_void, bytes: usize, stream: Option<Handle>) -> Answer {
        let on = self.stream(stream.unwrap_or(0))?;
        let context = self.streams.get(on)?.context;
        self.in_bounds(context, to, bytes as u64)?;
        if bytes == 0 {
            return Ok(());
        }
        if from.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        if stream.is_some() && self.is_pinned(from as usize, bytes) {
            let work = self.seen_now(on, Work::UploadPinned { from: from as usize, to, bytes, digest: None })?;
            return self.submit(on, work);
        }
        // SAFETY: the caller gives `bytes` readable bytes, by the contract of the C API.
        let work = Work::UploadStaged { from: unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) }.into(), to };
        if stream.is_none() {
            return self.now("cuMemcpyHtoD", on, work, bytes);
        }
        self.forbid_pageable(on)?;
        self.calls.copy("cuMemcpyHtoDAsync", Wait::May, bytes);
        self.enqueue(on, work).map(|_| ())
    }

    fn download(&mut self, to: *mut c_void, from: u64, bytes: usize, stream: Option<Handle>) -> Answer {
        let on = self.stream(stream.unwrap_or(0))?;
        let context = self.streams.get(on)?.context;
        self.in_bounds(context, from, bytes as u64)?;
        if bytes == 0 {
            return Ok(());
        }
        if to.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        let pinned = stream.is_some() && self.is_pinned(to as usize, bytes);
        let work = Work::Download { from, to: to as usize, bytes };
        if stream.is_none() {
            return self.now("cuMemcpyDtoH", on, work, bytes);
        }
        if !pinned {
            self.forbid_pageable(on)?;
            self.calls.copy("cuMemcpyDtoHAsync", Wait::Always, bytes);
            let ticket = self.enqueue(on, work)?;
            return self.run_until(on, ticket);
        }
        let work = self.seen_now(on, work)?;
        self.submit(on, work)
    }

    fn copy(&mut self, to: u64, from: u64, bytes: usize, stream: Option<Handle>) -> Answer {
        let on = self.stream(stream.unwrap_or(0))?;
        let context = self.streams.get(on)?.context;
        self.in_bounds(context, to, bytes as u64)?;
        self.in_bounds(context, from, bytes as u64)?;
        let work = Work::Copy { from, to, bytes: bytes as u64 };
        match stream {
            _ if bytes == 0 => Ok(()),
            Some(_) => self.submit(on, work),
            None => {
                self.may_wait("cuMemcpyDtoD")?;
                self.enqueue(on, work).map(|_| ())
            }
        }
    }

    fn peer(&mut self, to: (u64, Handle), from: (u64, Handle), bytes: usize, stream: Handle) -> Answer {
        let stream = self.stream(stream)?;
        self.in_bounds(to.1, to.0, bytes as u64)?;
        self.in_bounds(from.1, from.0, bytes as u64)?;
        let (from_device, to_device) = (self.contexts.get(from.1)?.device, self.contexts.get(to.1)?.device);
        self.submit(stream, Work::Peer { from: from.0, from_device, to: to.0, to_device, bytes })
    }

    /// `cuMemcpy`: the addresses say what they are.
    fn copy_anything(&mut self, to: u64, from: u64, bytes: usize, stream: Option<Handle>) -> Answer {
        let on = self.stream(stream.unwrap_or(0))?;
        let context = self.streams.get(on)?.context;
        let memory = &self.device_of(context)?.memory;
        match (memory.allocation(to).is_some(), memory.allocation(from).is_some()) {
            (true, true) => self.copy(to, from, bytes, stream),
            (true, false) => self.upload(to, from as *const c_void, bytes, stream),
            (false, true) => self.download(to as *mut c_void, from, bytes, stream),
            (false, false) => self.refuse(Status::INVALID_VALUE, "cuMemcpy: neither address is in device memory"),
        }
    }

    fn fill(&mut self, to: u64, pattern: &[u8], count: usize, stream: Option<Handle>) -> Answer {
        let on = self.stream(stream.unwrap_or(0))?;
        let context = self.streams.get(on)?.context;
        let width = pattern.len();
        if !to.is_multiple_of(width as u64) {
            return Err(Status::INVALID_VALUE);
        }
        self.in_bounds(context, to, (width * count) as u64)?;
        let mut padded = [0; 4];
        padded[..width].copy_from_slice(pattern);
        let work = Work::Fill { to, pattern: padded, width, count: count as u64 };
        match stream {
            _ if count == 0 => Ok(()),
            Some(_) => self.submit(on, work),
            None => {
                self.may_wait("cuMemset")?;
                self.enqueue(on, work).map(|_| ())
            }
        }
    }
}

exports! {
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) |d| { d.upload(to, from, bytes, None) }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) |d| { d.upload(to, from, bytes, Some(stream)) }
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) |d| { d.download(to, from, bytes, None) }
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) |d| { d.download(to, from, bytes, Some(stream)) }
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) |d| { d.copy(to, from, bytes, None) }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) |d| { d.copy(to, from, bytes, Some(stream)) }
    fn cuMemcpy(to: u64, from: u64, bytes: usize) |d| { d.copy_anything(to, from, bytes, None) }
    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) |d| { d.copy_anything(to, from, bytes, Some(stream)) }
    fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) |d| {
        d.may_wait("cuMemcpyPeer")?;
        d.peer((to, to_context), (from, from_context), bytes, 0)
    }
    fn cuMemcpyPeerAsync(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle) |d| {
        d.peer((to, to_context), (from, from_context), bytes, stream)
    }
    fn cuMemsetD8_v2(to: u64, value: c_uchar, count: usize) |d| { d.fill(to, &[value], count, None) }
    fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: Handle) |d| { d.fill(to, &[value], count, Some(stream)) }
    fn cuMemsetD16_v2(to: u64, value: c_ushort, count: usize) |d| { d.fill(to, &value.to_le_bytes(), count, None) }
    fn cuMemsetD16Async(to: u64, value: c_ushort, count: usize, stream: Handle) |d| { d.fill(to, &value.to_le_bytes(), count, Some(stream)) }
    fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) |d| { d.fill(to, &value.to_le_bytes(), count, None) }
    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: Handle) |d| { d.fill(to, &value.to_le_bytes(), count, Some(stream)) }
}
