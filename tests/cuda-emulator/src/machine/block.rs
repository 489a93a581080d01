//! One block: its warps take turns; when none can go on, barriers are resolved.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::copies::Copies;
use super::global::Global;
use super::lanes::{FULL, LANES, Rows, lane_mask, lanes_of};
use super::launch::Launch;
use super::shared::{Shared, WARPS};
use super::stop::Stop;
use super::warp::{Fragment, Wait, Warp};
use crate::ptx::program::{BarrierKind, Instr, Preset32, Program, Special};
use crate::{Counters, DeviceModel, Fault, FaultKind};

/// Shared memory is counted in units of so many bytes, on sm_80 and newer.
const SHARED_UNIT: u32 = 128;

/// What runs the blocks of a launch, one after the other, on one thread of the host.
pub(super) struct Block<'a> {
    pub(super) launch: &'a Launch<'a>,
    pub(super) device: &'a DeviceModel,
    pub(super) program: &'a Program,
    pub(super) global: &'a Global<'a>,
    /// 64-bit constants, addresses of variables included.
    presets: &'a [u64],
    pub(super) threads: u32,
    pub(super) rows: Vec<Rows>,
    pub(super) warps: Vec<Warp>,
    pub(super) copies: Vec<Copies>,
    pub(super) shared: Shared,
    /// Local memory of each thread, and which of its bytes were written.
    pub(super) local: Vec<u8>,
    pub(super) local_written: Vec<bool>,
    pub(super) counters: Counters,
    /// Times each instruction was issued.
    pub(super) executed: Vec<u64>,
    /// The allocation that each instruction touched last.
    pub(super) hints: Vec<u32>,
    /// Arrivals without waiting: threads and warps, by barrier.
    arrivals: HashMap<u32, (u32, u32)>,
    index: [u32; 3],
    /// Set when a block of the launch has failed: what others wait for may never come.
    stopped: &'a AtomicBool,
    /// Whether this block waited when another one failed.
    pub(super) gave_up: bool,
}

/// A fragment that waits at a barrier: warp, fragment, barrier.
type Waiting = (usize, Fragment, u32, Option<u32>, BarrierKind);

impl<'a> Block<'a> {
    pub(super) fn new(
        launch: &'a Launch<'a>,
        device: &'a DeviceModel,
        program: &'a Program,
        global: &'a Global<'a>,
        presets: &'a [u64],
        stopped: &'a AtomicBool,
    ) -> Self {
        let threads: u32 = launch.block.iter().product();
        let warps = threads.div_ceil(LANES as u32) as usize;
        let local = program.local_bytes as usize * threads as usize;
        let rows = Rows { b32: vec![[0; LANES]; program.rows[0]], b64: vec![[0; LANES]; program.rows[1]], p: vec![0; program.rows[2]] };
        Self {
            launch,
            device,
            program,
            global,
            presets,
            threads,
            rows: vec![rows; warps],
            warps: vec![Warp::default(); warps],
            copies: (0..warps).map(|_| Copies::default()).collect(),
            shared: Shared::new(program.static_shared + launch.dynamic_shared, program.granule),
            local: vec![0; local],
            local_written: vec![false; local],
            counters: Counters::default(),
            executed: vec![0; program.code.len()],
            hints: vec![0; program.code.len()],
            arrivals: HashMap::new(),
            index: [0; 3],
            stopped,
            gave_up: false,
        }
    }

    /// Runs one block to its end or its first fault.
    pub(super) fn run(&mut self, index: [u32; 3]) -> Result<(), Fault> {
        self.start(index);
        loop {
            let mut progress = false;
            for w in 0..self.warps.len() {
                if !self.warps[w].ready.is_empty() {
                    progress = true;
                    self.turn(w).map_err(|(pc, stop)| self.fault(w, pc, *stop))?;
                }
            }
            if progress {
                continue;
            }
            if self.warps.iter().all(|w| w.waiting.is_empty()) {
                self.counters.blocks += 1;
                self.counters.warps += self.warps.len() as u64;
                return Ok(());
            }
            self.resolve()?;
        }
    }

    fn start(&mut self, index: [u32; 3]) {
        self.index = index;
        self.shared.clear();
        self.local_written.fill(false);
        self.arrivals.clear();
        for w in 0..self.warps.len() {
            let lanes = (self.threads - w as u32 * LANES as u32).min(LANES as u32);
            self.warps[w].start(if lanes == 32 { FULL } else { (1 << lanes) - 1 });
            self.copies[w] = Copies::default();
            self.preset(w);
        }
    }

    fn preset(&mut self, w: usize) {
        let rows = &mut self.rows[w];
        let fixed = (self.program.preset32.len(), self.presets.len());
        rows.b32[fixed.0..].fill([0; LANES]);
        rows.b64[fixed.1..].fill([0; LANES]);
        rows.p.fill(0);
        for (row, value) in rows.b64.iter_mut().zip(self.presets) {
            *row = [*value; LANES];
        }
        let [bx, by, _] = self.launch.block;
        for (row, preset) in rows.b32.iter_mut().zip(&self.program.preset32) {
            let special = match preset {
                Preset32::Constant(value) => {
                    *row = [*value; LANES];
                    continue;
                }
                Preset32::Special(special) => special,
            };
            for (lane, value) in row.iter_mut().enumerate() {
                let thread = (w * LANES + lane) as u32;
                *value = match *special {
                    Special::Tid(0) => thread % bx,
                    Special::Tid(1) => thread / bx % by,
                    Special::Tid(_) => thread / (bx * by),
                    Special::Ntid(a) => self.launch.block[a as usize],
                    Special::Ctaid(a) => self.index[a as usize],
                    Special::Nctaid(a) => self.launch.grid[a as usize],
                    Special::Lane => lane as u32,
                    Special::Warp => w as u32,
                    Special::Warps => self.device.max_threads_per_sm / LANES as u32,
                    Special::Zero => 0,
                    Special::One => 1,
                    Special::Sms => self.device.sms,
                    Special::DynamicShared => self.launch.dynamic_shared,
                    Special::TotalShared => (self.program.static_shared + self.launch.dynamic_shared).next_multiple_of(SHARED_UNIT),
                    Special::LaneMask(name) => lane_mask(name, lane as u32),
                };
            }
        }
    }

    /// A lane waits for what others do: they get the host's time.
    pub(super) fn sleep(&mut self, lane: u32) -> Result<(), Box<Stop>> {
        if self.stopped.load(Relaxed) {
            self.gave_up = true;
            return Err(Stop::new(FaultKind::Hang, lane, "waits for others, of which one has failed".to_string()));
        }
        std::thread::yield_now();
        Ok(())
    }

    /// A fault of a lane of a warp, with all that is known of its place.
    pub(super) fn fault(&self, w: usize, pc: u32, stop: Stop) -> Fault {
        let [bx, by, _] = self.launch.block;
        let thread = (w * LANES) as u32 + stop.lane;
        let (line, location) = self.program.lines[pc as usize];
        Fault {
            kind: stop.kind,
            kernel: self.launch.entry.to_string(),
            block: self.index,
            thread: [thread % bx, thread / bx % by, thread / (bx * by)],
            line,
            source: self.launch.module.source(location),
            detail: stop.detail,
        }
    }

    /// A fragment comes to a barrier: it waits, or only tells that it was there.
    pub(super) fn reach_barrier(
        &mut self,
        w: usize,
        instr: &Instr,
        fragment: Fragment,
        kind: BarrierKind,
        counted: bool,
    ) -> Result<Option<Wait>, Box<Stop>> {
        let lane = fragment.mask.trailing_zeros();
        let id = self.rows[w].b32[instr.o[1] as usize][lane as usize];
        let threads = counted.then(|| self.rows[w].b32[instr.o[2] as usize][lane as usize]);
        if id > 15 || threads.is_some_and(|n| n % 32 != 0 || n == 0) {
            let detail = format!("barrier {id} of {threads:?} threads: numbers go to 15, threads come in whole warps");
            return Err(Stop::new(FaultKind::DivergentBarrier, lane, detail));
        }
        self.counters.barriers += 1;
        if kind == BarrierKind::Arrive {
            let arrived = self.arrivals.entry(id).or_default();
            arrived.0 += LANES as u32;
            arrived.1 |= 1 << w;
            return Ok(None);
        }
        Ok(Some(Wait::Barrier { id, threads, kind }))
    }

    /// No warp can go on: lets go of the barriers that are complete, or says why none is.
    fn resolve(&mut self) -> Result<(), Fault> {
        if self.without_the_gone() {
            return Ok(());
        }
        let mut waiting: Vec<Waiting> = Vec::new();
        for (w, warp) in self.warps.iter().enumerate() {
            for &(fragment, wait) in &warp.waiting {
                match wait {
                    Wait::Barrier { id, threads, kind } => waiting.push((w, fragment, id, threads, kind)),
                    Wait::Lanes(all) => return Err(self.lost_lanes(w, fragment, all)),
                }
            }
        }
        let mut ids: Vec<u32> = waiting.iter().map(|w| w.2).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut released = false;
        for id in ids {
            let here: Vec<Waiting> = waiting.iter().copied().filter(|w| w.2 == id).collect();
            let complete = match here[0].3 {
                // Without a number of threads, all of the block, at one and the same instruction.
                None => {
                    let all: u32 = here.iter().map(|w| w.1.mask.count_ones()).sum();
                    all == self.threads && here.iter().all(|w| w.1.pc == here[0].1.pc)
                }
                Some(threads) => {
                    let warps: u32 = here.iter().fold(0, |all, w| all | 1 << w.0);
                    warps.count_ones() * LANES as u32 + self.arrivals.get(&id).map_or(0, |a| a.0) >= threads
                }
            };
            if complete {
                self.release(id, &here);
                released = true;
            }
        }
        if released { Ok(()) } else { Err(self.stuck(&waiting)) }
    }

    fn release(&mut self, id: u32, here: &[Waiting]) {
        let learn = here.iter().fold(0, |all, w| all | 1u32 << w.0);
        let arrived = self.arrivals.remove(&id).map_or(0, |a| a.1);
        self.shared.barrier(learn | arrived, learn);
        self.reduce_barrier(here);
        for &(w, fragment, ..) in here {
            self.warps[w].waiting.retain(|(f, _)| *f != fragment);
            self.warps[w].ready.push(Fragment { pc: fragment.pc + 1, mask: fragment.mask });
        }
    }

    /// `bar.red`: one answer from the predicates of all threads.
    fn reduce_barrier(&mut self, here: &[Waiting]) {
        let (mut count, mut threads) = (0, 0);
        for &(w, fragment, ..) in here {
            let instr = &self.program.code[fragment.pc as usize];
            count += (self.rows[w].p[instr.o[3] as usize] & fragment.mask).count_ones();
            threads += fragment.mask.count_ones();
        }
        for &(w, fragment, _, _, kind) in here {
            let at = self.program.code[fragment.pc as usize].o[0] as usize;
            let holds = match kind {
                BarrierKind::Sync | BarrierKind::Arrive => continue,
                BarrierKind::Count => {
                    for lane in lanes_of(fragment.mask) {
                        self.rows[w].b32[at][lane] = count;
                    }
                    continue;
                }
                BarrierKind::And => count == threads,
                BarrierKind::Or => count > 0,
            };
            let p = &mut self.rows[w].p[at];
            *p = if holds { *p | fragment.mask } else { *p & !fragment.mask };
        }
    }

    /// Lanes that left are no longer waited for by warp-wide instructions.
    fn without_the_gone(&mut self) -> bool {
        let mut released = false;
        for warp in &mut self.warps {
            let live = warp.lanes & !warp.exited;
            let Warp { waiting, ready, .. } = warp;
            waiting.retain(|(fragment, wait)| {
                let free = matches!(wait, Wait::Lanes(all) if all & live & !fragment.mask == 0);
                if free {
                    ready.push(*fragment);
                }
                released |= free;
                !free
            });
        }
        released
    }

    fn lost_lanes(&self, w: usize, fragment: Fragment, all: u32) -> Fault {
        let missing = all & !fragment.mask & self.warps[w].lanes & !self.warps[w].exited;
        let lane = missing.trailing_zeros().min(31);
        let detail = format!("warp-wide instruction of lanes {all:#010x}: lanes {missing:#010x} wait elsewhere");
        self.fault(w, fragment.pc, Stop { kind: FaultKind::DivergentWarp, lane, detail })
    }

    /// Why the threads that wait at barriers will wait for ever.
    fn stuck(&self, waiting: &[Waiting]) -> Fault {
        let line = |pc: u32| self.program.lines[pc as usize].0;
        // The place where the fewest wait is the one that is off the common path.
        let at = |pc: u32| waiting.iter().filter(|w| w.1.pc == pc).map(|w| w.1.mask.count_ones()).sum::<u32>();
        let mut places: Vec<u32> = waiting.iter().map(|w| w.1.pc).collect();
        places.sort_unstable();
        places.dedup();
        if places.len() > 1 {
            let rare = places.iter().copied().min_by_key(|&pc| at(pc)).unwrap_or_default();
            let list: Vec<String> = places.iter().map(|&pc| format!("{} threads at line {}", at(pc), line(pc))).collect();
            let detail = format!("threads wait at different barriers: {}", list.join(", "));
            if let Some((w, fragment, ..)) = waiting.iter().find(|w| w.1.pc == rare) {
                let lane = fragment.mask.trailing_zeros();
                return self.fault(*w, rare, Stop { kind: FaultKind::DivergentBarrier, lane, detail });
            }
        }
        let pc = places.first().copied().unwrap_or_default();
        let gone = (0..self.warps.len()).find(|&w| self.warps[w].exited != 0);
        let waits = at(pc);
        let (w, lane, kind, detail) = match gone {
            Some(w) => {
                let lane = self.warps[w].exited.trailing_zeros();
                let left = line(self.warps[w].exits[lane as usize]);
                let detail = format!("the thread left at line {left}, before a barrier at which {waits} threads wait");
                (w, lane, FaultKind::EarlyExit, detail)
            }
            None => {
                let (w, fragment, _, threads, _) = waiting[0];
                let detail = format!("{waits} threads wait at a barrier of {} threads", threads.unwrap_or(self.threads));
                (w, fragment.mask.trailing_zeros(), FaultKind::DivergentBarrier, detail)
            }
        };
        self.fault(w, pc, Stop { kind, lane, detail })
    }

    /// Lanes leave; what they copied must have been waited for.
    pub(super) fn leave(&mut self, w: usize, pc: u32, mask: u32) -> Result<(), Box<Stop>> {
        if let Some(lane) = self.copies[w].pending(mask) {
            let detail = "the thread ends with a cp.async that it did not wait for".to_string();
            return Err(Stop::new(FaultKind::PendingCopy, lane, detail));
        }
        let warp = &mut self.warps[w];
        warp.exited |= mask;
        for lane in lanes_of(mask) {
            warp.exits[lane] = pc;
        }
        Ok(())
    }
}

const _: () = assert!(WARPS == 32);
