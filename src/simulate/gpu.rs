//! Published figures of devices.

use crate::device::Arch;

/// What a device can do. Rates are per multiprocessor and cycle unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// As users name it.
    pub name: &'static str,
    /// Compute capability.
    pub arch: Arch,
    /// Multiprocessors.
    pub multiprocessors: u64,
    /// Cycles per second.
    pub clock: f64,
    /// Multiply-adds of 16-bit values that `mma.sync` reaches.
    pub tensor: f64,
    /// Lanes of the f32 pipe.
    pub fp32: f64,
    /// Bytes per second of device memory that programs reach.
    pub memory: f64,
    /// Bytes per second of the second-level cache, all multiprocessors together, that programs reach.
    pub cache: f64,
    /// Bytes of the second-level cache that are taken to still hold what was touched last.
    pub kept: u64,
    /// Shared memory in bytes.
    pub shared: u64,
    /// Cycles from a read to its data in device memory.
    pub memory_latency: f64,
    /// Cycles from a `mma.sync` to its sums.
    pub tensor_latency: f64,
    /// Seconds of a kernel that does next to nothing, from its start to that of the next one in a replayed graph.
    pub launch: f64,
}

impl Gpu {
    /// NVIDIA A100 SXM 40 GB. `docs/simulated-bounds.md` has the source of each figure.
    pub const A100: Self = Self {
        name: "a100",
        arch: Arch(80),
        multiprocessors: 108,
        clock: 1.41e9,
        tensor: 1024.0,
        fp32: 64.0,
        memory: 1.37e12,
        cache: 5.4e12,
        kept: 20 << 20,
        shared: 164 << 10,
        memory_latency: 574.0,
        tensor_latency: 33.0,
        launch: 1.37e-6,
    };

    /// NVIDIA H100 SXM 80 GB. `docs/simulated-bounds.md` has the source of each figure.
    pub const H100: Self = Self {
        name: "h100",
        arch: Arch(90),
        multiprocessors: 132,
        clock: 1.755e9,
        tensor: 2048.0 * 0.62,
        fp32: 128.0,
        memory: 3.0e12,
        cache: 8.6e12,
        kept: 25 << 20,
        shared: 228 << 10,
        memory_latency: 655.0,
        tensor_latency: 33.0,
        launch: 2.2e-6,
    };
}
