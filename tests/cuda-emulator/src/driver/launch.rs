//! Launches of kernels.

use super::exports;
use super::function::FunctionRecord;
use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::{Kernel, Work};
use std::ffi::{c_int, c_uint, c_void};

/// Extents of a launch.
pub(super) struct LaunchShape {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
}

/// `CUDA_KERNEL_NODE_PARAMS`.
#[repr(C)]
pub(super) struct KernelParams {
    pub(super) function: Handle,
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) shared: u32,
    pub(super) params: *mut *mut c_void,
    pub(super) extra: *mut *mut c_void,
    pub(super) library_kernel: Handle,
    pub(super) context: Handle,
}

/// `CUlaunchConfig`.
#[repr(C)]
struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: Handle,
    attributes: *const Attribute,
    count: c_uint,
}

/// `CUlaunchAttribute`: a number and 64 bytes.
#[repr(C)]
struct Attribute {
    id: c_int,
    pad: u32,
    value: [u32; 16],
}

impl Driver {
    /// Checks a launch as the driver does and packs its parameters.
    ///
    /// # Safety
    /// `params` is null or has one valid pointer for each parameter; `extra` is null or as the API says.
    pub(super) unsafe fn kernel(
        &mut self,
        function: Handle,
        shape: &LaunchShape,
        params: *const *mut c_void,
        extra: *const *mut c_void,
    ) -> Answer<Kernel> {
        let record = self.functions.get(function)?;
        self.fits(record, shape)?;
        let of = record.of.clone();
        let mut packed = vec![0; of.entry.param_bytes as usize];
        if !params.is_null() {
            for (n, param) in of.entry.params.iter().enumerate() {
                // SAFETY: by the contract of this function.
                let from = unsafe { *params.add(n) };
                if from.is_null() {
                    return self.refuse(Status::INVALID_VALUE, &format!("launch of {}: parameter {n} is null", of.entry.name));
                }
                let place = param.offset as usize..(param.offset + param.size) as usize;
                // SAFETY: each pointer is valid for the size of its parameter.
                packed[place].copy_from_slice(unsafe { std::slice::from_raw_parts(from.cast::<u8>(), param.size as usize) });
            }
        } else if !extra.is_null() {
            // SAFETY: by the contract of this function.
            let buffer = unsafe { packed_params(extra) }?;
            if buffer.len() < packed.len() {
                return self.refuse(Status::INVALID_VALUE, &format!("launch of {}: {} bytes of parameters", of.entry.name, buffer.len()));
            }
            let used = packed.len();
            packed.copy_from_slice(&buffer[..used]);
        } else if !packed.is_empty() {
            return self.refuse(Status::INVALID_VALUE, &format!("launch of {}: it has parameters, none are given", of.entry.name));
        }
        Ok(Kernel { function: of, grid: shape.grid, block: shape.block, shared: shape.shared, params: packed.into() })
    }

    fn fits(&self, record: &FunctionRecord, shape: &LaunchShape) -> Answer {
        let entry = &record.of.entry;
        let model = &self.devices[self.contexts.get(record.of.context)?.device].model;
        let threads: u64 = shape.block.iter().map(|n| u64::from(*n)).product();
        let limit = entry.max_threads.unwrap_or(u32::MAX).min(model.max_threads_per_block);
        let within = |extents: [u32; 3], most: [u32; 3]| extents.iter().zip(most).all(|(n, most)| *n > 0 && *n <= most);
        let why = if !within(shape.grid, model.max_grid) {
            format!("a grid of {:?} blocks; at most {:?}", shape.grid, model.max_grid)
        } else if !within(shape.block, model.max_block) || threads > u64::from(limit) {
            format!("blocks of {:?} threads; at most {limit} in all and {:?} by axis", shape.block, model.max_block)
        } else if shape.shared > record.max_dynamic_shared {
            let most = record.max_dynamic_shared;
            format!("{} bytes of dynamic shared memory; at most {most} until cuFuncSetAttribute allows more", shape.shared)
        } else {
            return Ok(());
        };
        self.refuse(Status::INVALID_VALUE, &format!("launch of {}: {why}", entry.name))
    }

    /// # Safety
    /// As for [`Driver::kernel`].
    unsafe fn launch(
        &mut self,
        function: Handle,
        shape: &LaunchShape,
        stream: Handle,
        params: *const *mut c_void,
        extra: *const *mut c_void,
    ) -> Answer {
        let stream = self.stream(stream)?;
        // SAFETY: passed on.
        let kernel = unsafe { self.kernel(function, shape, params, extra) }?;
        if kernel.function.context != self.streams.get(stream)?.context {
            return Err(Status::INVALID_HANDLE);
        }
        self.submit(stream, Work::Kernel(kernel))
    }

    fn check_attribute(&self, attribute: &Attribute) -> Answer {
        let what = match attribute.id {
            2 if attribute.value[0] != 0 => "cooperative launches",
            4 if attribute.value[..3] != [1, 1, 1] => "clusters of blocks",
            7 | 12 | 13 => "launch events and nodes that a device updates",
            // Hints about caches and priorities; and leave to start early (6), of which no use is made.
            0..=11 | 14 => return Ok(()),
            _ => return Err(Status::INVALID_VALUE),
        };
        self.refuse(Status::NOT_SUPPORTED, &format!("{what} are not emulated"))
    }
}

/// Reads `extra` of `cuLaunchKernel`: pairs of a key and a value, closed by a null.
///
/// # Safety
/// `extra` is as the API says.
unsafe fn packed_params<'a>(extra: *const *mut c_void) -> Answer<&'a [u8]> {
    const BUFFER: usize = 1;
    const SIZE: usize = 2;
    let (mut buffer, mut size) = (std::ptr::null::<u8>(), 0);
    let mut place = extra;
    // SAFETY: the list ends with a null key, and a value follows every other key; the buffer has the size that the list says.
    unsafe {
        while !(*place).is_null() {
            let value = *place.add(1);
            match *place as usize {
                BUFFER => buffer = value.cast(),
                SIZE => size = value.cast::<usize>().read(),
                _ => return Err(Status::INVALID_VALUE),
            }
            place = place.add(2);
        }
        if buffer.is_null() { Err(Status::INVALID_VALUE) } else { Ok(std::slice::from_raw_parts(buffer, size)) }
    }
}

exports! {
    fn cuLaunchKernel(
        function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, stream: Handle, params: *mut *mut c_void, extra: *mut *mut c_void,
    ) |d| {
        let shape = LaunchShape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared };
        // SAFETY: the caller's parameter arrays, by the contract of the C API; so in the function below.
        unsafe { d.launch(function, &shape, stream, params, extra) }
    }
    fn cuLaunchKernelEx(config: *const Config, function: Handle, params: *mut *mut c_void, extra: *mut *mut c_void) |d| {
        let config = unsafe { config.as_ref() }.ok_or(Status::INVALID_VALUE)?;
        for n in 0..config.count as usize {
            d.check_attribute(unsafe { &*config.attributes.add(n) })?;
        }
        let shape = LaunchShape { grid: config.grid, block: config.block, shared: config.shared };
        unsafe { d.launch(function, &shape, config.stream, params, extra) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn structures_have_the_sizes_of_the_api() {
        // Counted from cuda.h of CUDA 12.8 on a 64-bit machine.
        assert_eq!((size_of::<KernelParams>(), offset_of!(KernelParams, params)), (72, 40));
        assert_eq!((size_of::<Config>(), offset_of!(Config, stream), offset_of!(Config, count)), (56, 32, 48));
        assert_eq!((size_of::<Attribute>(), offset_of!(Attribute, value)), (72, 8));
    }
}
