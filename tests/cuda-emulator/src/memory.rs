//! Device memory.

use crate::{Fault, FaultKind};

/// The address space of a device, shared by all of its streams.
pub struct Memory {
    capacity: u64,
}

impl Memory {
    /// Memory of `capacity` bytes, nothing of it allocated.
    pub fn new(capacity: u64) -> Self {
        Self { capacity }
    }

    /// Bytes that may be allocated in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes allocated now.
    pub fn used(&self) -> u64 {
        0
    }

    /// Allocates `bytes` (at least one), aligned to 256, content unwritten; fails with [`FaultKind::OutOfMemory`].
    pub fn alloc(&self, bytes: u64) -> Result<u64, Fault> {
        Err(Fault::new(FaultKind::OutOfMemory, format!("{bytes} bytes")))
    }

    /// Frees what [`Memory::alloc`] returned; fails with [`FaultKind::InvalidFree`] for any other address.
    pub fn free(&self, address: u64) -> Result<(), Fault> {
        Err(Fault::new(FaultKind::InvalidFree, format!("{address:#x}")))
    }

    /// Start and size of the allocation that contains `address`.
    pub fn allocation(&self, _address: u64) -> Option<(u64, u64)> {
        None
    }

    /// Copies from the host.
    pub fn write(&self, address: u64, _bytes: &[u8]) -> Result<(), Fault> {
        Err(Fault::new(FaultKind::OutOfBounds, format!("{address:#x}")))
    }

    /// Copies to the host; reading what nothing wrote is a fault.
    pub fn read(&self, address: u64, _bytes: &mut [u8]) -> Result<(), Fault> {
        Err(Fault::new(FaultKind::OutOfBounds, format!("{address:#x}")))
    }

    /// Copies within the device; unwritten bytes stay unwritten at their new place. The ranges may overlap.
    pub fn copy(&self, to: u64, _from: u64, _bytes: u64) -> Result<(), Fault> {
        Err(Fault::new(FaultKind::OutOfBounds, format!("{to:#x}")))
    }

    /// Writes `pattern` (1, 2 or 4 bytes) `count` times.
    pub fn fill(&self, address: u64, _pattern: &[u8], _count: u64) -> Result<(), Fault> {
        Err(Fault::new(FaultKind::OutOfBounds, format!("{address:#x}")))
    }
}
