//! Loads, stores, `ldmatrix`.

use super::block::Block;
use super::global::in_a_row;
use super::lanes::{LANES, lanes_of};
use super::stop::Stop;
use super::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW, tensor};
use crate::FaultKind;
use crate::ptx::program::{Access, Instr, Op, Place};

pub(super) type Addresses = [u64; LANES];

impl Block<'_> {
    /// All that is not arithmetic, control or warp-wide.
    pub(super) fn other(&mut self, w: usize, pc: u32, instr: &Instr, active: u32) -> Result<(), Box<Stop>> {
        match instr.op {
            Op::Load(access) => self.by_place(w, access, instr.o[access.elements as usize], active, |block, access, at, mask| {
                block.load(w, pc, instr, access, at, mask)
            }),
            Op::Store(access) => {
                self.by_place(w, access, instr.o[0], active, |block, access, at, mask| block.store(w, pc, instr, access, at, mask))
            }
            Op::Atomic { access, op, number } => self.by_place(w, access, instr.o[1], active, |block, access, at, mask| {
                block.atomic(w, pc, instr, (access, op, number), at, mask)
            }),
            Op::AsyncCopy { .. } | Op::AsyncCommit | Op::AsyncWait(_) | Op::AsyncWaitAll => self.copy(w, pc, instr, active),
            Op::ActiveMask => {
                self.each(active, |block, lane| block.rows[w].b32[instr.o[0] as usize][lane] = active);
                Ok(())
            }
            Op::Clock { wide, upper } => {
                let now = self.executed.iter().sum::<u64>() >> if upper { 32 } else { 0 };
                self.each(active, |block, lane| match wide {
                    true => block.rows[w].b64[instr.o[0] as usize][lane] = now,
                    false => block.rows[w].b32[instr.o[0] as usize][lane] = now as u32,
                });
                Ok(())
            }
            Op::Trap => Err(Stop::new(FaultKind::Trap, active.trailing_zeros(), "trap".to_string())),
            _ => Ok(()),
        }
    }

    fn each(&mut self, mask: u32, mut f: impl FnMut(&mut Self, usize)) {
        for lane in lanes_of(mask) {
            f(self, lane);
        }
    }

    pub(super) fn addresses(&self, w: usize, row: u16, base64: bool, offset: i64) -> Addresses {
        let mut found = [0; LANES];
        if base64 {
            let row = &self.rows[w].b64[row as usize];
            for lane in 0..LANES {
                found[lane] = row[lane].wrapping_add_signed(offset);
            }
        } else {
            let row = &self.rows[w].b32[row as usize];
            for lane in 0..LANES {
                found[lane] = u64::from(row[lane]).wrapping_add_signed(offset);
            }
        }
        found
    }

    /// Finds the space of each lane's address and hands those of one space on together.
    fn by_place(
        &mut self,
        w: usize,
        access: Access,
        row: u16,
        active: u32,
        mut f: impl FnMut(&mut Self, Access, &Addresses, u32) -> Result<(), Box<Stop>>,
    ) -> Result<(), Box<Stop>> {
        let at = self.addresses(w, row, access.base64, access.offset);
        if access.place != Place::Generic {
            return f(self, access, &at, active);
        }
        let mut left = active;
        for (place, start) in [(Place::Shared, SHARED_WINDOW), (Place::Local, LOCAL_WINDOW), (Place::Param, PARAM_WINDOW)] {
            let here = (0..LANES).filter(|&l| left >> l & 1 == 1 && at[l].wrapping_sub(start) < WINDOW).fold(0, |m, l| m | 1 << l);
            if here != 0 {
                f(self, Access { place, ..access }, &at.map(|a| a.wrapping_sub(start)), here)?;
                left &= !here;
            }
        }
        if left != 0 {
            f(self, Access { place: Place::Global, ..access }, &at, left)?;
        }
        Ok(())
    }

    fn load(&mut self, w: usize, pc: u32, instr: &Instr, access: Access, at: &Addresses, mask: u32) -> Result<(), Box<Stop>> {
        if access.bytes == 4 && !access.wide && matches!(access.place, Place::Shared | Place::Global) {
            return self.load_words(w, pc, instr, access, at, mask);
        }
        let mut values = [[0u64; LANES]; 4];
        let values = &mut values[..access.elements as usize];
        match access.place {
            Place::Shared => self.gather_shared(w, access, at, mask, values)?,
            Place::Local | Place::Param => self.gather_private(w, access, at, mask, values)?,
            _ => self.gather_global(pc, access, at, mask, values)?,
        }
        let shift = if access.signed { 64 - 8 * u32::from(access.bytes) } else { 0 };
        let rows = &mut self.rows[w];
        for (e, row) in values.iter().enumerate() {
            let to = instr.o[e] as usize;
            if access.wide {
                let to = &mut rows.b64[to];
                lanes_of(mask).for_each(|lane| to[lane] = ((row[lane] << shift) as i64 >> shift) as u64);
            } else {
                let to = &mut rows.b32[to];
                lanes_of(mask).for_each(|lane| to[lane] = ((row[lane] << shift) as i64 >> shift) as u32);
            }
        }
        Ok(())
    }

    fn gather_shared(&mut self, w: usize, access: Access, at: &Addresses, mask: u32, values: &mut [[u64; LANES]]) -> Result<(), Box<Stop>> {
        let total = u32::from(access.bytes * access.elements);
        self.shared.check_all(at, mask, total)?;
        for lane in lanes_of(mask) {
            self.shared.read(at[lane], total, w, Some(lane as u32))?;
        }
        for (e, row) in values.iter_mut().enumerate() {
            for lane in lanes_of(mask) {
                row[lane] = self.shared.element(at[lane] + e as u64 * u64::from(access.bytes), access.bytes);
            }
        }
        self.count_shared(at, mask, total);
        Ok(())
    }

    /// From local memory or parameters.
    fn gather_private(
        &mut self,
        w: usize,
        access: Access,
        at: &Addresses,
        mask: u32,
        values: &mut [[u64; LANES]],
    ) -> Result<(), Box<Stop>> {
        let total = u32::from(access.bytes * access.elements);
        for lane in lanes_of(mask) {
            let from = self.private(w, lane, access.place, at[lane], total)?;
            self.private_written(access.place, from, total, lane)?;
            let bytes = if access.place == Place::Local { &self.local } else { self.launch.params };
            for (e, row) in values.iter_mut().enumerate() {
                let from = from + e * access.bytes as usize;
                let mut word = [0; 8];
                word[..access.bytes as usize].copy_from_slice(&bytes[from..from + access.bytes as usize]);
                row[lane] = u64::from_le_bytes(word);
            }
        }
        Ok(())
    }

    /// From device memory; what comes from constants is not counted.
    fn gather_global(&mut self, pc: u32, access: Access, at: &Addresses, mask: u32, values: &mut [[u64; LANES]]) -> Result<(), Box<Stop>> {
        let (total, step) = (u32::from(access.bytes * access.elements), u64::from(access.bytes));
        let hint = &mut self.hints[pc as usize];
        if let Some(found) = self.global.span(at, mask, total, hint) {
            self.global.require_all_written(found, at, mask, total)?;
            for (e, row) in values.iter_mut().enumerate() {
                let from = (e as u64 * step).wrapping_sub(found.start);
                for lane in lanes_of(mask) {
                    row[lane] = found.load(at[lane].wrapping_add(from), access.bytes);
                }
            }
        } else {
            for lane in lanes_of(mask) {
                let found = self.global.locate(at[lane], total, lane as u32, hint)?;
                self.global.require_written(found, total, lane as u32)?;
                for (e, row) in values.iter_mut().enumerate() {
                    row[lane] = found.0.load(found.1 + e as u64 * step, access.bytes);
                }
            }
        }
        if access.place == Place::Global {
            self.global.count(&mut self.counters, at, mask, total, false, *hint);
        }
        Ok(())
    }

    /// The frequent case: one, two or four words from shared or device memory.
    fn load_words(&mut self, w: usize, pc: u32, instr: &Instr, access: Access, at: &Addresses, mask: u32) -> Result<(), Box<Stop>> {
        let total = u32::from(4 * access.elements);
        let mut words = [[0u32; LANES]; 4];
        let words = &mut words[..access.elements as usize];
        if access.place == Place::Shared {
            self.shared.check_all(at, mask, total)?;
            for lane in lanes_of(mask) {
                self.shared.read(at[lane], total, w, Some(lane as u32))?;
                for (row, bytes) in words.iter_mut().zip(self.shared.bytes(at[lane], total).as_chunks::<4>().0) {
                    row[lane] = u32::from_le_bytes(*bytes);
                }
            }
            self.count_shared(at, mask, total);
        } else {
            let hint = &mut self.hints[pc as usize];
            if let Some(found) = self.global.span(at, mask, total, hint) {
                self.global.require_all_written(found, at, mask, total)?;
                lanes_of(mask).for_each(|lane| found.words(at[lane] - found.start, lane, words));
            } else {
                for lane in lanes_of(mask) {
                    let found = self.global.locate(at[lane], total, lane as u32, hint)?;
                    self.global.require_written(found, total, lane as u32)?;
                    found.0.words(found.1, lane, words);
                }
            }
            self.global.count(&mut self.counters, at, mask, total, false, *hint);
        }
        for (e, row) in words.iter().enumerate() {
            super::lanes::store(&mut self.rows[w], instr.o[e], row, mask);
        }
        Ok(())
    }

    fn store(&mut self, w: usize, pc: u32, instr: &Instr, access: Access, at: &Addresses, mask: u32) -> Result<(), Box<Stop>> {
        let total = u32::from(access.bytes * access.elements);
        let mut values = [[0u64; LANES]; 4];
        let values = &mut values[..access.elements as usize];
        for (e, row) in values.iter_mut().enumerate() {
            let from = instr.o[1 + e] as usize;
            *row = if access.wide { self.rows[w].b64[from] } else { self.rows[w].b32[from].map(u64::from) };
        }
        match access.place {
            Place::Shared => self.store_shared(w, values, access.bytes, at, mask),
            Place::Local => {
                for lane in lanes_of(mask) {
                    let to = self.private(w, lane, access.place, at[lane], total)?;
                    let bytes = assemble(values, access.bytes, lane);
                    self.local[to..to + total as usize].copy_from_slice(&bytes[..total as usize]);
                    self.local_written[to..to + total as usize].fill(true);
                }
                Ok(())
            }
            Place::Param | Place::Const => {
                let lane = mask.trailing_zeros();
                let detail = format!("a store of {total} bytes to {:?} memory at {:#x}", access.place, at[lane as usize]);
                Err(Stop::new(FaultKind::ReadOnly, lane, detail))
            }
            _ => self.store_global(pc, values, access.bytes, at, mask),
        }
    }

    fn store_shared(&mut self, w: usize, values: &[[u64; LANES]], step: u8, at: &Addresses, mask: u32) -> Result<(), Box<Stop>> {
        let total = u32::from(step) * values.len() as u32;
        self.shared.check_all(at, mask, total)?;
        for lane in lanes_of(mask) {
            let bytes = assemble(values, step, lane);
            let bytes = &bytes[..total as usize];
            self.shared.write(at[lane], w, lane as u32, bytes)?;
            self.shared.put(at[lane], bytes);
        }
        self.count_shared(at, mask, total);
        Ok(())
    }

    fn store_global(&mut self, pc: u32, values: &[[u64; LANES]], step: u8, at: &Addresses, mask: u32) -> Result<(), Box<Stop>> {
        let total = u32::from(step) * values.len() as u32;
        let hint = &mut self.hints[pc as usize];
        if let Some(to) = self.global.span(at, mask, total, hint) {
            self.global.require_variable(to, mask.trailing_zeros())?;
            for (e, row) in values.iter().enumerate() {
                let offset = (e as u64 * u64::from(step)).wrapping_sub(to.start);
                lanes_of(mask).for_each(|lane| to.store(at[lane].wrapping_add(offset), step, row[lane]));
            }
            if in_a_row(at, mask, total) {
                to.mark(at[0] - to.start, u64::from(total) * LANES as u64);
            } else if !to.whole() {
                lanes_of(mask).for_each(|lane| to.mark(at[lane] - to.start, total.into()));
            }
        } else {
            for lane in lanes_of(mask) {
                let (to, offset) = self.global.locate(at[lane], total, lane as u32, hint)?;
                self.global.require_variable(to, lane as u32)?;
                for (e, row) in values.iter().enumerate() {
                    to.store(offset + e as u64 * u64::from(step), step, row[lane]);
                }
                to.mark(offset, total.into());
            }
        }
        self.global.count(&mut self.counters, at, mask, total, true, *hint);
        Ok(())
    }

    /// Rows of 8 x 16 bits: lanes 0 to 7 give the addresses of the first matrix, 8 to 15 of the second, and so on.
    pub(super) fn load_matrix(&mut self, w: usize, instr: &Instr) -> Result<(), Box<Stop>> {
        let Op::LoadMatrix { count, transposed, base64, offset } = instr.op else { return Ok(()) };
        let at = self.addresses(w, instr.o[count as usize], base64, offset);
        let lanes = if count == 4 { u32::MAX } else { (1 << (8 * count)) - 1 };
        self.shared.check_all(&at, lanes, 16)?;
        let mut fragments = [[0u32; LANES]; 4];
        for (m, fragment) in fragments[..count as usize].iter_mut().enumerate() {
            for r in 0..8 {
                let lane = 8 * m + r;
                self.shared.read(at[lane], 16, w, None).map_err(|stop| Stop::new(stop.kind, lane as u32, stop.detail))?;
                let row = self.shared.bytes(at[lane], 16).as_chunks::<4>().0;
                for (word, bytes) in fragment[4 * r..4 * r + 4].iter_mut().zip(row) {
                    *word = u32::from_le_bytes(*bytes);
                }
            }
            if transposed {
                *fragment = tensor::transpose(fragment);
            }
        }
        for (m, fragment) in fragments[..count as usize].iter().enumerate() {
            self.rows[w].b32[instr.o[m] as usize] = *fragment;
        }
        self.count_shared(&at, lanes, 16);
        Ok(())
    }

    pub(super) fn count_shared(&mut self, at: &Addresses, mask: u32, bytes: u32) {
        let (passes, least) = super::shared::wavefronts(at, mask, bytes);
        self.counters.shared_wavefronts += passes;
        self.counters.shared_wavefronts_min += least;
    }

    /// Index into local memory or parameters of a thread's access.
    fn private(&self, w: usize, lane: usize, place: Place, at: u64, bytes: u32) -> Result<usize, Box<Stop>> {
        let (start, size) = match place {
            Place::Local => ((w * LANES + lane) * self.program.local_bytes as usize, self.program.local_bytes as usize),
            _ => (0, self.launch.params.len()),
        };
        if at >= size as u64 || at + u64::from(bytes) > size as u64 {
            let detail = format!("{bytes} bytes at {place:?} address {at:#x} of {size} bytes");
            return Err(Stop::new(FaultKind::OutOfBounds, lane as u32, detail));
        }
        if !at.is_multiple_of(u64::from(bytes)) {
            let detail = format!("{bytes} bytes at {place:?} address {at:#x}");
            return Err(Stop::new(FaultKind::Misaligned, lane as u32, detail));
        }
        Ok(start + at as usize)
    }

    fn private_written(&self, place: Place, from: usize, bytes: u32, lane: usize) -> Result<(), Box<Stop>> {
        let whole = place != Place::Local || self.local_written[from..from + bytes as usize].iter().all(|&w| w);
        if whole {
            return Ok(());
        }
        let detail =
            format!("read of {bytes} bytes of local memory at {:#x} that the thread never wrote", from % self.program.local_bytes as usize);
        Err(Stop::new(FaultKind::Unwritten, lane as u32, detail))
    }
}

/// The bytes of a lane's elements, one after the other.
#[inline(always)]
fn assemble(values: &[[u64; LANES]], step: u8, lane: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (e, row) in values.iter().enumerate() {
        let at = e * step as usize;
        bytes[at..at + 8].copy_from_slice(&row[lane].to_le_bytes());
    }
    bytes
}
