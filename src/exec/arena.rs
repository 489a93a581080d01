//! Memory of an executable.

use crate::graph::{Place, Value};
use crate::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Bytes that start at a multiple of a huge page if they fill one, else of a cache line.
pub(super) struct Arena {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an arena owns its bytes, as a Box<[u8]> does.
unsafe impl Send for Arena {}
// SAFETY: shared access only reads.
unsafe impl Sync for Arena {}

const CACHE_LINE: usize = 64;
const HUGE_PAGE: usize = 2 << 20;

impl Arena {
    /// Zeroed memory of `bytes` bytes.
    pub(super) fn new(bytes: usize) -> Result<Self> {
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { CACHE_LINE };
        let layout = Layout::from_size_align(bytes, align).map_err(|_| too_large(bytes))?;
        if bytes == 0 {
            return Ok(Self { start: NonNull::dangling(), layout });
        }
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(|| too_large(bytes))?;
        Ok(Self { start, layout })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: start points to that many bytes, initialised to zero, which this arena owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the arena is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
        }
    }
}

fn too_large(bytes: usize) -> Error {
    Error::Device { device: "cpu".into(), what: format!("cannot allocate {} MiB; use a smaller picture or batch", bytes >> 20) }
}

/// All memory of a run, handed out in pieces. Borrowed from the executable for as long as the run lasts.
pub(super) struct Memory<'a> {
    arena: (NonNull<u8>, usize),
    buffers: HashMap<Value, (NonNull<u8>, usize)>,
    owner: PhantomData<&'a mut [u8]>,
}

impl<'a> Memory<'a> {
    pub(super) fn new(arena: &'a mut Arena, buffers: &'a mut HashMap<Value, Arena>) -> Self {
        let whole = |a: &Arena| (a.start, a.layout.size());
        Self { arena: whole(arena), buffers: buffers.iter().map(|(v, a)| (*v, whole(a))).collect(), owner: PhantomData }
    }

    /// The bytes at a place; none if there is no such place.
    ///
    /// # Safety
    /// No slice that [`Memory::write`] gave and that overlaps this one may be alive.
    pub(super) unsafe fn read(&self, place: Place, bytes: usize) -> Option<&'a [u8]> {
        let start = self.locate(place, bytes)?;
        // SAFETY: `locate` has checked the bounds; the memory is initialised and borrowed for 'a; the caller rules out aliasing.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) })
    }

    /// The bytes at a place, writable; none if there is no such place.
    ///
    /// # Safety
    /// No other slice of this memory that overlaps this one may be alive.
    pub(super) unsafe fn write(&self, place: Place, bytes: usize) -> Option<&'a mut [u8]> {
        let start = self.locate(place, bytes)?;
        // SAFETY: as in `read`.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) })
    }

    fn locate(&self, place: Place, bytes: usize) -> Option<NonNull<u8>> {
        let ((start, size), offset) = match place {
            Place::Arena(offset) => (self.arena, offset),
            Place::Input(value) | Place::Output(value) => (*self.buffers.get(&value)?, 0),
            Place::Param(_) | Place::Unused => return None,
        };
        if offset.checked_add(bytes)? > size {
            return None;
        }
        // SAFETY: the offset is inside the allocation.
        Some(unsafe { start.add(offset) })
    }
}
