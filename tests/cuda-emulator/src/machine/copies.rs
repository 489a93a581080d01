//! `cp.async`: what a warp has copied and not yet waited for.

use super::block::Block;
use super::lanes::{LANES, lanes_of};
use super::stop::Stop;
use crate::FaultKind;
use crate::ptx::program::{Instr, Op};

#[derive(Default)]
pub(super) struct Copies {
    /// Groups that each lane has committed.
    committed: [u32; LANES],
    #[allow(clippy::vec_box, reason = "a copy has almost a kilobyte, and the list is filtered at every wait")]
    pending: Vec<Box<Copy>>,
}

/// The data of one instruction, read when it was issued. It is seen by nobody until its lane waits.
#[derive(Clone)]
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
        self.shared.check_all(&targets, mask, bytes.into())?;
        let mut read = 0;
        let mut hint = self.hints[pc as usize];
        for lane in lanes_of(mask) {
            let (size, n) = (sizes[lane], lane as u32);
            if size > u32::from(bytes) {
                let detail = format!("cp.async of {bytes} bytes from a source of {size}");
                return Err(Stop::new(FaultKind::OutOfBounds, n, detail));
            }
            self.shared.expect(targets[lane], bytes.into(), w, n)?;
            if size == 0 {
                continue;
            }
            self.fetch(sources[lane], (bytes, size), n, &mut hint, &mut copy.data[lane])?;
            read |= 1 << lane;
        }
        self.hints[pc as usize] = hint;
        if read != 0 {
            self.global.count(&mut self.counters, &sources, read, bytes.into(), false, hint);
        }
        let (passes, least) = super::shared::wavefronts(&targets, mask, bytes.into());
        self.counters.shared_wavefronts += passes;
        self.counters.shared_wavefronts_min += least;
        self.queue(w, copy, mask);
        Ok(())
    }

    /// Reads the source of one lane: `bytes` at an address that is a multiple of them, or only the first `size`, which alone must exist then.
    fn fetch(&self, from: u64, (bytes, size): (u8, u32), lane: u32, hint: &mut u32, data: &mut [u8; 16]) -> Result<(), Box<Stop>> {
        if !from.is_multiple_of(u64::from(bytes)) {
            return Err(Stop::new(FaultKind::Misaligned, lane, format!("cp.async of {bytes} bytes from {from:#x}")));
        }
        if size == u32::from(bytes) {
            let (source, offset) = self.global.locate(from, size, lane, hint)?;
            self.global.require_written((source, offset), size, lane)?;
            let unit = bytes.min(8);
            for at in (0..bytes).step_by(unit as usize) {
                let value = source.load(offset + u64::from(at), unit).to_le_bytes();
                data[at as usize..(at + unit) as usize].copy_from_slice(&value[..unit as usize]);
            }
            return Ok(());
        }
        for at in 0..size {
            let found = self.global.locate(from + u64::from(at), 1, lane, hint)?;
            self.global.require_written(found, 1, lane)?;
            data[at as usize] = found.0.load(found.1, 1) as u8;
        }
        Ok(())
    }

    /// Lanes that have committed different numbers of groups wait for this copy separately.
    fn queue(&mut self, w: usize, mut copy: Box<Copy>, mask: u32) {
        let Copies { committed, pending } = &mut self.copies[w];
        let mut left = mask;
        while left != 0 {
            copy.group = committed[left.trailing_zeros() as usize];
            copy.lanes = lanes_of(left).filter(|&l| committed[l] == copy.group).fold(0, |all, l| all | 1 << l);
            left &= !copy.lanes;
            if left == 0 {
                break;
            }
            pending.push(copy.clone());
        }
        pending.push(copy);
    }

    /// Copies of lanes of a mask become visible; `done` tells by groups committed and group of the copy.
    fn arrive(&mut self, w: usize, mask: u32, done: impl Fn(u32, u32) -> bool) {
        let Copies { committed, pending } = &mut self.copies[w];
        for copy in pending.iter_mut() {
            let here = copy.lanes & mask;
            for lane in lanes_of(here) {
                if done(committed[lane], copy.group) {
                    copy.lanes &= !(1 << lane);
                    self.shared.arrive(copy.to[lane], &copy.data[lane][..copy.bytes as usize], w, lane as u32);
                }
            }
        }
        pending.retain(|copy| copy.lanes != 0);
    }
}
