//! Gradients of weights: `dW = dYᵀ · X`, where the rows of X are those of a matrix or the windows of an image.
//!
//! A task makes a block of dW and walks over all rows of X in their order, so each sum has one order whatever the number of threads.
//! For a slice of rows it lays a block of dY transposed and, panel by panel, the columns of X: what the micro-kernel of the products
//! multiplies. Everything is widened to f32; so are the sums and the result.

use super::blocking::{ROW_BYTES, panel_width};
use super::gather::{Source, Widens};
use super::micro::{Kernel, Step};
use super::simd::Elem;
use super::split::SharedMut;
use super::{Cpu, with_scratch};
use crate::DType;
use std::ops::Range;

/// Rows of dW of a task: 16 register tiles.
const OUTPUTS: usize = 192;
/// Panels of a task.
const PANELS: usize = 8;
/// Rows of X in a slice: as many f32 as fit between the rows of a packed block.
const SLICE: usize = 256;

/// `out [outputs, k] = dyᵀ · x`: `dy` has rows of `outputs` values, one for each row or window of `x`. With `groups`, outputs and the
/// channels of the windows are in so many groups, and k counts those of one group.
pub(crate) fn weight_grad<T: Elem, X: Elem>(cpu: &Cpu, dy: &[T], outputs: usize, x: &Source<'_, X>, groups: usize, out: &mut [f32])
where
    f32: Widens<X>,
{
    let (k, nr) = (out.len() / outputs, panel_width(cpu, DType::F32));
    let group_outputs = outputs / groups;
    let out = SharedMut::new(out);
    let (row_blocks, column_blocks) = (group_outputs.div_ceil(OUTPUTS), k.div_ceil(PANELS * nr));
    let product = Product { cpu, dy, outputs, x, groups, k, nr, out: &out };
    cpu.parallel(groups * row_blocks * column_blocks, |task| {
        let (group, row, column) = (task / column_blocks / row_blocks, task / column_blocks % row_blocks, task % column_blocks);
        let rows = row * OUTPUTS..((row + 1) * OUTPUTS).min(group_outputs);
        let ks = column * PANELS * nr..((column + 1) * PANELS * nr).min(k);
        product.block(group, group * group_outputs + rows.start..group * group_outputs + rows.end, ks);
    });
}

struct Product<'a, T, X> {
    cpu: &'a Cpu,
    dy: &'a [T],
    outputs: usize,
    x: &'a Source<'a, X>,
    groups: usize,
    k: usize,
    nr: usize,
    out: &'a SharedMut<f32>,
}

impl<T: Elem, X: Elem> Product<'_, T, X>
where
    f32: Widens<X>,
{
    /// One task: a block of the result.
    fn block(&self, group: usize, outputs: Range<usize>, ks: Range<usize>) {
        let channels = match self.x {
            Source::Windows(windows) => windows.channels / self.groups,
            Source::Rows { .. } | Source::Beside { .. } => 0,
        };
        let channels = group * channels..(group + 1) * channels;
        let padded = outputs.len().next_multiple_of(Kernel::Widen.mr());
        let ld = ks.len().next_multiple_of(self.nr);
        with_scratch(padded * ROW_BYTES + SLICE * self.nr * 4 + padded * ld * 4, |scratch| {
            let (turned, rest) = bytemuck::cast_slice_mut::<u8, f32>(scratch).split_at_mut(padded * ROW_BYTES / 4);
            let (panel, sums) = rest.split_at_mut(SLICE * self.nr);
            let rows = self.dy.len() / self.outputs;
            for first in (0..rows).step_by(SLICE) {
                let slice = first..(first + SLICE).min(rows);
                self.turn(&slice, &outputs, turned);
                for k in ks.clone().step_by(self.nr) {
                    self.x.pack::<f32>(slice.clone(), k..k + self.nr, channels.clone(), panel, self.nr);
                    let columns = self.nr.min(ks.end - k);
                    self.multiply(turned, panel, &mut sums[k - ks.start..], [outputs.len(), slice.len(), columns, ld], first == 0);
                }
            }
            for (i, output) in outputs.enumerate() {
                // SAFETY: tasks have their own rows and columns of the result.
                let out = unsafe { self.out.slice(output * self.k + ks.start, ks.len()) };
                out.copy_from_slice(&sums[i * ld..][..ks.len()]);
            }
        });
    }

    /// A slice of the rows of dY, a row for each output.
    fn turn(&self, rows: &Range<usize>, outputs: &Range<usize>, turned: &mut [f32]) {
        for (j, row) in rows.clone().enumerate() {
            let dy = &self.dy[row * self.outputs..][outputs.clone()];
            for (i, v) in dy.iter().enumerate() {
                turned[i * (ROW_BYTES / 4) + j] = v.widen();
            }
        }
    }

    /// Adds the products of a slice to the columns of one panel.
    fn multiply(&self, turned: &[f32], panel: &[f32], sums: &mut [f32], [outputs, k, columns, ld]: [usize; 4], first: bool) {
        let mr = Kernel::Widen.mr();
        for row in (0..outputs).step_by(mr) {
            let rows = mr.min(outputs - row);
            // SAFETY: `turned` and `sums` hold the outputs of the task rounded up to whole tiles, `panel` k rows of a panel's width; the
            // device has made sure of its instruction set.
            unsafe {
                let step = Step {
                    k,
                    x: turned.as_ptr().add(row * ROW_BYTES / 4).cast(),
                    weights: panel.as_ptr().cast(),
                    dtype: DType::F32,
                    panel_width: self.nr,
                    columns,
                    sums: sums.as_mut_ptr().add(row * ld),
                    ld,
                    rows,
                    first,
                };
                step.run(Kernel::Widen, self.cpu);
            }
        }
    }
}
