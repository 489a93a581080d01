//! Device memory as a kernel sees it: which allocation an address lies in, and what traffic an access makes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::lanes::{LANES, lanes_of};
use super::launch::Touched;
use super::stop::Stop;
use crate::memory::{Allocation, Memory, each_word, position, zeroed};
use crate::{Counters, FaultKind};

const SECTOR: u64 = 32;

/// Shared by all threads of the host that run a launch.
pub(super) struct Global<'a> {
    memory: &'a Memory,
    live: Arc<Vec<Arc<Allocation>>>,
    touched: Vec<[OnceLock<Box<[AtomicU64]>>; 2]>,
}

/// Where a lane's bytes are.
pub(super) type Located<'a> = (&'a Allocation, u64);

impl<'a> Global<'a> {
    pub(super) fn new(memory: &'a Memory) -> Self {
        let live = memory.live();
        let touched = live.iter().map(|_| [OnceLock::new(), OnceLock::new()]).collect();
        Self { memory, live, touched }
    }

    /// The allocation of one lane's access; `hint` is where the last access of the same instruction was.
    #[inline(always)]
    pub(super) fn locate(&self, address: u64, bytes: u32, lane: u32, hint: &mut u32) -> Result<Located<'_>, Box<Stop>> {
        let known = self.live.get(*hint as usize);
        let inside = |a: &Allocation| address >= a.start && address + u64::from(bytes) <= a.start + a.size;
        let found = match known {
            Some(a) if inside(a) => a,
            _ => self.search(address, bytes, lane, hint)?,
        };
        if !address.is_multiple_of(u64::from(bytes)) {
            return Err(Stop::new(FaultKind::Misaligned, lane, format!("{bytes} bytes at {address:#x}")));
        }
        Ok((found, address - found.start))
    }

    /// The allocation that all lanes of an access lie in, aligned, if there is one; otherwise each lane is to be located by itself.
    #[inline(always)]
    pub(super) fn span(&self, addresses: &[u64; LANES], mask: u32, bytes: u32, hint: &mut u32) -> Option<&Allocation> {
        let one = addresses[mask.trailing_zeros() as usize & 31];
        let (mut least, mut greatest, mut low) = (one, one, 0);
        for (lane, &address) in addresses.iter().enumerate() {
            let address = if mask >> lane & 1 == 1 { address } else { one };
            least = least.min(address);
            greatest = greatest.max(address);
            low |= address;
        }
        if low & u64::from(bytes - 1) != 0 || greatest > u64::MAX - 64 {
            return None;
        }
        let inside = |a: &Allocation| least >= a.start && greatest + u64::from(bytes) <= a.start + a.size;
        match self.live.get(*hint as usize) {
            Some(a) if inside(a) => Some(a),
            _ => {
                let at = position(&self.live, one).filter(|&at| inside(&self.live[at]))?;
                *hint = at as u32;
                Some(&self.live[at])
            }
        }
    }

    /// Refuses to write what the host alone may write.
    #[inline(always)]
    pub(super) fn require_variable(&self, at: &Allocation, lane: u32) -> Result<(), Box<Stop>> {
        if at.constant() {
            return Err(Stop::new(FaultKind::ReadOnly, lane, format!("a store to constant memory, {at}")));
        }
        Ok(())
    }

    /// [`Global::require_written`] for all lanes of an access within one allocation.
    #[inline(always)]
    pub(super) fn require_all_written(&self, found: &Allocation, addresses: &[u64; LANES], mask: u32, bytes: u32) -> Result<(), Box<Stop>> {
        let row = in_a_row(addresses, mask, bytes);
        if found.whole() || row && found.first_unwritten(addresses[0] - found.start, u64::from(bytes) * LANES as u64).is_none() {
            return Ok(());
        }
        for lane in lanes_of(mask) {
            self.require_written((found, addresses[lane] - found.start), bytes, lane as u32)?;
        }
        Ok(())
    }

    fn search(&self, address: u64, bytes: u32, lane: u32, hint: &mut u32) -> Result<&Arc<Allocation>, Box<Stop>> {
        let found = position(&self.live, address).filter(|&at| {
            let a = &self.live[at];
            address + u64::from(bytes) <= a.start + a.size
        });
        match found {
            Some(at) => {
                *hint = at as u32;
                Ok(&self.live[at])
            }
            None => Err(Stop::from_fault(self.memory.diagnose(address, u64::from(bytes)), lane)),
        }
    }

    /// Whether all bytes were written.
    #[inline(always)]
    pub(super) fn require_written(&self, at: Located<'_>, bytes: u32, lane: u32) -> Result<(), Box<Stop>> {
        match at.0.first_unwritten(at.1, u64::from(bytes)) {
            None => Ok(()),
            Some(offset) => {
                let detail = format!("read of {bytes} bytes at {:#x}: byte {offset} of {} was never written", at.0.start + at.1, at.0);
                Err(Stop::new(FaultKind::Unwritten, lane, detail))
            }
        }
    }

    /// Counts the sectors of a warp's access.
    pub(super) fn count(&self, counters: &mut Counters, addresses: &[u64; LANES], mask: u32, bytes: u32, store: bool, hint: u32) {
        if in_a_row(addresses, mask, bytes) {
            return self.count_row(counters, addresses[0], u64::from(bytes) * LANES as u64, store, hint);
        }
        let mut starts = [0u64; LANES];
        let mut n = 0;
        let mut rising = true;
        for lane in lanes_of(mask) {
            rising &= n == 0 || starts[n - 1] <= addresses[lane];
            starts[n] = addresses[lane];
            n += 1;
        }
        if !rising {
            starts[..n].sort_unstable();
        }
        let (mut sectors, mut different) = (0u64, 0u64);
        let (mut last_sector, mut last_start) = (u64::MAX, u64::MAX);
        let mut fresh = 0;
        for &start in &starts[..n] {
            different += u64::from(start != last_start);
            last_start = start;
            let sector = start / SECTOR;
            if sector != last_sector {
                last_sector = sector;
                sectors += 1;
                fresh += u64::from(self.first_touch(sector, store, hint));
            }
        }
        let least = (different * u64::from(bytes)).div_ceil(SECTOR);
        tally(counters, store, [sectors, least, fresh]);
    }

    /// The frequent case: all lanes, one beside the other.
    fn count_row(&self, counters: &mut Counters, start: u64, bytes: u64, store: bool, hint: u32) {
        let (first, last) = (start / SECTOR, (start + bytes - 1) / SECTOR);
        let sectors = last - first + 1;
        let mut fresh = 0;
        match self.live.get(hint as usize) {
            Some(a) if start >= a.start && start + bytes <= a.start + a.size => {
                let touched = self.touched(hint as usize, store);
                each_word(first - a.start / SECTOR, sectors, |word, bits| {
                    let cell = &touched[word];
                    if cell.load(Relaxed) & bits != bits {
                        fresh += u64::from((bits & !cell.fetch_or(bits, Relaxed)).count_ones());
                    }
                    true
                });
            }
            _ => fresh = (first..=last).filter(|&sector| self.first_touch(sector, store, hint)).count() as u64,
        }
        tally(counters, store, [sectors, bytes.div_ceil(SECTOR), fresh]);
    }

    /// The sectors of an allocation that this launch has read, or written.
    #[inline(always)]
    fn touched(&self, at: usize, store: bool) -> &[AtomicU64] {
        self.touched[at][usize::from(store)].get_or_init(|| zeroed(self.live[at].size.div_ceil(SECTOR * 64) as usize))
    }

    /// What this launch has done to each allocation so far.
    pub(super) fn touched_allocations(&self) -> Vec<Touched> {
        let count = |bits: &OnceLock<Box<[AtomicU64]>>| {
            bits.get().map(|words| SECTOR * words.iter().map(|w| u64::from(w.load(Relaxed).count_ones())).sum::<u64>())
        };
        let touched = self.live.iter().zip(&self.touched).filter_map(|(a, [loads, stores])| {
            let (loaded, stored) = (count(loads), count(stores));
            loaded.or(stored)?;
            Some(Touched { address: a.start, bytes: a.size, loaded: loaded.unwrap_or(0), stored: stored.unwrap_or(0) })
        });
        touched.collect()
    }

    /// Whether this launch touches a sector for the first time.
    #[inline(always)]
    fn first_touch(&self, sector: u64, store: bool, hint: u32) -> bool {
        let address = sector * SECTOR;
        let inside = |a: &Allocation| address >= a.start && address < a.start + a.size;
        let at = match self.live.get(hint as usize) {
            Some(a) if inside(a) => hint as usize,
            _ => match position(&self.live, address) {
                Some(at) => at,
                None => return false,
            },
        };
        let index = (address - self.live[at].start) / SECTOR;
        let (cell, bit) = (&self.touched(at, store)[(index / 64) as usize], 1 << (index % 64));
        cell.load(Relaxed) & bit == 0 && cell.fetch_or(bit, Relaxed) & bit == 0
    }
}

/// Whether all lanes take part and their bytes lie one beside the other, in order.
#[inline(always)]
pub(super) fn in_a_row(addresses: &[u64; LANES], mask: u32, bytes: u32) -> bool {
    let mut apart = 0;
    for (lane, &address) in addresses.iter().enumerate() {
        apart |= address ^ addresses[0].wrapping_add(lane as u64 * u64::from(bytes));
    }
    mask == u32::MAX && apart == 0
}

fn tally(counters: &mut Counters, store: bool, [sectors, least, fresh]: [u64; 3]) {
    let c = counters;
    let (accesses, all, fewest, bytes) = match store {
        true => (&mut c.global_stores, &mut c.store_sectors, &mut c.store_sectors_min, &mut c.unique_store_bytes),
        false => (&mut c.global_loads, &mut c.load_sectors, &mut c.load_sectors_min, &mut c.unique_load_bytes),
    };
    *accesses += 1;
    *all += sectors;
    *fewest += least;
    *bytes += fresh * SECTOR;
}
