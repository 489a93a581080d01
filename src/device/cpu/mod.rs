//! The CPU device: threads, instruction sets and the kernels that use them.

mod isa;

pub use isa::Isa;

use crate::{Error, Result};

/// Threads and instruction set of a CPU device. Results do not depend on the number of threads.
#[derive(Debug)]
pub struct Cpu {
    pool: rayon::ThreadPool,
    isa: Isa,
}

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
        Ok(Self { pool, isa })
    }

    /// Instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Calls `task` with every index below `tasks`, on all threads. Which thread runs which index must not show in the results.
    pub fn parallel(&self, tasks: usize, task: impl Fn(usize) + Sync + Send) {
        use rayon::prelude::*;
        if tasks <= 1 || self.threads() == 1 {
            (0..tasks).for_each(task);
        } else {
            self.pool.install(|| (0..tasks).into_par_iter().with_max_len(1).for_each(&task));
        }
    }
}

/// How a parameter is repacked once at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PackSpec {
    /// A matrix `[n, k]` of a matrix product `x · Wᵀ`; convolutions have k = kh · kw · channels.
    Gemm {
        /// Rows: outputs.
        n: usize,
        /// Columns: inputs.
        k: usize,
    },
}

/// A repacked parameter.
#[derive(Debug)]
pub struct Packed {}

impl Packed {
    /// Repacks `bytes`, a parameter of type `dtype`, for the instruction set of `cpu`.
    pub fn new(_cpu: &Cpu, _spec: PackSpec, _dtype: crate::DType, _bytes: &[u8]) -> Result<Self> {
        Err(Error::Graph("no operation asks for packed parameters yet".into()))
    }
}
