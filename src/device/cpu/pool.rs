//! Pooling of images and the mean of token rows.

use super::Cpu;
use super::simd::{Elem, Simd, Task, dispatch, load_some, store_some};

/// Window of [`pool`], in pixels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: usize,
    /// Rows above and columns left of the image.
    pub(crate) before: [usize; 2],
    /// Largest value, not the mean.
    pub(crate) max: bool,
}

/// Pools `x [B,h,w,c]` into `y [B,oh,ow,c]`; `size` is `[h, w, c]`, `out` is `[oh, ow]`.
pub(crate) fn pool<T: Elem>(cpu: &Cpu, window: Window, x: &[T], size: [usize; 3], out: [usize; 2], y: &mut [T]) {
    let ([h, w, c], [oh, ow]) = (size, out);
    cpu.parallel_blocks(y, 1, ow * c, |y, _, start| {
        let row = start / (ow * c);
        let (image, oy) = (row / oh, row % oh);
        let x = &x[image * h * w * c..][..h * w * c];
        // SAFETY: the device has its instruction set; x is one image of the given size, y a row of outputs.
        unsafe { dispatch(cpu.isa(), PoolRow { window, x, size, oy, y }) }
    });
}

/// Mean over rows: `x [images, rows, c]` into `y [images, c]`.
pub(crate) fn mean_rows<T: Elem>(cpu: &Cpu, images: usize, c: usize, x: &[T], y: &mut [T]) {
    let share = 1.0 / (x.len() / images / c) as f32;
    scaled_sums(cpu, [images, c], share, x, y);
}

/// Sum over rows: `x [images, rows, c]` into `y [images, c]`.
pub(crate) fn sum_rows<T: Elem, Y: Elem>(cpu: &Cpu, images: usize, c: usize, x: &[T], y: &mut [Y]) {
    scaled_sums(cpu, [images, c], 1.0, x, y);
}

fn scaled_sums<T: Elem, Y: Elem>(cpu: &Cpu, [images, c]: [usize; 2], share: f32, x: &[T], y: &mut [Y]) {
    const CHANNELS: usize = 64;
    let image = x.len() / images;
    cpu.parallel_blocks(y, images, CHANNELS, |y, i, start| {
        let x = &x[i * image..][..image];
        // SAFETY: the device has its instruction set; x has whole rows of c values, of which y.len() follow `start`.
        unsafe { dispatch(cpu.isa(), SumRows { x, c, start, share, y }) }
    });
}

struct PoolRow<'a, T> {
    window: Window,
    x: &'a [T],
    size: [usize; 3],
    oy: usize,
    y: &'a mut [T],
}

impl<T: Elem> Task for PoolRow<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let [h, w, c] = self.size;
        let [kh, kw] = self.window.kernel;
        let [rows_from, rows_to] = inside(self.oy * self.window.stride, self.window.before[0], kh, h);
        for (ox, y) in self.y.chunks_exact_mut(c).enumerate() {
            let [from, to] = inside(ox * self.window.stride, self.window.before[1], kw, w);
            let share = 1.0 / ((rows_to - rows_from) * (to - from)) as f32;
            for i in (0..c).step_by(S::LANES) {
                let n = S::LANES.min(c - i);
                // SAFETY: the pixels are inside the image, and i + n ≤ c.
                unsafe {
                    let mut v = S::splat(if self.window.max { f32::NEG_INFINITY } else { 0.0 });
                    for iy in rows_from..rows_to {
                        for ix in from..to {
                            let pixel = load_some::<S, T>(self.x.as_ptr().add((iy * w + ix) * c + i), n);
                            v = if self.window.max { S::max(v, pixel) } else { S::add(v, pixel) };
                        }
                    }
                    let v = if self.window.max { v } else { S::mul(v, S::splat(share)) };
                    store_some::<S, T>(y.as_mut_ptr().add(i), n, v);
                }
            }
        }
    }
}

/// The part of a window that lies inside the image; `start` counts from the padding's edge.
fn inside(start: usize, before: usize, kernel: usize, extent: usize) -> [usize; 2] {
    [start.saturating_sub(before), (start + kernel).saturating_sub(before).min(extent)]
}

struct SumRows<'a, T, Y> {
    x: &'a [T],
    c: usize,
    start: usize,
    /// Multiplied with the sums.
    share: f32,
    y: &'a mut [Y],
}

impl<T: Elem, Y: Elem> Task for SumRows<'_, T, Y> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Sums of a few rows are summed: the error grows with the logarithm of the rows, not with the rows.
        const TOGETHER: usize = 32;
        for i in (0..self.y.len()).step_by(S::LANES) {
            let n = S::LANES.min(self.y.len() - i);
            // SAFETY: start + i + n ≤ c in each row.
            unsafe {
                let mut total = S::splat(0.0);
                for rows in self.x.chunks(TOGETHER * self.c) {
                    let mut sum = S::splat(0.0);
                    for row in rows.chunks_exact(self.c) {
                        sum = S::add(sum, load_some::<S, T>(row.as_ptr().add(self.start + i), n));
                    }
                    total = S::add(total, sum);
                }
                store_some::<S, Y>(self.y.as_mut_ptr().add(i), n, S::mul(total, S::splat(self.share)));
            }
        }
    }
}
