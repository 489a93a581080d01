//! What the driver says of a device.

use super::status::CudaStatus;
use cudarc::driver::sys::{CUdevice_attribute, CUdevice_attribute as A};

/// Figures of a device that bounds are derived from. A driver that does not know one says 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Version of the driver as it spells it: 12090 is 12.9.
    pub driver: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Highest clock of the multiprocessors, kHz.
    pub clock_khz: u32,
    /// Highest clock of the memory, kHz; two transfers a clock.
    pub memory_clock_khz: u32,
    /// Width of the memory bus, bits.
    pub memory_bus_bits: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: u32,
}

impl Facts {
    /// Asks for each attribute.
    pub(super) fn of(driver: i32, attribute: impl Fn(CUdevice_attribute) -> Result<u32, CudaStatus>) -> Result<Self, CudaStatus> {
        Ok(Self {
            driver: driver.max(0) as u32,
            multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            clock_khz: attribute(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
            memory_clock_khz: attribute(A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?,
            memory_bus_bits: attribute(A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?,
            l2_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?,
        })
    }

    /// Bytes that the memory can move in a second: two transfers of the bus's width each clock. None if the driver does not say.
    pub fn memory_bandwidth(&self) -> Option<f64> {
        let bytes = 2.0 * f64::from(self.memory_clock_khz) * 1e3 * f64::from(self.memory_bus_bits) / 8.0;
        (bytes > 0.0).then_some(bytes)
    }
}
