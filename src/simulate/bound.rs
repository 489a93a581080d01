//! The least time of one launch.
//!
//! Every unit of a multiprocessor takes some cycles for a block. The fullest multiprocessor has the most blocks, and its busiest unit takes
//! as long for them as for one times their number, if the others hide behind it. They cannot hide better than resident blocks allow: a
//! block alone waits for its own data, barriers and results. Device memory and the second-level cache are shared by all.

use super::gpu::Gpu;
use super::table::{Counted, Resources};
use crate::device::{Launch, Slot};
use serde::Serialize;

/// Warp schedulers of a multiprocessor.
const SCHEDULERS: f64 = 4.0;
/// Lanes of a warp.
const WARP: f64 = 32.0;
/// Lanes of the special-function unit and of the integer pipe of a multiprocessor.
const SPECIAL: f64 = 16.0;
const INTEGER: f64 = 64.0;
/// Bytes that a multiprocessor takes from the second-level cache in a cycle.
const PORT: f64 = 64.0;
/// Bytes of a sector.
const SECTOR: f64 = 32.0;
/// Warp instructions in a cycle that a scheduler gets out of one warp, whose instructions wait for each other.
const ALONE: f64 = 0.5;
/// Cycles from an access of shared memory to its data, of a shuffle, and of a barrier.
const SHARED_LATENCY: f64 = 29.0;
const SHUFFLE_LATENCY: f64 = 25.0;
const BARRIER_LATENCY: f64 = 20.0;
/// Reads that a warp has under way without `cp.async`.
const READS_UNDER_WAY: f64 = 4.0;
/// Barriers from asking for operands to their use in kernels whose buffers take turns (attention of wide heads).
const BARRIERS_WITHOUT_STAGES: u64 = 2;
const RESIDENT_THREADS: u64 = 2048;
const RESIDENT_BLOCKS: u64 = 32;
const REGISTERS: u64 = 65536;
/// Shared memory that the system takes from each block.
const RESERVED: u64 = 1024;

/// One launch.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Blocks of the grid.
    pub blocks: u64,
    /// Threads of a block.
    pub threads: u64,
    /// Registers of a thread.
    pub registers: u64,
    /// Shared memory of a block in bytes, static and dynamic.
    pub shared: u64,
    /// What all blocks ask for.
    pub counted: Counted,
    /// Bytes that come from device memory: those read at least once that the second-level cache does not hold already.
    pub read: u64,
    /// Bytes that the last block of a tile reads beyond an average block, when others have nothing left to do: the parts of its sums.
    pub last: u64,
    /// Half of the blocks wait for the other half, as they would in a launch of their own.
    pub waits: bool,
    /// Barriers of a product from asking for operands to their use.
    pub ahead: u64,
}

/// What a launch waits for most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Multiply-adds of the tensor cores.
    Tensor,
    /// Warp instructions issued.
    Issue,
    /// Wavefronts of shared memory.
    Shared,
    /// The way from the second-level cache to a multiprocessor.
    Port,
    /// Special functions and conversions.
    Special,
    /// The f32 pipe.
    Fp32,
    /// The integer pipe.
    Integer,
    /// The second-level cache.
    Cache,
    /// Device memory.
    Memory,
    /// A block's own waiting, which too few others hide.
    Latency,
    /// Starting and ending.
    Launch,
}

/// The least time of a launch and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Seconds until the next launch starts.
    pub seconds: f64,
    /// What binds.
    pub limit: Limit,
    /// Blocks that a multiprocessor can hold.
    pub resident: u64,
    /// Resident warps over those that the device allows, 64.
    pub occupancy: f64,
    /// Blocks over those that the whole device can hold.
    pub waves: f64,
    /// Blocks of the fullest multiprocessor over the average.
    pub tail: f64,
}

/// The least time of `work` on `gpu`.
pub fn bound(gpu: &Gpu, work: &Work) -> Bound {
    let resident = resident_blocks(gpu, work);
    let (blocks, sms) = (work.blocks.max(1), gpu.multiprocessors);
    let fullest = blocks.div_ceil(sms);
    let units = units(gpu, work);
    let (limit, busiest) = largest(&units);
    let asked = (work.counted.load_sectors + work.counted.store_sectors) as f64;
    let all = [
        (limit, busiest * fullest as f64 / gpu.clock),
        (Limit::Latency, alone(gpu, work, &units, fullest.div_ceil(resident)) / gpu.clock),
        (Limit::Cache, asked * SECTOR / gpu.cache),
        (Limit::Memory, (work.read + work.counted.stored) as f64 / gpu.memory),
    ];
    let (limit, seconds) = largest(&all);
    let last = work.last as f64 / PORT / gpu.clock;
    Bound {
        seconds: seconds + last + gpu.launch * if work.waits { 2.0 } else { 1.0 },
        limit: if gpu.launch > seconds { Limit::Launch } else { limit },
        resident,
        occupancy: (resident * work.threads.div_ceil(32)) as f64 / 64.0,
        waves: blocks as f64 / (resident * sms) as f64,
        tail: fullest as f64 * sms as f64 / blocks as f64,
    }
}

fn largest(of: &[(Limit, f64)]) -> (Limit, f64) {
    of.iter().copied().fold((Limit::Launch, 0.0), |most, next| if next.1 > most.1 { next } else { most })
}

/// Cycles of each unit of a multiprocessor for an average block.
fn units(gpu: &Gpu, work: &Work) -> [(Limit, f64); 7] {
    let c = &work.counted;
    let each = |count: u64| count as f64 / work.blocks.max(1) as f64;
    [
        (Limit::Tensor, each(c.mma) / gpu.tensor),
        (Limit::Issue, each(c.issued) / SCHEDULERS),
        (Limit::Shared, each(c.wavefronts)),
        (Limit::Port, each(c.load_sectors + c.store_sectors) * SECTOR / PORT),
        (Limit::Special, each(c.special) * WARP / SPECIAL),
        (Limit::Fp32, each(c.fp32) * WARP / gpu.fp32),
        (Limit::Integer, each(c.integer) * WARP / INTEGER),
    ]
}

/// Cycles of so many blocks one after the other, each with a multiprocessor to itself.
fn alone(gpu: &Gpu, work: &Work, units: &[(Limit, f64)], after_each_other: u64) -> f64 {
    let c = &work.counted;
    let warps = work.threads.div_ceil(32);
    let each_warp = |count: u64| count as f64 / (work.blocks.max(1) * warps) as f64;
    let schedulers = SCHEDULERS.min(warps as f64);
    let warps_each = warps as f64 / schedulers;
    let issue = each_warp(c.issued) * warps_each / (ALONE * warps_each).min(1.0);
    // each scheduler has tensor cores of its own
    let tensor = each_warp(c.mma) * warps_each / (gpu.tensor / SCHEDULERS);
    let busiest = largest(units).1.max(issue).max(tensor);
    let (steps, shuffles) = (each_warp(c.barriers), each_warp(c.warp_wide) * SHUFFLE_LATENCY);
    let block = if c.mma > 0 {
        // operands come from shared memory at the start of each step; they were asked for some steps before
        let step = SHARED_LATENCY + gpu.tensor_latency + BARRIER_LATENCY;
        busiest.max(steps * gpu.memory_latency / work.ahead as f64) + steps * step + shuffles
    } else {
        let reads = (each_warp(c.global_loads) / READS_UNDER_WAY).ceil() * gpu.memory_latency;
        busiest.max(reads) + steps * BARRIER_LATENCY + shuffles
    };
    // a block waits for its first operands while nothing else is done; the first block's wait is part of the least time of a launch
    after_each_other as f64 * (block + gpu.memory_latency) - gpu.memory_latency
}

/// Blocks that a multiprocessor can hold, as the occupancy calculator of CUDA counts for devices of compute capability 8.0 and 9.0.
fn resident_blocks(gpu: &Gpu, work: &Work) -> u64 {
    let warps = work.threads.div_ceil(32).max(1);
    // each scheduler has a quarter of the registers, for its warps
    let of_scheduler = REGISTERS / 4 / (work.registers.max(1).next_multiple_of(8) * 32);
    let of_registers = 4 * of_scheduler / warps;
    let of_shared = gpu.shared / (work.shared.next_multiple_of(128) + RESERVED);
    RESIDENT_BLOCKS.min(RESIDENT_THREADS / (32 * warps)).min(of_registers).min(of_shared).max(1)
}

impl Work {
    pub(super) fn new(launch: &Launch, counted: Counted, resources: Resources, read: u64) -> Self {
        let product = |of: [u32; 3]| of.iter().map(|&n| u64::from(n)).product();
        Self {
            blocks: product(launch.grid),
            threads: product(launch.block),
            registers: u64::from(resources.registers),
            shared: u64::from(launch.shared + resources.shared),
            counted,
            read,
            last: if is_of_parts(launch) { (u64::from(launch.grid[2]) - 1) * tile(launch) * 4 } else { 0 },
            waits: waits(launch),
            ahead: define(launch, "STAGES").map_or(BARRIERS_WITHOUT_STAGES, |stages| (stages - 1).max(1)),
        }
    }
}

/// Half of the blocks wait for the other half: they count each other, and not as parts of a product do.
pub(super) fn waits(launch: &Launch) -> bool {
    launch.params.pointers.iter().any(|(_, slot)| matches!(slot, Slot::Counters(_))) && !is_of_parts(launch)
}

fn is_of_parts(launch: &Launch) -> bool {
    define(launch, "SPLIT") == Some(1)
}

/// Sums of a block of a product.
fn tile(launch: &Launch) -> u64 {
    const PLAIN: u64 = 64;
    define(launch, "TILE_M").unwrap_or(PLAIN) * define(launch, "TILE_N").unwrap_or(PLAIN)
}

/// A definition of the kernel that is a number.
fn define(launch: &Launch, name: &str) -> Option<u64> {
    launch.kernel.defines.iter().find(|(known, _)| *known == name).and_then(|(_, value)| value.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(blocks: u64, threads: u64, counted: Counted) -> Work {
        Work { blocks, threads, registers: 32, shared: 0, counted, read: counted.loaded, last: 0, waits: false, ahead: 3 }
    }

    #[track_caller]
    fn near(got: f64, want: f64) {
        assert!((got / want - 1.0).abs() < 1e-9, "{got} is not {want}");
    }

    #[test]
    fn a_large_copy_takes_what_device_memory_takes() {
        let sectors = (1 << 30) / 32;
        let c = Counted { loaded: 1 << 30, stored: 1 << 30, load_sectors: sectors, store_sectors: sectors, ..Counted::default() };
        let bound = bound(&Gpu::A100, &work(1 << 18, 256, c));
        assert_eq!((bound.limit, bound.resident, bound.occupancy), (Limit::Memory, 8, 1.0));
        near(bound.seconds, f64::from(1u32 << 31) / 1.37e12 + 1.37e-6);
    }

    #[test]
    fn what_the_cache_holds_does_not_come_from_memory() {
        let c = Counted { loaded: 1 << 24, load_sectors: 1 << 19, ..Counted::default() };
        let bound = bound(&Gpu::A100, &Work { read: 0, ..work(1 << 9, 256, c) });
        assert_eq!(bound.limit, Limit::Cache);
        near(bound.seconds, f64::from(1u32 << 24) / 5.4e12 + 1.37e-6);
    }

    #[test]
    fn the_fullest_multiprocessor_decides() {
        // 109 blocks of 1,000,000 cycles of tensor work each: one multiprocessor of 108 has two
        let c = Counted { mma: 109 * 1024 * 1_000_000, ..Counted::default() };
        let bound = bound(&Gpu::A100, &work(109, 128, c));
        assert_eq!(bound.limit, Limit::Tensor);
        near(bound.seconds, 2e6 / 1.41e9 + 1.37e-6);
        near(bound.tail, 2.0 * 108.0 / 109.0);
        near(bound.waves, 109.0 / (108.0 * 16.0));
    }

    #[test]
    fn a_block_alone_waits_for_its_steps() {
        // four warps, 100 barriers each, one block on each multiprocessor: every step waits for the stage that was asked for three before
        let c = Counted { mma: 1, barriers: 108 * 4 * 100, ..Counted::default() };
        let bound = bound(&Gpu::A100, &work(108, 128, c));
        assert_eq!(bound.limit, Limit::Latency);
        near(bound.seconds, 100.0 * (574.0 / 3.0 + 29.0 + 33.0 + 20.0) / 1.41e9 + 1.37e-6);
    }

    #[test]
    fn a_warp_alone_issues_every_other_cycle() {
        let c = Counted { issued: 108 * 10_000_000, ..Counted::default() };
        let of = |threads| bound(&Gpu::A100, &work(108, threads, c));
        near(of(32).seconds, 2e7 / 1.41e9 + 1.37e-6);
        near(of(256).seconds, 2.5e6 / 1.41e9 + 1.37e-6);
        assert_eq!((of(32).limit, of(256).limit), (Limit::Latency, Limit::Issue));
    }

    #[test]
    fn two_warps_alone_have_half_of_the_tensor_cores() {
        let of = |threads| {
            let c = Counted { mma: 108 * 1024 * 1_000_000, ..Counted::default() };
            bound(&Gpu::A100, &work(108, threads, c))
        };
        near(of(64).seconds, 2e6 / 1.41e9 + 1.37e-6);
        near(of(128).seconds, 1e6 / 1.41e9 + 1.37e-6);
        assert_eq!((of(64).limit, of(128).limit), (Limit::Latency, Limit::Tensor));
    }

    #[test]
    fn what_comes_last_is_added() {
        let nothing = work(1, 32, Counted::default());
        near(bound(&Gpu::A100, &Work { waits: true, ..nothing }).seconds, 2.0 * 1.37e-6);
        // three more parts of 128x128 f32 by 64 bytes a cycle
        near(bound(&Gpu::A100, &Work { last: 3 << 16, ..nothing }).seconds, 3072.0 / 1.41e9 + 1.37e-6);
    }

    #[test]
    fn next_to_nothing_takes_a_launch() {
        let bound = bound(&Gpu::H100, &work(1, 32, Counted::default()));
        assert_eq!(bound.limit, Limit::Launch);
        near(bound.seconds, 2.2e-6);
    }

    /// By the occupancy calculator of CUDA for compute capability 8.0.
    #[test]
    fn blocks_that_fit() {
        let fit =
            |threads, registers, shared| resident_blocks(&Gpu::A100, &Work { registers, shared, ..work(1, threads, Counted::default()) });
        assert_eq!(fit(1024, 32, 0), 2);
        assert_eq!(fit(32, 16, 0), 32);
        assert_eq!(fit(128, 209, 0), 2);
        assert_eq!(fit(64, 226, 0), 4);
        assert_eq!(fit(128, 128, 0), 4);
        assert_eq!(fit(128, 40, 40 << 10), 4);
        assert_eq!(fit(128, 40, 163 << 10), 1);
    }
}
