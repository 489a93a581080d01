//! `cuDeviceGetAttribute`.

use super::status::{Answer, Status};
use crate::DeviceModel;

/// Last attribute number of the API that is emulated (CUDA 12.8).
const LAST: i32 = 143;

/// The value of attribute `which` of a device. What is not listed here is a feature that the emulator does not have: 0.
pub(super) fn attribute(model: &DeviceModel, which: i32, ordinal: i32, memory_pools: bool) -> Answer<i32> {
    let value = match which {
        1 => model.max_threads_per_block, // MAX_THREADS_PER_BLOCK
        2..=4 => model.max_block[which as usize - 2],
        5..=7 => model.max_grid[which as usize - 5],
        8 => model.max_shared_per_block,
        9 => model.constant_bytes,
        10 => 32,              // WARP_SIZE
        11 => i32::MAX as u32, // MAX_PITCH
        12 => model.max_registers_per_block,
        13 => model.clock_khz,
        14 => 512, // TEXTURE_ALIGNMENT
        15 => 1,   // GPU_OVERLAP
        16 => model.sms,
        31 => 1,                  // CONCURRENT_KERNELS
        32 => 1,                  // ECC_ENABLED
        33 => ordinal as u32 + 1, // PCI_BUS_ID
        36 => model.memory_clock_khz,
        37 => model.memory_bus_bits,
        38 => model.l2_bytes,
        39 => model.max_threads_per_sm,
        40 => 3, // ASYNC_ENGINE_COUNT
        41 => 1, // UNIFIED_ADDRESSING
        75 => model.arch / 10,
        76 => model.arch % 10,
        78..=80 => 1, // STREAM_PRIORITIES_SUPPORTED, GLOBAL_L1_CACHE_SUPPORTED, LOCAL_L1_CACHE_SUPPORTED
        81 => model.shared_per_sm,
        82 => model.registers_per_sm,
        87 => 2, // SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO
        97 => model.max_shared_per_block_optin,
        99 => 1, // HOST_REGISTER_SUPPORTED
        106 => model.max_blocks_per_sm,
        111 => model.reserved_shared_per_block,
        115 => u32::from(memory_pools),
        which if (1..=LAST).contains(&which) => 0,
        _ => return Err(Status::INVALID_VALUE),
    };
    Ok(i32::try_from(value).unwrap_or(i32::MAX))
}
