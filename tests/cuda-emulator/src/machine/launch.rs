//! A grid: its limits, and its blocks on threads of the host.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::block::Block;
use super::global::Global;
use super::lanes::Class;
use crate::ptx::program::Program;
use crate::{Counters, DeviceModel, Entry, Fault, FaultKind, Memory, Module};

/// One grid to run.
pub struct Launch<'a> {
    /// A loaded module.
    pub module: &'a Module,
    /// Name of the kernel.
    pub entry: &'a str,
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub dynamic_shared: u32,
    /// Parameter bytes, laid out as [`crate::Entry::params`] says.
    pub params: &'a [u8],
}

/// What some blocks of a grid did.
#[derive(Clone, Debug, Default)]
pub struct Sampled {
    /// Counts of those blocks alone.
    pub counters: Counters,
    /// The allocations that they read or wrote, by address.
    pub touched: Vec<Touched>,
}

/// What a launch did to one allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Where the allocation starts.
    pub address: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes that were read at least once, in whole sectors.
    pub loaded: u64,
    /// Bytes that were written at least once, in whole sectors.
    pub stored: u64,
}

/// Runs a grid on `threads` threads of the host, to its end or its first fault: of several blocks that fail, the one that started first is
/// reported. Results do not depend on `threads`, unless the kernel itself depends on the order of its blocks (atomics on floats).
pub fn run(device: &DeviceModel, memory: &Memory, launch: &Launch<'_>, threads: usize) -> Result<Counters, Fault> {
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    let index = |at| if device.blocks_descend { blocks - 1 - at } else { at };
    run_indices(device, memory, launch, &index, blocks, threads).map(|sampled| sampled.counters)
}

/// Runs only the blocks named by their index in the grid (x fastest, then y), in that order, as [`run`] does: to count what a launch costs without paying
/// for all of it. A kernel whose blocks wait for each other, or whose last block finishes what others began, needs all that belong together.
pub fn run_blocks(device: &DeviceModel, memory: &Memory, launch: &Launch<'_>, blocks: &[u64], threads: usize) -> Result<Sampled, Fault> {
    let all: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    if let Some(beyond) = blocks.iter().find(|&&b| b >= all) {
        let detail = format!("block {beyond} of a grid of {all}");
        return Err(Fault { kernel: launch.entry.to_string(), ..Fault::new(FaultKind::BadLaunch, detail) });
    }
    run_indices(device, memory, launch, &|at| blocks[at as usize], blocks.len() as u64, threads)
}

/// Runs `blocks` blocks, whose indices in the grid `index` gives.
fn run_indices(
    device: &DeviceModel,
    memory: &Memory,
    launch: &Launch<'_>,
    index: &(dyn Fn(u64) -> u64 + Sync),
    blocks: u64,
    threads: usize,
) -> Result<Sampled, Fault> {
    let named = |kind, detail: String| Fault { kernel: launch.entry.to_string(), ..Fault::new(kind, detail) };
    let Some((entry, program)) = launch.module.program(launch.entry) else {
        return Err(named(FaultKind::BadLaunch, "no such kernel in the module, or the module is not loaded".to_string()));
    };
    check(device, launch, entry).map_err(|(kind, detail)| named(kind, detail))?;
    let mut presets = program.preset64.clone();
    for &(row, variable, offset) in &program.relocations {
        presets[row as usize] = launch.module.variables()[variable].address.wrapping_add_signed(offset);
    }
    let global = Global::new(memory);
    let (next, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut block = Block::new(launch, device, program, &global, &presets, &stopped);
        let found = run_while_there_are(&mut block, launch.grid, index, blocks, &next);
        if found.is_some() {
            stopped.store(true, Relaxed);
        }
        let fault = found.filter(|_| !block.gave_up);
        (finish(program, block), fault)
    };
    let results = on_threads((threads.max(1) as u64).min(blocks), work);
    let mut counters = Counters::default();
    let mut first: Option<(u64, Fault)> = None;
    for (part, fault) in results {
        counters.merge(&part);
        first = match (first, fault) {
            (Some(a), Some(b)) => Some(if a.0 < b.0 { a } else { b }),
            (a, b) => a.or(b),
        };
    }
    match first {
        Some((_, fault)) => Err(fault),
        None => Ok(Sampled { counters, touched: global.touched_allocations() }),
    }
}

/// Takes one block after the other until there are no more, or one fails: which, and why.
fn run_while_there_are(
    block: &mut Block<'_>,
    grid: [u32; 3],
    index: &(dyn Fn(u64) -> u64 + Sync),
    blocks: u64,
    next: &AtomicU64,
) -> Option<(u64, Fault)> {
    let [x, y, _] = grid.map(u64::from);
    loop {
        let at = next.fetch_add(1, Relaxed);
        if at >= blocks {
            return None;
        }
        let linear = index(at);
        let place = [linear % x, linear / x % y, linear / (x * y)].map(|i| i as u32);
        if let Err(fault) = block.run(place) {
            // Blocks after this one need not run; those before it run already.
            next.fetch_max(blocks, Relaxed);
            return Some((at, fault));
        }
    }
}

/// What `work` gives on each of so many threads.
fn on_threads<R: Send>(threads: u64, work: impl Fn() -> R + Sync) -> Vec<R> {
    if threads <= 1 {
        return vec![work()];
    }
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let result = work();
                results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn check(device: &DeviceModel, launch: &Launch<'_>, entry: &Entry) -> Result<(), (FaultKind, String)> {
    let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
    let limit = entry.max_threads.unwrap_or(device.max_threads_per_block).min(device.max_threads_per_block);
    if threads == 0 || threads > u64::from(limit) || (0..3).any(|a| launch.block[a] > device.max_block[a]) {
        let detail = format!("a block of {:?} threads, where {limit} are allowed, by axis {:?}", launch.block, device.max_block);
        return Err((FaultKind::ThreadLimit, detail));
    }
    if (0..3).any(|a| launch.grid[a] == 0 || launch.grid[a] > device.max_grid[a]) {
        let detail = format!("a grid of {:?} blocks, where {:?} are allowed", launch.grid, device.max_grid);
        return Err((FaultKind::ThreadLimit, detail));
    }
    let shared = u64::from(entry.shared_bytes) + u64::from(launch.dynamic_shared);
    if shared > u64::from(device.max_shared_per_block_optin) {
        let detail = format!(
            "{} bytes of static and {} of dynamic shared memory, where a block has {}",
            entry.shared_bytes, launch.dynamic_shared, device.max_shared_per_block_optin
        );
        return Err((FaultKind::SharedLimit, detail));
    }
    if launch.params.len() != entry.param_bytes as usize {
        let detail = format!("{} bytes of parameters, where the kernel takes {}", launch.params.len(), entry.param_bytes);
        return Err((FaultKind::BadLaunch, detail));
    }
    if launch.module.target() > device.arch {
        let detail = format!("PTX for sm_{} on a device of compute capability {}", launch.module.target(), device.arch);
        return Err((FaultKind::BadLaunch, detail));
    }
    Ok(())
}

/// The counts of a thread's blocks, those by unit from how often each instruction was issued.
fn finish(program: &Program, block: Block<'_>) -> Counters {
    let mut counters = block.counters;
    for (instr, &times) in program.code.iter().zip(&block.executed) {
        counters.issued += times;
        let unit = match instr.class {
            Class::Fp32 => &mut counters.fp32,
            Class::Fp64 => &mut counters.fp64,
            Class::Integer => &mut counters.integer,
            Class::Move => &mut counters.moves,
            Class::Special => &mut counters.special,
            Class::Memory => &mut counters.memory,
            Class::Control => &mut counters.control,
            Class::Tensor(..) => &mut counters.tensor,
            Class::Warp => &mut counters.warp_wide,
        };
        *unit += times;
        if let Class::Tensor(factor, depth) = instr.class {
            let products = times * 16 * 8 * u64::from(depth);
            match factor {
                crate::ptx::program::Factor::F16 => counters.mma_f16 += products,
                crate::ptx::program::Factor::Bf16 => counters.mma_bf16 += products,
                crate::ptx::program::Factor::Tf32 => counters.mma_tf32 += products,
            }
        }
    }
    counters
}
