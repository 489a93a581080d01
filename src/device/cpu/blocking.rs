//! Every blocking parameter of the matrix products, in one place.
//!
//! A task makes an `mc × nc` block of the output. For each slice of K it packs `mc` rows of x (second cache level), then walks the
//! panels of weights: `kc × nr` of a panel (first level) meet `mr` rows at a time in registers. Nothing here changes results: each
//! output is one sum in the order of K, whatever the blocks.

use super::micro::Kernel;
use super::{Cpu, Isa, TileUnit, amx};
use crate::DType;

/// Columns of a panel of weights: two vectors, or two tiles.
pub(super) fn panel_width(cpu: &Cpu, weights: DType) -> usize {
    match cpu.isa() {
        _ if weights == DType::Bf16 && cpu.tiles() != TileUnit::None => amx::NR,
        Isa::Portable => 8,
        Isa::Avx2 => 16,
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => 32,
    }
}

/// K is padded with zeros to a multiple of this.
pub(super) fn k_multiple(cpu: &Cpu, weights: DType) -> usize {
    match weights {
        DType::Bf16 if cpu.tiles() != TileUnit::None => amx::KR,
        DType::Bf16 => 2,
        _ => 1,
    }
}

/// Bytes between rows of a packed block of x: a slice of K and one more line, so that rows do not share a cache set.
pub(super) const ROW_BYTES: usize = 1024 + 64;

/// Blocks of one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocking {
    /// Rows of a task.
    pub(super) mc: usize,
    /// Panels of a task.
    pub(super) panels: usize,
    /// Slice of K.
    pub(super) kc: usize,
}

impl Blocking {
    /// Blocks for `m` rows, `panels` panels and `k_padded` inputs.
    pub(super) fn choose(kernel: Kernel, threads: usize, m: usize, panels: usize, k_padded: usize) -> Self {
        let limits = Limits::of(kernel);
        let kc = even_parts(k_padded, limits.kc).next_multiple_of(kernel.k_step());
        let mc = even_parts(m, limits.mc).next_multiple_of(kernel.mr());
        let row_blocks = m.div_ceil(mc);
        // Enough tasks to keep all threads busy to the end, and as many for each thread where that can be had.
        let wanted = if threads == 1 { 1 } else { (threads * limits.tasks_per_thread).div_ceil(row_blocks) };
        let most = panels.max(1);
        let least = panels.div_ceil(limits.panels).max(wanted).min(most);
        let column_blocks = (least..=most.min(least + threads)).find(|c| (c * row_blocks).is_multiple_of(threads)).unwrap_or(least);
        Self { mc, panels: panels.div_ceil(column_blocks).max(1), kc }
    }
}

/// Largest part when `whole` is cut into as few even parts of at most `limit` as will do.
fn even_parts(whole: usize, limit: usize) -> usize {
    whole.max(1).div_ceil(whole.max(1).div_ceil(limit))
}

struct Limits {
    mc: usize,
    panels: usize,
    kc: usize,
    tasks_per_thread: usize,
}

impl Limits {
    fn of(kernel: Kernel) -> Self {
        match kernel {
            // 192 rows of x and 192 · 512 · 4 bytes of sums: together 600 KiB of the second level. In the first level, a slice of a panel
            // of f32 stays while rows pass by if it is no more than half of 48 KiB.
            Kernel::Widen => Self { mc: 192, panels: 16, kc: 192, tasks_per_thread: 6 },
            // two products an instruction: time enough to get the slice from the second level
            Kernel::Dot => Self { mc: 192, panels: 16, kc: ROW_BYTES / 2 - 32, tasks_per_thread: 6 },
            // tiles multiply faster than weights arrive from memory: more rows for each
            Kernel::Tiles => Self { mc: 256, panels: 16, kc: ROW_BYTES / 2 - 32, tasks_per_thread: 4 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_everything_within_limits() {
        for kernel in [Kernel::Widen, Kernel::Dot, Kernel::Tiles] {
            for (m, panels, k) in [(1, 1, 2), (1, 40, 1280), (154, 128, 1024), (8192, 10, 2880), (128, 40, 11520), (7, 3, 33)] {
                for threads in [1, 2, 3, 16, 64] {
                    let b = Blocking::choose(kernel, threads, m, panels, k);
                    assert!(b.mc > 0 && b.mc.is_multiple_of(kernel.mr()) && b.mc <= 256);
                    assert!(b.panels > 0 && b.panels <= 16 && b.kc > 0 && b.kc <= 512);
                    assert!(b.panels * panels.div_ceil(b.panels) >= panels && b.kc.is_multiple_of(kernel.k_step()));
                }
            }
        }
    }

    #[test]
    fn small_products_are_split_over_columns() {
        let b = Blocking::choose(Kernel::Widen, 2, 1, 40, 1280);
        assert!(40_usize.div_ceil(b.panels) >= 8);
    }
}
