//! Where graphs run.

pub mod cpu;

/// Compute capability of a CUDA device times ten: 80, 86, 89, 90.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch(pub u32);

/// One CUDA kernel launch, as pure data.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Kernel file stem and entry, with its specialisation.
    pub kernel: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared: u32,
    /// The parameter struct, passed by value.
    pub params: Vec<u8>,
}
