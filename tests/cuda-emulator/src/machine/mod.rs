//! Runs bytecode.

use crate::{Counters, DeviceModel, Fault, FaultKind, Memory, Module};

/// One grid to run.
pub struct Launch<'a> {
    /// A loaded module.
    pub module: &'a Module,
    /// Name of the kernel.
    pub entry: &'a str,
    /// Blocks by axis.
    pub grid: [u32; 3],
    /// Threads of a block by axis.
    pub block: [u32; 3],
    /// Dynamic shared memory, bytes.
    pub dynamic_shared: u32,
    /// Parameter bytes, laid out as [`crate::Entry::params`] says.
    pub params: &'a [u8],
}

/// Runs a grid on `threads` threads of the host, to its end or its first fault. Results do not depend on `threads`.
pub fn run(_device: &DeviceModel, _memory: &Memory, launch: &Launch<'_>, _threads: usize) -> Result<Counters, Fault> {
    Err(Fault::new(FaultKind::BadLaunch, format!("no machine yet for {} of {}", launch.entry, launch.module.entries().len())))
}
