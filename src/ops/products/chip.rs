//! What a product costs on a chip, by a count of cycles, so that the cheapest cut can be chosen.

use super::{DEPTH, PLAIN, Product, Tile};
use crate::device::Arch;

/// What the choice of tiles knows of a chip. Rates are those of a cycle.
#[derive(Clone, Copy)]
pub(super) struct Chip {
    /// Multiprocessors of its largest common product.
    multiprocessors: usize,
    /// 16-bit multiply-adds of a multiprocessor by mma.sync.
    rate: usize,
    /// Bytes that all multiprocessors get from the second-level cache together.
    cache: usize,
    /// Bytes of shared memory of a multiprocessor.
    pub(super) shared: usize,
}

impl Chip {
    /// From the architectures' white papers; sm_90 and sm_100 reach about five eighths of their rate through mma.sync. Caches as measured by
    /// others for A100 and H100; for the rest a share of the tensor rate like theirs is assumed.
    pub(super) fn of(arch: Arch) -> Self {
        let [multiprocessors, rate, cache, shared] = match arch.0 {
            0..86 => [108, 1024, 3800, 164],
            86 => [84, 512, 1500, 100],
            87..90 => [128, 512, 2200, 100],
            90..100 => [132, 1280, 4900, 228],
            100..120 => [148, 1280, 5500, 228],
            _ => [170, 512, 3000, 100],
        };
        Self { multiprocessors, rate, cache, shared: shared << 10 }
    }

    /// Cycles of a product cut this way, by a count of what binds: the fullest multiprocessor, blocks that wait for their own data, or the
    /// second-level cache; then the sum of the parts.
    pub(super) fn cycles(&self, product: &Product, rows: usize, tile: Option<Tile>, parts: usize) -> usize {
        /// From a read to its data, for the first stage and for the last results of a block.
        const ENDS: usize = 900;
        let [m, n] = product.blocks(tile, rows);
        let (blocks, steps) = (m * n * parts, product.depth.div_ceil(DEPTH).div_ceil(parts));
        let (step, alone, bytes, resident) = match tile {
            Some(tile) => (self.step(tile), self.step_alone(tile), (tile.rows + tile.columns) * DEPTH * 2, self.resident(tile)),
            None => (1300, 1600, (PLAIN[0] + PLAIN[1]) * DEPTH * 4, 4),
        };
        let each = blocks.div_ceil(self.multiprocessors);
        let busy = each * steps * step;
        let waiting = each.div_ceil(resident) * (steps * alone + ENDS);
        busy.max(waiting).max(blocks * steps * bytes / self.cache) + self.sum(tile, blocks, parts)
    }

    /// Cycles of leaving the sums of all blocks in memory, and of the last block of a tile that reads those of its parts.
    fn sum(&self, tile: Option<Tile>, blocks: usize, parts: usize) -> usize {
        /// A fence, a count, and the first reads: each waits for the second-level cache and back.
        const WAITS: usize = 1500;
        /// Bytes in a cycle between one multiprocessor and the second-level cache.
        const PORT: usize = 64;
        let bytes = 4 * tile.map_or(PLAIN[0] * PLAIN[1], |t| t.rows * t.columns);
        if parts > 1 { WAITS + 2 * blocks * bytes / self.cache + parts * bytes / PORT } else { 0 }
    }

    /// Blocks that a multiprocessor holds, by registers and shared memory. Large tiles of a warp need nearly all registers of its threads.
    fn resident(&self, tile: Tile) -> usize {
        (self.shared / (tile.shared() + 1024)).min(65536 / 256 / tile.threads()).max(1)
    }

    /// Cycles of one stage on a multiprocessor: products on the tensor cores, or 128 bytes of shared memory at a time.
    fn step(&self, tile: Tile) -> usize {
        let [m, n] = tile.warp();
        let products = tile.rows * tile.columns * DEPTH / self.rate;
        let bytes = (tile.rows + tile.columns + tile.threads() / 32 * (m + n)) * DEPTH * 2;
        products.max(bytes / 128)
    }

    /// The same for a block that has a multiprocessor to itself: a barrier, the first operands and the last sums come after each other, and
    /// memory must answer within the stages that are under way.
    fn step_alone(&self, tile: Tile) -> usize {
        const WAITS: usize = 82;
        const MEMORY: usize = 650;
        /// Each quarter of a multiprocessor has warps and tensor cores of its own.
        const QUARTERS: usize = 4;
        let [m, n] = tile.warp();
        let alone = (m * n * DEPTH * tile.threads().div_ceil(32 * QUARTERS)) / (self.rate / QUARTERS);
        self.step(tile).max(alone).max(MEMORY / (tile.stages - 1)) + WAITS
    }
}
