//! The shared memory of a block, with a record per byte (or per granule, where no access of the kernel is smaller) of who wrote and who read
//! it last, in the manner of FastTrack: each warp has a clock, barriers and warp-wide synchronisation advance it, and an access is in order
//! with an earlier one if the accessing warp has learned of a later time of the other's clock.

use super::lanes::{LANES, lanes_of};
use super::stop::Stop;
use crate::FaultKind;

/// Warps of a block at most.
pub(super) const WARPS: usize = 32;
/// Stands for "more than one lane" in a record.
const SEVERAL: u32 = 32;
/// Writer of bytes that `cp.async` will write.
const PENDING: u32 = u32::MAX;
/// Clocks have 20 bits of a record.
const LAST_TICK: u32 = (1 << 20) - 2;

pub(super) struct Shared {
    data: Vec<u8>,
    size: usize,
    granule_bits: u32,
    writers: Vec<u32>,
    readers: Vec<[u32; 2]>,
    /// `clocks[w][v]`: the time of warp v that warp w knows of.
    clocks: Box<[[u32; WARPS]; WARPS]>,
}

/// An access: clock in the upper 20 bits, then a flag for atomics, 5 bits of warp, 6 of lane. Zero is none.
#[derive(Clone, Copy)]
struct Record(u32);

impl Record {
    fn new(clock: u32, atomic: bool, warp: usize, lane: u32) -> Self {
        Self(clock << 12 | u32::from(atomic) << 11 | (warp as u32) << 6 | lane)
    }
    fn clock(self) -> u32 {
        self.0 >> 12
    }
    fn atomic(self) -> bool {
        self.0 >> 11 & 1 == 1
    }
    fn warp(self) -> usize {
        (self.0 >> 6 & 31) as usize
    }
    fn lane(self) -> u32 {
        self.0 & 63
    }
    fn who(self) -> String {
        match self.lane() {
            SEVERAL => format!("several lanes of warp {}", self.warp()),
            lane => format!("warp {} lane {lane}", self.warp()),
        }
    }
}

impl Shared {
    pub(super) fn new(bytes: u32, granule: u32) -> Self {
        let granule_bits = granule.trailing_zeros();
        let granules = (bytes as usize).div_ceil(1 << granule_bits);
        Self {
            data: vec![0; granules << granule_bits],
            size: bytes as usize,
            granule_bits,
            writers: vec![0; granules],
            readers: vec![[0; 2]; granules],
            clocks: Box::new([[1; WARPS]; WARPS]),
        }
    }

    /// For a new block: nothing was written.
    pub(super) fn clear(&mut self) {
        self.writers.fill(0);
        self.readers.fill([0; 2]);
        *self.clocks = [[1; WARPS]; WARPS];
    }

    /// Bounds and alignment of an access.
    #[inline(always)]
    pub(super) fn check(&self, address: u64, bytes: u32, lane: u32) -> Result<(), Box<Stop>> {
        if address >= self.size as u64 || address + u64::from(bytes) > self.size as u64 {
            let detail = format!("{bytes} bytes at shared address {address:#x} of {} bytes", self.size);
            return Err(Stop::new(FaultKind::OutOfBounds, lane, detail));
        }
        if !address.is_multiple_of(u64::from(bytes)) {
            return Err(Stop::new(FaultKind::Misaligned, lane, format!("{bytes} bytes at shared address {address:#x}")));
        }
        Ok(())
    }

    /// The same for the lanes of a mask.
    #[inline(always)]
    pub(super) fn check_all(&self, addresses: &[u64; LANES], mask: u32, bytes: u32) -> Result<(), Box<Stop>> {
        let (mut greatest, mut low) = (0, 0);
        for (lane, &address) in addresses.iter().enumerate() {
            let address = if mask >> lane & 1 == 1 { address } else { 0 };
            greatest = greatest.max(address);
            low |= address;
        }
        if greatest.saturating_add(u64::from(bytes)) <= self.size as u64 && low & u64::from(bytes - 1) == 0 {
            return Ok(());
        }
        for lane in lanes_of(mask) {
            self.check(addresses[lane], bytes, lane as u32)?;
        }
        Ok(())
    }

    /// Reads without checks of order, after [`Shared::check`].
    #[inline(always)]
    pub(super) fn bytes(&self, address: u64, count: u32) -> &[u8] {
        &self.data[address as usize..address as usize + count as usize]
    }

    #[inline(always)]
    pub(super) fn element(&self, address: u64, bytes: u8) -> u64 {
        let at = address as usize;
        match bytes {
            1 => u64::from(self.data[at]),
            2 => u64::from(u16::from_le_bytes([self.data[at], self.data[at + 1]])),
            4 => self.data[at..].first_chunk().map_or(0, |b| u64::from(u32::from_le_bytes(*b))),
            _ => self.data[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b)),
        }
    }

    #[inline(always)]
    pub(super) fn put(&mut self, address: u64, bytes: &[u8]) {
        let to = &mut self.data[address as usize..address as usize + bytes.len()];
        // Of fixed sizes copies are moves, not calls.
        match (to.first_chunk_mut::<16>(), bytes.first_chunk::<16>()) {
            (Some(to), Some(bytes)) if bytes.len() == 16 => *to = *bytes,
            _ => to.copy_from_slice(bytes),
        }
    }

    /// Notes a read by a lane, or by the whole warp for [`None`]; finds reads of unwritten bytes and races.
    #[inline(always)]
    pub(super) fn read(&mut self, address: u64, bytes: u32, warp: usize, lane: Option<u32>) -> Result<(), Box<Stop>> {
        let me = Record::new(self.clocks[warp][warp], false, warp, lane.unwrap_or(SEVERAL));
        for at in self.granules(address, bytes) {
            let writer = self.writers[at];
            if writer == 0 || writer == PENDING || !self.ordered(Record(writer), me) {
                return Err(self.refuse(at, Record(writer), me, "read", "written"));
            }
            let [first, second] = &mut self.readers[at];
            let known = Record(*first);
            if known.warp() == warp || *first == 0 {
                let same_time = known.clock() == me.clock() && *first != 0 && known.lane() != me.lane();
                *first = if same_time { Record::new(me.clock(), false, warp, SEVERAL).0 } else { me.0 };
            } else {
                // Two readers of different warps are remembered: of those that a barrier has not ordered, one is enough.
                *second = *first;
                *first = me.0;
            }
        }
        Ok(())
    }

    /// Notes that a lane is about to write bytes. Where they are what is there already, two writers do no harm.
    #[inline(always)]
    pub(super) fn write(&mut self, address: u64, warp: usize, lane: u32, bytes: &[u8]) -> Result<(), Box<Stop>> {
        let me = Record::new(self.clocks[warp][warp], false, warp, lane);
        self.claim(address, bytes.len() as u32, me, |shared| shared.bytes(address, bytes.len() as u32) == bytes)
    }

    /// Notes an atomic, which is in order with other atomics.
    pub(super) fn update(&mut self, address: u64, bytes: u32, warp: usize, lane: u32) -> Result<(), Box<Stop>> {
        let me = Record::new(self.clocks[warp][warp], true, warp, lane);
        for at in self.granules(address, bytes) {
            if self.writers[at] == 0 {
                return Err(self.refuse(at, Record(0), me, "changed by an atomic", ""));
            }
        }
        self.claim(address, bytes, me, |_| false)
    }

    #[inline(always)]
    fn claim(&mut self, address: u64, bytes: u32, me: Record, same: impl Fn(&Self) -> bool) -> Result<(), Box<Stop>> {
        for at in self.granules(address, bytes) {
            let writer = Record(self.writers[at]);
            if writer.0 == PENDING {
                return Err(self.refuse(at, writer, me, "written", "written"));
            }
            let atomics = writer.atomic() && me.atomic();
            if writer.0 != 0 && !self.ordered(writer, me) && !atomics && !same(self) {
                return Err(self.refuse(at, writer, me, "written", "written"));
            }
            for reader in self.readers[at] {
                if reader != 0 && !self.ordered(Record(reader), me) {
                    return Err(self.refuse(at, Record(reader), me, "written", "read"));
                }
            }
            self.writers[at] = me.0;
            self.readers[at] = [0; 2];
        }
        Ok(())
    }

    /// Notes that `cp.async` will write: nobody may touch the bytes until the thread has waited.
    pub(super) fn expect(&mut self, address: u64, bytes: u32, warp: usize, lane: u32) -> Result<(), Box<Stop>> {
        let me = Record::new(self.clocks[warp][warp], false, warp, lane);
        self.claim(address, bytes, me, |_| false)?;
        for at in self.granules(address, bytes) {
            self.writers[at] = PENDING;
        }
        Ok(())
    }

    /// The data of `cp.async` arrives, as a write by the thread that waited.
    pub(super) fn arrive(&mut self, address: u64, bytes: &[u8], warp: usize, lane: u32) {
        self.put(address, bytes);
        let me = Record::new(self.clocks[warp][warp], false, warp, lane);
        for at in self.granules(address, bytes.len() as u32) {
            self.writers[at] = me.0;
        }
    }

    /// Lanes of a warp have synchronised: what they did before is in order with what they do next.
    pub(super) fn warp_sync(&mut self, warp: usize) {
        self.clocks[warp][warp] += 1;
        if self.clocks[warp][warp] >= LAST_TICK {
            self.restart();
        }
    }

    /// Warps have met at a barrier; those in `learn` know from now on what those in `tell` did.
    pub(super) fn barrier(&mut self, tell: u32, learn: u32) {
        let mut known = [0; WARPS];
        for warp in (0..WARPS).filter(|w| tell >> w & 1 == 1) {
            self.clocks[warp][warp] += 1;
            for (known, time) in known.iter_mut().zip(&self.clocks[warp]) {
                *known = (*known).max(*time);
            }
        }
        for warp in (0..WARPS).filter(|w| learn >> w & 1 == 1) {
            for (time, known) in self.clocks[warp].iter_mut().zip(&known) {
                *time = (*time).max(*known);
            }
        }
        if self.clocks.iter().enumerate().any(|(w, c)| c[w] >= LAST_TICK) {
            self.restart();
        }
    }

    /// Clocks have run out: they start again, and what was done so far counts as in order.
    fn restart(&mut self) {
        *self.clocks = [[1; WARPS]; WARPS];
        self.readers.fill([0; 2]);
        for writer in &mut self.writers {
            if *writer != 0 && *writer != PENDING {
                *writer = Record::new(0, true, 0, 0).0;
            }
        }
    }

    #[inline(always)]
    fn granules(&self, address: u64, bytes: u32) -> std::ops::Range<usize> {
        (address >> self.granule_bits) as usize..((address + u64::from(bytes) - 1) >> self.granule_bits) as usize + 1
    }

    #[inline(always)]
    fn ordered(&self, earlier: Record, me: Record) -> bool {
        let same_thread = earlier.warp() == me.warp() && earlier.lane() == me.lane() && me.lane() != SEVERAL;
        same_thread || earlier.clock() < self.clocks[me.warp()][earlier.warp()]
    }

    #[cold]
    fn refuse(&self, granule: usize, earlier: Record, me: Record, now: &str, before: &str) -> Box<Stop> {
        let address = granule << self.granule_bits;
        let lane = if me.lane() == SEVERAL { 0 } else { me.lane() };
        let (kind, detail) = match earlier.0 {
            0 => (FaultKind::Unwritten, format!("shared address {address:#x} is {now}, but nothing wrote it")),
            PENDING => {
                let detail = format!("shared address {address:#x} is {now}, but its cp.async has not been waited for");
                (FaultKind::PendingCopy, detail)
            }
            _ => {
                let detail =
                    format!("shared address {address:#x} is {now} here and was {before} by {}, with no barrier between", earlier.who());
                (FaultKind::SharedRace, detail)
            }
        };
        Stop::new(kind, lane, detail)
    }
}

/// Wavefronts of a warp's access to shared memory, and the fewest that could do: lanes go in phases of 128 bytes, and a phase takes as many
/// passes over the 32 banks as the bank with the most distinct words needs.
pub(super) fn wavefronts(addresses: &[u64; LANES], mask: u32, bytes: u32) -> (u64, u64) {
    let unit = bytes.max(4);
    let per_phase = (128 / unit) as usize;
    let unit_bits = unit.trailing_zeros();
    let (mut passes, mut least) = (0, 0);
    for phase in 0..LANES / per_phase {
        // A group of banks as wide as the unit takes one unit each pass. Units are numbered from 1.
        let mut first = [0u64; LANES];
        let (mut distinct, mut collide) = (0u64, false);
        for (lane, address) in addresses.iter().enumerate().skip(phase * per_phase).take(per_phase) {
            let unit = (address >> unit_bits) + 1;
            let seen = &mut first[(unit - 1) as usize & (per_phase - 1)];
            let active = mask >> lane & 1 == 1;
            collide |= active && *seen != 0 && *seen != unit;
            distinct += u64::from(active && *seen == 0);
            *seen = if active { unit } else { *seen };
        }
        if collide {
            let lanes = (phase * per_phase..(phase + 1) * per_phase).filter(|l| mask >> l & 1 == 1);
            let units = lanes.map(|l| addresses[l] >> unit_bits).collect();
            let (worst, all) = conflicts(units, per_phase as u64);
            passes += worst;
            distinct = all;
        } else {
            passes += u64::from(distinct > 0);
        }
        least += distinct.div_ceil(per_phase as u64);
    }
    (passes, least)
}

/// The most units in one bank group, and the number of distinct units.
fn conflicts(mut units: Vec<u64>, groups: u64) -> (u64, u64) {
    units.sort_unstable();
    units.dedup();
    let mut count = [0u64; LANES];
    for unit in &units {
        count[(unit % groups) as usize] += 1;
    }
    (count.into_iter().max().unwrap_or(0), units.len() as u64)
}
