//! The devices that can be emulated: limits that launches are held to, and what the driver says of them.

/// Limits and published facts of one device. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceModel {
    /// Name as the driver reports it.
    pub name: &'static str,
    /// Compute capability times ten: 80, 90.
    pub arch: u32,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Threads of one block.
    pub max_threads_per_block: u32,
    /// Threads resident on one multiprocessor.
    pub max_threads_per_sm: u32,
    /// Blocks resident on one multiprocessor.
    pub max_blocks_per_sm: u32,
    /// Extent of a block by axis.
    pub max_block: [u32; 3],
    /// Extent of a grid by axis.
    pub max_grid: [u32; 3],
    /// Shared memory of one block without opting in.
    pub max_shared_per_block: u32,
    /// Shared memory of one block after opting in, static and dynamic together.
    pub max_shared_per_block_optin: u32,
    /// Shared memory of one multiprocessor.
    pub shared_per_sm: u32,
    /// Shared memory that the system takes from each block.
    pub reserved_shared_per_block: u32,
    /// 32-bit registers of one block.
    pub max_registers_per_block: u32,
    /// 32-bit registers of one multiprocessor.
    pub registers_per_sm: u32,
    /// 32-bit registers of one thread.
    pub max_registers_per_thread: u32,
    /// Constant memory of one module.
    pub constant_bytes: u32,
    /// Device memory.
    pub memory_bytes: u64,
    /// Second-level cache.
    pub l2_bytes: u32,
    /// Boost clock of the multiprocessors, kHz.
    pub clock_khz: u32,
    /// Clock of the memory, kHz.
    pub memory_clock_khz: u32,
    /// Width of the memory bus, bits.
    pub memory_bus_bits: u32,
    /// Instructions after which a warp counts as hanging. Hardware has no such limit, but a watchdog of time.
    pub watchdog: u64,
    /// Blocks start in descending order of their index instead of ascending: what depends on the order shows.
    pub blocks_descend: bool,
}

impl DeviceModel {
    /// NVIDIA A100-SXM4-40GB: "NVIDIA A100 Tensor Core GPU Architecture" (whitepaper, 2020), CUDA C++ Programming Guide, compute capability 8.0.
    pub fn a100() -> Self {
        Self {
            name: "NVIDIA A100-SXM4-40GB",
            arch: 80,
            sms: 108,
            max_threads_per_block: 1024,
            max_threads_per_sm: 2048,
            max_blocks_per_sm: 32,
            max_block: [1024, 1024, 64],
            max_grid: [i32::MAX as u32, 65535, 65535],
            max_shared_per_block: 48 << 10,
            max_shared_per_block_optin: 163 << 10,
            shared_per_sm: 164 << 10,
            reserved_shared_per_block: 1 << 10,
            max_registers_per_block: 65536,
            registers_per_sm: 65536,
            max_registers_per_thread: 255,
            constant_bytes: 64 << 10,
            memory_bytes: 40 << 30,
            l2_bytes: 40 << 20,
            clock_khz: 1_410_000,
            memory_clock_khz: 1_215_000,
            memory_bus_bits: 5120,
            watchdog: 1 << 30,
            blocks_descend: false,
        }
    }

    /// NVIDIA H100-SXM5-80GB: "NVIDIA H100 Tensor Core GPU Architecture" (whitepaper, 2022), CUDA C++ Programming Guide, compute capability 9.0.
    pub fn h100() -> Self {
        Self {
            name: "NVIDIA H100 80GB HBM3",
            arch: 90,
            sms: 132,
            max_shared_per_block_optin: 227 << 10,
            shared_per_sm: 228 << 10,
            memory_bytes: 80 << 30,
            l2_bytes: 50 << 20,
            clock_khz: 1_980_000,
            memory_clock_khz: 2_619_000,
            ..Self::a100()
        }
    }
}
