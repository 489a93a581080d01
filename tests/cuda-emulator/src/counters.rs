//! What a kernel asked of the machine.

/// Counts of one launch; [`Counters::merge`] adds those of another.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Blocks that ran.
    pub blocks: u64,
    /// Warps that ran.
    pub warps: u64,
    /// Warp instructions issued.
    pub issued: u64,
    /// Warp instructions that read global memory.
    pub global_loads: u64,
    /// Warp instructions that write global memory.
    pub global_stores: u64,
    /// 32-byte sectors asked for by reads of global memory (distinct ones of each warp instruction).
    pub load_sectors: u64,
    /// The fewest sectors in which the bytes of those reads could lie.
    pub load_sectors_min: u64,
    /// 32-byte sectors written.
    pub store_sectors: u64,
    /// The fewest sectors in which the bytes of those writes could lie.
    pub store_sectors_min: u64,
    /// Bytes of global memory that the launch read at least once, in whole sectors.
    pub unique_load_bytes: u64,
    /// Bytes of global memory that the launch wrote at least once, in whole sectors.
    pub unique_store_bytes: u64,
    /// Shared-memory wavefronts (passes over the 32 banks).
    pub shared_wavefronts: u64,
    /// The fewest wavefronts that could move those bytes.
    pub shared_wavefronts_min: u64,
    /// Warp-wide `mma.sync` by input type: multiply-adds of f16.
    pub mma_f16: u64,
    /// Multiply-adds of bf16.
    pub mma_bf16: u64,
    /// Multiply-adds of tf32.
    pub mma_tf32: u64,
    /// Warp instructions of the f32 and packed 16-bit pipe.
    pub fp32: u64,
    /// Warp instructions of the f64 pipe.
    pub fp64: u64,
    /// Warp instructions of the integer and logic pipe, selections included.
    pub integer: u64,
    /// Moves of whole registers, nearly all of which an assembler makes disappear.
    pub moves: u64,
    /// Warp instructions of the special-function unit and conversions between widths.
    pub special: u64,
    /// Warp instructions that load or store, of any space, `ldmatrix` and `cp.async` included.
    pub memory: u64,
    /// Branches, calls, exits.
    pub control: u64,
    /// Warp-wide `mma.sync` instructions.
    pub tensor: u64,
    /// Shuffles, votes, reductions within a warp.
    pub warp_wide: u64,
    /// Block barriers passed, counted per warp.
    pub barriers: u64,
    /// Atomics, counted per lane.
    pub atomics: u64,
    /// Branches at which the lanes of a warp parted.
    pub divergent_branches: u64,
}

impl Counters {
    /// Adds the counts of another launch.
    pub fn merge(&mut self, other: &Counters) {
        for ((_, mine), (_, theirs)) in self.fields_mut().into_iter().zip(other.fields()) {
            *mine += theirs;
        }
    }

    fn fields_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        macro_rules! list {
            ($($name:ident)*) => { vec![$((stringify!($name), &mut self.$name)),*] };
        }
        list!(
            blocks warps issued global_loads global_stores load_sectors load_sectors_min store_sectors store_sectors_min unique_load_bytes unique_store_bytes shared_wavefronts shared_wavefronts_min mma_f16 mma_bf16 mma_tf32 fp32 fp64 integer moves special memory control tensor warp_wide barriers atomics divergent_branches
        )
    }

    /// Each count with its name.
    pub fn fields(&self) -> Vec<(&'static str, u64)> {
        self.clone().fields_mut().into_iter().map(|(name, count)| (name, *count)).collect()
    }
}
