//! The CPU device: threads, instruction sets and the kernels that use them.

mod amx;
pub(crate) mod attention;
pub(crate) mod attention_grad;
mod attention_grad_tiles;
mod attention_words;
mod blocking;
mod buffer;
pub(crate) mod copy;
mod depthwise;
pub(crate) mod elementwise;
mod epilogue;
pub(crate) mod gather;
mod gemm;
pub(crate) mod group_norm;
pub(crate) mod group_norm_grad;
mod isa;
pub(crate) mod layer_norm_grad;
pub(crate) mod math;
mod micro;
#[cfg(target_arch = "x86_64")]
mod micro_dot;
mod pack;
pub(crate) mod pool;
pub(crate) mod rows;
pub(crate) mod simd;
#[cfg(target_arch = "x86_64")]
mod simd_avx2;
#[cfg(target_arch = "x86_64")]
mod simd_avx512;
mod simd_portable;
pub(crate) mod split;
mod weight_grad;

pub use buffer::AlignedBuffer;
pub(crate) use buffer::with_scratch;
pub(crate) use epilogue::Epilogue;
pub(crate) use gather::{Source, Windows};
pub(crate) use gemm::gemm;
pub use isa::Isa;
pub use pack::{PackSpec, Packed};
pub(crate) use weight_grad::weight_grad;

use crate::{Error, Result};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads and instruction set of a CPU device. Results do not depend on the number of threads.
#[derive(Debug)]
pub struct Cpu {
    pool: rayon::ThreadPool,
    isa: Isa,
    tiles: TileUnit,
}

/// Who multiplies bf16 tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum TileUnit {
    /// Nobody: vectors do.
    None,
    /// The processor.
    Real,
    /// Plain Rust.
    Emulated,
}

/// What the order of packed parameters depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PackingKey(Isa, TileUnit);

impl Cpu {
    /// A device with `threads` threads (none: one for each core the process may use) and the best instruction set found.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        Self::with_isa(threads, Isa::detect())
    }

    /// The same with a chosen instruction set; fails if this machine lacks it.
    pub fn with_isa(threads: Option<usize>, isa: Isa) -> Result<Self> {
        let fail = |what: String| Error::Device { device: "cpu".into(), what };
        if !isa.is_supported() {
            return Err(fail(format!("this processor has no {isa:?}; it has {:?}", Isa::detect())));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.unwrap_or(0))
            .build()
            .map_err(|e| fail(format!("cannot start threads: {e}")))?;
        let tiles = if isa == Isa::Amx { TileUnit::Real } else { TileUnit::None };
        Ok(Self { pool, isa, tiles })
    }

    /// A device that packs and multiplies bf16 matrices as for a tile unit, which it emulates in plain Rust: slow, for tests on machines
    /// without one.
    pub fn with_emulated_tiles(threads: Option<usize>) -> Result<Self> {
        Ok(Self { tiles: TileUnit::Emulated, ..Self::new(threads)? })
    }

    /// Instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The tile unit in use.
    pub(crate) fn tiles(&self) -> TileUnit {
        self.tiles
    }

    /// Devices of equal keys read each other's packed parameters.
    pub(crate) fn packing_key(&self) -> PackingKey {
        PackingKey(self.isa, self.tiles)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Calls `task` with every index below `tasks`, on all threads. Which thread runs which index must not show in the results.
    pub fn parallel(&self, tasks: usize, task: impl Fn(usize) + Sync + Send) {
        let threads = self.threads().min(tasks);
        if threads <= 1 {
            return (0..tasks).for_each(task);
        }
        // Threads take the next index in turn, so that neighbouring tasks run at the same time and share caches.
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    break;
                }
                task(index);
            }
        };
        self.pool.in_place_scope(|scope| {
            (0..threads).for_each(|_| scope.spawn(|_| work()));
        });
    }

    /// Calls `f` on a thread of the pool: [`Cpu::parallel`] inside it starts faster, and the caller's thread is idle meanwhile.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }
}
