//! Instructions that lanes of a warp execute together: shuffles, votes, matches, reductions, `bar.warp.sync`.

use super::block::Block;
use super::lanes::{LANES, lanes_of};
use super::stop::Stop;
use crate::FaultKind;
use crate::ptx::program::{AtomicOp, Instr, Op, ShuffleMode, VoteMode};

impl Block<'_> {
    /// Lanes that a warp-wide instruction names and that have yet to come; nothing if all are here. Lanes that have left are not waited for.
    pub(super) fn missing(&self, w: usize, instr: &Instr, active: u32) -> Result<Option<u32>, Box<Stop>> {
        let masks = &self.rows[w].b32[mask_row(instr)];
        let live = self.warps[w].lanes & !self.warps[w].exited;
        let (mut all, mut missing) = (0, 0);
        for lane in lanes_of(active) {
            if masks[lane] >> lane & 1 == 0 {
                let detail = format!("a warp-wide instruction of lanes {:#010x} is executed by lane {lane}", masks[lane]);
                return Err(Stop::new(FaultKind::DivergentWarp, lane as u32, detail));
            }
            all |= masks[lane];
            missing |= masks[lane] & live & !active;
        }
        Ok((missing != 0).then_some(all))
    }

    /// Executes one, group by group where lanes name different masks.
    pub(super) fn together(&mut self, w: usize, instr: &Instr, active: u32) -> Result<(), Box<Stop>> {
        let masks = self.rows[w].b32[mask_row(instr)];
        let mut left = active;
        while left != 0 {
            let mask = masks[left.trailing_zeros() as usize];
            let group = (0..LANES).filter(|&l| left >> l & 1 == 1 && masks[l] == mask).fold(0, |all, l| all | 1u32 << l);
            left &= !group;
            match instr.op {
                Op::Shuffle(mode) => self.shuffle(w, instr, mode, group)?,
                Op::Vote { mode, negated } => self.vote(w, instr, mode, negated, group),
                Op::Match { all, wide } => self.matching(w, instr, all, wide, group),
                Op::Reduce { op, signed } => self.reduce(w, instr, op, signed, group),
                _ => {}
            }
        }
        self.shared.warp_sync(w);
        Ok(())
    }

    fn shuffle(&mut self, w: usize, instr: &Instr, mode: ShuffleMode, group: u32) -> Result<(), Box<Stop>> {
        let rows = &mut self.rows[w];
        let [d, p, a, b, c, _] = [0, 1, 2, 3, 4, 5].map(|i| instr.o[i] as usize);
        let (a, b, c) = (rows.b32[a], rows.b32[b], rows.b32[c]);
        let (mut found, mut inside) = (rows.b32[d], rows.p[p]);
        for lane in lanes_of(group) {
            let at = lane as i32;
            let (step, segment, clamp) = ((b[lane] & 31) as i32, (c[lane] >> 8 & 31) as i32, (c[lane] & 31) as i32);
            let last = at & segment | clamp & !segment;
            let (from, ok) = match mode {
                ShuffleMode::Up => (at - step, at - step >= last),
                ShuffleMode::Down => (at + step, at + step <= last),
                ShuffleMode::Butterfly => (at ^ step, at ^ step <= last),
                ShuffleMode::Index => {
                    let from = at & segment | step & !segment;
                    (from, from <= last)
                }
            };
            let from = if ok { from as usize } else { lane };
            if group >> from & 1 == 0 {
                let detail = format!("a shuffle reads lane {from}, which takes no part in it");
                return Err(Stop::new(FaultKind::DivergentWarp, lane as u32, detail));
            }
            found[lane] = a[from];
            inside = if ok { inside | 1 << lane } else { inside & !(1 << lane) };
        }
        rows.b32[d] = found;
        rows.p[p] = inside;
        Ok(())
    }

    fn vote(&mut self, w: usize, instr: &Instr, mode: VoteMode, negated: bool, group: u32) {
        let rows = &mut self.rows[w];
        let p = rows.p[instr.o[1] as usize];
        let votes = if negated { !p } else { p } & group;
        let holds = match mode {
            VoteMode::Ballot => {
                let row = &mut rows.b32[instr.o[0] as usize];
                for lane in lanes_of(group) {
                    row[lane] = votes;
                }
                return;
            }
            VoteMode::All => votes == group,
            VoteMode::Any => votes != 0,
            VoteMode::Uniform => votes == group || votes == 0,
        };
        let row = &mut rows.p[instr.o[0] as usize];
        *row = if holds { *row | group } else { *row & !group };
    }

    fn matching(&mut self, w: usize, instr: &Instr, all: bool, wide: bool, group: u32) {
        let rows = &mut self.rows[w];
        let at = instr.o[2] as usize;
        let values: [u64; LANES] = if wide { rows.b64[at] } else { rows.b32[at].map(u64::from) };
        let members: Vec<usize> = lanes_of(group).collect();
        for &lane in &members {
            let equal = members.iter().filter(|&&l| values[l] == values[lane]).fold(0, |found, &l| found | 1u32 << l);
            let found = if all && equal != group { 0 } else { equal };
            rows.b32[instr.o[0] as usize][lane] = found;
            let p = &mut rows.p[instr.o[1] as usize];
            *p = if equal == group { *p | 1 << lane } else { *p & !(1 << lane) };
        }
    }

    fn reduce(&mut self, w: usize, instr: &Instr, op: AtomicOp, signed: bool, group: u32) {
        let rows = &mut self.rows[w];
        let a = rows.b32[instr.o[1] as usize];
        let values = lanes_of(group).map(|l| a[l]);
        let result = values
            .reduce(|x, y| match op {
                AtomicOp::Add => x.wrapping_add(y),
                AtomicOp::Min if signed => (x as i32).min(y as i32) as u32,
                AtomicOp::Min => x.min(y),
                AtomicOp::Max if signed => (x as i32).max(y as i32) as u32,
                AtomicOp::Max => x.max(y),
                AtomicOp::And => x & y,
                AtomicOp::Or => x | y,
                _ => x ^ y,
            })
            .unwrap_or_default();
        for lane in lanes_of(group) {
            rows.b32[instr.o[0] as usize][lane] = result;
        }
    }
}

fn mask_row(instr: &Instr) -> usize {
    let at = match instr.op {
        Op::Shuffle(_) => 5,
        Op::Vote { .. } | Op::Reduce { .. } => 2,
        Op::Match { .. } => 3,
        _ => 0,
    };
    instr.o[at] as usize
}
