//! Host memory that is pinned: the only host memory that copies may touch after the call that enqueued them.

use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::Work;
use super::{exports, put, put_if_wanted};
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{c_uint, c_void};

/// What fresh pinned memory and the targets of pending downloads hold: not-a-number in every float format.
const POISON: u8 = 0xff;
const PAGE: usize = 4096;

/// A pinned range.
pub(super) struct Pinned {
    pub(super) context: Handle,
    bytes: usize,
    flags: c_uint,
    /// How it was allocated; `None` for memory that the program registered.
    layout: Option<(usize, Layout)>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some((address, layout)) = self.layout {
            // SAFETY: allocated with this layout by `cuMemHostAlloc`, and freed only here.
            unsafe { dealloc(address as *mut u8, layout) };
        }
    }
}

/// A number that changes with the content (FNV-1a over words, then the rest).
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x100_0000_01b3);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| step(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, byte| step(hash, u64::from(*byte)))
}

impl Driver {
    /// Whether a host range lies in pinned memory.
    pub(super) fn is_pinned(&self, address: usize, bytes: usize) -> bool {
        self.pinned.range(..=address).next_back().is_some_and(|(start, pinned)| address + bytes <= start + pinned.bytes)
    }

    /// Prepares a copy of pinned memory that is enqueued now. In a capture nothing is known yet: launching the graph enqueues it.
    pub(super) fn seen_now(&self, stream: Handle, work: Work) -> Answer<Work> {
        let mut steps = [work];
        if self.streams.get(stream)?.capture.is_none() {
            self.watch(&mut steps);
        }
        let [work] = steps;
        Ok(work)
    }

    /// Prepares the copies of pinned memory among work that is about to be enqueued.
    ///
    /// The content of a source is noted, to be compared when the copy runs, and the target of a download is spoiled, so that nobody mistakes
    /// old content for new. Neither where other pending work, these steps included, writes or reads pinned memory itself.
    pub(super) fn watch(&self, steps: &mut [Work]) {
        let writes = |work: &Work| matches!(work, Work::Download { .. } | Work::Host { .. });
        let reads = |work: &Work| matches!(work, Work::UploadPinned { .. } | Work::Host { .. });
        let written = self.pending(writes) || steps.iter().any(writes);
        let read = self.pending(reads) || steps.iter().any(reads);
        for work in steps {
            match work {
                Work::UploadPinned { from, bytes, digest: seen, .. } if !written => {
                    // SAFETY: the range was found to be pinned.
                    *seen = Some(digest(unsafe { std::slice::from_raw_parts(*from as *const u8, *bytes) }));
                }
                // SAFETY: as above, and the program may not use the target before the copy is done.
                Work::Download { to, bytes, .. } if !read => unsafe { std::ptr::write_bytes(*to as *mut u8, POISON, *bytes) },
                _ => {}
            }
        }
    }

    fn pin(&mut self, address: usize, pinned: Pinned) -> Answer {
        let end = address + pinned.bytes;
        if self.pinned.range(..end).next_back().is_some_and(|(start, other)| start + other.bytes > address) {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED);
        }
        self.pinned.insert(address, pinned);
        Ok(())
    }

    fn host_alloc(&mut self, bytes: usize, flags: c_uint) -> Answer<usize> {
        let context = self.context()?;
        self.may_wait("cuMemHostAlloc")?;
        let layout = Layout::from_size_align(bytes, PAGE).map_err(|_| Status::INVALID_VALUE)?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: the layout is not empty.
        let address = unsafe { alloc(layout) };
        if address.is_null() {
            return Err(Status::OUT_OF_MEMORY);
        }
        // SAFETY: just allocated with this size.
        unsafe { std::ptr::write_bytes(address, POISON, bytes) };
        let address = address as usize;
        self.pin(address, Pinned { context, bytes, flags, layout: Some((address, layout)) })?;
        Ok(address)
    }

    /// Forgets a range. One that pending work uses is an error: the program did not wait.
    fn unpin(&mut self, address: usize, allocated: bool) -> Answer {
        let found = self.pinned.get(&address).filter(|pinned| pinned.layout.is_some() == allocated);
        let missing = if allocated { Status::INVALID_VALUE } else { Status::HOST_MEMORY_NOT_REGISTERED };
        let Pinned { bytes, context, .. } = found.ok_or(missing)?;
        let (range, context) = (address..address + bytes, *context);
        let used = self.pending(|work| match work {
            Work::UploadPinned { from, .. } => range.contains(from),
            Work::Download { to, .. } => range.contains(to),
            _ => false,
        });
        if used {
            self.poison(context, Status::LAUNCH_FAILED);
            self.pinned.remove(&address);
            let why = format!("pinned memory at {address:#x} was freed while a copy that uses it was still to run");
            return self.refuse(Status::LAUNCH_FAILED, &why);
        }
        self.pinned.remove(&address);
        self.sound(context)
    }
}

exports! {
    fn cuMemHostAlloc(out: *mut usize, bytes: usize, flags: c_uint) |d| {
        let address = d.host_alloc(bytes, flags)?;
        // SAFETY: the caller's pointer, by the contract of the C API; so in every function below.
        unsafe { put(out, address) }
    }
    fn cuMemAllocHost_v2(out: *mut usize, bytes: usize) |d| {
        let address = d.host_alloc(bytes, 0)?;
        unsafe { put(out, address) }
    }
    fn cuMemFreeHost(address: *mut c_void) |d| {
        d.may_wait("cuMemFreeHost")?;
        d.unpin(address as usize, true)
    }
    fn cuMemHostRegister_v2(address: *mut c_void, bytes: usize, flags: c_uint) |d| {
        let context = d.context()?;
        if address.is_null() || bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        d.pin(address as usize, Pinned { context, bytes, flags, layout: None })
    }
    fn cuMemHostUnregister(address: *mut c_void) |d| {
        d.unpin(address as usize, false)
    }
    fn cuMemHostGetFlags(out: *mut c_uint, address: *mut c_void) |d| {
        let flags = d.pinned.get(&(address as usize)).ok_or(Status::INVALID_VALUE)?.flags;
        unsafe { put_if_wanted(out, flags) };
        Ok(())
    }
}
