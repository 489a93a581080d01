//! `cp.async`: what a warp has copied and not yet waited for.

use super::block::Block;
use super::lanes::LANES;
use super::stop::Stop;
use crate::FaultKind;
use crate::ptx::program::{Instr, Op};

#[derive(Default)]
pub(super) struct Copies {
    /// Groups that each lane has committed.
    committed: [u32; LANES],
    pending: Vec<Box<Copy>>,
}

/// The data of one instruction, read when it was issued. It is seen by nobody until its lane waits.
struct Copy {
    lanes: u32,
    /// The group of its lanes, in order of commitment.
    group: u32,
    bytes: u8,
    to: [u64; LANES],
    data: [[u8; 16]; LANES],
}

impl Copies {
    /// The first lane of a mask that has not waited for all of its copies.
    pub(super) fn pending(&self, mask: u32) -> Option<u32> {
        let lanes = self.pending.iter().fold(0, |all, c| all | c.lanes) & mask;
        (lanes != 0).then(|| lanes.trailing_zeros())
    }

    fn commit(&mut self, mask: u32) {
        for (lane, groups) in self.committed.iter_mut().enumerate() {
            *groups += mask >> lane & 1;
        }
    }
}

impl Block<'_> {
    pub(super) fn copy(&mut self, w: usize, pc: u32, instr: &Instr, mask: u32) -> Result<(), Box<Stop>> {
        match instr.op {
            Op::AsyncCommit => self.copies[w].commit(mask),
            Op::AsyncWait(left) => self.arrive(w, mask, |committed, group| group + left < committed),
            Op::AsyncWaitAll => self.arrive(w, mask, |_, _| true),
            _ => self.issue(w, pc, instr, mask)?,
        }
        Ok(())
    }

    fn issue(&mut self, w: usize, pc: u32, instr: &Instr, mask: u32) -> Result<(), Box<Stop>> {
        let Op::AsyncCopy { bytes, sized, to64, to, from } = instr.op else { return Ok(()) };
        let targets = self.addresses(w, instr.o[0], to64, to);
        let sources = self.addresses(w, instr.o[1], true, from);
        let sizes = if sized { self.rows[w].b32[instr.o[2] as usize] } else { [u32::from(bytes); LANES] };
        let mut copy = Box::new(Copy { lanes: 0, group: 0, bytes, to: targets, data: [[0; 16]; LANES] });
        let mut read = 0;
        let mut hint = self.hints[pc as usize];
        for lane in (0..LANES).filter(|l| mask >> l & 1 == 1) {
            let (size, n) = (sizes[lane], lane as u32);
            if size > u32::from(bytes) {
                let detail = format!("cp.async of {bytes} bytes from a source of {size}");
                return Err(Stop::new(FaultKind::OutOfBounds, n, detail));
            }
            self.shared.check(targets[lane], bytes.into(), n)?;
            self.shared.expect(targets[lane], bytes.into(), w, n)?;
            if size == 0 {
                continue;
            }
            if sources[lane] % u64::from(bytes) != 0 {
                let detail = format!("cp.async of {bytes} bytes from {:#x}", sources[lane]);
                return Err(Stop::new(FaultKind::Misaligned, n, detail));
            }
            // Byte by byte where a part is asked for: only that part must exist.
            let unit = if size == u32::from(bytes) { size.min(8) } else { 1 };
            for at in (0..size).step_by(unit as usize) {
                let found = self.global.locate(sources[lane] + u64::from(at), unit, n, &mut hint)?;
                self.global.require_written(found, unit, n)?;
                let value = found.0.load(found.1, unit as u8).to_le_bytes();
                copy.data[lane][at as usize..(at + unit) as usize].copy_from_slice(&value[..unit as usize]);
            }
            read |= 1 << lane;
        }
        self.hints[pc as usize] = hint;
        if read != 0 {
            self.global.count(&mut self.counters, &sources, read, bytes.into(), false, hint);
        }
        let (passes, least) = super::shared::wavefronts(&targets, mask, bytes.into());
        self.counters.shared_wavefronts += passes;
        self.counters.shared_wavefronts_min += least;
        self.queue(w, *copy, mask);
        Ok(())
    }

    /// Lanes that have committed different numbers of groups wait for this copy separately.
    fn queue(&mut self, w: usize, copy: Copy, mask: u32) {
        let committed = self.copies[w].committed;
        let mut left = mask;
        while left != 0 {
            let group = committed[left.trailing_zeros() as usize];
            let lanes = (0..LANES).filter(|&l| left >> l & 1 == 1 && committed[l] == group).fold(0, |all, l| all | 1 << l);
            left &= !lanes;
            self.copies[w].pending.push(Box::new(Copy { lanes, group, ..copy }));
        }
    }

    /// Copies of lanes of a mask become visible; `done` tells by groups committed and group of the copy.
    fn arrive(&mut self, w: usize, mask: u32, done: impl Fn(u32, u32) -> bool) {
        let Copies { committed, pending } = &mut self.copies[w];
        for copy in pending.iter_mut() {
            let here = copy.lanes & mask;
            for lane in (0..LANES).filter(|l| here >> l & 1 == 1) {
                if done(committed[lane], copy.group) {
                    copy.lanes &= !(1 << lane);
                    self.shared.arrive(copy.to[lane], &copy.data[lane][..copy.bytes as usize], w, lane as u32);
                }
            }
        }
        pending.retain(|copy| copy.lanes != 0);
    }
}
