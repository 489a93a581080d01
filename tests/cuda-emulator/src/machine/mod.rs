//! Runs bytecode: blocks on threads of the host, warps of a block in turn, 32 lanes at once.

mod access;
mod atomics;
mod block;
mod copies;
mod global;
mod lanes;
mod launch;
mod shared;
mod stop;
mod tensor;
#[cfg(target_arch = "x86_64")]
mod tensor_wide;
mod together;
mod warp;

pub(crate) use lanes::{Alu, Class, LANES, NEGATED, Operands, find as lane_operation};
pub use launch::{Launch, Sampled, Touched, run, run_blocks};
pub(crate) use tensor::product;

/// Generic addresses of shared memory start here; device addresses are far above.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000_0000;
/// Generic addresses of local memory.
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
/// Generic addresses of kernel parameters.
pub(crate) const PARAM_WINDOW: u64 = 0x0300_0000_0000;
/// Size of each window.
pub(crate) const WINDOW: u64 = 1 << 32;
