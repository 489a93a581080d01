//! One warp: its lanes in fragments that share a program counter.
//!
//! Lanes that a branch parts go on as fragments; the fragment with the lowest program counter runs, until it reaches one that waits at a
//! higher one, where they merge. Compilers lay code out so that the lowest is the one behind, so fragments meet again where their paths do.
//! A fragment at a barrier, or at a warp-wide instruction that names lanes that are elsewhere, waits for them.

use super::block::Block;
use super::lanes::{FULL, LANES, lanes_of};
use super::stop::Stop;
use crate::FaultKind;
use crate::ptx::program::{BarrierKind, Instr, Op, UNGUARDED};

/// Instructions of a warp's turn before the next warp gets one, so that a warp may wait for what another writes.
const TURN: u32 = 1 << 18;
/// Instructions that a `nanosleep` counts for where a warp is suspected to hang.
const SLEEP: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fragment {
    pub(super) pc: u32,
    pub(super) mask: u32,
}

/// Why a fragment waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wait {
    Barrier {
        id: u32,
        threads: Option<u32>,
        kind: BarrierKind,
    },
    /// For the other lanes of this mask, at a warp-wide instruction.
    Lanes(u32),
}

#[derive(Clone, Default)]
pub(super) struct Warp {
    pub(super) ready: Vec<Fragment>,
    pub(super) waiting: Vec<(Fragment, Wait)>,
    /// The lanes that it began with.
    pub(super) lanes: u32,
    pub(super) exited: u32,
    /// Where each lane left.
    pub(super) exits: [u32; LANES],
    issued: u64,
}

/// How a fragment's run ended.
enum End {
    /// It parted, left, or came to another fragment.
    Ready,
    Waits(Fragment, Wait),
    Turn(Fragment),
}

impl Warp {
    pub(super) fn start(&mut self, mask: u32) {
        *self = Self { lanes: mask, ready: vec![Fragment { pc: 0, mask }], ..Self::default() };
    }

    /// Takes the fragment that runs next, merged with those at its place.
    fn take(&mut self) -> Option<(Fragment, u32)> {
        let pc = self.ready.iter().map(|f| f.pc).min()?;
        let mut next = Fragment { pc, mask: 0 };
        let mut limit = u32::MAX;
        self.ready.retain(|f| {
            if f.pc == pc {
                next.mask |= f.mask;
            } else {
                limit = limit.min(f.pc);
            }
            f.pc != pc
        });
        Some((next, limit))
    }

    /// A fragment waits; one that waits at the same place takes it up.
    fn wait(&mut self, fragment: Fragment, wait: Wait) {
        match self.waiting.iter_mut().find(|(f, w)| f.pc == fragment.pc && *w == wait) {
            Some((known, _)) => known.mask |= fragment.mask,
            None => self.waiting.push((fragment, wait)),
        }
    }
}

impl Block<'_> {
    /// Runs a warp until its lanes wait or have left, or its turn ends.
    pub(super) fn turn(&mut self, w: usize) -> Result<(), (u32, Box<Stop>)> {
        let mut left = TURN;
        while let Some((mut fragment, limit)) = self.warps[w].take() {
            if self.warps[w].issued > self.device.watchdog {
                let detail = format!("a warp ran {} instructions without an end", self.device.watchdog);
                return Err((fragment.pc, Stop::new(FaultKind::Hang, fragment.mask.trailing_zeros(), detail)));
            }
            // Lanes that wait here for others find them.
            self.warps[w].waiting.retain(|(f, wait)| {
                let here = f.pc == fragment.pc && matches!(wait, Wait::Lanes(_));
                fragment.mask |= if here { f.mask } else { 0 };
                !here
            });
            let before = left;
            let end = self.run_fragment(w, &mut fragment, limit, &mut left).map_err(|stop| (fragment.pc, stop))?;
            self.warps[w].issued += u64::from(before - left);
            match end {
                End::Ready => {}
                End::Waits(fragment, wait) => self.warps[w].wait(fragment, wait),
                End::Turn(fragment) => {
                    self.warps[w].ready.push(fragment);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn run_fragment(&mut self, w: usize, fragment: &mut Fragment, limit: u32, left: &mut u32) -> Result<End, Box<Stop>> {
        let program = self.program;
        let (mut pc, mask) = (fragment.pc, fragment.mask);
        let mut first = true;
        loop {
            if pc >= limit {
                self.warps[w].ready.push(Fragment { pc, mask });
                return Ok(End::Ready);
            }
            // Waiting for lanes elsewhere: an arrival at their place must be merged with them.
            let lanes_wait = |(f, wait): &(Fragment, Wait)| f.pc == pc && matches!(wait, Wait::Lanes(_));
            if !first && self.warps[w].waiting.iter().any(lanes_wait) {
                self.warps[w].ready.push(Fragment { pc, mask });
                return Ok(End::Ready);
            }
            first = false;
            if *left == 0 {
                return Ok(End::Turn(Fragment { pc, mask }));
            }
            *left -= 1;
            fragment.pc = pc;
            let instr = &program.code[pc as usize];
            self.executed[pc as usize] += 1;
            let active = mask & self.guard(w, instr);
            match instr.op {
                Op::Alu(run) => {
                    if active != 0 {
                        // SAFETY: the operation was chosen for the instruction set of this host.
                        unsafe { run(&mut self.rows[w], &instr.o, active) };
                    }
                    pc += 1;
                }
                Op::Branch(_) | Op::Table(_) => match self.branch(w, instr, pc, mask, active) {
                    Some(next) => pc = next,
                    None => return Ok(End::Ready),
                },
                _ => match self.step(w, instr, Fragment { pc, mask }, active)? {
                    None => pc += 1,
                    Some(end) => return Ok(end),
                },
            }
        }
    }

    /// One instruction that is neither arithmetic nor a branch, for the `active` lanes of a fragment: nothing if the fragment goes on behind it.
    fn step(&mut self, w: usize, instr: &Instr, at: Fragment, active: u32) -> Result<Option<End>, Box<Stop>> {
        let Fragment { pc, mask } = at;
        match instr.op {
            Op::Exit => {
                self.leave(w, pc, active)?;
                // Those whose guard is false stay.
                self.go_on(w, pc + 1, mask & !active);
                return Ok(Some(End::Ready));
            }
            _ if active == 0 => {}
            Op::Barrier { kind, counted } => {
                self.go_on(w, pc + 1, mask & !active);
                let fragment = Fragment { pc, mask: active };
                if let Some(wait) = self.reach_barrier(w, instr, fragment, kind, counted)? {
                    return Ok(Some(End::Waits(fragment, wait)));
                }
                self.go_on(w, pc + 1, active);
                return Ok(Some(End::Ready));
            }
            Op::Shuffle(_) | Op::Vote { .. } | Op::Match { .. } | Op::Reduce { .. } | Op::WarpBarrier => {
                if let Some(all) = self.missing(w, instr, active)? {
                    self.go_on(w, pc + 1, mask & !active);
                    return Ok(Some(End::Waits(Fragment { pc, mask: active }, Wait::Lanes(all))));
                }
                self.together(w, instr, active)?;
            }
            Op::Sleep => {
                self.sleep(active.trailing_zeros())?;
                self.warps[w].issued += SLEEP;
                return Ok(Some(End::Turn(Fragment { pc: pc + 1, mask })));
            }
            Op::Mma(run) => {
                self.whole(w, mask, active)?;
                // SAFETY: as for the operations on lanes.
                unsafe { run(&mut self.rows[w], &instr.o, FULL) };
            }
            Op::LoadMatrix { .. } => {
                self.whole(w, mask, active)?;
                self.load_matrix(w, instr)?;
            }
            _ => self.other(w, pc, instr, active)?,
        }
        Ok(None)
    }

    /// These lanes, if there are any, go on from there.
    fn go_on(&mut self, w: usize, pc: u32, mask: u32) {
        if mask != 0 {
            self.warps[w].ready.push(Fragment { pc, mask });
        }
    }

    #[inline(always)]
    fn guard(&self, w: usize, instr: &Instr) -> u32 {
        if instr.guard == UNGUARDED {
            return FULL;
        }
        let p = self.rows[w].p[instr.guard as usize];
        if instr.negated { !p } else { p }
    }

    /// Where the fragment goes on, or nothing if its lanes part.
    fn branch(&mut self, w: usize, instr: &Instr, pc: u32, mask: u32, active: u32) -> Option<u32> {
        let mut parts: Vec<Fragment> = Vec::new();
        let mut add = |pc: u32, mask: u32| match parts.iter_mut().find(|f| f.pc == pc) {
            Some(known) => known.mask |= mask,
            None => parts.push(Fragment { pc, mask }),
        };
        match instr.op {
            Op::Branch(target) => {
                if active == mask {
                    return Some(target);
                }
                if active == 0 {
                    return Some(pc + 1);
                }
                add(target, active);
            }
            Op::Table(table) => {
                let targets = &self.program.tables[table as usize];
                let index = self.rows[w].b32[instr.o[0] as usize];
                for lane in lanes_of(active) {
                    // An index beyond the table is undefined; it is taken as its last entry.
                    let target = targets.get(index[lane] as usize).or(targets.last()).copied().unwrap_or(pc + 1);
                    add(target, 1 << lane);
                }
            }
            _ => {}
        }
        if mask & !active != 0 {
            add(pc + 1, mask & !active);
        }
        if let [only] = parts.as_slice() {
            return Some(only.pc);
        }
        self.counters.divergent_branches += 1;
        self.warps[w].ready.extend(parts);
        None
    }

    /// A warp-wide instruction without a mask of its own needs all lanes that the warp began with.
    fn whole(&self, w: usize, mask: u32, active: u32) -> Result<(), Box<Stop>> {
        if active == FULL {
            return Ok(());
        }
        let missing = !active;
        let lane = missing.trailing_zeros();
        let why = match () {
            () if self.warps[w].exited & missing != 0 => "have left",
            () if mask & missing != 0 => "are kept out by its guard",
            () => "are elsewhere or do not exist",
        };
        let detail = format!("a warp-wide instruction without lanes {missing:#010x}, which {why}");
        Err(Stop::new(FaultKind::DivergentWarp, lane.min(31), detail))
    }
}
