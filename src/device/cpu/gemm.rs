//! Products of rows or windows with packed weights, and everything that follows them.

use super::blocking::{Blocking, ROW_BYTES, panel_width};
use super::buffer::with_scratch;
use super::epilogue::{Epilogue, Finish};
use super::gather::{Source, Widens};
use super::micro::{Kernel, Step, TileGuard};
use super::pack::{Form, Packed, Panels, Shared};
use super::simd::{Elem, dispatch};
use super::{Cpu, depthwise};
use crate::{Error, Result};
use std::ops::Range;

/// `out = epilogue(x · Wᵀ)`. `out` has one row for each row or window of `x` and `epilogue.channels` columns (see [`Epilogue::gradient`]
/// for the exception).
pub(crate) fn gemm<T>(cpu: &Cpu, x: &Source<'_, T>, weights: &Packed, epilogue: &Epilogue<'_, T>, out: &mut [T]) -> Result<()>
where
    T: Elem + Widens<T>,
    f32: Widens<T>,
{
    let rows = out.len() / epilogue.row_len().max(1);
    if rows == 0 {
        return Ok(());
    }
    let panels = match (weights.form, x) {
        (Form::Panels(panels), _) => panels,
        (Form::Depthwise { .. }, Source::Windows(windows)) => return depthwise::run(cpu, windows, weights, epilogue, out),
        (Form::Depthwise { .. }, _) => return Err(Error::Graph("depthwise weights need an image".into())),
    };
    if panels.nr != panel_width(cpu, weights.dtype)
        || panels.groups * panels.outputs() != epilogue.channels
        || panels.gated != epilogue.gated
    {
        return Err(Error::Graph(format!("weights packed as {panels:?} do not fit {} channels on {:?}", epilogue.channels, cpu.isa())));
    }
    let kernel = Kernel::choose(cpu, T::DTYPE, weights.dtype);
    let blocking = Blocking::choose(kernel, cpu.threads(), rows, panels.count(), panels.k_padded);
    let product = Product { cpu, x, weights, panels, epilogue, out: Shared(out.as_mut_ptr()), rows, kernel, blocking };
    let [row_blocks, column_blocks] = product.blocks();
    cpu.parallel(panels.groups * column_blocks * row_blocks, |task| {
        // Neighbouring tasks share weights: rows run fastest.
        let (column, row) = (task / row_blocks, task % row_blocks);
        product.block(column / column_blocks, column % column_blocks, row);
    });
    Ok(())
}

struct Product<'a, T> {
    cpu: &'a Cpu,
    x: &'a Source<'a, T>,
    weights: &'a Packed,
    panels: Panels,
    epilogue: &'a Epilogue<'a, T>,
    out: Shared<T>,
    rows: usize,
    kernel: Kernel,
    blocking: Blocking,
}

impl<T> Product<'_, T>
where
    T: Elem + Widens<T>,
    f32: Widens<T>,
{
    fn blocks(&self) -> [usize; 2] {
        [self.rows.div_ceil(self.blocking.mc), self.panels.count().div_ceil(self.blocking.panels)]
    }

    /// One task: a block of the output.
    fn block(&self, group: usize, column: usize, row: usize) {
        let rows = row * self.blocking.mc..((row + 1) * self.blocking.mc).min(self.rows);
        let panels = column * self.blocking.panels..((column + 1) * self.blocking.panels).min(self.panels.count());
        let ld = panels.len() * self.panels.nr;
        let _tiles = TileGuard::new(self.kernel, self.cpu);
        let padded_rows = rows.len().next_multiple_of(self.kernel.mr());
        with_scratch(padded_rows * (ROW_BYTES + ld * 4), |scratch| {
            let (packed, sums) = scratch.split_at_mut(padded_rows * ROW_BYTES);
            let sums: &mut [f32] = bytemuck::cast_slice_mut(sums);
            let mut k = 0;
            while k < self.panels.k_padded {
                let ks = k..(k + self.blocking.kc).min(self.panels.k_padded);
                self.pack(group, &rows, &ks, packed);
                for (i, panel) in panels.clone().enumerate() {
                    let next = if panel + 1 < panels.end { (panel + 1, ks.start) } else { (panels.start, ks.end) };
                    let tiles = Tiles { group, panel, rows: &rows, ks: &ks, column: i * self.panels.nr, ld, next };
                    self.panel(&tiles, packed, sums);
                }
                k = ks.end;
            }
        });
    }

    fn pack(&self, group: usize, rows: &Range<usize>, ks: &Range<usize>, packed: &mut [u8]) {
        let channels = match self.x {
            Source::Windows(windows) => windows.channels / self.panels.groups,
            Source::Rows { .. } | Source::Beside { .. } => 0,
        };
        let channels = group * channels..(group + 1) * channels;
        match self.kernel {
            Kernel::Widen => {
                self.x.pack::<f32>(rows.clone(), ks.clone(), channels, bytemuck::cast_slice_mut(packed), ROW_BYTES / 4);
            }
            Kernel::Dot | Kernel::Tiles => {
                let ld = ROW_BYTES / size_of::<T>();
                self.x.pack::<T>(rows.clone(), ks.clone(), channels, bytemuck::cast_slice_mut(packed), ld);
            }
        }
    }

    /// All rows of a task times one slice of a panel.
    fn panel(&self, at: &Tiles<'_>, packed: &[u8], sums: &mut [f32]) {
        let (first, last) = (at.ks.start == 0, at.ks.end == self.panels.k_padded);
        let mr = self.kernel.mr();
        let weights = self.weights_at(at.group, at.panel, at.ks.start);
        let mut ahead = self.ahead(at, at.rows.len().div_ceil(mr));
        for row in (0..at.rows.len()).step_by(mr) {
            let rows = mr.min(at.rows.len() - row);
            ahead.fetch();
            // SAFETY: the panel holds k_padded · nr values; packed and sums hold the rows of the task rounded up to mr;
            // the device has made sure of its instruction set.
            unsafe {
                let sums = sums.as_mut_ptr().add(row * at.ld + at.column);
                let step = Step {
                    k: at.ks.len(),
                    x: packed.as_ptr().add(row * ROW_BYTES),
                    weights,
                    dtype: self.weights.dtype,
                    panel_width: self.panels.nr,
                    columns: if self.panels.gated { self.panels.nr } else { self.width(at.panel) },
                    sums,
                    ld: at.ld,
                    rows,
                    first,
                };
                step.run(self.kernel, self.cpu);
                if last {
                    self.finish(at, sums, row, rows);
                }
            }
        }
    }

    /// Outputs of a panel that are not padding.
    fn width(&self, panel: usize) -> usize {
        self.panels.width().min(self.panels.outputs() - panel * self.panels.width())
    }

    /// Place of a slice of a panel among the packed weights.
    fn weights_at(&self, group: usize, panel: usize, k: usize) -> *const u8 {
        let Panels { nr, k_padded, .. } = self.panels;
        let value = ((group * self.panels.count() + panel) * k_padded + k) * nr;
        self.weights.as_ptr().wrapping_add(value * self.weights.dtype.size())
    }

    /// The slice of weights that comes next, to be fetched in as many parts as there are tiles. A few tiles give no time for it.
    fn ahead(&self, at: &Tiles<'_>, tiles: usize) -> Ahead {
        let (panel, k) = at.next;
        let len = at.ks.len().min(self.panels.k_padded - k) * self.panels.nr * self.weights.dtype.size();
        let part = if tiles < 4 { 0 } else { len.div_ceil(tiles).next_multiple_of(64) };
        let from = self.weights_at(at.group, panel, k);
        Ahead { from, part, left: len }
    }

    /// Writes the outputs of a tile whose sums are complete.
    ///
    /// # Safety
    /// `sums` holds `rows` rows of a panel, `at.ld` apart.
    unsafe fn finish(&self, at: &Tiles<'_>, sums: *const f32, row: usize, rows: usize) {
        let first = at.panel * self.panels.width();
        let finish = Finish {
            epilogue: self.epilogue,
            out: &self.out,
            sums,
            ld: at.ld,
            rows,
            row: at.rows.start + row,
            channel: at.group * self.panels.outputs() + first,
            width: self.width(at.panel),
            gate: self.panels.width(),
        };
        // SAFETY: tiles of different tasks do not overlap in the output; the device has made sure of its instruction set.
        unsafe { dispatch(self.cpu.isa(), &finish) }
    }
}

/// The tiles of one panel in a task.
struct Tiles<'a> {
    group: usize,
    panel: usize,
    rows: &'a Range<usize>,
    ks: &'a Range<usize>,
    /// First column of the panel in the sums of the task.
    column: usize,
    ld: usize,
    /// Panel and start of the slice that come after this one.
    next: (usize, usize),
}

/// Memory that will be read soon.
struct Ahead {
    from: *const u8,
    part: usize,
    left: usize,
}

impl Ahead {
    /// Asks for one more part to be brought into the second cache level.
    fn fetch(&mut self) {
        let part = self.part.min(self.left);
        #[cfg(target_arch = "x86_64")]
        for line in (0..part).step_by(64) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: a hint, which may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.from.wrapping_add(line).cast()) };
        }
        self.from = self.from.wrapping_add(part);
        self.left -= part;
    }
}
