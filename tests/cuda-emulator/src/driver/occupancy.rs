//! Occupancy: how many blocks of a kernel fit on a multiprocessor. Registers are an estimate, since PTX has none allocated.

use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::{exports, put};
use crate::{DeviceModel, Entry};
use std::ffi::{c_int, c_uint};

/// `CUoccupancyB2DSize`: shared memory of a block by its threads.
type SharedOf = unsafe extern "C" fn(c_int) -> usize;

/// Registers are given to warps in steps of 256 ("CUDA Occupancy Calculator", compute capability 8.0 and 9.0).
const REGISTER_STEP: u32 = 256;
/// Shared memory is given to blocks in steps of 128 bytes (same source).
const SHARED_STEP: u64 = 128;

fn blocks_per_sm(model: &DeviceModel, entry: &Entry, threads: u32, dynamic: u64) -> u32 {
    let most = entry.max_threads.unwrap_or(u32::MAX).min(model.max_threads_per_block);
    let shared = (u64::from(entry.shared_bytes) + dynamic + u64::from(model.reserved_shared_per_block)).next_multiple_of(SHARED_STEP);
    if threads == 0 || threads > most || shared > u64::from(model.max_shared_per_block_optin + model.reserved_shared_per_block) {
        return 0;
    }
    let warps = threads.div_ceil(32);
    let per_warp = (entry.registers.max(1) * 32).next_multiple_of(REGISTER_STEP);
    let by_threads = model.max_threads_per_sm / (warps * 32);
    let by_registers = model.registers_per_sm / (warps * per_warp);
    let by_shared = u64::from(model.shared_per_sm) / shared.max(1);
    by_threads.min(by_registers).min(by_shared as u32).min(model.max_blocks_per_sm)
}

impl Driver {
    fn occupancy(&mut self, function: Handle, threads: c_int, dynamic: usize) -> Answer<c_int> {
        let of = self.functions.get(function)?.of.clone();
        let threads = u32::try_from(threads).map_err(|_| Status::INVALID_VALUE)?;
        Ok(blocks_per_sm(&self.device_of(of.context)?.model, &of.entry, threads, dynamic as u64) as c_int)
    }

    /// The block size, in whole warps, that keeps most threads resident, the larger of two equals; and the grid that fills the device.
    fn best_block(&mut self, function: Handle, shared: impl Fn(c_int) -> usize, limit: c_int) -> Answer<(c_int, c_int)> {
        let of = self.functions.get(function)?.of.clone();
        let model = self.device_of(of.context)?.model.clone();
        let limit = if limit > 0 { limit } else { c_int::MAX }.min(model.max_threads_per_block as c_int);
        let mut best = (0, 0, 0);
        for threads in (32..=limit).step_by(32) {
            let blocks = self.occupancy(function, threads, shared(threads))?;
            best = best.max((blocks * threads, threads, blocks));
        }
        Ok((best.2 * model.sms as c_int, best.1))
    }

    /// The most dynamic shared memory with which so many blocks still fit.
    fn shared_for(&mut self, function: Handle, blocks: c_int, threads: c_int) -> Answer<usize> {
        let of = self.functions.get(function)?.of.clone();
        let model = self.device_of(of.context)?.model.clone();
        if blocks < 1 || self.occupancy(function, threads, 0)? < blocks {
            return Err(Status::INVALID_VALUE);
        }
        let each = u64::from(model.shared_per_sm / blocks as u32) / SHARED_STEP * SHARED_STEP;
        let fixed = u64::from(of.entry.shared_bytes + model.reserved_shared_per_block);
        Ok(each.saturating_sub(fixed).min(u64::from(model.max_shared_per_block_optin - of.entry.shared_bytes)) as usize)
    }

    /// # Safety
    /// The outputs and the function are the caller's, by the contract of the C API.
    unsafe fn put_best(
        &mut self,
        outputs: (*mut c_int, *mut c_int),
        function: Handle,
        of_threads: Option<SharedOf>,
        fixed: usize,
        limit: c_int,
    ) -> Answer {
        // SAFETY: by the contract of this function.
        let shared = |threads| of_threads.map_or(fixed, |of| unsafe { of(threads) });
        let (grid, block) = self.best_block(function, shared, limit)?;
        // SAFETY: by the contract of this function.
        unsafe {
            put(outputs.0, grid)?;
            put(outputs.1, block)
        }
    }
}

exports! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(out: *mut c_int, function: Handle, threads: c_int, dynamic: usize) |d| {
        let blocks = d.occupancy(function, threads, dynamic)?;
        // SAFETY: the caller's pointers, by the contract of the C API; so in every function below.
        unsafe { put(out, blocks) }
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        out: *mut c_int, function: Handle, threads: c_int, dynamic: usize, _flags: c_uint,
    ) |d| {
        let blocks = d.occupancy(function, threads, dynamic)?;
        unsafe { put(out, blocks) }
    }
    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int, block: *mut c_int, function: Handle, of_threads: Option<SharedOf>, dynamic: usize, limit: c_int,
    ) |d| {
        unsafe { d.put_best((grid, block), function, of_threads, dynamic, limit) }
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: *mut c_int, block: *mut c_int, function: Handle, of_threads: Option<SharedOf>, dynamic: usize, limit: c_int, _flags: c_uint,
    ) |d| {
        unsafe { d.put_best((grid, block), function, of_threads, dynamic, limit) }
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(out: *mut usize, function: Handle, blocks: c_int, threads: c_int) |d| {
        let bytes = d.shared_for(function, blocks, threads)?;
        unsafe { put(out, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_resource_decides() {
        let a100 = DeviceModel::a100();
        let entry = |registers, shared_bytes| Entry {
            name: String::new(),
            params: Vec::new(),
            param_bytes: 0,
            shared_bytes,
            local_bytes: 0,
            max_threads: None,
            registers,
        };
        // Threads: 2048 / 256. Registers: 65536 / (8 warps * 128 * 32). Shared: 164 KiB / (48 + 1 KiB). Blocks: 32.
        assert_eq!(blocks_per_sm(&a100, &entry(32, 0), 256, 0), 8);
        assert_eq!(blocks_per_sm(&a100, &entry(128, 0), 256, 0), 2);
        assert_eq!(blocks_per_sm(&a100, &entry(32, 0), 256, 48 << 10), 3);
        assert_eq!(blocks_per_sm(&a100, &entry(16, 0), 32, 0), 32);
        assert_eq!(blocks_per_sm(&a100, &entry(16, 0), 1025, 0), 0);
    }
}
