//! Device memory: allocations with gaps between them, a mark for every byte that was ever written, and the memory of what was freed.

use std::collections::BTreeMap;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::{Fault, FaultKind};

/// Addresses start here, above all that the host uses, and are never given twice, so a freed one is known for ever.
const FIRST: u64 = 1 << 52;
/// Each memory has addresses of its own, so that an address says which device it is on.
const SPACE: u64 = 1 << 44;
static SPACES: AtomicU64 = AtomicU64::new(0);
/// Allocations start at multiples of this, as the driver's do.
const ALIGN: u64 = 256;
/// Nothing is allocated in so many bytes behind an allocation: an index that runs over the end by a row or so meets no neighbour.
const GAP: u64 = 64 << 10;

/// The address space of a device, shared by all of its streams.
pub struct Memory {
    capacity: u64,
    state: RwLock<State>,
}

struct State {
    next: u64,
    used: u64,
    /// By address.
    live: Arc<Vec<Arc<Allocation>>>,
    /// Start and end of what was freed.
    freed: BTreeMap<u64, u64>,
}

/// One allocation. Kernels on several threads of the host read and write it, so all access goes through relaxed atomics, which cost what
/// plain moves cost.
pub(crate) struct Allocation {
    pub(crate) start: u64,
    pub(crate) size: u64,
    data: Box<[AtomicU64]>,
    /// A bit per byte: was it ever written?
    written: Box<[AtomicU64]>,
    unwritten: AtomicU64,
    /// Constant memory: the host may write it, a kernel may not.
    constant: AtomicBool,
}

impl Memory {
    /// Memory of `capacity` bytes, nothing of it allocated.
    pub fn new(capacity: u64) -> Self {
        let next = FIRST + SPACES.fetch_add(1, Relaxed) * SPACE;
        let state = State { next, used: 0, live: Arc::default(), freed: BTreeMap::new() };
        Self { capacity, state: RwLock::new(state) }
    }

    /// Bytes that may be allocated in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes allocated now.
    pub fn used(&self) -> u64 {
        self.shared().used
    }

    /// Allocates `bytes` (at least one), aligned to 256, content unwritten; fails with [`FaultKind::OutOfMemory`].
    pub fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        let mut state = self.exclusive();
        let free = self.capacity - state.used;
        let size = bytes.max(1);
        if size > free {
            return Err(Fault::new(FaultKind::OutOfMemory, format!("{bytes} bytes asked, {free} of {} free", self.capacity)));
        }
        let start = state.next;
        state.next = (start + size + GAP).next_multiple_of(ALIGN);
        state.used += size;
        Arc::make_mut(&mut state.live).push(Arc::new(Allocation::new(start, size)));
        Ok(start)
    }

    /// Frees what [`Memory::alloc`] returned; fails with [`FaultKind::InvalidFree`] for any other address.
    pub fn free(&self, address: u64) -> Result<(), Fault> {
        let mut state = self.exclusive();
        let Ok(at) = state.live.binary_search_by_key(&address, |a| a.start) else {
            let detail = match state.freed.contains_key(&address) {
                true => format!("{address:#x} was freed before"),
                false => format!("{address:#x} is not the start of an allocation"),
            };
            return Err(Fault::new(FaultKind::InvalidFree, detail));
        };
        let gone = Arc::make_mut(&mut state.live).remove(at);
        state.used -= gone.size;
        state.freed.insert(gone.start, gone.start + gone.size);
        Ok(())
    }

    /// Start and size of the allocation that contains `address`.
    pub fn allocation(&self, address: u64) -> Option<(u64, u64)> {
        self.find(address, 1).ok().map(|a| (a.start, a.size))
    }

    /// Copies from the host.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let to = self.find(address, bytes.len() as u64)?;
        to.put(address - to.start, bytes);
        Ok(())
    }

    /// Copies to the host; reading what nothing wrote is a fault.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let from = self.find(address, bytes.len() as u64)?;
        if let Some(at) = from.first_unwritten(address - from.start, bytes.len() as u64) {
            return Err(Fault::new(FaultKind::Unwritten, format!("a copy to the host of {:#x}, byte {at} of {}", from.start + at, from)));
        }
        from.get(address - from.start, bytes);
        Ok(())
    }

    /// Copies within the device; unwritten bytes stay unwritten at their new place. The ranges may overlap.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Fault> {
        let (source, target) = (self.find(from, bytes)?, self.find(to, bytes)?);
        let mut buffer = vec![0u8; bytes as usize];
        source.get(from - source.start, &mut buffer);
        if source.first_unwritten(from - source.start, bytes).is_none() {
            target.put(to - target.start, &buffer);
            return Ok(());
        }
        let known: Vec<bool> = (0..bytes).map(|i| source.first_unwritten(from - source.start + i, 1).is_none()).collect();
        for (i, &known) in known.iter().enumerate() {
            if known {
                target.put(to - target.start + i as u64, &buffer[i..=i]);
            } else {
                target.forget(to - target.start + i as u64);
            }
        }
        Ok(())
    }

    /// Writes `pattern` (1, 2 or 4 bytes) `count` times.
    pub fn fill(&self, address: u64, pattern: &[u8], count: u64) -> Result<(), Fault> {
        let bytes = count * pattern.len() as u64;
        let to = self.find(address, bytes)?;
        let block = pattern.repeat((4096 / pattern.len()).min(count as usize));
        let mut done = 0;
        while done < bytes {
            let now = (bytes - done).min(block.len() as u64);
            to.put(address - to.start + done, &block[..now as usize]);
            done += now;
        }
        Ok(())
    }

    /// Makes an allocation one that kernels may not write.
    pub(crate) fn protect(&self, address: u64) -> Result<(), Fault> {
        self.find(address, 1)?.constant.store(true, Relaxed);
        Ok(())
    }

    /// All allocations, by address, as they are now.
    pub(crate) fn live(&self) -> Arc<Vec<Arc<Allocation>>> {
        self.shared().live.clone()
    }

    /// What is wrong with an access that lies in no allocation.
    pub(crate) fn diagnose(&self, address: u64, bytes: u64) -> Fault {
        let state = self.shared();
        let freed = state.freed.range(..=address).next_back().filter(|(_, end)| address < **end);
        if let Some((start, end)) = freed {
            let detail = format!("{bytes} bytes at {address:#x}, in {} bytes at {start:#x} that were freed", end - start);
            return Fault::new(FaultKind::UseAfterFree, detail);
        }
        let near = state.live.iter().rev().find(|a| a.start <= address).or_else(|| state.live.first());
        let near = match near {
            Some(a) if address >= a.start + a.size => format!(", {} bytes behind the end of {a}", address - a.start - a.size),
            Some(a) if address >= a.start => format!(", across the end of {a}"),
            Some(a) => format!(", {} bytes before {a}", a.start - address),
            None => ", and nothing is allocated".to_string(),
        };
        Fault::new(FaultKind::OutOfBounds, format!("{bytes} bytes at {address:#x}{near}"))
    }

    fn find(&self, address: u64, bytes: u64) -> Result<Arc<Allocation>, Fault> {
        let live = self.live();
        let found = position(&live, address).map(|at| live[at].clone());
        match found {
            Some(a) if address - a.start + bytes <= a.size => Ok(a),
            _ => Err(self.diagnose(address, bytes)),
        }
    }

    // A thread that panicked while holding the lock has left the state whole: every change is one statement after the checks.
    fn shared(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|e| e.into_inner())
    }
}

/// Index of the allocation that contains an address.
pub(crate) fn position(live: &[Arc<Allocation>], address: u64) -> Option<usize> {
    let at = live.partition_point(|a| a.start <= address).checked_sub(1)?;
    (address < live[at].start + live[at].size).then_some(at)
}

impl std::fmt::Display for Allocation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the {} bytes at {:#x}", self.size, self.start)
    }
}

impl Allocation {
    fn new(start: u64, size: u64) -> Self {
        let (words, marks) = (size.div_ceil(8) as usize, size.div_ceil(64) as usize);
        Self { start, size, data: zeroed(words), written: zeroed(marks), unwritten: AtomicU64::new(size), constant: AtomicBool::new(false) }
    }

    #[inline(always)]
    fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset < self.data.len() as u64 * 8);
        self.data.as_ptr().cast::<u8>().cast_mut().wrapping_add(offset as usize)
    }

    /// Reads `bytes` (1, 2, 4 or 8) at an offset that is a multiple of them; the caller has checked the bounds.
    #[inline(always)]
    pub(crate) fn load(&self, offset: u64, bytes: u8) -> u64 {
        assert!(offset + u64::from(bytes) <= self.size);
        let at = self.at(offset);
        // SAFETY: in bounds by the assertion, aligned because offsets are checked to be multiples of the size and the data starts at a
        // multiple of 8; all access is atomic.
        unsafe {
            match bytes {
                1 => u64::from(AtomicU8::from_ptr(at).load(Relaxed)),
                2 => u64::from(AtomicU16::from_ptr(at.cast()).load(Relaxed)),
                4 => u64::from(AtomicU32::from_ptr(at.cast()).load(Relaxed)),
                _ => AtomicU64::from_ptr(at.cast()).load(Relaxed),
            }
        }
    }

    /// Reads a word into each row, at a lane; bounds and alignment as for [`Allocation::load`].
    #[inline(always)]
    pub(crate) fn words(&self, offset: u64, lane: usize, rows: &mut [[u32; 32]]) {
        assert!(offset + 4 * rows.len() as u64 <= self.size);
        for (e, row) in rows.iter_mut().enumerate() {
            // SAFETY: as in `load`.
            row[lane] = unsafe { AtomicU32::from_ptr(self.at(offset + 4 * e as u64).cast()).load(Relaxed) };
        }
    }

    /// Writes like [`Allocation::load`] reads.
    #[inline(always)]
    pub(crate) fn store(&self, offset: u64, bytes: u8, value: u64) {
        assert!(offset + u64::from(bytes) <= self.size);
        let at = self.at(offset);
        // SAFETY: as in `load`.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(at).store(value as u8, Relaxed),
                2 => AtomicU16::from_ptr(at.cast()).store(value as u16, Relaxed),
                4 => AtomicU32::from_ptr(at.cast()).store(value as u32, Relaxed),
                _ => AtomicU64::from_ptr(at.cast()).store(value, Relaxed),
            }
        }
    }

    /// Replaces 4 or 8 bytes by a function of them, at once; returns what was there. Blocks on other threads of the host that update the
    /// same bytes later see all that this one has stored before: what a fence before and after it promises.
    pub(crate) fn update(&self, offset: u64, bytes: u8, mut f: impl FnMut(u64) -> u64) -> u64 {
        assert!(offset + u64::from(bytes) <= self.size);
        let at = self.at(offset);
        // SAFETY: as in `load`.
        unsafe {
            if bytes == 4 {
                let cell = AtomicU32::from_ptr(at.cast());
                let done = cell.fetch_update(AcqRel, Acquire, |old| Some(f(u64::from(old)) as u32));
                u64::from(done.unwrap_or_else(|old| old))
            } else {
                AtomicU64::from_ptr(at.cast()).fetch_update(AcqRel, Acquire, |old| Some(f(old))).unwrap_or_else(|old| old)
            }
        }
    }

    fn get(&self, offset: u64, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let here = offset + at as u64;
            if here.is_multiple_of(8) && bytes.len() - at >= 8 {
                bytes[at..at + 8].copy_from_slice(&self.load(here, 8).to_le_bytes());
                at += 8;
            } else {
                bytes[at] = self.load(here, 1) as u8;
                at += 1;
            }
        }
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let here = offset + at as u64;
            if let (0, Some(word)) = (here % 8, bytes[at..].first_chunk::<8>()) {
                self.store(here, 8, u64::from_le_bytes(*word));
                at += 8;
            } else {
                self.store(here, 1, u64::from(bytes[at]));
                at += 1;
            }
        }
        self.mark(offset, bytes.len() as u64);
    }

    /// Whether kernels may not write here.
    #[inline(always)]
    pub(crate) fn constant(&self) -> bool {
        self.constant.load(Relaxed)
    }

    /// Whether every byte was written.
    #[inline(always)]
    pub(crate) fn whole(&self) -> bool {
        self.unwritten.load(Relaxed) == 0
    }

    /// Remembers that bytes were written.
    #[inline(always)]
    pub(crate) fn mark(&self, offset: u64, bytes: u64) {
        if self.unwritten.load(Relaxed) == 0 {
            return;
        }
        each_word(offset, bytes, |word, bits| {
            let cell = &self.written[word];
            if cell.load(Relaxed) & bits != bits {
                let before = cell.fetch_or(bits, Relaxed);
                self.unwritten.fetch_sub(u64::from((bits & !before).count_ones()), Relaxed);
            }
            true
        });
    }

    fn forget(&self, offset: u64) {
        let bit = 1 << (offset % 64);
        let before = self.written[(offset / 64) as usize].fetch_and(!bit, Relaxed);
        self.unwritten.fetch_add(u64::from(before & bit != 0), Relaxed);
    }

    /// The first byte of a range that nothing wrote, as an offset.
    #[inline(always)]
    pub(crate) fn first_unwritten(&self, offset: u64, bytes: u64) -> Option<u64> {
        if self.unwritten.load(Relaxed) == 0 {
            return None;
        }
        let mut found = None;
        each_word(offset, bytes, |word, bits| {
            let missing = bits & !self.written[word].load(Relaxed);
            if missing != 0 {
                found = Some(word as u64 * 64 + u64::from(missing.trailing_zeros()));
            }
            missing == 0
        });
        found
    }
}

/// Calls with each 64-bit word of a bitmap that a range of bits touches, and the bits; until the function says false.
#[inline(always)]
pub(crate) fn each_word(from: u64, count: u64, mut f: impl FnMut(usize, u64) -> bool) {
    let (mut at, end) = (from, from + count);
    while at < end {
        let here = (64 - at % 64).min(end - at);
        let bits = (u64::MAX >> (64 - here)) << (at % 64);
        if !f((at / 64) as usize, bits) {
            return;
        }
        at += here;
    }
}

/// Zeroed words; the system gives large ones lazily, so memory that is never touched costs nothing.
pub(crate) fn zeroed(words: usize) -> Box<[AtomicU64]> {
    // SAFETY: all zeros is a valid atomic integer.
    unsafe { Box::<[AtomicU64]>::new_zeroed_slice(words).assume_init() }
}
