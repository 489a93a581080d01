//! Memory for packed weights, arenas and scratch: aligned to cache lines, on huge pages where the system gives them.

use crate::{Error, Result};
use std::cell::RefCell;

/// Zeroed memory, aligned to pages.
#[derive(Debug)]
pub struct AlignedBuffer {
    map: memmap2::MmapMut,
    len: usize,
}

impl AlignedBuffer {
    /// `len` zero bytes. The system is asked for huge pages: page faults cost peers a third of their time.
    pub fn zeroed(len: usize) -> Result<Self> {
        let map = memmap2::MmapMut::map_anon(len.max(1))
            .map_err(|e| Error::Device { device: "cpu".into(), what: format!("cannot allocate {len} bytes: {e}") })?;
        #[cfg(target_os = "linux")]
        if len >= HUGE_PAGE {
            // only advice: kernels without huge pages refuse it
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map, len })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map[..self.len]
    }

    /// The bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }
}

#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` bytes of the thread's own scratch memory, aligned to 64. Their contents are arbitrary.
///
/// The memory is kept for the next call; it only grows. A nested call gets memory of its own.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    let mut lines = SCRATCH.take();
    let count = len.div_ceil(64);
    if lines.len() < count {
        lines.resize(count, Line([0; 64]));
    }
    // SAFETY: lines are 64 initialised bytes each, without padding.
    let bytes = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<u8>(), count * 64) };
    let result = f(&mut bytes[..len]);
    SCRATCH.set(lines);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_aligned_and_kept() {
        let first = with_scratch(100, |bytes| bytes.as_ptr() as usize);
        assert_eq!(first % 64, 0);
        assert_eq!(with_scratch(90, |bytes| bytes.as_ptr() as usize), first);
    }

    #[test]
    fn nested_scratch_does_not_overlap() {
        with_scratch(64, |outer| {
            outer.fill(1);
            with_scratch(64, |inner| inner.fill(2));
            assert!(outer.iter().all(|&b| b == 1));
        });
    }

    #[test]
    fn buffers_are_zero() {
        let buffer = AlignedBuffer::zeroed(3 << 20).unwrap();
        assert!(buffer.bytes().iter().all(|&b| b == 0));
        assert_eq!(AlignedBuffer::zeroed(0).unwrap().bytes().len(), 0);
    }
}
