//! What the lowerings of light operations share: widths of accesses, grids, names of activations.

use super::Activation;
use crate::device::{KernelKey, Launch, Lowered, Params, kernel_type};
use crate::{DType, Error, Result};

/// Bytes of the widest access of a thread.
const WIDEST: usize = 16;
/// Threads of a block, as the kernels' launch bounds have it.
const THREADS: usize = 256;
/// Blocks that keep the largest device busy: about two for each multiprocessor.
pub(crate) const ENOUGH_BLOCKS: usize = 216;

/// Values per access: as many as fit into 16 bytes of each type and divide `extent`.
pub(crate) fn access(types: &[DType], extent: usize) -> usize {
    let size = types.iter().map(|t| t.size()).max().unwrap_or(WIDEST);
    power_dividing(extent, WIDEST / size)
}

/// The largest power of two up to `most` that divides `extent`.
pub(crate) fn power_dividing(extent: usize, most: usize) -> usize {
    let mut power = most;
    while power > 1 && !extent.is_multiple_of(power) {
        power /= 2;
    }
    power
}

/// The largest power of two bytes up to 16 that divides each of `sizes`: the unit in which copies move.
pub(crate) fn unit(sizes: impl IntoIterator<Item = usize>) -> usize {
    sizes.into_iter().fold(WIDEST, |unit, size| power_dividing(size, unit))
}

/// A number of values or rows as kernels count them.
pub(crate) fn count(n: usize) -> Result<u32> {
    // half of the range, so that rounding up to whole blocks cannot overflow
    let fits = u32::try_from(n).ok().filter(|&n| n <= u32::MAX / 2);
    fits.ok_or_else(|| Error::Graph(format!("{n} values are more than a CUDA kernel counts; make the batch smaller")))
}

/// A launch of one thread for each `vector` values of `values`.
pub(crate) fn flat(kernel: KernelKey, values: usize, vector: usize, params: Params) -> Result<Lowered> {
    let blocks = count(values)? as usize;
    let blocks = blocks.div_ceil(THREADS * vector).max(1) as u32;
    Ok(Launch { kernel, grid: [blocks, 1, 1], block: [THREADS as u32, 1, 1], shared: 0, params }.into())
}

/// The key with the storage types `T` and, where the result's differs, `U`.
pub(crate) fn typed(kernel: KernelKey, from: DType, to: DType) -> KernelKey {
    kernel.define("T", kernel_type(from)).define("U", kernel_type(to))
}

/// A function's name in `kernels/include/act.cuh`, the value of the definition `ACT`, and the slope that it takes as a parameter.
pub(crate) fn activation(act: Activation) -> (&'static str, f32) {
    match act {
        Activation::None => ("ACT_NONE", 0.0),
        Activation::Relu => ("ACT_RELU", 0.0),
        Activation::Silu => ("ACT_SILU", 0.0),
        Activation::Gelu => ("ACT_GELU", 0.0),
        Activation::QuickGelu => ("ACT_QUICK_GELU", 0.0),
        Activation::LeakyRelu(slope) => ("ACT_LEAKY_RELU", slope),
        Activation::PRelu => ("ACT_PRELU", 0.0),
        Activation::Sigmoid => ("ACT_SIGMOID", 0.0),
    }
}

/// How blocks walk over rows of channels, each thread with channels of its own (`columns.cuh`).
pub(crate) struct Columns {
    /// Channels of a thread.
    pub(crate) vector: usize,
    /// Rows of a block.
    pub(crate) rows_per_block: usize,
    /// Blocks of the grid.
    pub(crate) blocks: u32,
    /// Threads over channels and over rows.
    pub(crate) block: [u32; 3],
}

impl Columns {
    /// For `rows` rows of `channels`, read in values of `types`.
    pub(crate) fn new(types: &[DType], rows: usize, channels: usize) -> Result<Self> {
        count(rows * channels)?;
        let vector = access(types, channels);
        let lanes = (channels / vector).min(THREADS);
        let at_once = THREADS / lanes;
        // many rows for each thread repay reading its parameters, few leave no multiprocessor idle
        let rows_per_block = (rows / ENOUGH_BLOCKS).clamp(4 * at_once, 16 * at_once);
        let blocks = rows.div_ceil(rows_per_block) as u32;
        Ok(Self { vector, rows_per_block, blocks, block: [lanes as u32, at_once as u32, 1] })
    }

    /// The launch of `kernel`, which gets the definition `V`.
    pub(crate) fn launch(&self, kernel: KernelKey, params: Params) -> Lowered {
        let kernel = kernel.define("V", self.vector);
        Launch { kernel, grid: [self.blocks, 1, 1], block: self.block, shared: 0, params }.into()
    }
}

/// How rows are held in registers (`rows.cuh`).
pub(crate) struct Rows {
    /// Values per access.
    pub(crate) vector: usize,
    /// Threads that hold a row.
    pub(crate) lanes: usize,
    /// Vectors of a thread.
    pub(crate) vectors: usize,
    /// Rows of a block.
    pub(crate) rows_per_block: usize,
    /// Threads of a block.
    pub(crate) threads: usize,
    rows: usize,
}

impl Rows {
    /// Values that a thread may hold.
    const HELD: usize = 48;
    /// The widest row: two of them in f32 fit into the shared memory of every device.
    const WIDEST: usize = 12 << 10;

    /// For `rows` rows of `channels`, read in values of `types`.
    pub(crate) fn new(types: &[DType], rows: usize, channels: usize) -> Result<Self> {
        Self::holding(1, types, rows, channels)
    }

    /// The same for a kernel that holds a row of each of `tensors` tensors.
    pub(crate) fn holding(tensors: usize, types: &[DType], rows: usize, channels: usize) -> Result<Self> {
        let held = Self::HELD / tensors;
        count(rows)?;
        let vector = access(types, channels);
        let all = channels / vector;
        let mut lanes = all.next_power_of_two().min(32);
        while all.div_ceil(lanes) * vector > held && lanes < 1024 {
            lanes *= 2;
        }
        if channels > Self::WIDEST {
            return Err(Error::Graph(format!("a row of {channels} values is more than a CUDA block holds; run it on --device cpu")));
        }
        let at_once = if lanes > 32 { 1 } else { THREADS / lanes };
        let rows_per_block = (rows / ENOUGH_BLOCKS / at_once * at_once).clamp(at_once, 8 * at_once);
        Ok(Self { vector, lanes, vectors: all.div_ceil(lanes), rows_per_block, threads: if lanes > 32 { lanes } else { THREADS }, rows })
    }

    /// Blocks of so many more rows that the bytes which each block reads are no tenth of those that its rows move, if there remain as
    /// many threads in all as keep a device busy.
    pub(crate) fn sharing(self, block_bytes: usize, row_bytes: usize) -> Self {
        let rows = (11 * block_bytes).div_ceil(row_bytes);
        let threads = self.lanes * rows;
        let busy = self.rows / rows * threads >= ENOUGH_BLOCKS * THREADS;
        let wanted = self.lanes == 32 && rows > self.rows_per_block && threads <= 1024;
        if wanted && busy { Self { rows_per_block: rows, threads, ..self } } else { self }
    }

    /// The launch of `kernel`, which gets the definitions `V`, `NV` and `LANES`.
    pub(crate) fn launch(&self, kernel: KernelKey, shared: usize, params: Params) -> Launch {
        let kernel = kernel.define("V", self.vector).define("NV", self.vectors).define("LANES", self.lanes);
        let blocks = self.rows.div_ceil(self.rows_per_block);
        Launch { kernel, grid: [blocks as u32, 1, 1], block: [self.threads as u32, 1, 1], shared: shared as u32, params }
    }
}

/// How sums over rows are split into spans, each with partial sums of its own (`column_sums.cuh`).
pub(crate) struct Spans {
    /// Values per access.
    pub(crate) vector: usize,
    /// Rows of a span.
    pub(crate) span: usize,
    /// Spans of an image.
    pub(crate) count: usize,
    channels: usize,
    images: usize,
}

impl Spans {
    /// Threads of a block over channels.
    const LANES: usize = 16;

    /// For `rows` rows of `channels` of each image, read in values of `types`.
    pub(crate) fn new(types: &[DType], rows: usize, channels: usize, images: usize) -> Self {
        let vector = access(types, channels);
        let others = images * channels.div_ceil(Self::LANES * vector);
        let at_once = THREADS / Self::LANES;
        let span = rows.div_ceil(ENOUGH_BLOCKS.div_ceil(others)).next_multiple_of(at_once);
        Self { vector, span, count: rows.div_ceil(span), channels, images }
    }

    /// The launch of `kernel`, whose definition `V` is [`Spans::vector`].
    pub(crate) fn launch(&self, kernel: KernelKey, params: Params) -> Launch {
        let grid = [self.count, self.channels.div_ceil(Self::LANES * self.vector), self.images].map(|n| n as u32);
        let block = [Self::LANES as u32, (THREADS / Self::LANES) as u32, 1];
        Launch { kernel, grid, block, shared: 0, params }
    }

    /// Bytes of `sums` partial sums for each channel, a multiple of 256.
    pub(crate) fn scratch(&self, sums: usize) -> u64 {
        (4 * sums * self.count * self.channels * self.images).next_multiple_of(256) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accesses_are_as_wide_as_types_and_extents_allow() {
        assert_eq!(access(&[DType::Bf16], 320), 8);
        assert_eq!(access(&[DType::Bf16, DType::F32], 320), 4);
        assert_eq!(access(&[DType::F16], 42), 2);
        assert_eq!(access(&[DType::F32], 37), 1);
        assert_eq!((unit([640, 48]), unit([10, 4]), unit([8])), (16, 2, 8));
    }

    #[test]
    fn every_row_is_held_by_threads_that_exist() {
        for channels in [1, 2, 3, 6, 20, 37, 128, 320, 768, 1000, 1280, 1664, 5120, 12_288] {
            for rows in [1, 7, 154, 8192, 100_000] {
                let held = Rows::new(&[DType::Bf16, DType::F32], rows, channels).unwrap();
                assert!(held.lanes * held.vectors * held.vector >= channels, "{channels}");
                assert!(held.lanes <= 1024 && held.lanes.is_power_of_two());
                assert!(held.rows_per_block >= 1);
            }
        }
        assert!(Rows::new(&[DType::F32], 1, 12_289).is_err());
    }

    #[test]
    fn columns_cover_all_rows() {
        for (rows, channels) in [(1, 130), (35, 19), (4900, 10), (81, 64), (100_000, 3000)] {
            let columns = Columns::new(&[DType::Bf16, DType::F32], rows, channels).unwrap();
            assert!(columns.blocks as usize * columns.rows_per_block >= rows);
            assert!(columns.block[0] * columns.block[1] <= 256);
        }
    }
}
