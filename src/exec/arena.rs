//! Memory of an executable.

use crate::graph::{Place, Value};
use crate::{Error, Result};
use std::collections::HashMap;
use std::marker::PhantomData;

/// Zeroed bytes of their own, straight from the system, in huge pages where it has them.
pub(super) struct Arena {
    map: memmap2::MmapMut,
    bytes: usize,
}

impl Arena {
    /// Memory of `bytes` bytes, aligned to a page.
    pub(super) fn new(bytes: usize) -> Result<Self> {
        let map = memmap2::MmapMut::map_anon(bytes.max(1)).map_err(|e| too_large(bytes, &e))?;
        #[cfg(target_os = "linux")]
        if bytes >= HUGE_PAGE {
            // advice only: without huge pages all works as well, a little slower
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Self { map, bytes })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map[..self.bytes]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.bytes]
    }

    fn whole(&mut self) -> Piece {
        Piece { start: self.map.as_mut_ptr(), size: self.bytes }
    }
}

#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

fn too_large(bytes: usize, cause: &std::io::Error) -> Error {
    let what = format!("cannot allocate {} MiB ({cause}); use a smaller picture or batch", bytes >> 20);
    Error::Device { device: "cpu".into(), what }
}

#[derive(Clone, Copy)]
struct Piece {
    start: *mut u8,
    size: usize,
}

/// All memory of a run, handed out in pieces. Borrowed from the executable for as long as the run lasts.
pub(super) struct Memory<'a> {
    arena: Piece,
    buffers: HashMap<Value, Piece>,
    owner: PhantomData<&'a mut [u8]>,
}

impl<'a> Memory<'a> {
    pub(super) fn new(arena: &'a mut Arena, buffers: &'a mut HashMap<Value, Arena>) -> Self {
        Self { arena: arena.whole(), buffers: buffers.iter_mut().map(|(v, a)| (*v, a.whole())).collect(), owner: PhantomData }
    }

    /// The bytes at a place; none if there is no such place.
    ///
    /// # Safety
    /// No slice that [`Memory::write`] gave and that overlaps this one may be alive.
    pub(super) unsafe fn read(&self, place: Place, bytes: usize) -> Option<&'a [u8]> {
        let start = self.locate(place, bytes)?;
        // SAFETY: `locate` has checked the bounds; the memory is initialised and borrowed for 'a; the caller rules out aliasing.
        Some(unsafe { std::slice::from_raw_parts(start, bytes) })
    }

    /// The bytes at a place, writable; none if there is no such place.
    ///
    /// # Safety
    /// No other slice of this memory that overlaps this one may be alive.
    pub(super) unsafe fn write(&self, place: Place, bytes: usize) -> Option<&'a mut [u8]> {
        let start = self.locate(place, bytes)?;
        // SAFETY: as in `read`.
        Some(unsafe { std::slice::from_raw_parts_mut(start, bytes) })
    }

    fn locate(&self, place: Place, bytes: usize) -> Option<*mut u8> {
        let (piece, offset) = match place {
            Place::Arena(offset) => (self.arena, offset),
            Place::Input(value) | Place::Output(value) => (*self.buffers.get(&value)?, 0),
            Place::Param(_) | Place::Unused => return None,
        };
        if offset.checked_add(bytes)? > piece.size {
            return None;
        }
        // SAFETY: the offset is inside the allocation.
        Some(unsafe { piece.start.add(offset) })
    }
}
