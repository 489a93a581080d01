//! Memory of a device, and memory of the host that the device copies from directly.

use super::context::{Context, Turn};
use super::event::Event;
use crate::{Error, Result};
use cudarc::driver::sys::{self, CUdeviceptr};
use std::ffi::c_void;
use std::sync::Arc;

/// Memory on the device, aligned to 256 bytes at least. Its contents are arbitrary until written.
pub(crate) struct DeviceMemory {
    context: Arc<Context>,
    address: CUdeviceptr,
    bytes: usize,
}

impl DeviceMemory {
    /// `bytes` bytes for `what`. Where there are too few the error says how many were asked for and how many are free.
    pub(crate) fn new(context: &Arc<Context>, bytes: usize, what: &str) -> Result<Self> {
        let mut address = 0;
        let mut turn = context.turn()?;
        // SAFETY: a context is current; the pointer is to a local. The driver refuses to allocate nothing.
        let made = turn.status(|| unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes.max(1)) });
        if let Err(status) = made {
            if status.failure() != super::CudaFailure::OutOfMemory {
                return Err(status.error(&context.name, &format!("allocate {bytes} bytes for {what}")));
            }
            return Err(turn.out_of_memory(what, Some(bytes as u64)));
        }
        drop(turn);
        Ok(Self { context: context.clone(), address, bytes })
    }

    /// Size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Device address of the byte at `offset`; none unless `bytes` bytes from there belong to this memory.
    pub(crate) fn address(&self, offset: usize, bytes: usize) -> Option<u64> {
        (offset.checked_add(bytes)? <= self.bytes).then_some(self.address + offset as u64)
    }

    /// Copies `from` to the start of this memory, after everything asked for so far. `from` may change afterwards. Four bytes go along with
    /// the call and nothing is waited for; with more the driver may wait for what it was asked before.
    pub(crate) fn write(&self, from: &[u8], what: &str) -> Result<()> {
        self.check(from.len(), what)?;
        let mut turn = self.context.turn()?;
        let (stream, doing) = (turn.stream(), format!("write {what}"));
        if let Ok(word) = from.try_into().map(u32::from_le_bytes) {
            // SAFETY: the sizes were checked.
            return turn.call(&doing, || unsafe { sys::cuMemsetD32Async(self.address, word, 1, stream) });
        }
        // SAFETY: the sizes were checked. The driver has copied pageable memory before the call returns.
        turn.call(&doing, || unsafe { sys::cuMemcpyHtoDAsync_v2(self.address, from.as_ptr().cast(), from.len(), stream) })
    }

    /// Copies from the byte at `offset` on to `to`, once everything asked for so far is done. Faults of kernels show here.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8], what: &str) -> Result<()> {
        self.check(offset.saturating_add(to.len()), what)?;
        let mut turn = self.context.turn()?;
        let (stream, doing, from) = (turn.stream(), format!("read {what}"), self.address + offset as u64);
        // SAFETY: the sizes were checked, and `to` is not let go of before the stream is done with it.
        let asked = turn.call(&doing, || unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), stream) });
        // waited for in any case: nothing may write to `to` after this returns
        turn.synchronize(&doing).and(asked)
    }

    /// Copies the start of `from`, `bytes` bytes, to the start of this memory: on the device, without waiting.
    pub(crate) fn copy(&self, from: &Self, bytes: usize, what: &str) -> Result<()> {
        self.check(bytes, what)?;
        from.check(bytes, what)?;
        let mut turn = self.context.turn()?;
        let stream = turn.stream();
        // SAFETY: both memories are as large as that.
        turn.call(&format!("copy {what}"), || unsafe { sys::cuMemcpyDtoDAsync_v2(self.address, from.address, bytes, stream) })
    }

    /// Sets every byte.
    pub(crate) fn fill(&self, byte: u8) -> Result<()> {
        let mut turn = self.context.turn()?;
        let stream = turn.stream();
        // SAFETY: the memory is as large as that.
        turn.call("fill memory", || unsafe { sys::cuMemsetD8Async(self.address, byte, self.bytes, stream) })
    }

    fn check(&self, bytes: usize, what: &str) -> Result<()> {
        if bytes <= self.bytes { Ok(()) } else { Err(Error::Graph(format!("{what} has {bytes} bytes in memory of {}", self.bytes))) }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, freed once; the driver waits for work that still uses it.
        self.context.release(|| unsafe { sys::cuMemFree_v2(self.address) });
    }
}

/// Bytes in each half of the staging memory: enough to keep the bus busy, little enough to be had always.
const HALF: usize = 16 << 20;

/// Page-locked memory in two halves: one is filled while the device copies the other, also from one tensor to the next.
pub(super) struct Staging {
    context: Arc<Context>,
    start: *mut c_void,
    /// When the device is done with each half.
    copied: [Event; 2],
    /// The half that is filled next.
    next: usize,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Staging {}

impl Staging {
    /// Takes the memory from the system.
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        let copied = [Event::without_time(context)?, Event::without_time(context)?];
        let mut start = std::ptr::null_mut();
        // SAFETY: a context is current; the pointer is to a local.
        context.turn()?.status(|| unsafe { sys::cuMemHostAlloc(&raw mut start, 2 * HALF, 0) }).map_err(|status| {
            let what = format!(
                "cannot have {} MiB of the machine's own memory page-locked for copies ({status}); end other programs or raise the limit",
                (2 * HALF) >> 20
            );
            Error::Device { device: context.name.clone(), what }
        })?;
        Ok(Self { context: context.clone(), start, copied, next: 0 })
    }

    /// Copies `from` to new memory of the device. `from` may change afterwards; the last copies may still be under way, before everything that
    /// is asked for later.
    pub(super) fn upload(&mut self, from: &[u8], what: &str) -> Result<DeviceMemory> {
        let to = DeviceMemory::new(&self.context, from.len(), what)?;
        let mut turn = self.context.turn()?;
        let doing = format!("upload {what}");
        for (i, chunk) in from.chunks(HALF).enumerate() {
            self.send(&mut turn, to.address + (i * HALF) as u64, chunk, &doing)?;
            self.next = 1 - self.next;
        }
        drop(turn);
        Ok(to)
    }

    /// Fills the next half, once the device is done with what it held before, and asks for the copy to `address`.
    fn send(&self, turn: &mut Turn<'_>, address: u64, chunk: &[u8], doing: &str) -> Result<()> {
        let (stream, copied) = (turn.stream(), &self.copied[self.next]);
        copied.wait(turn, doing)?;
        // SAFETY: there are two halves of HALF bytes.
        let half = unsafe { self.start.cast::<u8>().add(self.next * HALF) };
        // SAFETY: a chunk has no more bytes than a half, and the device is done with this one.
        unsafe { std::ptr::copy_nonoverlapping(chunk.as_ptr(), half, chunk.len()) };
        // SAFETY: the device memory is as large as all chunks together.
        turn.call(doing, || unsafe { sys::cuMemcpyHtoDAsync_v2(address, half.cast(), chunk.len(), stream) })?;
        let recorded = copied.record_in(turn);
        // without the event nobody could tell when the half is free
        if recorded.is_err() { turn.synchronize(doing).and(recorded) } else { recorded }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.copied.iter().for_each(Event::wait_at_the_end);
        // SAFETY: allocated in `new`, freed once; all copies from it are done.
        self.context.release(|| unsafe { sys::cuMemFreeHost(self.start) });
    }
}
